"""How the history of a path is thinned out with age: buckets, tiers, and which make a span. Pure.

A bucket holds counts and a histogram, so merging loses nothing: the quantiles of a day, merged from its
buckets, are those of all its probes. Buckets start at whole multiples of their width since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tsstack.monitor.quality import Histogram, Quality
from tsstack.monitor.verdict import Level

_HOUR, _DAY = 3600, 86400


@dataclass(frozen=True, slots=True)
class Tier:
    """Buckets of one width. Each width divides the next one's."""

    width_s: int
    keep_s: int
    """What is older goes."""
    least_s: int
    """So much stays when room is short, as long as a finer tier can still give some."""


TIERS = (
    Tier(10, _DAY, _HOUR),
    Tier(60, 7 * _DAY, 6 * _HOUR),
    Tier(900, 90 * _DAY, 3 * _DAY),
    Tier(21600, 1096 * _DAY, 60 * _DAY),
)
"""Ten seconds show one failover, a minute the day, a quarter of an hour the season, six hours the years.

Six hours still tell night from evening, and all tiers divide the day, so a day is never half a bucket.
"""

SEVERITY: tuple[Level, ...] = ("unknown", "good", "suspect", "poor", "dead")
"""The levels from the least to the worst; a bucket keeps the worst by its place here."""


@dataclass(slots=True)
class Bucket:
    """What one path did in one bucket's time."""

    lost: int = 0
    rtts: Histogram = field(default_factory=Histogram)
    relayed: int = 0
    """Answers that came through a relay."""
    known: int = 0
    """Answers whose way is known at all."""
    jitter_s: float | None = None
    worst: int = 0
    """Place in `SEVERITY`."""

    @property
    def sent(self) -> int:
        """Probes whose outcome is known."""
        return self.lost + self.rtts.total

    def merge(self, other: Bucket) -> None:
        """Add another bucket. Jitter is the mean, weighted by answers."""
        if other.jitter_s is not None:
            mine = self.rtts.total if self.jitter_s is not None else 0
            weight = mine + other.rtts.total
            if self.jitter_s is None or not weight:
                self.jitter_s = other.jitter_s
            else:
                self.jitter_s += (other.jitter_s - self.jitter_s) * other.rtts.total / weight
        self.lost += other.lost
        self.rtts.merge(other.rtts)
        self.relayed += other.relayed
        self.known += other.known
        self.worst = max(self.worst, other.worst)

    def quality(self, span_s: float) -> Quality:
        """Its figures, as the screens show those of a window of `span_s` seconds."""
        p50, p95, p99 = self.rtts.quantiles_s((0.5, 0.95, 0.99))
        return Quality(
            window_s=span_s,
            span_s=span_s,
            sent=self.sent,
            lost=self.lost,
            rtt_p50_s=p50,
            rtt_p95_s=p95,
            rtt_p99_s=p99,
            jitter_s=self.jitter_s,
            relayed=self.relayed / self.known if self.known else None,
        )


def pack(counts: Mapping[int, int]) -> bytes:
    """A histogram's counts as bytes: for each bucket the step from the one before, then the count.

    Numbers are LEB128 (seven bits a byte, the lowest first), so a usual pair takes two bytes.
    """
    out = bytearray()
    before = 0
    for index, count in sorted(counts.items()):
        for number in (index - before, count):
            while number > 0x7F:
                out.append(number & 0x7F | 0x80)
                number >>= 7  # noqa: PLW2901  the number is used up
            out.append(number)
        before = index
    return bytes(out)


def unpack(blob: bytes) -> dict[int, int]:
    """What `pack` was given; ValueError for bytes that it never gives."""
    numbers: list[int] = []
    number = shift = 0
    for byte in blob:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
        elif shift > 56:
            raise ValueError("a count is cut off")
    if shift or len(numbers) % 2:
        raise ValueError("a histogram is cut off")
    counts: dict[int, int] = {}
    index = 0
    for step, count in zip(numbers[::2], numbers[1::2], strict=True):
        index += step
        counts[index] = count
    return counts


@dataclass(frozen=True, slots=True)
class Kept:
    """What a tier holds: buckets from `first` (the start of the oldest) to `end` (the end of the newest)."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Buckets of one tier from `start` to `end`, seconds since 1970, both multiples of its width."""

    tier: int
    start: int
    end: int


def cover(kept: Sequence[Kept | None], since: float, until: float) -> list[Piece]:
    """The fewest buckets that make a span, oldest first, none counted twice.

    `kept` has one entry for each tier, None for an empty one. Where fine buckets are gone already, the
    span's edge is as coarse as what is left.
    """
    return list(_cover(kept, len(TIERS) - 1, since, until))


def _cover(kept: Sequence[Kept | None], tier: int, since: float, until: float) -> Iterator[Piece]:
    if tier < 0 or since >= until:
        return
    width = TIERS[tier].width_s
    has = kept[tier]
    if has is None:
        yield from _cover(kept, tier - 1, since, until)
        return
    # Before this time nothing finer is left. Fine buckets are dropped by whole coarse ones (`cut`), so the
    # coarse bucket that this time falls into holds nothing from before it.
    gone = min((each.first for each in kept[:tier] if each), default=has.end)
    start = _down(since, width) if tier == 0 or since < gone else _up(since, width)
    end = _up(until, width) if tier == 0 or until <= gone else _down(until, width)
    start, end = max(start, has.first), min(end, has.end)
    if start >= end:
        yield from _cover(kept, tier - 1, since, until)
        return
    yield from _cover(kept, tier - 1, since, min(until, start))
    yield Piece(tier, start, end)
    yield from _cover(kept, tier - 1, max(since, end), until)


def layers(kept: Sequence[Kept | None], since: float, until: float, prefer: int) -> list[Piece]:
    """Buckets for a plot, oldest first: tier `prefer` where it is kept, coarser before, finer after."""
    pieces: list[Piece] = []
    ends = until
    for tier in range(prefer, len(TIERS)):
        has, width = kept[tier], TIERS[tier].width_s
        if has is None:
            continue
        start, end = max(_down(since, width), has.first), min(_up(ends, width), has.end)
        if pieces:
            end = min(end, _down(pieces[0].start, width))
        if start < end:
            pieces.insert(0, Piece(tier, start, end))
            ends = start
    for tier in range(prefer - 1, -1, -1):
        has, width = kept[tier], TIERS[tier].width_s
        if has is None:
            continue
        begins = pieces[-1].end if pieces else since
        start, end = max(_down(begins, width), has.first), min(_up(until, width), has.end)
        if start < end:
            pieces.append(Piece(tier, start, end))
    return pieces


def cut(tier: int, at: float) -> int:
    """Where a tier may be cut so that what is older goes: the start of a bucket of the next coarser tier."""
    return _down(at, TIERS[min(tier + 1, len(TIERS) - 1)].width_s)


def starts(tier: int, at: float) -> int:
    """The start of the bucket that a time falls into, seconds since 1970."""
    return _down(at, TIERS[tier].width_s)


def _down(at: float, width: int) -> int:
    return int(at // width) * width


def _up(at: float, width: int) -> int:
    return -int(-at // width) * width
