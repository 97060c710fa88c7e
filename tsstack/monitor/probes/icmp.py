"""Pings: one socket for each family, interface and source address, however many targets there are."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable

from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.causes import words_of
from tsstack.monitor.probes.echo_socket import EchoSocket, Refused, Way

NOT_PERMITTED = "no permission for ICMP"
# In the shipped unit a capability would be one of a user namespace, which opens no raw socket.
PERMISSION_HINT = "sysctl net.ipv4.ping_group_range='0 2147483647'"

_RETRY_S = 5.0


class Pings:
    """All pings of the monitor. `allowed` is False after the kernel refused both kinds of sockets."""

    def __init__(self) -> None:
        self.allowed = True
        self._sockets: dict[Way, EchoSocket] = {}
        self._refused: dict[Way, tuple[float, OSError]] = {}

    def __len__(self) -> int:
        """How many wait for an answer."""
        return sum(len(each) for each in self._sockets.values())

    @property
    def capacity(self) -> int:
        """How many answers the smallest receive buffer holds until it must be read."""
        return min((each.capacity for each in self._sockets.values()), default=100)

    def send(self, attempts: Iterable[Attempt]) -> None:
        """Send each; a failure to do so ends the attempt."""
        ways: dict[tuple[int, str, str], list[Attempt]] = {}
        for attempt in attempts:
            probe = attempt.probe
            key = (6 if ":" in attempt.address else 4, probe.path.interface, probe.from_address)
            ways.setdefault(key, []).append(attempt)
        for key, those in ways.items():
            way = Way(*key)
            refused = self._try(way, those)
            opened = self._sockets.get(way)
            if refused and opened is not None and opened.is_stale:
                # The interface went, and may be back under a new index: tailscaled's does so on a restart.
                self._drop(way, words_of(errno.ENODEV, interface=way.interface))
                refused = self._try(way, [attempt for attempt, _ in refused])
            for attempt, number in refused:
                attempt.fail(self._words(number, way))

    def collect(self) -> None:
        """Take the answers that came, then end what waited too long."""
        now_s = time.monotonic()
        for each in list(self._sockets.values()):
            if len(each):
                each.receive()
            each.expire(now_s)

    def close(self) -> None:
        """Give all sockets back; what was under way ends without a word."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

    def _try(self, way: Way, attempts: list[Attempt]) -> list[Refused]:
        try:
            opened = self._socket(way)
        except OSError as error:
            return [(attempt, error.errno or 0) for attempt in attempts]
        return opened.send(attempts)

    def _socket(self, way: Way) -> EchoSocket:
        found = self._sockets.get(way)
        if found is None:
            until_s, error = self._refused.get(way, (0.0, OSError()))
            if time.monotonic() < until_s:
                raise error
            try:
                found = EchoSocket(way)
            except PermissionError as refusal:
                self.allowed = False
                self._refused[way] = (time.monotonic() + _RETRY_S, refusal)
                raise
            self.allowed = True
            self._refused.pop(way, None)
            self._sockets[way] = found
        return found

    def _drop(self, way: Way, error: str) -> None:
        gone = self._sockets.pop(way)
        gone.fail_all(error)
        gone.close()

    def _words(self, number: int, way: Way) -> str:
        if number in {errno.EPERM, errno.EACCES} and way not in self._sockets:
            return NOT_PERMITTED
        return words_of(number, interface=way.interface)
