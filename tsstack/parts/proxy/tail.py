"""Follows logs as they grow, through rotation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tsstack.parts.proxy.logfile import MOST_LINE_BYTES

POLL_S = 0.25
# After a rotation nginx writes to the old file until it was told to open its logs anew (nginx(8), USR1).
_LINGER_S = 30.0
_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class _Reader:
    """One open file, and the beginning of a line whose end is not written yet."""

    file: BinaryIO
    inode: tuple[int, int]
    rest: bytes = b""

    def lines(self) -> list[bytes]:
        if os.fstat(self.file.fileno()).st_size < self.file.tell():  # truncated: copytruncate of logrotate(8)
            self.file.seek(0)
            self.rest = b""
        # Not all at once: who fell behind must not need as much memory as the log is long.
        *whole, self.rest = (self.rest + self.file.read(_BLOCK_BYTES)).split(b"\n")
        if len(self.rest) > MOST_LINE_BYTES:  # it will be broken, whatever comes
            self.rest = self.rest[:MOST_LINE_BYTES]
        return whole


@dataclass(slots=True)
class Tail:
    """What is appended to one log from now on (`from_start`: from its beginning)."""

    path: Path
    from_start: bool = False
    _reader: _Reader | None = None
    _old: list[tuple[float, _Reader]] = field(default_factory=list)

    def poll(self, now_s: float) -> list[bytes]:
        """The lines that were added since the last call, in their order; `now_s` is any clock that goes on.

        A log that is not there, or may not be read, has no lines; it is looked for again.
        """
        self._reopen(now_s)
        self.from_start = True  # what appears from now on is new as a whole
        readers = [reader for _, reader in self._old] + ([self._reader] if self._reader else [])
        lines = [line for reader in readers for line in reader.lines()]
        for until_s, reader in self._old:
            if now_s >= until_s:
                reader.file.close()
        self._old = [(until_s, reader) for until_s, reader in self._old if now_s < until_s]
        return lines

    def close(self) -> None:
        """Close what is open."""
        for reader in [*(each for _, each in self._old), *([self._reader] if self._reader else [])]:
            reader.file.close()
        self._reader, self._old = None, []

    def _reopen(self, now_s: float) -> None:
        try:
            status = self.path.stat()
            if self._reader is not None and self._reader.inode == (status.st_dev, status.st_ino):
                return
            file = self.path.open("rb")
        except OSError:
            return
        if not self.from_start:
            file.seek(0, os.SEEK_END)
        if self._reader is not None:
            self._old.append((now_s + _LINGER_S, self._reader))
        status = os.fstat(file.fileno())
        self._reader = _Reader(file, (status.st_dev, status.st_ino))


def follow(paths: Sequence[Path]) -> Iterator[tuple[Path, bytes]]:
    """(log, line) of each line that is added to any of the logs, as long as the caller asks."""
    tails = [Tail(path) for path in paths]
    try:
        while True:
            found = [(tail.path, line) for tail in tails for line in tail.poll(time.monotonic())]
            yield from found
            if not found:
                time.sleep(POLL_S)
    finally:
        for tail in tails:
            tail.close()
