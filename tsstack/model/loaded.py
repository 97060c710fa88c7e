"""A file that was read and found valid in itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsstack.model.document import Document
from tsstack.model.keypath import KeyPath
from tsstack.model.stack import Stack


@dataclass(frozen=True, slots=True)
class LoadedStack:
    """The stack and where each of its keys stands in the file.

    `source` is the file as it was read, `sha256` its digest in hex. The source holds no secrets: a file
    with a key written into it is not loaded.
    """

    stack: Stack
    path: Path
    source: bytes
    sha256: str
    document: Document

    def place(self, key_path: str | KeyPath, *, value: bool = False) -> tuple[str, int, int]:
        """File, line and column of a key path, of the key itself or with `value` of what it holds.

        `firewall.zones.dmz.tcp[0]`, or its steps as a tuple. What the file does not write (defaults,
        keys from a preset) has the place of the nearest key above it that it does write.
        """
        return self.document.place(key_path, value=value)
