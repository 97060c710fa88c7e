"""Folders for the length of one task, and the end of those whose task was killed.

A folder is locked (flock(2)) while its task lives, and the kernel lets go of the lock however that ends. So
one that nobody holds is a leftover of a killed process, and the next task removes it: staged configuration
and trial keys do not pile up in /tmp.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

_PREFIX = "tsstack-task-"
_YOUNG_S = 60.0  # between its making and its locking a folder is nobody's


class Scratch:
    """A folder of our own (mode 0700) that is gone after `close`, or at the end of a `with`.

    Raises OSError when it cannot be made. That something in it cannot be removed is no error: what is left
    is removed by a later task.
    """

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sweep(folder: Path) -> None:
    """Remove the folders of our own user that no living task holds."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        # Another task may be removing it at the same time, or it is another user's: then it is theirs.
        with contextlib.suppress(OSError):
            _remove_abandoned(folder / name)


def _remove_abandoned(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        about = os.fstat(lock)
        if about.st_uid != os.geteuid() or time.time() - about.st_ctime < _YOUNG_S:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
