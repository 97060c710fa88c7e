"""The file system that the state lies on: one of its own, so that it can be full, fail, or lose its power."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from crash_picture import STATE

_SIZE_BYTES = 24 << 20
# include/uapi/linux/ext4.h: EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_LOGFLUSH and _NOLOGFLUSH.
_SHUTDOWN, _LOG_FLUSH, _NO_LOG_FLUSH = 0x8004587D, 1, 2


def make(image: Path) -> None:
    """An ext4 in a file of this machine's disk."""
    image.touch()
    os.truncate(image, _SIZE_BYTES)
    options = ["-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, str(image)], check=True)


class Disk:
    """The mounted image, from within the private host."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._filler = STATE / ".filler"

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(STATE)], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", str(STATE)], check=True)

    def settle(self) -> None:
        """All that was written so far is on the disk (syncfs(2)), asked for or not."""
        folder = os.open(STATE, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(folder):
                raise OSError(f"{STATE} cannot be synced")
        finally:
            os.close(folder)

    def cut(self, *, names: bool = False) -> None:
        """The power goes: what was not synced is lost, and the journal is replayed. Nobody may use it.

        `names`: somebody else's fsync had just committed the journal. Then every name and link is as it was,
        and only the content is lost that nobody had asked to keep: such files are empty.
        """
        folder = os.open(STATE, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _LOG_FLUSH if names else _NO_LOG_FLUSH))
        finally:
            os.close(folder)
        self._unmount()
        self.mount()

    def fail(self) -> None:
        """It becomes read-only under open files, as ext4 does by itself when its disk fails (ext4(5))."""
        subprocess.run(["mount", "-o", "remount,abort", str(STATE)], check=True, stderr=subprocess.DEVNULL)

    def mend(self) -> None:
        """Mount it anew. What it did not take since it failed is not there."""
        self._unmount()
        self.mount()

    def fill(self, left_bytes: int) -> None:
        """Somebody else's file takes all the room but this."""
        status = os.statvfs(STATE)
        room = status.f_bavail * status.f_frsize - left_bytes
        filler = os.open(self._filler, os.O_CREAT | os.O_WRONLY)
        try:
            # The file system keeps some blocks for what it has put off; ask for less until it agrees.
            for bytes_ in range(room, 0, -16384):
                with contextlib.suppress(OSError):
                    os.posix_fallocate(filler, 0, bytes_)
                    break
        finally:
            os.close(filler)

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)
