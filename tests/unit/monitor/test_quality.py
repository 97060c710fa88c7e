"""Figures of a path: quantiles within the stated error, windows by time and count, jitter of RFC 3550."""

from __future__ import annotations

import random
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack.monitor.quality import (
    BUCKETS,
    ERROR,
    LEAST_S,
    MOST_S,
    Histogram,
    Jitter,
    bucket,
    bucket_middle_s,
)
from tsstack.monitor.sample import Sample
from tsstack.monitor.windows import LEAST_COUNT, Windows

RTTS = st.floats(LEAST_S, MOST_S * 0.99)


@given(st.lists(RTTS, min_size=1, max_size=300), st.sampled_from([0.0, 0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_off_by_one_percent_at_most(rtts: list[float], share: float) -> None:
    histogram = Histogram()
    for rtt_s in rtts:
        histogram.add(rtt_s)
    exact = sorted(rtts)[max(1, ceil(share * len(rtts))) - 1]
    (found,) = histogram.quantiles_s([share])
    assert found is not None
    assert abs(found / exact - 1) <= ERROR * 1.001


@given(st.lists(RTTS, max_size=50), st.lists(RTTS, max_size=50))
def test_merged_histograms_are_the_histogram_of_all(some: list[float], more: list[float]) -> None:
    left, right, together = Histogram(), Histogram(), Histogram()
    for histogram, rtts in ((left, some), (right, more), (together, some + more)):
        for rtt_s in rtts:
            histogram.add(rtt_s)
    left.merge(right)
    assert (left.counts, left.total) == (together.counts, together.total)


def test_what_cannot_be_a_round_trip_time_stays_within_the_buckets() -> None:
    assert bucket(0.0) == bucket(-1.0) == 0
    assert bucket(1e9) == BUCKETS - 1
    assert bucket_middle_s(BUCKETS - 1) >= MOST_S * (1 - 2 * ERROR)


@pytest.mark.parametrize("counts", [{-1: 1}, {BUCKETS: 1}, {0: -1}])
def test_counts_that_cannot_be_are_refused(counts: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="no histogram"):
        Histogram(counts)


def test_an_empty_histogram_has_no_quantiles() -> None:
    assert Histogram().quantiles_s([0.5, 0.99]) == [None, None]


def test_jitter_is_that_of_rfc_3550() -> None:
    jitter = Jitter()
    for rtt_s in (0.020, 0.036, 0.020):
        jitter.add(rtt_s)
    first = 0.016 / 16
    assert jitter.jitter_s == pytest.approx(first + (0.016 - first) / 16)


def sample(sent_s: float, rtt_s: float | None, via: str = "unknown") -> Sample:
    return Sample("p", "icmp", sent_s, rtt_s, via=via)  # type: ignore[arg-type]


def test_windows_count_what_was_sent_in_them() -> None:
    windows = Windows(0.5)
    for at in range(4000):
        windows.add(sample(at * 0.5, None if at % 10 == 0 else 0.02, "relay" if at % 4 else "direct"))
    now_s = 1999.75
    for window_s in (10.0, 60.0, 900.0):
        quality = windows.quality(window_s, now_s)
        assert quality.sent == window_s * 2
        assert quality.loss == pytest.approx(0.1)
        assert quality.rtt_p50_s == pytest.approx(0.02, rel=ERROR)
        assert quality.relayed == pytest.approx(0.75, abs=0.08)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_windows_do_not_mind_the_order_of_conclusion(count: int, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    windows = Windows(0.5)
    outcomes = [(at * 0.5, None if rng.random() < 0.2 else 0.02) for at in range(count)]
    # A loss is known a second after it was sent, an answer after its round trip.
    for sent_s, rtt_s in sorted(outcomes, key=lambda each: each[0] + (1.0 if each[1] is None else 0.02)):
        windows.add(sample(sent_s, rtt_s))
    now_s = count * 0.5
    kept = outcomes[-1801:]
    for window_s in (10.0, 60.0, 900.0):
        wanted = [each for each in kept if each[0] >= now_s - window_s] or []
        wanted = kept[-max(len(wanted), LEAST_COUNT) :]
        quality = windows.quality(window_s, now_s)
        assert quality.sent == len(wanted)
        assert quality.lost == sum(rtt_s is None for _, rtt_s in wanted)


def test_a_slow_path_has_figures_in_every_window() -> None:
    windows = Windows(30.0)
    for at in range(100):
        windows.add(sample(at * 30.0, 0.02))
    quality = windows.quality(10.0, 99 * 30.0 + 1)
    assert (quality.sent, quality.window_s, quality.span_s) == (LEAST_COUNT, 10.0, 271.0)


def test_an_unmeasured_path_has_no_figures() -> None:
    quality = Windows(0.5).quality(60.0, 100.0)
    assert (quality.sent, quality.loss, quality.rtt_p50_s, quality.jitter_s) == (0, None, None, None)


def test_a_ring_of_a_quarter_of_an_hour_at_one_a_second_stays_below_ten_kilobytes() -> None:
    windows = Windows(1.0)
    for at in range(2000):
        windows.add(sample(float(at), 0.02))
    columns = (windows._sent_s, windows._codes, windows._vias)
    assert sum(len(column) * column.itemsize for column in columns) < 10_000
