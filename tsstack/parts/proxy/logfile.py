"""Reads the end of a log: the lines of a span of time, through rotation, without reading what is older.

A log is in order of time (nginx writes a line when a request ends), so the first line of a span is found
by bisection: some thirty reads in a file of 10 GB. Rotated files are opened only when their last write
lies within the span; a compressed one has to be read from its beginning.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, cast

from tsstack.parts.proxy.access import time_of

MOST_LINE_BYTES = 1 << 20
"""A longer line is broken: nginx takes request lines of 8 KiB, and JSON makes six bytes of one at most."""

# Each worker stamps a line with the time at which its turn began, so lines can be a little out of order.
_DISORDER_S = 10.0
_NEAR_BYTES = 1 << 16
# logrotate(8): NAME.1, NAME.2.gz; with dateext NAME-20261121, NAME-20261121-1795262400.gz
_ROTATED = re.compile(r"[.-][0-9][0-9T:_-]*(\.gz|\.bz2|\.xz|\.zst)?")


@dataclass(slots=True)
class Span:
    """The lines of a span; `notes` says, once they were read, what could not be."""

    path: Path
    since_unix_s: float
    notes: list[str] = field(default_factory=list)
    read_bytes: int = 0
    """Of the log's text, for those who want to know how much that took."""

    def lines(self) -> Iterator[bytes]:
        """The lines of the span, and what lies between them that is no line of ours (then without its text).

        Raises OSError when the log itself cannot be read; of rotated files that becomes a note.
        """
        current = _open_plain(self.path)
        with current:
            for older in reversed(self._rotated(os.fstat(current.fileno()))):
                yield from self._lines_of(older)
            yield from self._tail_of(current)

    def _rotated(self, current: os.stat_result) -> list[Path]:
        """The rotated files that may hold lines of the span, the newest first."""
        found: list[tuple[float, Path]] = []
        names = {entry.name: entry for entry in os.scandir(self.path.parent)}
        for name, entry in names.items():
            ending = _ROTATED.fullmatch(name.removeprefix(self.path.name))
            # While a file is being compressed both are there, and the compressed one is not whole.
            if (
                ending is None
                or not name.startswith(self.path.name)
                or name.removesuffix(ending[1] or "") in (names.keys() - {name})
            ):
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # rotated meanwhile
                continue
            is_current = (status.st_dev, status.st_ino) == (current.st_dev, current.st_ino)
            if status.st_mtime >= self.since_unix_s and not is_current:
                found.append((status.st_mtime, Path(entry.path)))
        return [path for _, path in sorted(found, reverse=True)]

    def _lines_of(self, path: Path) -> Iterator[bytes]:
        packed = _OPENERS.get(path.suffix)
        if path.suffix == ".zst":
            self.notes.append(f"{path} is left out: this Python cannot read zstd")
            return
        try:
            with _open_plain(path) as file:
                if packed is None:
                    yield from self._tail_of(file)
                else:
                    with packed(file) as unpacked:
                        yield from self._since(unpacked)
        except FileNotFoundError:  # rotated away meanwhile
            return
        except (OSError, EOFError, zlib.error, _lzma_error()) as error:
            self.notes.append(f"{path} cannot be read to its end: {error}")

    def _tail_of(self, file: BinaryIO) -> Iterator[bytes]:
        file.seek(find_since(file, self.since_unix_s - _DISORDER_S))
        yield from self._since(file)

    def _since(self, file: BinaryIO) -> Iterator[bytes]:
        """The span's lines. One without a time belongs to where its neighbour before does, or else after."""
        inside: bool | None = None
        undecided = 0
        for line in whole_lines(file):
            self.read_bytes += len(line)
            when = time_of(line)
            if when is not None:
                inside = when >= self.since_unix_s
            elif inside is None:
                undecided += 1
                continue
            if inside:
                yield from repeat(b"", undecided)
                yield line
            undecided = 0
        if inside is None:
            yield from repeat(b"", undecided)


def find_since(file: BinaryIO, unix_s: float) -> int:
    """Where the lines of `unix_s` and later begin: the offset of a line, within 64 KiB before the first.

    Reads some blocks of the file, whatever its size. Lines without a time are passed over.
    """
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > _NEAR_BYTES:
        middle = (low + high) // 2
        found = _first_timed(file, middle, high)
        if found is None or found[1] >= unix_s:
            high = middle
        else:
            low = found[0]
    return low


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without what ends them; of one that is too long only its beginning, once."""
    while line := file.readline(MOST_LINE_BYTES):
        yield line.rstrip(b"\r\n")
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)


def explain_unreadable(path: Path, error: OSError) -> str:
    """Why a log cannot be read, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return f"there is no {path}: nginx makes it when it loads the configuration; `nginx-test` says more"
    if not isinstance(error, PermissionError):
        return f"{path} cannot be read: {error.strerror}"
    group = _reading_group(path)
    joined = f", or as a member of the group {group} (`usermod -aG {group} NAME`)" if group else ""
    return f"{path} may not be read by this user: try with sudo{joined}"


def _reading_group(path: Path) -> str:
    """The group whose members may read the log, as far as that can be seen; empty without one."""
    import grp

    for place, wanted in ((path, stat.S_IRGRP), (path.parent, stat.S_IXGRP)):
        try:
            status = place.stat()
            if status.st_mode & wanted and status.st_gid:
                return grp.getgrgid(status.st_gid).gr_name
        except (OSError, KeyError):
            continue
    return ""


def _first_timed(file: BinaryIO, offset: int, end: int) -> tuple[int, float] | None:
    """Offset and time of the first line with a time that begins in [offset, end)."""
    file.seek(max(offset - 1, 0))
    if offset:
        _skip_line(file)
    place = file.tell()
    while place < end:
        line = file.readline(MOST_LINE_BYTES)
        if not line:
            return None
        when = time_of(line)
        if when is not None:
            return place, when
        if not line.endswith(b"\n"):
            _skip_line(file)
        place = file.tell()
    return None


def _skip_line(file: BinaryIO) -> None:
    while (line := file.readline(MOST_LINE_BYTES)) and not line.endswith(b"\n"):
        pass


def _open_plain(path: Path) -> BinaryIO:
    """A regular file; a pipe or a device, which could make us wait, is refused with OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def _gzip(file: BinaryIO) -> BinaryIO:
    import gzip

    return cast("BinaryIO", gzip.GzipFile(fileobj=file))


def _bzip2(file: BinaryIO) -> BinaryIO:
    import bz2

    return cast("BinaryIO", bz2.BZ2File(file))


def _xz(file: BinaryIO) -> BinaryIO:
    import lzma

    return cast("BinaryIO", lzma.LZMAFile(file))


def _lzma_error() -> type[Exception]:
    import lzma

    return lzma.LZMAError


_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {".gz": _gzip, ".bz2": _bzip2, ".xz": _xz}
