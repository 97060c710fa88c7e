"""Round trips, one after the other at a steady pace, also beside a load that runs meanwhile.

Echoes go through the monitor's datagram ICMP socket, whose times come from the kernel, so that a busy process
does not count. Where this user may open no such socket, or the peer's firewall drops echoes, tailscaled's own
pings serve; it tells their times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tsstack.bench.figures import Latency, latency
from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.icmp import Pings
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.sample import Path
from tsstack.system.localapi import LocalApiError

if TYPE_CHECKING:
    from tsstack.system.localapi import LocalApi, PingKind

_TURN_S = 0.005

Tell = Callable[[str], None]
"""Progress for people: one short line, to be replaced by the next."""


class Asker(Protocol):
    """Something that can ask for one round trip at a time."""

    method: str

    def rounds(self, every_s: float, go_on: Callable[[int], bool]) -> list[float | None]:
        """Ask each `every_s` seconds while `go_on(asked so far)` holds; the round trips, None where lost."""


class Echoes:
    """ICMP echoes to one address, by `interface` alone where one is given.

    `error` is why the last one failed; what the kernel refuses is a failure like any other.
    """

    method = "icmp"

    def __init__(self, address: str, *, interface: str = "", timeout_s: float = 2.0) -> None:
        path = Path(f"bench:{address}", "", interface)
        self._probe = Probe(path, "icmp", host=address, timeout_s=timeout_s)
        self._address = address
        self.error = ""

    def rounds(self, every_s: float, go_on: Callable[[int], bool]) -> list[float | None]:
        pings = Pings()
        attempts: list[Attempt] = []
        try:
            next_s = time.monotonic()
            while go_on(len(attempts)):
                attempt = Attempt(self._probe, self._address, self._ended)
                attempts.append(attempt)
                pings.send([attempt])
                next_s = max(next_s + every_s, time.monotonic())
                while (left_s := next_s - time.monotonic()) > 0:
                    time.sleep(min(left_s, _TURN_S))
                    pings.collect()
            while len(pings):
                pings.collect()
                time.sleep(_TURN_S)
        finally:
            pings.close()
        return [attempt.rtt_s for attempt in attempts]

    def _ended(self, attempt: Attempt) -> None:
        self.error = attempt.error


class DaemonPings:
    """tailscaled's own pings to one tailnet address, `TSMP` by default: through WireGuard, no peer's firewall
    drops them.
    """

    def __init__(
        self, api: LocalApi, address: str, kind: PingKind = "TSMP", *, timeout_s: float = 2.0
    ) -> None:
        self.method: str = kind
        self._api, self._address, self._kind, self._timeout_s = api, address, kind, timeout_s
        self.error = ""

    def rounds(self, every_s: float, go_on: Callable[[int], bool]) -> list[float | None]:
        found: list[float | None] = []
        next_s = time.monotonic()
        while go_on(len(found)):
            found.append(self._once())
            next_s = max(next_s + every_s, time.monotonic())
            time.sleep(max(0.0, next_s - time.monotonic()))
        return found

    def _once(self) -> float | None:
        try:
            taken = self._api.ping(self._address, self._kind, timeout_s=self._timeout_s).get("LatencySeconds")
        except LocalApiError as error:
            self.error = error.message
            return None
        return float(taken) if isinstance(taken, int | float) else None


def measure(asker: Asker, count: int, every_s: float, tell: Tell = lambda _: None) -> Latency:
    """`count` round trips, one each `every_s` seconds; blocks until they are in."""

    def go_on(asked: int) -> bool:
        tell(f"latency: {asked} of {count}")
        return asked < count

    return latency(asker.rounds(every_s, go_on), asker.method)


class Beside:
    """Round trips while something else runs: a context; `latency` is there after its end."""

    def __init__(self, asker: Asker, every_s: float, tell: Tell) -> None:
        self._asker, self._every_s, self._tell = asker, every_s, tell
        self._end = threading.Event()
        self._begun_s = 0.0
        self._rtts: list[float | None] = []
        self._thread = threading.Thread(target=self._run, name="echoes", daemon=True)

    def __enter__(self) -> Beside:
        self._begun_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def latency(self) -> Latency:
        """What was seen; complete only after the context ended."""
        return latency(self._rtts, self._asker.method)

    def _run(self) -> None:
        def go_on(_: int) -> bool:
            self._tell(f"{time.monotonic() - self._begun_s:.0f} s")
            return not self._end.is_set()

        self._rtts = self._asker.rounds(self._every_s, go_on)
