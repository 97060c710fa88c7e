"""Tries a rendered configuration in a scratch copy, so that a check leaves no trace on the host.

`nginx -t` opens logs and the pid file, makes folders, loads keys, binds sockets and resolves names. In
the copy the logs, the run folder and the keys lie in the scratch folder (with throwaway certificates
where the real ones are not made yet, or are root's), and loopback stands for upstreams whose names this
very change may bring.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.parts.proxy.engine import try_config
from tsstack.system.scratch import Scratch

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan

_FILES = ("http.conf", "main.conf", "nginx.conf")
_FOLDERS = ("tls", "run", "log")
_UPSTREAM = re.compile(r"^(\s+server )([A-Za-z0-9.-]+)(:\d+(?: [^;]*)?;)$", re.MULTILINE)


def rehearse(generation: Path, plan: Plan, facts: Facts, *, going_back: bool = False) -> None:
    """Let nginx judge `generation` as it is staged. Raises CheckFailed; touches only a scratch folder.

    `going_back`: it was live before. What clients think of a certificate of the user's own is no obstacle
    then, only what nginx thinks of it.
    """
    if facts.nginx is None:
        raise CheckFailed("nginx is not installed", hint="apt install nginx")
    try:
        with Scratch() as folder:
            _rehearse_in(folder, generation, plan, facts, going_back=going_back)
    except CommandFailed as error:
        raise CheckFailed(error.message, hint=error.hint) from error
    except OSError as error:
        place = error.filename or "no temporary folder"
        raise CheckFailed(
            f"nginx cannot try the configuration: {place}: {error.strerror}", hint="make room there"
        ) from error


def _rehearse_in(scratch: Path, generation: Path, plan: Plan, facts: Facts, *, going_back: bool) -> None:
    moved = {
        str(facts.paths.tls): str(scratch / "tls"),
        str(facts.paths.run): str(scratch / "run"),
        str(facts.paths.log): str(scratch / "log"),
    }
    for folder in _FOLDERS:
        (scratch / folder).mkdir()
    for file in _FILES:
        text = (generation / "nginx" / file).read_text(encoding="utf-8")
        (scratch / file).write_text(_relocate(text, moved, plan), encoding="utf-8")
    _place_certificates(plan, moved, going_back=going_back)
    # As `tsstack build` lays it out: a refused generation does not stay.
    shown = {str(scratch): "nginx"} | {new: old for old, new in moved.items()}
    try_config(scratch / "nginx.conf", shown=shown)


def _relocate(text: str, moved: dict[str, str], plan: Plan) -> str:
    # Longest first: one of the folders may lie within another.
    for old in sorted(moved, key=len, reverse=True):
        text = text.replace(f"{old}/", f"{moved[old]}/")
    names = set(plan.coming_names)

    def stand_in(match: re.Match[str]) -> str:
        return f"{match[1]}127.0.0.1{match[3]}" if match[2] in names else match[0]

    return _UPSTREAM.sub(stand_in, text) if names else text


def _place_certificates(plan: Plan, moved: dict[str, str], *, going_back: bool) -> None:
    if not plan.certificates:
        return
    from tsstack.parts.proxy.authority import is_due, write_placeholder
    from tsstack.parts.proxy.fitness import load_pair, refuse_unusable

    for certificate in plan.certificates:
        # A pair that is there and good is tried itself; making one costs more than all of the rest.
        if certificate.kind != "files" and not is_due(certificate, time.time()):
            path = Path(certificate.certificate)
            if os.access(path, os.R_OK):
                Path(_relocate(str(path), moved, plan)).symlink_to(path)
                continue
        if certificate.kind == "files":
            (load_pair if going_back else refuse_unusable)(certificate)
        write_placeholder(
            replace(
                certificate,
                certificate=_relocate(certificate.certificate, moved, plan),
                key=_relocate(certificate.key, moved, plan),
            )
        )
