"""How good a path is, in figures: round-trip quantiles, jitter, loss, share relayed. Pure.

The histogram has logarithmic buckets: adding costs one logarithm, two histograms merge by adding their
counts, and a quantile is off by 1 % at most between `LEAST_S` and `MOST_S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, exp, log

GROWTH = 1.02
"""Each bucket's upper bound is so many times its lower one."""
ERROR = GROWTH**0.5 - 1
"""The most that a quantile is off, relative: the middle of a bucket stands for all of it (0.995 %)."""
LEAST_S = 1e-5
"""What is quicker counts as this."""
MOST_S = 100.0
"""What is slower counts as this."""

_PER_LOG = 1 / log(GROWTH)
_OFFSET = -log(LEAST_S) * _PER_LOG
BUCKETS = int(log(MOST_S) * _PER_LOG + _OFFSET) + 1


def bucket(rtt_s: float) -> int:
    """The bucket of a round-trip time, 0 to BUCKETS - 1."""
    if rtt_s <= LEAST_S:
        return 0
    if rtt_s >= MOST_S:
        return BUCKETS - 1
    return int(log(rtt_s) * _PER_LOG + _OFFSET)


def bucket_middle_s(index: int) -> float:
    """The round-trip time that stands for a bucket: the geometric middle of its bounds."""
    return exp((index + 0.5 - _OFFSET) / _PER_LOG)


class Histogram:
    """How many round-trip times fell into each bucket; sparse, so a quiet path costs little."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        """Counts by bucket; ValueError for a bucket or a count that cannot be."""
        self.counts: dict[int, int] = {}
        self.total = 0
        for index, count in (counts or {}).items():
            if not 0 <= index < BUCKETS or count < 0:
                raise ValueError(f"no histogram has {count} in bucket {index}")
            self.counts[index] = count
            self.total += count

    def add(self, rtt_s: float) -> None:
        """Count one round-trip time, seconds."""
        # `bucket` in place where nothing is out of bounds: a call costs as much as the logarithm.
        index = int(log(rtt_s) * _PER_LOG + _OFFSET) if LEAST_S < rtt_s < MOST_S else bucket(rtt_s)
        self.counts[index] = self.counts.get(index, 0) + 1
        self.total += 1

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram to this one."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
        self.total += other.total

    def quantiles_s(self, shares: Iterable[float]) -> list[float | None]:
        """The round-trip times that such shares (0 to 1, ascending) do not exceed; None when empty."""
        wanted = list(shares)
        if not self.total:
            return [None] * len(wanted)
        found: list[float | None] = []
        seen = 0
        buckets = iter(sorted(self.counts.items()))
        index = 0
        for share in wanted:
            rank = max(1, ceil(share * self.total))
            while seen < rank:
                index, count = next(buckets)
                seen += count
            found.append(bucket_middle_s(index))
        return found


class Jitter:
    """The interarrival jitter of RFC 3550, section 6.4.1: J += (|D| - J) / 16.

    D is the difference between the round-trip times of two answers in a row, lost probes left out as the RFC
    leaves out lost packets; with a round trip the way back is counted in.
    """

    __slots__ = ("_before_s", "jitter_s")

    def __init__(self, jitter_s: float = 0.0) -> None:
        self.jitter_s = jitter_s
        self._before_s: float | None = None

    def add(self, rtt_s: float) -> None:
        """Take in the round-trip time of one answer, seconds."""
        if self._before_s is not None:
            self.jitter_s += (abs(rtt_s - self._before_s) - self.jitter_s) / 16
        self._before_s = rtt_s


@dataclass(frozen=True, slots=True)
class Quality:
    """What one window of one path shows. A figure that nothing was measured for is None."""

    window_s: float
    """The window that was asked for, seconds."""
    span_s: float
    """From the sending of its first probe to now; more than `window_s` where the pace is slow."""
    sent: int
    """Probes whose outcome is known."""
    lost: int
    rtt_p50_s: float | None
    rtt_p95_s: float | None
    rtt_p99_s: float | None
    jitter_s: float | None
    """RFC 3550 jitter of the path as of now, not of the window alone."""
    relayed: float | None
    """Share of the answers whose way is known that came through a relay, 0 to 1."""

    @property
    def loss(self) -> float | None:
        """Share of the probes that were lost, 0 to 1."""
        return self.lost / self.sent if self.sent else None
