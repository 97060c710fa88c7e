"""One probe on its way, and those of them that wait at a socket of their own.

Nothing here is woken by an answer: the sockets of all attempts are looked at together, once in each slot.
That costs one system call for any number of them, and since the times come from the kernel (or from
tailscaled), looking late distorts nothing.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tsstack.monitor.probes.probe import TIMEOUT
from tsstack.monitor.probes.stamps import boot_s

if TYPE_CHECKING:
    from tsstack.monitor.probes.probe import Probe
    from tsstack.monitor.sample import Via

Finish = Callable[["Attempt"], None]
"""Told once that an attempt has ended; the attempt says how."""


class Attempt:
    """One sending of one probe."""

    __slots__ = (
        *("_finish", "address", "deadline_s", "done", "error", "probe", "rtt_s"),
        *("sent_s", "took_s", "via"),
    )

    def __init__(self, probe: Probe, address: str, finish: Finish) -> None:
        self.probe = probe
        self.address = address
        """Where it goes: an address, resolved before."""
        self._finish = finish
        self.rtt_s: float | None = None
        self.took_s: float | None = None
        self.error = ""
        self.via: Via = "unknown"
        self.sent_s = boot_s()
        self.deadline_s = time.monotonic() + probe.timeout_s
        self.done = False

    def succeed(self, rtt_s: float, *, via: Via = "unknown", took_s: float | None = None) -> None:
        """An answer came. One that took longer than the probe waits is none."""
        if (rtt_s if took_s is None else took_s) > self.probe.timeout_s:
            self.fail(TIMEOUT)
        elif not self.done:
            self.done = True
            self.rtt_s, self.took_s, self.via = rtt_s, took_s, via
            self._finish(self)

    def fail(self, error: str) -> None:
        """No answer, and why."""
        if not self.done:
            self.done = True
            self.error = error
            self._finish(self)


class Call(Protocol):
    """An attempt with a socket of its own."""

    attempt: Attempt

    def fileno(self) -> int:
        """Its socket's descriptor."""

    def ready(self) -> bool:
        """Something happened at its socket. Whether the attempt is over."""

    def close(self) -> None:
        """Give the socket back. May be called twice."""


READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Calls:
    """The attempts that wait at sockets of their own; `collect` looks after all of them."""

    def __init__(self) -> None:
        self._poller = select.epoll()
        self._open: dict[int, Call] = {}
        # Attempts that wait equally long end in the order of their beginning: a queue for each length.
        self._queues: dict[float, deque[Call]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: Call, events: int) -> None:
        """Wait for `events` at its socket, until its deadline."""
        self._poller.register(call.fileno(), events)
        self._open[call.fileno()] = call
        self._queues.setdefault(call.attempt.probe.timeout_s, deque()).append(call)

    def expect(self, call: Call, events: int) -> None:
        """Wait for other events from now on."""
        self._poller.modify(call.fileno(), events)

    def collect(self) -> None:
        """Take what arrived, then end what waited too long."""
        if self._open:
            for descriptor, _ in self._poller.poll(0, max(len(self._open), 1)):
                call = self._open.get(descriptor)
                if call is not None and call.ready():
                    self._end(call)
        now_s = time.monotonic()
        for queue in self._queues.values():
            while queue and (queue[0].attempt.done or queue[0].attempt.deadline_s <= now_s):
                oldest = queue.popleft()
                oldest.attempt.fail(TIMEOUT)
                self._end(oldest)

    def close(self) -> None:
        """Drop all attempts without a word, and their sockets."""
        for call in list(self._open.values()):
            call.attempt.done = True
            self._end(call)
        self._queues.clear()
        self._poller.close()

    def _end(self, call: Call) -> None:
        descriptor = call.fileno()
        if descriptor >= 0 and self._open.get(descriptor) is call:
            del self._open[descriptor]
            self._poller.unregister(descriptor)
        call.close()
