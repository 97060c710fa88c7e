"""How good each link is, now and over a span: the running monitor's figures beside those of the history.

`read` asks both and goes on with either; everything else here is pure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from tsstack.errors import CheckFailed, TsstackError
from tsstack.monitor.archive import Archive, BadTime, Past, Point
from tsstack.monitor.book import kind_of
from tsstack.monitor.client import Client, NotRunning
from tsstack.monitor.episodes import others_serve
from tsstack.monitor.quality import Quality
from tsstack.monitor.snapshot import PathKind
from tsstack.monitor.verdict import Level

HOUR_S = 3600.0
MOST = 40
"""Of more links than this, those that are well are only counted, unless all are asked for."""
POINTS = 60
"""So many steps has the series of each link."""
KINDS: tuple[PathKind, ...] = ("exit", "target", "route", "service", "peer")
"""The order that people care in: without a way out nothing else matters."""
ENDED_S = 900.0
"""Without a monitor: the links that the history names in its last quarter of an hour."""
_LATE_S = 60.0
_DIGITS = 6
BADNESS: dict[str, int] = {"dead": 4, "poor": 3, "suspect": 2, "unknown": 1, "good": 0}
"""How much a level wants to be seen: what is not known yet more than what is well."""
_FIGURES = tuple(each.name for each in fields(Quality))


@dataclass(frozen=True, slots=True)
class Link:
    """One path with its figures."""

    key: str
    kind: PathKind
    level: Level
    """Now; without a monitor at the end of the history; `unknown` for what is watched no longer."""
    quality: Quality | None
    """Of the window, or of the span that was asked for; None when nothing was measured."""
    since: float | None = None
    """Since when the level is so, seconds since 1970; None without a monitor."""
    causes: tuple[str, ...] = ()
    """What speaks against it, each with its number and the file's limit."""
    source: str = ""
    """Key path of the file's line behind it."""
    interface: str = ""
    via: str = "unknown"
    error: str = ""
    others_serve: bool = False
    """Whether it is an upstream, and another one of its service is not dead."""
    worst: Level | None = None
    """The worst of the span; None unless a span was asked for."""
    bad: BadTime | None = None
    """How much of the span was bad; None unless a span was asked for."""
    series: tuple[Point, ...] = ()
    """The last hour or the span in steps, oldest first; empty when there is no history."""


@dataclass(frozen=True, slots=True)
class Report:
    """All links at one moment, or over one span."""

    at: float
    """When this was read, seconds since 1970."""
    live: bool
    """Whether a monitor answered; else `level` is that of the history's end."""
    host: str
    since: float
    until: float
    """What the series is of; the figures too if a span was asked for. Seconds since 1970."""
    window_s: float | None
    """What the figures are of; None: of the span."""
    links: tuple[Link, ...]
    notes: tuple[str, ...] = ()
    """What is missing, as sentences for people."""
    troubles: tuple[str, ...] = ()
    """What stands in the monitor's way, as sentences: what is not known may be so for this."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be read."""

    window_s: float = 60.0
    span_s: float | None = None
    """Figures of so long until now instead of the window's."""
    points: int = POINTS
    words: tuple[str, ...] = ()
    """Which links; none: all."""
    most: int | None = None
    every: bool = True
    """As in `shown`: only these get a series, which is most of the work for a thousand links."""


def read(client: Client, archive: Archive, asked: Asked, *, clock: Callable[[], float] = time.time) -> Report:
    """The links as the monitor and the history know them.

    Raises NotRunning when there is neither a monitor nor a history, CheckFailed for a word that names no
    link, TsstackError when a span was asked for and the history cannot be read.
    """
    now = clock()
    try:
        state = client.ask("state")
    except NotRunning as error:
        return _of_history(archive, asked, now, error)
    links = [
        _live(each, asked.window_s, others_serve=others_serve(each["key"], state["paths"]))
        for each in state["paths"]
    ]
    since, until = _span(now, asked)
    if asked.span_s is not None:
        gone = set(archive.paths()) - {each.key for each in links}
        links = [replace(each, quality=None) for each in links]
        links += [Link(key, kind_of(key), "unknown", None) for key in gone]
        links = _with_past(chosen(links, asked.words), archive, since, until)
        # A link that is watched no longer and has no figures in the span is nobody's business.
        links = [each for each in links if each.key not in gone or each.quality is not None]
    else:
        links = chosen(links, asked.words)
    links, notes = _with_series(links, archive, since, until, asked)
    notes += _begins_late(archive, since, asked)
    window_s = None if asked.span_s is not None else asked.window_s
    troubles = tuple(f"{each['about']}: {each['message']}" for each in state["troubles"])
    return Report(now, True, state["host"], since, until, window_s, tuple(links), notes, troubles)


