"""Writing files so that a crash leaves either the old or the new one, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable (fsync(2): a directory needs its own)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str | bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one rename, on disk before this returns.

    Raises OSError (a full disk, a read-only file system); `path` is then as it was.
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
