"""What the requests of a span add up to, for each service. Pure.

Memory is bounded by how different the requests are, not by their number: times are counted by the
millisecond (nginx logs no finer), and of clients and users only so many are told apart.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.parts.proxy.access import Exchange

Level = Literal["ok", "warning", "critical", "unknown"]
ENOUGH = 20
"""Of fewer requests no share is judged."""
WARNING_SHARE, CRITICAL_SHARE = 0.01, 0.20
"""Of answers with 5xx: above it a service is in that state. Of lines that cannot be read, above the first."""

_SWITCHED = 101
"""A websocket's session, logged when it is over (RFC 9110, section 15.2.2)."""
_MOST_NAMES = 50_000
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Times in seconds, by the nearest rank. None where nothing was measured."""

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Use:
    """What one service did in a span."""

    service: str
    tcp: bool
    level: Level
    trouble: str
    """Why nothing, or not all, is known; empty when all is."""
    requests: int
    """Requests, or sessions that ended."""
    per_s: float
    classes: Mapping[str, int]
    """`2xx` to `5xx`, `1xx` for websockets, `none` for those that ended without a status."""
    took: Quantiles
    """Without websockets, as `upstream`: theirs is how long somebody stayed."""
    upstream: Quantiles
    sent_bytes: int
    received_bytes: int
    """Of TCP services alone; nginx's HTTP log has only what was sent."""
    limited: int
    denied: int
    failures: int
    """5xx; of TCP services all that is not 200."""
    broken: int
    """Lines that could not be read."""
    clients: tuple[tuple[str, int], ...]
    users: tuple[tuple[str, int], ...]


class Tally:
    """Counts the exchanges of one service."""

    def __init__(self, service: str, *, tcp: bool = False) -> None:
        self.service, self.tcp = service, tcp
        self.broken = 0
        self._classes: Counter[str] = Counter()
        self._took_ms: Counter[int] = Counter()
        self._upstream_ms: Counter[int] = Counter()
        self._clients: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._sent = self._received = self._limited = self._denied = self._failures = 0

    def add(self, exchange: Exchange) -> None:
        """Count one."""
        self.tcp = exchange.tcp
        self._classes[_class_of(exchange.status)] += 1
        if exchange.status != _SWITCHED:  # how long somebody stayed connected is no time that they waited
            self._took_ms[round(exchange.took_s * 1000)] += 1
            if exchange.upstream_s is not None:
                self._upstream_ms[round(exchange.upstream_s * 1000)] += 1
        self._sent += exchange.sent_bytes
        self._received += exchange.received_bytes
        self._limited += exchange.is_limited
        self._denied += exchange.is_denied
        self._failures += exchange.status != 200 if exchange.tcp else exchange.status >= 500
        _count(self._clients, exchange.client)
        if exchange.user:
            _count(self._users, exchange.user)

    def use(self, span_s: float, *, top: int = 5, trouble: str = "", reading: Level = "ok") -> Use:
        """The sums, for a span of `span_s` seconds; `top` clients and users.

        `reading`: how well the log could be read; `trouble` says what is wrong there.
        """
        requests = self._classes.total()
        return Use(
            service=self.service,
            tcp=self.tcp,
            level=worst([reading, judge(requests, self._classes["5xx"])]),
            trouble=trouble,
            requests=requests,
            per_s=requests / span_s if span_s > 0 else 0.0,
            classes={name: self._classes[name] for name in (*_CLASSES, "none")},
            took=_quantiles(self._took_ms),
            upstream=_quantiles(self._upstream_ms),
            sent_bytes=self._sent,
            received_bytes=self._received,
            limited=self._limited,
            denied=self._denied,
            failures=self._failures,
            broken=self.broken,
            clients=tuple(self._clients.most_common(top)),
            users=tuple(self._users.most_common(top)),
        )


def judge(requests: int, server_errors: int) -> Level:
    """The state of a service by its share of 5xx; ok below `ENOUGH` requests."""
    if requests < ENOUGH:
        return "ok"
    share = server_errors / requests
    if share > CRITICAL_SHARE:
        return "critical"
    return "warning" if share > WARNING_SHARE else "ok"


def judge_reading(lines: int, broken: int) -> Level:
    """How well a log could be read: unknown where that is less than half of it."""
    if broken > lines - broken:
        return "unknown"
    return "warning" if lines >= ENOUGH and broken > WARNING_SHARE * lines else "ok"


def worst(levels: list[Level]) -> Level:
    """The state of all: critical before warning, before unknown, before ok; unknown of none."""
    order: tuple[Level, ...] = ("critical", "warning", "unknown", "ok")
    return next((level for level in order if level in levels), "unknown")


def quantile(counted: Mapping[int, int], share: float) -> int | None:
    """The nearest rank of counted values (value -> how often); None of none."""
    rank = math.ceil(share * sum(counted.values()))
    for value in sorted(counted):
        rank -= counted[value]
        if rank <= 0:
            return value
    return None


def _quantiles(counted_ms: Mapping[int, int]) -> Quantiles:
    p50, p95, p99 = (quantile(counted_ms, share) for share in (0.50, 0.95, 0.99))
    return Quantiles(*(None if value is None else value / 1000 for value in (p50, p95, p99)))


def _class_of(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else "none"


def _count(counter: Counter[str], name: str) -> None:
    # Who invents addresses must not fill our memory: from here on only those that are known are counted.
    if name in counter or len(counter) < _MOST_NAMES:
        counter[name] += 1
