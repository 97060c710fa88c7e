"""The monitor part: nothing on the host but a line in the generation, which the daemon follows by itself."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.parts.monitor import desired

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, Report, Snapshot, Tree

_SOCKET = "monitor.sock"


class MonitorPart:
    """See tsstack.parts.part.Part. The daemon sees that `current` leads elsewhere and reads the file anew."""

    name = "monitor"
    folder = desired.FOLDER

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        """The section's settings."""
        return desired.render(stack)

    def check(self, generation: Path, facts: Facts) -> None:
        """The loader has judged all that there is to judge."""

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """That nobody watches, where the file asks for it."""
        if not (generation / desired.FILE).is_file() or _listens(facts.paths.run / _SOCKET):
            return ()
        return (
            "the file asks for it and none runs: `systemctl start tsstack-monitor`, or where there is no "
            "such unit `tsstack units install --monitor`",
        )

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """The settings of the live generation."""
        return {"settings": _text(facts.paths.current / desired.FILE)}

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        """A line for each setting that differs."""
        before = snapshot.get("settings")
        return desired.compare(before if isinstance(before, str) else None, tree.get(desired.FILE))

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """The link to the generation is what the daemon follows; there is nothing else to do."""

    def verify(self, generation: Path, facts: Facts) -> None:
        """Nothing that a connection could show."""

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """The link goes back, and the daemon with it."""


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return connection.connect_ex(str(path)) == 0


PART = MonitorPart()