def chosen(links: Iterable[Link], words: Sequence[str]) -> list[Link]:
    """The links that any of these words names: a part of the key in any case, or the kind.

    Raises CheckFailed for a word that names none, with the nearest.
    """
    links = list(links)
    if not words:
        return links
    found: dict[str, Link] = {}
    for word in words:
        named = [each for each in links if word.lower() in each.key.lower() or word == each.kind]
        if not named:
            raise CheckFailed(f"no path has {word!r} in its name", hint=_nearest(word, links))
        found.update((each.key, each) for each in named)
    return [each for each in links if each.key in found]


def worst_first(links: Iterable[Link], *, by_figures: bool = False) -> list[Link]:
    """The links in the order that an admin reads them: the worst first, then by kind, as in the file.

    Over a span: what is poor or dead now, then what was bad for longest. `by_figures`: among equals the
    lossiest, then the slowest come first, whatever their kind.
    """

    def rank(link: Link) -> tuple[float, ...]:
        if link.bad is not None:
            now = BADNESS[link.level] if link.level in {"poor", "dead"} else 0
            badness = (-now, -link.bad.bad_s, -BADNESS[link.worst or "good"])
        else:
            badness = (-BADNESS[link.level], 0, 0)
        if not by_figures or link.quality is None:
            return (*badness, 0, 0, KINDS.index(link.kind))
        return (*badness, -(link.quality.loss or 0), -(link.quality.rtt_p95_s or 0), KINDS.index(link.kind))

    return sorted(links, key=rank)


def shown(links: Iterable[Link], most: int | None, *, every: bool = False) -> list[Link]:
    """The links that a screen has rows for, in order: so many of the worst, by their figures.

    Without `most` all; of more than MOST (and without `every`) those that are not well and others up to MOST.
    """
    ordered = worst_first(links, by_figures=most is not None)
    if most is None and not every:
        most = max(MOST, sum(each.level in {"suspect", "poor", "dead"} for each in ordered))
    return ordered[:most]


def worst_level(links: Iterable[Link]) -> Level:
    """The worst level of all; `good` for none."""
    return max((each.level for each in links), key=BADNESS.__getitem__, default="good")


def counts(links: Iterable[Link]) -> dict[PathKind, dict[Level, int]]:
    """How many links of each kind have each level, the worst first. A kind without links is left out."""
    found: dict[PathKind, dict[Level, int]] = {}
    links = list(links)
    for kind in KINDS:
        levels = [each.level for each in links if each.kind == kind]
        ordered = sorted(set(levels), key=BADNESS.__getitem__, reverse=True)
        if levels:
            found[kind] = {level: levels.count(level) for level in ordered}
    return found


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. docs/link-quality.md lists the keys; they stay."""
    return {
        "at": report.at,
        "from": "monitor" if report.live else "history",
        "host": report.host,
        "troubles": list(report.troubles),
        "window_s": report.window_s,
        "since": report.since,
        "until": report.until,
        "level": worst_level(report.links) if report.live else "unknown",
        "kinds": counts(report.links),
        "paths": [_link_json(each, report) for each in report.links],
        "notes": list(report.notes),
    }


def _link_json(link: Link, report: Report) -> dict[str, Any]:
    bad = link.bad
    step_s = (report.until - report.since) / len(link.series) if link.series else None
    qualities = [each.quality for each in link.series]
    return {
        "key": link.key,
        "kind": link.kind,
        "level": link.level,
        "others_serve": link.others_serve,
        "since": link.since,
        "causes": list(link.causes),
        "source": link.source,
        "interface": link.interface,
        "via": link.via,
        "error": link.error,
        "figures": None if link.quality is None else _rounded(asdict(link.quality), loss=link.quality.loss),
        "worst": link.worst,
        "bad": None if bad is None else {**asdict(bad), "bad_s": bad.bad_s},
        "series": {
            "since": report.since,
            "step_s": step_s,
            "loss": [_round(each.loss) for each in qualities],
            "rtt_p50_s": [_round(each.rtt_p50_s) for each in qualities],
            "rtt_p95_s": [_round(each.rtt_p95_s) for each in qualities],
            "rtt_p99_s": [_round(each.rtt_p99_s) for each in qualities],
            "worst": [each.worst for each in link.series],
        },
    }


def _rounded(figures: Mapping[str, Any], *, loss: float | None) -> dict[str, Any]:
    return {name: _round(value) for name, value in {**figures, "loss": loss}.items()}


def _round(value: float | None) -> float | None:
    return round(value, _DIGITS) if isinstance(value, float) else value


def _live(told: Mapping[str, Any], window_s: float, *, others_serve: bool) -> Link:
    """A path of the monitor's state (docs/monitor-socket.md)."""
    window = next((each for each in told["windows"] if each["window_s"] == window_s), None)
    measured = window is not None and window["sent"]
    return Link(
        key=told["key"],
        kind=told["kind"],
        level=told["level"],
        quality=Quality(**{name: window[name] for name in _FIGURES}) if window and measured else None,
        since=told["since"],
        causes=tuple(each["text"] for each in told["causes"]),
        source=told["source"],
        interface=told["interface"],
        via=told["via"],
        error=told["error"],
        others_serve=others_serve,
    )


