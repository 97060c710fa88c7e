"""Which calls of a verb are points: all that change something, and a sample of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from crash_process import Call

T = TypeVar("T")

# What a call may change: a file, another process, the kernel's tables, or when it is that children act.
_CHANGING = {
    "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
    "symlink", "symlinkat", "link", "linkat", "mkdir", "mkdirat", "fsync", "fdatasync", "ftruncate",
    "truncate", "chmod", "fchmod", "fchmodat", "chown", "fchown", "flock", "sendto", "sendmsg", "socket",
    "kill", "tgkill", "clone", "clone3", "fork", "vfork", "execve", "wait4", "mount", "setsockopt",
    "utimensat",
}  # fmt: skip
_CREATING = ("O_CREAT", "O_WRONLY", "O_RDWR")

# What each may fail with on a full disk, a read-only file system, a broken disk, or out of memory.
_ERRORS = {
    "openat": ("ENOSPC", "EROFS"),
    "write": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EROFS", "ENOSPC"),
    "symlink": ("ENOSPC",),
    "mkdir": ("ENOSPC", "EROFS"),
    "unlink": ("EROFS",),
    "unlinkat": ("EROFS",),
    "fchmod": ("EROFS",),
    "socket": ("ENOBUFS", "EMFILE"),
    "sendmsg": ("ENOBUFS",),
    "sendto": ("ENOBUFS",),
    "vfork": ("EAGAIN",),
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
    "kill": ("EPERM",),
}
# After these a disk stays as it is: every later call fails too, those of the undoing included.
_LASTING = {
    ("write", "ENOSPC"),
    ("rename", "EROFS"),
    ("fsync", "EIO"),
    ("symlink", "ENOSPC"),
    ("socket", "ENOBUFS"),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One moment: before the `call.when`-th call of its name. `error` empty: SIGKILL."""

    call: Call
    error: str = ""
    lasting: bool = False
    then: str = ""
    """What follows the kill: another point for each."""

    @property
    def kind(self) -> str:
        """What the counts are kept by."""
        if not self.error:
            return self.call.name if changes(self.call) else "other calls"
        return f"{self.call.name} {self.error}{' lasting' if self.lasting else ''}"

    @property
    def inject(self) -> str:
        """As strace(1) wants it."""
        what = f"error={self.error}" if self.error else "signal=KILL"
        return f"{self.call.name}:{what}:when={self.call.when}{'+' if self.lasting else ''}"

    def __str__(self) -> str:
        return f"{self.error or 'SIGKILL'}{' from' if self.lasting else ' at'} {self.call}"


def changes(call: Call) -> bool:
    """Whether something outside of the process may be different after this call."""
    if call.name in {"openat", "open"}:
        return any(flag in call.text for flag in _CREATING) and "/dev/null" not in call.text
    return call.name in _CHANGING and not _is_chatter(call)


def _is_chatter(call: Call) -> bool:
    return call.name == "write" and call.text.startswith(("1, ", "2, "))


def kills(calls: Sequence[Call], hows: Sequence[str] = ("",)) -> tuple[list[Point], list[Point]]:
    """The points for SIGKILL: before every changing call with each of `hows` after it, and before others."""
    changing = [Point(call, then=how) for how in hows for call in calls if changes(call)]
    others = [Point(call) for call in calls if not changes(call)]
    return changing, others


def errors(calls: Sequence[Call]) -> list[Point]:
    """The points at which a call fails, once or from then on."""
    points = []
    for call in calls:
        for error in _ERRORS.get(call.name, ()) if changes(call) else ():
            if error == "EROFS" and "/proc/sys/" in call.text:
                continue  # what a container says, where such a parameter is left as it is and reported
            points.append(Point(call, error))
            if (call.name, error) in _LASTING:
                points.append(Point(call, error, lasting=True))
    return points


class Choice:
    """Which points a part of a run visits: no other part has the same, and any run chooses alike."""

    def __init__(self, seed: int, part: int, parts: int) -> None:
        self.seed, self.part, self.parts = seed, part, parts

    def _key(self, scene: str, point: object) -> int:
        name = f"{point.inject} {point.then}" if isinstance(point, Point) else str(point)
        return int.from_bytes(hashlib.sha256(f"{self.seed} {scene} {name}".encode()).digest()[:8])

    def mine(self, scene: str, points: Sequence[T]) -> list[T]:
        """This part's share of all, in their order."""
        return [point for point in points if self._key(scene, point) % self.parts == self.part]

    def some(self, scene: str, points: Sequence[T], count: int) -> list[T]:
        """At most `count` of them."""
        return self.mixed(scene, self.mine(scene, points))[:count]

    def mixed(self, scene: str, points: Sequence[T]) -> list[T]:
        """All of them in an order that any run chooses alike: one that is stopped has seen some of each."""
        return sorted(points, key=lambda point: self._key(scene, point))
