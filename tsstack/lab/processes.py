"""Which processes are the lab's own, and how to end those and no others.

A process is the lab's when it sees the lab's token: at /run/tsstack-lab.token below its root, or, while a
holder is still making its files, as a word of its own command line. The token is random, so neither a
reused pid nor another lab can be mistaken. Signals go through a pidfd (pidfd_open(2)), which stays with
the process that was looked at.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tsstack.errors import TsstackError
from tsstack.lab.holder import MARK

_PROC = Path("/proc")


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot (proc(5), stat, field 22); 0 if it is gone.

    A zombie counts as gone: it runs nothing.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text[text.rindex(")") + 2 :].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def pids() -> list[int]:
    """Every process id there is now."""
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def belongs(pid: int, token: str) -> bool:
    """Whether the process sees the lab's token."""
    folder = _PROC / str(pid)
    try:
        if token.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
            return True
        return (folder / "root" / MARK.relative_to("/")).read_text() == token
    except (FileNotFoundError, ProcessLookupError, PermissionError, NotADirectoryError):
        # Gone meanwhile, a kernel thread, or a process whose root we may not see: none of ours.
        return False


def owned(token: str) -> Iterator[int]:
    """The lab's processes, this one excepted."""
    return (pid for pid in pids() if pid != os.getpid() and belongs(pid, token))


def within(holder: int) -> Iterator[int]:
    """The processes in the mount namespace of `holder`."""
    namespace = _namespace(holder)
    return (pid for pid in pids() if namespace and _namespace(pid) == namespace)


def _namespace(pid: int) -> str:
    try:
        return str((_PROC / str(pid) / "ns/mnt").readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def program(pid: int) -> str:
    """The first 15 letters of the program's name (proc(5), comm); empty if the process is gone."""
    if not start_ticks(pid):
        return ""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send(pid: int, token: str, number: signal.Signals) -> bool:
    """Signal the process if it is the lab's; whether it was."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not belongs(pid, token):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end(chosen: list[int], token: str, number: signal.Signals, *, timeout_s: float = 10.0) -> None:
    """Signal the lab's processes among `chosen` and wait until they are gone; SIGKILL after half the time.

    Raises TsstackError naming the ones that stay.
    """
    starts = {pid: start_ticks(pid) for pid in chosen if send(pid, token, number)}
    deadline = time.monotonic() + timeout_s
    killed = number is signal.SIGKILL
    while left := [pid for pid, start in starts.items() if start and start_ticks(pid) == start]:
        now = time.monotonic()
        if now > deadline:
            raise TsstackError(f"processes of the lab do not end: {', '.join(map(str, left))}")
        if not killed and now > deadline - timeout_s / 2:
            killed = True
            for pid in left:
                send(pid, token, signal.SIGKILL)
        time.sleep(0.005)
    for pid in starts:
        _reap(pid)


def end_all(token: str, *, timeout_s: float = 20.0) -> None:
    """Kill every process of the lab, also those that start while we look. Raises TsstackError."""
    deadline = time.monotonic() + timeout_s
    quiet = 0
    # A program that was on its way into a node when its starter died shows up a moment later.
    while quiet < 3:
        found = list(owned(token))
        quiet = 0 if found else quiet + 1
        if found:
            end(found, token, signal.SIGKILL, timeout_s=max(deadline - time.monotonic(), 0.1))
        else:
            time.sleep(0.02)


def _reap(pid: int) -> None:
    """Take our own child out of the process table; others' children are their parents' affair."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def words(pid: int) -> list[str]:
    """The process's command line; empty if it is gone."""
    try:
        line = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word.decode(errors="replace") for word in line.rstrip(b"\0").split(b"\0")]
