"""From a key path to the line of the file behind it, or of the preset that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsstack import assets
from tsstack.model.document import Document, read_document
from tsstack.model.loaded import LoadedStack


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key stands. `path` is the key that was asked for; `text` is the whole line it stands in.

    A key that the file does not write has the place of the nearest one above it; if a preset writes it,
    `preset` is that preset's name, and the place is the preset's.
    """

    path: str
    file: str
    line: int
    column: int
    text: str
    """Without the spaces at its ends."""
    preset: str = ""
    indent: int = 0
    """How many spaces the line began with."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Places:
    """Finds the places of a file's keys. `name`: what the file is called, if not as it was read."""

    def __init__(self, loaded: LoadedStack, name: str = "") -> None:
        self._loaded = loaded
        self._name = name or _short(str(loaded.path))
        self._lines = loaded.source.decode(errors="replace").splitlines()
        self._presets: dict[str, Document] = {}

    def find(self, path: str) -> Place | None:
        """The place of a key path; None for the empty one."""
        if not path:
            return None
        steps = self._loaded.document.split(path)
        if self._loaded.document.node(steps) is None and (place := self._in_preset(path)):
            return place
        _, line, column = self._loaded.place(path)
        text = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
        return Place(path, self._name, line, column, text.strip(), indent=_indent(text))

    def _in_preset(self, path: str) -> Place | None:
        """The place of a zone's key in the zone's preset."""
        steps = self._loaded.document.split(path)
        firewall = self._loaded.stack.firewall
        if steps[:2] != ("firewall", "zones") or len(steps) < 4 or firewall is None:
            return None
        # A key that the zone writes replaces the preset's, however far down it goes.
        if self._loaded.document.node(steps[:4]) is not None:
            return None
        zone = firewall.zones.get(str(steps[2]))
        name = zone.preset if zone is not None else None
        if not name:
            return None
        if name not in self._presets:
            self._presets[name] = read_document(assets.folder("zones") / f"{name}.yaml")
        document = self._presets[name]
        if document.node(steps[3:4]) is None:
            return None
        _, line, column = document.place(steps[3:])
        text = document.source.decode(errors="replace").splitlines()[line - 1]
        return Place(path, f"zones/{name}.yaml", line, column, text.strip(), name, _indent(text))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _short(name: str) -> str:
    """Relative to where we stand, if that is shorter."""
    try:
        shorter = str(Path(name).absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return name
    return min(name, shorter, key=len)
