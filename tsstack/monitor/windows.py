"""The latest outcomes of one path, for several windows at once. Pure: time comes as an argument.

One ring of 11 bytes for each outcome serves every window: taking in a sample writes one place, and a window
is counted only when it is asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter

from tsstack.monitor.quality import Histogram, Jitter, Quality, bucket
from tsstack.monitor.sample import Sample

WINDOWS_S = (10.0, 60.0, 900.0)
"""The windows that screens, metrics and alerts show: ten seconds, a minute, a quarter of an hour."""
LEAST_COUNT = 10
"""A window holds so many outcomes at least, so that a path probed each 30 s has figures too."""
_LOST = -1
_VIA = {"direct": 1, "relay": 2}


def _swap(column: array[float] | array[int], one: int, other: int) -> None:
    column[one], column[other] = column[other], column[one]  # type: ignore[assignment]


class Windows:
    """The outcomes of one path's probes, at most `window_s` old or the newest `LEAST_COUNT`.

    Samples may come in any order within a probe's timeout: a lost one is known later than its successor.
    """

    __slots__ = ("_at", "_capacity", "_codes", "_jitter", "_sent_s", "_vias")

    def __init__(self, pace_s: float, *, longest_s: float = WINDOWS_S[-1]) -> None:
        """For a path that is probed each `pace_s` seconds at the quickest of its usual paces."""
        if not pace_s > 0:
            raise ValueError("a pace is more than 0 s")
        self._capacity = max(LEAST_COUNT, int(longest_s / pace_s) + 1)
        self._sent_s = array("d")
        self._codes = array("h")
        self._vias = array("b")
        self._at = 0  # where the oldest outcome stands once the ring is full
        self._jitter = Jitter()

    def add(self, sample: Sample) -> None:
        """Take in the outcome of one probe."""
        code = _LOST if sample.rtt_s is None else bucket(sample.rtt_s)
        via = _VIA.get(sample.via, 0)
        if sample.rtt_s is not None:
            self._jitter.add(sample.rtt_s)
        if len(self._sent_s) < self._capacity:
            at = len(self._sent_s)
            self._sent_s.append(sample.sent_s)
            self._codes.append(code)
            self._vias.append(via)
        else:
            at = self._at
            self._sent_s[at] = sample.sent_s
            self._codes[at] = code
            self._vias[at] = via
            self._at = at + 1 if at + 1 < self._capacity else 0
        for _ in range(len(self._sent_s) - 1):
            before = at - 1 if at else len(self._sent_s) - 1
            if self._sent_s[before] <= sample.sent_s:
                break
            _swap(self._sent_s, before, at)
            _swap(self._codes, before, at)
            _swap(self._vias, before, at)
            at = before

    def clear(self) -> None:
        """Forget all outcomes: what was before a jump of the clock says nothing about now."""
        del self._sent_s[:], self._codes[:], self._vias[:]
        self._at = 0
        self._jitter = Jitter()

    def quality(self, window_s: float, now_s: float) -> Quality:
        """What the last `window_s` seconds show; at least `LEAST_COUNT` outcomes where there are so many."""
        times, codes, vias = self._ordered()
        first = min(bisect_left(times, now_s - window_s), max(0, len(times) - LEAST_COUNT))
        counts = Counter(codes[first:])
        lost = counts.pop(_LOST, 0)
        rtts = Histogram(counts)
        p50, p95, p99 = rtts.quantiles_s((0.5, 0.95, 0.99))
        ways = Counter(vias[first:])
        known = ways[1] + ways[2]
        return Quality(
            window_s=window_s,
            span_s=max(0.0, now_s - times[first]) if len(times) else 0.0,
            sent=rtts.total + lost,
            lost=lost,
            rtt_p50_s=p50,
            rtt_p95_s=p95,
            rtt_p99_s=p99,
            jitter_s=self._jitter.jitter_s if rtts.total > 1 else None,
            relayed=ways[2] / known if known else None,
        )

    def histogram(self, window_s: float, now_s: float) -> Histogram:
        """The round-trip times of a window, to merge with others or to keep."""
        times, codes, _ = self._ordered()
        counts = Counter(codes[bisect_left(times, now_s - window_s) :])
        counts.pop(_LOST, None)
        return Histogram(counts)

    def _ordered(self) -> tuple[array[float], array[int], array[int]]:
        """The outcomes, oldest first."""
        if not self._at:
            return self._sent_s, self._codes, self._vias
        at = self._at
        return (
            self._sent_s[at:] + self._sent_s[:at],
            self._codes[at:] + self._codes[:at],
            self._vias[at:] + self._vias[:at],
        )