def _of_history(archive: Archive, asked: Asked, now: float, error: NotRunning) -> Report:
    """Without a monitor: what the last one wrote."""
    try:
        end = archive.end()
    except TsstackError as unreadable:
        raise NotRunning(f"{error.message}, and {unreadable.message}", hint=error.hint) from unreadable
    if not end:
        raise NotRunning(f"{error.message}, and the history is empty", hint=error.hint)
    levels = archive.levels(end - ENDED_S)
    if asked.span_s is None:
        until = end  # a window ends where the history does
        since = end - HOUR_S
        past = {each.key: each for each in archive.qualities(end - ENDED_S, end)}
        figures = {each.key: each for each in archive.qualities(end - asked.window_s, end)}
        known = [Link(key, kind_of(key), levels.get(key, "unknown"), _quality(figures, key)) for key in past]
        links = chosen(known, asked.words)
    else:
        since, until = _span(now, asked)
        known = [Link(key, kind_of(key), levels.get(key, "unknown"), None) for key in archive.paths()]
        links = _with_past(chosen(known, asked.words), archive, since, until)
        links = [each for each in links if each.quality is not None]
    links, notes = _with_series(links, archive, since, until, asked)
    # What is kept last may be a step that was not over when the monitor ended: its end is yet to come.
    ends = f"{error.message}: this is from the history, which ends {_clock(min(end, now))}"
    notes = (ends, *notes, *_begins_late(archive, since, asked))
    window_s = None if asked.span_s is not None else asked.window_s
    return Report(now, False, os.uname().nodename, since, until, window_s, tuple(links), notes)


def _with_past(links: Sequence[Link], archive: Archive, since: float, until: float) -> list[Link]:
    """The figures of a span instead of the window's."""
    past = {each.key: each for each in archive.qualities(since, until, [each.key for each in links])}
    bad = archive.bad_times(since, until)
    return [
        replace(
            each,
            quality=_quality(past, each.key),
            worst=past[each.key].worst if each.key in past else "unknown",
            bad=bad.get(each.key, BadTime()),
        )
        for each in links
    ]


def _with_series(
    links: Sequence[Link], archive: Archive, since: float, until: float, asked: Asked
) -> tuple[list[Link], tuple[str, ...]]:
    """The steps of the last hour or of the span. Without a history the rest is shown all the same."""
    keys = [each.key for each in shown(links, asked.most, every=asked.every)]
    try:
        series = archive.many_series(keys, since, until, points=asked.points)
    except TsstackError as error:
        return list(links), (f"no course of the last hour: {error.message}",)
    return [replace(each, series=tuple(series.get(each.key, ()))) for each in links], ()


def _begins_late(archive: Archive, since: float, asked: Asked) -> tuple[str, ...]:
    """That the figures are of less than the span, where nothing older is kept."""
    begin = archive.begin() if asked.span_s is not None else 0.0
    return (f"the history begins {_clock(begin)}",) if begin > since + _LATE_S else ()


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _span(now: float, asked: Asked) -> tuple[float, float]:
    """What the series is of, in whole steps, so that it does not flicker from one moment to the next."""
    step_s = max((asked.span_s or HOUR_S) / asked.points, 10.0)
    until = -(-now // step_s) * step_s if asked.span_s is None else now
    return until - (asked.span_s or HOUR_S), until


def _quality(past: Mapping[str, Past], key: str) -> Quality | None:
    return past[key].quality if key in past else None


def _nearest(word: str, links: Iterable[Link]) -> str:
    """The keys that are most like a word, or the kinds that there are."""
    keys = [each.key for each in links]
    parts = {key.lower(): key for key in keys} | {
        part.lower(): key for key in keys for part in key.split(":") if part not in KINDS
    }
    near = dict.fromkeys(parts[each] for each in get_close_matches(word.lower(), parts, n=3, cutoff=0.5))
    if near:
        return f"the nearest: {', '.join(near)}"
    some = ", ".join(keys[:5])
    return f"there are {some}{', ...' if len(keys) > 5 else ''}" if keys else "nothing is watched"
