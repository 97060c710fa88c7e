"""One command at a time may change a host (flock(2): the lock goes when its holder dies)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tsstack.errors import CheckFailed, LockedError
from tsstack.system.clock import Clock
from tsstack.system.files import hint_for


@contextmanager
def host_lock(state: Path, clock: Clock, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the host's lock for the length of the block.

    Meanwhile the umask is 022: nginx's workers and others that are not root pass through the folders that
    are made, whatever the operator's shell hides by default. What is secret has a mode of its own.

    Raises LockedError naming the holder when another command keeps it for longer than `wait_s`.
    """
    before = os.umask(0o022)
    try:
        with _locked(state, clock, wait_s):
            yield
    finally:
        os.umask(before)


@contextmanager
def _locked(state: Path, clock: Clock, wait_s: float) -> Iterator[None]:
    path = state / "lock"
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CheckFailed(f"{path} cannot be opened: {error.strerror}", hint=hint_for(error)) from error
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
        # Only to be named to others: a rollback must not fail for it on a full disk. Always as long, so
        # that it takes the place of the one before.
        with suppress(OSError):
            os.pwrite(descriptor, f"{os.getpid():<10}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
