"""Reads the file as `tsstack check` does, and renders it; what is wrong becomes facts, not an end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.doctor.file import FileFacts
from tsstack.errors import ConfigError, TsstackError
from tsstack.switch.generations import SOURCE
from tsstack.switch.intent import load, render_loaded

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.loaded import LoadedStack
    from tsstack.parts.part import Tree
    from tsstack.switch.site import Site


@dataclass(frozen=True, slots=True)
class FileRead:
    """The facts, and what the file asks for as far as it is sound."""

    facts: FileFacts
    loaded: LoadedStack | None = None
    tree: Tree | None = None


def read_file(path: Path, *, asked: bool, site: Site, facts: Facts, live: int) -> FileRead:
    """Of a live generation that is missing or damaged nothing is told: another finding does."""
    if site.store.fault(live):
        live = 0
    source = site.store.manifest(live).source if live else ""
    if not path.exists():
        return FileRead(FileFacts(str(path), False, asked, live=live, live_source=source))
    try:
        loaded, findings = load(path, facts)
    except ConfigError as error:
        # Without findings it could not be read at all.
        fault = "" if error.findings else error.message
        return FileRead(FileFacts(str(path), True, asked, error.findings, fault, error.hint, live))
    same = None
    if live and Path(source).absolute() == path.absolute():
        same = (site.store.path(live) / SOURCE).read_bytes() == loaded.source
    told = FileFacts(str(path), True, asked, findings, live=live, live_source=source, same_as_live=same)
    try:
        return FileRead(told, loaded, render_loaded(loaded, facts, site.parts))
    except (TsstackError, ValueError) as error:
        refused = FileFacts(
            str(path), True, asked, findings, str(error), getattr(error, "hint", ""), live, source, same
        )
        return FileRead(refused, loaded)
