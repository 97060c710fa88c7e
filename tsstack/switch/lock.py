"""One command at a time may change a host (flock(2): the lock goes when its holder dies)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tsstack.errors import CheckFailed, LockedError
from tsstack.system.clock import Clock


@contextmanager
def host_lock(state: Path, clock: Clock, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the host's lock for the length of the block.

    Raises LockedError naming the holder when another command keeps it for longer than `wait_s`.
    """
    path = state / "lock"
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CheckFailed(
            f"{path} cannot be opened: {error.strerror}", hint="tsstack needs root for this"
        ) from error
    try:
        deadline = clock.now_s() + wait_s
        while not _try_lock(descriptor):
            if clock.now_s() >= deadline:
                holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
                raise LockedError(
                    f"another tsstack command is at work on this host (pid {holder or 'unknown'})",
                    hint="wait until it has finished, then try again",
                )
            clock.sleep(0.05)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
