"""A copy of this process in kernel namespaces of its own: the quickest way into a network that is ours alone.

Root needs no user namespace, and in some containers may not make one; everybody else gets one, where the
kernel allows it (user_namespaces(7)). The namespaces and all in them go when the last process there ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_INPUT, _OUTPUT, _ERRORS = 0, 1, 2

Serve = Callable[[BinaryIO, BinaryIO], None]
"""What the copy does: reads questions from the first stream, writes answers to the second."""


class Offshoot:
    """A copy of this process, forked into a network namespace of its own, and our ends of its three pipes.

    It holds none of our files and locks, and the kernel ends it when we end. Raises OSError when no process
    can be made; that the kernel gives no namespace is said on `errors`, and `output` ends.
    """

    def __init__(self, serve: Serve, *, own_mounts: bool = False) -> None:
        parent = os.getpid()
        theirs, ours = _three_pipes()
        self.pid = os.fork()
        if self.pid == 0:
            _live(serve, parent, theirs, own_mounts=own_mounts)
        for descriptor in theirs:
            os.close(descriptor)
        self.input: BinaryIO = os.fdopen(ours[_INPUT], "wb")
        self.output: BinaryIO = os.fdopen(ours[_OUTPUT], "rb")
        self.errors: BinaryIO = os.fdopen(ours[_ERRORS], "rb")
        self._running = True
        self._status = 0

    def wait(self) -> None:
        """Until it has ended."""
        if self._running:
            _, self._status = os.waitpid(self.pid, 0)
            self._running = False

    def last_words(self) -> str:
        """The last line that it wrote to its errors, else what ended it. Waits for its end."""
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        self.wait()
        if said:
            return said[-1]
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            # serve() gives itself a time limit by alarm(2).
            return "it took too long" if number == signal.SIGALRM else f"it was ended by signal {number}"
        return "it gave no reason"

    def close(self) -> None:
        """End it, whatever it is at."""
        if self._running:
            os.kill(self.pid, signal.SIGKILL)
        for stream in (self.input, self.output, self.errors):
            with contextlib.suppress(BrokenPipeError):  # our last words to it went unread
                stream.close()
        self.wait()


def _three_pipes() -> tuple[list[int], list[int]]:
    """The copy's ends and ours, of its stdin, stdout and stderr."""
    pipes: list[tuple[int, int]] = []
    try:
        pipes += (os.pipe() for _ in range(3))
    except OSError:
        for descriptor in (end for pipe in pipes for end in pipe):
            os.close(descriptor)
        raise
    (asked, asks), (answered, answers), (told, tells) = pipes
    return [asked, answers, tells], [asks, answered, told]


def _live(serve: Serve, parent: int, pipes: list[int], *, own_mounts: bool) -> None:
    """The copy's whole life. Never returns: nothing of the caller's runs twice."""
    code = 1
    try:
        _leave_everything(parent, pipes)
        _isolate(own_mounts=own_mounts)
        with os.fdopen(_INPUT, "rb", closefd=False) as source, os.fdopen(_OUTPUT, "wb", closefd=False) as out:
            serve(source, out)
        code = 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}")
    except BaseException as error:  # noqa: BLE001  whatever it is, it must not go on as the caller
        _say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(_ERRORS, line.encode(errors="replace") + b"\n")


def _leave_everything(parent: int, pipes: list[int]) -> None:
    """Keep the pipes alone: an open lock of the caller's would be held for as long as we live (flock(2))."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # Above the places where they shall be, so that none is closed by another's move.
    moved = [os.dup(descriptor) for descriptor in pipes]
    while min(moved) <= _ERRORS:
        moved = [os.dup(descriptor) for descriptor in moved]
    for place, descriptor in enumerate(moved):
        os.dup2(descriptor, place, inheritable=False)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > _ERRORS:
            with contextlib.suppress(OSError):  # the one that the folder was read by
                os.close(descriptor)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel could know that we care
        os._exit(1)


def _isolate(*, own_mounts: bool) -> None:
    """Move into new namespaces: network, mounts if asked for, and users unless we are root."""
    flags = _CLONE_NEWNET | (_CLONE_NEWNS if own_mounts else 0)
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        flags |= _CLONE_NEWUSER
    _call("unshare", flags)
    if user != 0:
        # user_namespaces(7): a group can be mapped only by who gave up setgroups(2).
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line, encoding="ascii")
    if own_mounts:
        _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def _call(function: str, *arguments: object) -> None:
    """A function of the C library. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
