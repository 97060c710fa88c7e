"""Certificates that no generation names any more: their private keys must not lie about for ever."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tsstack.parts.proxy.plan import read_plan

if TYPE_CHECKING:
    from pathlib import Path

# The names that `certificates.choose_certificates` gives; what else lies there (the CA) is never touched.
_OURS = re.compile(
    r"(?:leaf-[0-9a-f]{12}|tailscale-[a-z0-9.-]+)\.pem(?:\.json)?|files-[0-9a-f]{12}\.(?:crt|key)"
)


def remove_leftovers(generation: Path, tls: Path) -> tuple[str, ...]:
    """Remove from `tls` what neither `generation` nor any other one beside it names; returns the names.

    Every generation can still be rolled back to, so all of them count. One whose plan cannot be read might
    name anything: then nothing is removed. Raises OSError.
    """
    if not tls.is_dir():
        return ()
    named: set[str] = set()
    for each in generation.resolve().parent.iterdir():
        try:
            plan = read_plan(each)
        except (ValueError, KeyError, TypeError, OSError):
            return ()
        for certificate in plan.certificates if plan is not None else ():
            named |= {certificate.certificate, certificate.key, f"{certificate.certificate}.json"}
    removed = []
    for path in sorted(tls.iterdir()):
        if _OURS.fullmatch(path.name) and str(path) not in named:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return tuple(removed)
