"""What the figures of a benchmark mean: a grade for the queues on the way, what is worse now. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsstack.bench.figures import Latency

# What public tests of bufferbloat call good: the median that a full queue adds, seconds. A game or a call
# feels 30 ms hardly and 100 ms clearly (ITU-T G.114: one-way delay under 150 ms suits most conversations).
SCALE = ((0.005, "A+"), (0.030, "A"), (0.060, "B"), (0.200, "C"), (0.400, "D"))
WORST = "F"
_LOST_MOST = 0.2


def added_s(idle: Latency, loaded: Latency | None) -> float | None:
    """By how much the median round trip grew under load, never negative; None when one is unknown."""
    if idle.p50_s is None or loaded is None or loaded.p50_s is None:
        return None
    return max(0.0, loaded.p50_s - idle.p50_s)


def grade(idle: Latency, loaded: Latency | None) -> str:
    """`A+` (no queue to be felt) to `F`; empty when it cannot be told. A fifth of the probes lost is `F`."""
    if loaded is None or not loaded.sent or idle.p50_s is None:
        return ""
    grown_s = added_s(idle, loaded)
    if grown_s is None or loaded.loss - idle.loss > _LOST_MOST:
        return WORST
    return next((letter for limit_s, letter in SCALE if grown_s < limit_s), WORST)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure beside the one of the last run."""

    what: str
    before: float | str
    now: float | str
    unit: str
    """`s`, `bit/s`, `share`, `bytes` or empty (a word)."""
    worse: bool
    """Whether it is notably worse, beyond what two runs differ by anyway."""


@dataclass(frozen=True, slots=True)
class _Figure:
    what: str
    unit: str
    where: tuple[str, ...]
    times: float
    """Worse when it is beyond so many times the value before (below 1: less is worse) ..."""
    by: float
    """... and differs by so much at least."""


# Two runs over one link differ by a tenth or two; a quarter of the throughput, or half of the latency, is
# more than that. The second figure keeps jitter of microseconds on a LAN from counting.
_FIGURES = (
    _Figure("latency", "s", ("idle", "p50_s"), 1.5, 0.005),
    _Figure("throughput up", "bit/s", ("up", "throughput", "bits_s"), 0.75, 1e6),
    _Figure("throughput down", "bit/s", ("down", "throughput", "bits_s"), 0.75, 1e6),
    _Figure("added under load up", "s", ("up", "added_s"), 1.5, 0.020),
    _Figure("added under load down", "s", ("down", "added_s"), 1.5, 0.020),
    _Figure("MTU", "bytes", ("mtu", "found_bytes"), 1.0, 1),
    _Figure("MTU below the tailnet", "bytes", ("underlay", "mtu", "found_bytes"), 1.0, 1),
)
_LOSS_BY = 0.02


def predecessor(runs: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last run of the same kind, with load or without; None: there is none. `runs`: oldest first."""
    return next((run for run in reversed(runs) if bool(run.get("loads")) is bool(now.get("loads"))), None)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Two runs to one peer, as `Report.as_json` gives them, side by side.

    Figures that one of them lacks are left out, throughput that different engines measured, and an MTU that
    is uncertain. `before` is
    what a file held: parts that are not what they should be are left out as well.
    """
    found = []
    for figure in _FIGURES:
        one, other = _read(before, figure.where), _read(now, figure.where)
        if one is None or other is None:
            continue
        if figure.unit == "bytes" and not (_is_certain(before, figure) and _is_certain(now, figure)):
            continue
        if figure.unit == "bit/s" and not _same_engine(before, now, figure.where[0]):
            continue
        found.append(Change(figure.what, one, other, figure.unit, _worse(figure, one, other)))
    lost = (_loss(before), _loss(now))
    if lost[0] is not None and lost[1] is not None:
        found.append(Change("loss", lost[0], lost[1], "share", lost[1] - lost[0] > _LOSS_BY))
    ways = (_way(before), _way(now))
    if "" not in ways and "unknown" not in ways:
        found.append(Change("way", ways[0], ways[1], "", ways[0] == "direct" and ways[1] != "direct"))
    return tuple(found)


def _worse(figure: _Figure, before: float, now: float) -> bool:
    less_is_worse = figure.times < 1 or figure.unit == "bytes"
    grown = before - now if less_is_worse else now - before
    beyond = now < before * figure.times if less_is_worse else now > before * figure.times
    return beyond and grown >= figure.by


def _inner(run: Mapping[str, Any], key: str) -> Any:
    if key not in {"up", "down"}:
        return run.get(key)
    loads = run.get("loads")
    for load in loads if isinstance(loads, list | tuple) else ():
        through = load.get("throughput") if isinstance(load, Mapping) else None
        if isinstance(through, Mapping) and through.get("direction") == key:
            return load
    return None


def _read(run: Mapping[str, Any], where: tuple[str, ...]) -> float | None:
    value: Any = _inner(run, where[0])
    for key in where[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_certain(run: Mapping[str, Any], figure: _Figure) -> bool:
    """Whether an MTU was no guess over a lossy way. Runs of before that was told have no such key."""
    value: Any = run
    for key in figure.where[:-1]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return not isinstance(value, Mapping) or value.get("certain") is not False


def _same_engine(before: Mapping[str, Any], now: Mapping[str, Any], direction: str) -> bool:
    engines = [str(_inner(run, direction)["throughput"].get("engine")) for run in (before, now)]
    return engines[0] == engines[1]


def _loss(run: Mapping[str, Any]) -> float | None:
    sent, lost = _read(run, ("idle", "sent")), _read(run, ("idle", "lost"))
    return lost / sent if sent and lost is not None else None


def _way(run: Mapping[str, Any]) -> str:
    way = run.get("way")
    return str(way.get("via") or "") if isinstance(way, Mapping) else ""
