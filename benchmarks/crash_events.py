"""What happens to a host while a command is in the middle of something, at a chosen call of it.

The command is stopped right after its k-th call of a name; then a daemon is killed, the disk fills up or
fails, or the wall clock jumps; then the command goes on, into whatever it finds.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crash_picture import nginx_masters
from crash_points import Point

if TYPE_CHECKING:
    from crash_host import CrashHost

_DAY_S = 86400.0
_RUN_BYTES = 1 << 28


@dataclass(frozen=True)
class Event:
    """One kind of accident. `mend` is what a person or an init system does afterwards."""

    name: str
    strike: Callable[[CrashHost], None]
    mend: Callable[[CrashHost], None] = lambda _: None
    waits: bool = False
    """It is of `switch --confirm` alone."""
    tailscaled: bool = False
    """It needs one."""
    cuts: bool = False
    """The power goes once the command has said that it is done."""
    daemons: bool = False
    """A daemon dies, at a time at which the command may have had its last look at it."""


class WallClock:
    """Python's wall clock with an offset that another process sets; forks share it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        self._shared[:8] = struct.pack("d", offset_s)

    def __call__(self) -> float:
        (offset_s,) = struct.unpack("d", self._shared[:8])
        return _TRUE_TIME() + float(offset_s)

    def install(self) -> None:
        """From here on it is the wall clock of this process and of its forks."""
        time.time = self
        time.time_ns = lambda: int(self() * 1e9)


_TRUE_TIME = time.time
CLOCK = WallClock()


def events(chance: random.Random) -> list[Event]:
    """All kinds. `chance` says how full the disk is."""
    return [
        Event("nginx's master is killed", _kill_master, daemons=True),
        Event("all of nginx is killed", lambda host: host.end_processes(only="nginx: "), daemons=True),
        Event("tailscaled is killed and starts again", _restart_tailscaled, tailscaled=True, daemons=True),
        Event("tailscaled is killed", _kill_tailscaled, _start_tailscaled, tailscaled=True, daemons=True),
        Event("the dead man is killed", lambda host: _count(host.send_dead_men_home()), waits=True),
        Event("the disk is full", lambda host: host.disk.fill(0), lambda host: host.disk.make_room()),
        Event(
            "the disk is nearly full",
            lambda host: host.disk.fill(chance.randrange(4096, 128 * 1024)),
            lambda host: host.disk.make_room(),
        ),
        Event("/run is full", lambda _: _fill_run(), lambda _: _resize_run(_RUN_BYTES)),
        Event("the disk fails and is read-only", lambda host: host.disk.fail(), _mend_disk),
        Event("/etc is read-only", lambda _: _remount_etc("ro"), lambda _: _remount_etc("rw")),
        Event("the power goes right after the end", lambda _: None, cuts=True),
        Event("the wall clock jumps a day ahead", lambda _: CLOCK.set(_DAY_S), lambda _: CLOCK.set(0.0)),
        Event("the wall clock jumps a day back", lambda _: CLOCK.set(-_DAY_S), lambda _: CLOCK.set(0.0)),
    ]


def _count(_: int) -> None:
    return None


def _kill_master(_: CrashHost) -> None:
    for pid in nginx_masters():
        os.kill(pid, signal.SIGKILL)


def _kill_tailscaled(host: CrashHost) -> None:
    assert host.tailscaled is not None
    host.tailscaled.kill()


def _restart_tailscaled(host: CrashHost) -> None:
    """As systemd does (Restart=on-failure); the command goes on meanwhile."""
    assert host.tailscaled is not None
    host.tailscaled.kill()
    host.tailscaled.launch()


def _start_tailscaled(host: CrashHost) -> None:
    assert host.tailscaled is not None
    host.tailscaled.start()


def _mend_disk(host: CrashHost) -> None:
    host.disk.mend()


def _fill_run() -> None:
    """As full as it can be: it gets no page more than it has (tmpfs(5))."""
    there = os.statvfs("/run")
    _resize_run((there.f_blocks - there.f_bfree) * there.f_frsize)


def _resize_run(size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", "/run"], check=True)


def _remount_etc(how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", "/etc"], check=True)


@dataclass(frozen=True)
class Strike:
    """A point at which an event happens: right after a call."""

    event: Event
    point: Point

    @property
    def kind(self) -> str:
        return self.event.name

    def __str__(self) -> str:
        return f"{self.event.name} after {self.point.call}"
