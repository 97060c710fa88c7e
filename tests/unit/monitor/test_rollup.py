"""Thinning out with age: what is merged is exact, and every span is made of buckets that tile it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.monitor.quality import BUCKETS, Histogram, bucket
from tsstack.monitor.rollup import TIERS, Bucket, Kept, cover, cut, layers, pack, unpack

NOW = 1_800_000_000
COUNTS = st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 10**9), max_size=40)


def test_each_width_divides_the_next_and_a_day() -> None:
    for fine, coarse in pairwise(TIERS):
        assert coarse.width_s % fine.width_s == 0
        assert coarse.keep_s > fine.keep_s
    assert 86400 % TIERS[-1].width_s == 0


@given(COUNTS)
def test_a_packed_histogram_is_the_same_when_unpacked(counts: dict[int, int]) -> None:
    assert unpack(pack(counts)) == counts


@pytest.mark.parametrize("blob", [b"\x01", b"\x80", b"\x01\x80", b"\xff" * 12])
def test_bytes_that_are_no_histogram_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        unpack(blob)


def test_the_usual_ten_seconds_take_few_bytes() -> None:
    rtts = Histogram()
    for number in range(20):
        rtts.add(0.02 + 0.0001 * number)
    assert len(pack(rtts.counts)) <= 2 * len(rtts.counts) + 2


def test_merged_buckets_weigh_jitter_by_answers_and_keep_the_worst() -> None:
    one = Bucket(lost=1, rtts=Histogram({bucket(0.02): 30}), jitter_s=0.001, worst=1)
    one.merge(
        Bucket(lost=2, rtts=Histogram({bucket(0.03): 10}), relayed=3, known=10, jitter_s=0.005, worst=4)
    )
    one.merge(Bucket(lost=4))
    assert (one.sent, one.lost, one.relayed, one.known, one.worst) == (47, 7, 3, 10, 4)
    assert one.jitter_s == pytest.approx(0.002)
    quality = one.quality(60)
    assert (quality.loss, quality.relayed) == (7 / 47, 0.3)
    assert quality.rtt_p50_s == pytest.approx(0.02, rel=0.01)


def kept_after(first: int, now: int, pruned: list[int]) -> list[Kept | None]:
    """What tiers hold that began at `first`, each pruned to its own age, and rolled up at `now`."""
    found: list[Kept | None] = []
    for number, tier in enumerate(TIERS):
        start = max(first - first % tier.width_s, cut(number, now - pruned[number]))
        end = now - now % tier.width_s
        found.append(Kept(start, end) if start < end else None)
    return found


SPANS = st.tuples(
    st.integers(1, 3 * 86400),
    st.integers(0, 2 * 86400),
    st.integers(1, 2 * 86400),
    st.lists(st.integers(600, 3 * 86400), min_size=4, max_size=4).map(sorted),
)


@given(SPANS)
def test_the_pieces_of_a_span_tile_it(span: tuple[int, int, int, list[int]]) -> None:
    age, back, length, pruned = span
    first, until = NOW - age, NOW - back
    since = until - length
    kept = kept_after(first, NOW, pruned)
    pieces = cover(kept, since, until)
    for before, after in pairwise(pieces):
        assert before.end <= after.start, "a bucket counts twice"
    for piece in pieces:
        width = TIERS[piece.tier].width_s
        assert piece.start % width == piece.end % width == 0
        has = kept[piece.tier]
        assert has is not None
        assert has.first <= piece.start < piece.end <= has.end
    for edge, at in ((pieces[0].start - since, since), (until - pieces[-1].end, until - 1)) if pieces else ():
        there = [t.width_s for t, has in zip(TIERS, kept, strict=True) if has and has.first <= at < has.end]
        assert -edge < min(there, default=TIERS[-1].width_s), "the edge is as fine as what is kept there"
    # Whatever is kept of the span is in it: at any second, one piece or nothing that is kept at all.
    covered = {second for piece in pieces for second in range(piece.start, piece.end, 10)}
    for second in range(max(since, first) // 10 * 10 + 10, min(until, NOW) // 10 * 10 - 10, 250):
        any_kept = any(has and has.first <= second < has.end for has in kept)
        assert ((second - second % 10) in covered) == any_kept


@given(SPANS, st.integers(0, 3))
def test_the_layers_of_a_plot_never_overlap(span: tuple[int, int, int, list[int]], prefer: int) -> None:
    age, back, length, pruned = span
    first, until = NOW - age, NOW - back
    pieces = layers(kept_after(first, NOW, pruned), until - length, until, prefer)
    for before, after in pairwise(pieces):
        assert before.end <= after.start


def test_a_day_is_made_of_few_buckets() -> None:
    kept = [
        Kept(NOW - tier.keep_s // tier.width_s * tier.width_s, NOW - NOW % tier.width_s) for tier in TIERS
    ]
    kept = [Kept(each.first - each.first % 21600, each.end) for each in kept]
    pieces = cover(kept, NOW - 86400 + 3, NOW)
    assert sum((each.end - each.start) // TIERS[each.tier].width_s for each in pieces) < 120
