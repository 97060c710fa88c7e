"""Reading files that are what they seem, and writing them so that a crash leaves the old or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from pathlib import Path

LARGEST_FILE_BYTES = 16 * 1024 * 1024
"""What the file that describes a host may hold."""

_WRITER_COMES_S = 2.0

_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISFIFO, "it is a pipe"),
)


def read_bounded(path: Path, *, limit_bytes: int, pipes: bool = False) -> bytes:
    """The bytes of a regular file of `limit_bytes` at most; with `pipes`, also of a pipe until its end.

    Raises OSError with what is wrong as `strerror`: EFBIG for what is larger, EINVAL for a device, a socket,
    a pipe that is not meant, EISDIR; ETIMEDOUT for a pipe that nobody opens to write. Whoever has opened it
    may take his time: he may be asked for a passphrase.
    """
    _refuse_strange(path.stat(), path, pipes=pipes)  # opening a device can already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        _refuse_strange(status, path, pipes=pipes)
        begun = _await_writer(descriptor, path) if stat.S_ISFIFO(status.st_mode) else b""
        os.set_blocking(descriptor, True)
        data = begun + stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        size = f"{limit_bytes // 1024**2} MiB" if limit_bytes >= 1024**2 else f"{limit_bytes // 1024} KiB"
        raise OSError(errno.EFBIG, f"it is larger than {size}", str(path))
    return data


def _await_writer(descriptor: int, path: Path) -> bytes:
    """Return once somebody has a pipe open to write, or had; with what is read of it so far.

    A pipe without a writer reads as ended, one with a silent writer as not ready (pipe(7)).
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if waiting.poll(_WRITER_COMES_S * 1000):
        return b""
    try:
        begun = os.read(descriptor, 1)
    except BlockingIOError:
        return b""
    if not begun:
        raise OSError(errno.ETIMEDOUT, "it is a pipe that nobody writes to", str(path))
    return begun


def _refuse_strange(status: os.stat_result, path: Path, *, pipes: bool) -> None:
    for is_kind, words in _KINDS:
        if is_kind(status.st_mode) and not (pipes and is_kind is stat.S_ISFIFO):
            code = errno.EISDIR if is_kind is stat.S_ISDIR else errno.EINVAL
            raise OSError(code, f"{words}, not a file", str(path))


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable (fsync(2): a directory needs its own)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str | bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one rename, on disk before this returns.

    Raises OSError (a full disk, a read-only file system); `path` is then as it was, but for a disk that
    fails when the folder is synced (EIO): then nobody knows which of the two it keeps.
    """
    data = text.encode() if isinstance(text, str) else text
    staged = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        staged.rename(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_note(path: Path, text: str, *, mode: int = 0o644) -> None:
    """As `write_durably`, for what may get lost: on a full disk the one before makes room, or there is none.

    Raises OSError only where the one before, which is not true any more, cannot be removed.
    """
    try:
        write_durably(path, text, mode=mode)
    except OSError:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            write_durably(path, text, mode=mode)


def link_durably(link: Path, target: Path | str) -> None:
    """Point the symbolic link `link` at `target` in one rename, on disk before this returns."""
    staged = link.with_name(f".{link.name}.{os.getpid()}.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    try:
        staged.rename(link)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    fsync_folder(link.parent)


def hint_for(error: OSError) -> str:
    """What to do about a file of ours that cannot be opened, made or written; empty: nobody knows."""
    return {
        errno.EACCES: "tsstack needs root for this",
        errno.EPERM: "tsstack needs root for this",
        errno.EROFS: "the file system is read-only: `findmnt`, then `journalctl -k`, say why",
        errno.ENOSPC: "the disk is full: `df -h`",
        errno.EEXIST: "something else has that name: move it away",
        errno.ENOTDIR: "something else has that name: move it away",
    }.get(error.errno or 0, "")
