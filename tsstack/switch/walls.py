"""The walls of the dead man: those of the unit that does the same work at boot, from its shipped file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tsstack.model.facts import Paths

UNIT = "tsstack-boot.service"
# How that unit lives, which is no wall.
_LIFE = frozenset({"Type", "RemainAfterExit", "ExecStart", "Restart", "RestartSec"})
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  systemd.exec(5), PrivateTmp=


def walls_for(paths: Paths) -> tuple[str, ...]:
    """What systemd-run sets for a dead man who works on `paths`, as `KEY=VALUE` each."""
    from tsstack import assets

    text = (assets.folder("monitor") / UNIT).read_text(encoding="utf-8")
    written = (paths.state, paths.run, paths.log, paths.etc / "nginx")
    read = (assets.root(), Path(sys.prefix), Path(sys.base_prefix), paths.tailscale_socket.parent)
    return walls(text, written=written, read=read)


def walls(unit: str, *, written: Sequence[Path], read: Iterable[Path]) -> tuple[str, ...]:
    """The settings of `unit` that restrict it, with gates for what lies elsewhere than usual.

    What lies below /tmp would be hidden by the unit's own /tmp.
    """
    section = unit.partition("[Service]\n")[2].partition("\n[")[0].splitlines()
    settings = [line for line in section if line and not line.startswith("#")]
    found = [line for line in settings if line.partition("=")[0] not in _LIFE]
    found.append("ReadWritePaths=" + " ".join(f"-{path}" for path in written))
    if any(_is_temporary(path) for path in written):
        found = [each for each in found if each != "PrivateTmp=yes"]
    elif hidden := [path for path in read if _is_temporary(path)]:
        found.append("BindReadOnlyPaths=" + " ".join(f"-{path}" for path in hidden))
    return tuple(found)


def _is_temporary(path: Path) -> bool:
    return any(path.is_relative_to(each) for each in _TEMPORARY)
