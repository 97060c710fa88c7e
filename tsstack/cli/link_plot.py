"""Links over time as a picture: round trips as bands, loss below, the worst level as a strip. Pure.

`drawing` gives simple shapes; `svg` writes them as they are, `link_picture` as PNG, so both look alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from xml.sax.saxutils import escape, quoteattr

from tsstack.cli.glyphs import clean
from tsstack.cli.link_table import milliseconds
from tsstack.cli.spans import span_words
from tsstack.monitor.archive import Point
from tsstack.monitor.links import Link, Report

MOST = 12
"""So many paths in one picture."""

# Light and dark. Told apart by lightness as well as by hue, so also by those who see no red or green.
COLOURS = {
    "page": ("#ffffff", "#16181d"),
    "ink": ("#1b1f24", "#e6e8eb"),
    "faint": ("#59636e", "#9aa4b0"),
    "grid": ("#e3e6ea", "#2c313a"),
    "p99": ("#d6e6f7", "#1d3550"),
    "p95": ("#9cc4ec", "#2d5f93"),
    "p50": ("#0b4f94", "#8cc4ff"),
    "loss": ("#c2341d", "#ff8066"),
    "suspect": ("#e9d9a0", "#5c5130"),
    "poor": ("#d99a00", "#c79a2a"),
    "dead": ("#a3122a", "#ff4d63"),
}
_WIDTH, _LEFT, _RIGHT = 960.0, 64.0, 20.0
_HEAD, _TITLE, _RTT, _GAP, _LOSS, _STRIP, _PANEL_GAP, _FOOT = 58.0, 22.0, 110.0, 6.0, 30.0, 5.0, 20.0, 34.0
_PANEL = _TITLE + _RTT + _GAP + _LOSS + _STRIP + _PANEL_GAP
_TICKS_S = (
    *(10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200),
    *(86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 91 * 86400, 183 * 86400, 366 * 86400),
)
_USUAL = 0.95  # of the steps so many are on the axis for sure
_MARK = 3.0
_LOSS_LEAST = 0.1  # the loss axis reaches to a tenth at least, so that one lost probe looks like little


@dataclass(frozen=True, slots=True)
class Shape:
    """A filled polygon, a line or a text; places in pixels from the top left."""

    role: str
    """A key of COLOURS."""
    points: tuple[tuple[float, float], ...]
    kind: str = "area"
    """`area`, `line` or `text` (at its one point, on the base line)."""
    text: str = ""
    anchor: str = "start"
    """`start`, `middle` or `end` of a text."""
    bold: bool = False
    size: float = 12.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def drawing(report: Report) -> Drawing:
    """A panel for each link of the report, one below the other, on one axis of time."""
    links = report.links
    height = _HEAD + max(1, len(links)) * _PANEL + _FOOT
    span = span_words(report.until - report.since)
    title = f"{report.host or 'links'}: {span} until {_clock(report.until, '%Y-%m-%d %H:%M')}"
    shapes = [_box("page", 0, 0, _WIDTH, height), *_head(title)]
    if not links:
        shapes.append(_text("ink", _LEFT, _HEAD + 40, "nothing was measured in this time"))
    shapes += _time_axis(report, height)  # first: its lines lie below the figures
    for number, link in enumerate(links):
        shapes += _panel(link, report, _HEAD + number * _PANEL)
    return Drawing(_WIDTH, height, title, tuple(shapes))


def svg(picture: Drawing) -> str:
    """The picture as SVG 1.1, readable on light and on dark ground as the viewer prefers."""
    light = "".join(_rule(role, colours[0]) for role, colours in COLOURS.items())
    dark = "".join(_rule(role, colours[1]) for role, colours in COLOURS.items())
    width, height = f"{picture.width:g}", f"{picture.height:g}"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    body = "\n".join(_element(shape) for shape in picture.shapes)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui, sans-serif">\n'
        f"<title>{escape(clean(picture.title))}</title>\n"
        f"<style>{light}polyline{{fill:none;stroke-width:1.5;stroke-linejoin:round}}"
        f"@media (prefers-color-scheme: dark){{{dark}}}</style>\n"
        f"{body}\n</svg>\n"
    )


def _rule(role: str, colour: str) -> str:
    return f".{role}{{fill:{colour}}}polyline.{role}{{fill:none;stroke:{colour}}}"


def _element(shape: Shape) -> str:
    if shape.kind == "text":
        ((x, y),) = shape.points
        weight = ' font-weight="600"' if shape.bold else ""
        anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
        where = f'x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}"'
        return f'<text class="{shape.role}" {where}{anchor}{weight}>{escape(clean(shape.text))}</text>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    element = "polygon" if shape.kind == "area" else "polyline"
    return f'<{element} class="{shape.role}" points={quoteattr(points)}/>'


def _head(title: str) -> Iterator[Shape]:
    yield _text("ink", _LEFT, 26, title, bold=True, size=15)
    x = _LEFT
    for role, words in (
        ("p50", "half of the round trips (p50)"),
        ("p95", "95 %"),
        ("p99", "99 %"),
        ("loss", "loss"),
        ("suspect", "suspect"),
        ("poor", "poor"),
        ("dead", "dead"),
    ):
        yield _box(role, x, 38, x + 10, 48)
        yield _text("faint", x + 15, 47, words, size=11)
        x += 15 + 6.2 * len(words) + 16


def _panel(link: Link, report: Report, top: float) -> Iterator[Shape]:
    """One link: title, round trips, loss, worst level."""
    right = _WIDTH - _RIGHT
    zero = top + _TITLE + _RTT
    loss_zero = zero + _GAP + _LOSS
    yield _text("ink", _LEFT, top + 14, _short(link.key, 60), bold=True, size=13)
    yield _text("faint", right, top + 14, _figures(link), anchor="end", size=11)
    highest = _rtt_top(link.series)
    most_lost = max([_LOSS_LEAST, *(each.quality.loss or 0.0 for each in link.series)])
    for share in (0.0, 0.5, 1.0):
        y = zero - share * _RTT
        yield _line("grid", [(_LEFT, y), (right, y)])
        words = f"{highest * share * 1000:.4g} ms"
        yield _text("faint", _LEFT - 6, y + 4, words, anchor="end", size=10)
    yield _line("grid", [(_LEFT, loss_zero), (right, loss_zero)])
    yield _text("faint", _LEFT - 6, zero + _GAP + 13, f"{most_lost * 100:.0f} %", anchor="end", size=10)
    places = list(_places(link.series, report))
    bands = [[each.quality.rtt_p50_s, each.quality.rtt_p95_s, each.quality.rtt_p99_s] for each in link.series]
    for role, high in (("p99", 2), ("p95", 1)):
        for run in _runs(places, bands):
            yield _band(role, [(x0, x1, band[0], band[high]) for x0, x1, band in run], highest, zero)
    for run in _runs(places, bands):
        yield _line("p50", [(x, _height(band[0], highest, zero)) for x0, x1, band in run for x in (x0, x1)])
    yield from _beyond(places, link.series, highest, zero - _RTT)
    for (x0, x1), point in zip(places, link.series, strict=True):
        if point.quality.lost:
            tall = max(1.0, (point.quality.loss or 0.0) / most_lost * _LOSS)
            yield _box("loss", x0, loss_zero - tall, x1, loss_zero)
        if point.quality.sent and point.worst in {"suspect", "poor", "dead"}:
            yield _box(point.worst, x0, loss_zero + 1, x1, loss_zero + 1 + _STRIP)


def _beyond(
    places: Sequence[tuple[float, float]], series: Sequence[Point], highest: float, top: float
) -> Iterator[Shape]:
    """A mark above the steps whose p95 is higher than the axis, and how high the highest of them is."""
    worst, at = highest, 0.0
    for (x0, x1), point in zip(places, series, strict=True):
        rtt_s = point.quality.rtt_p95_s or 0.0
        if rtt_s > highest:
            yield _box("p50", x0, top - _MARK, x1, top)
        if rtt_s > worst:
            worst, at = rtt_s, x1
    if at:
        is_right = at > _WIDTH / 2
        words = f"95 % up to {worst * 1000:.0f} ms"
        x = at - 8 if is_right else at + 4
        yield _text("faint", x, top + 10, words, anchor="end" if is_right else "start", size=10)


def _figures(link: Link) -> str:
    quality = link.quality
    if quality is None:
        return "nothing measured"
    words = [
        f"p50 {milliseconds(quality.rtt_p50_s)}, p95 {milliseconds(quality.rtt_p95_s)},"
        f" p99 {milliseconds(quality.rtt_p99_s)} ms",
        f"loss {(quality.loss or 0.0) * 100:.2g} %",
    ]
    if link.worst is not None:
        words.append(f"worst {link.worst}")
    if link.bad is not None and link.bad.bad_s:
        words.append(f"bad {span_words(link.bad.bad_s)}")
    return " \N{MIDDLE DOT} ".join(words)


def _rtt_top(series: Sequence[Point]) -> float:
    """The top of the axis, seconds, a round number. What reaches beyond is marked: single slow answers (p99),
    and the few steps that were so slow that the others would lie flat on the ground."""
    p95 = sorted(each.quality.rtt_p95_s for each in series if each.quality.rtt_p95_s is not None)
    p99 = [each.quality.rtt_p99_s for each in series if each.quality.rtt_p99_s is not None]
    if not p95:
        return 0.1
    usual = p95[max(0, ceil(_USUAL * len(p95)) - 1)]
    wanted = min(max(p99), 1.3 * p95[-1], 2 * usual) * 1.05
    unit = 1e-5
    while unit * 10 < wanted:
        unit *= 10
    return next(unit * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if unit * step >= wanted)


def _places(series: Sequence[Point], report: Report) -> Iterator[tuple[float, float]]:
    """Where each step begins and ends."""
    inner = _WIDTH - _LEFT - _RIGHT
    for number in range(len(series)):
        yield _LEFT + inner * number / len(series), _LEFT + inner * (number + 1) / len(series)


_Run = list[tuple[float, float, list[float]]]


def _runs(places: Iterable[tuple[float, float]], bands: Iterable[list[float | None]]) -> Iterator[_Run]:
    """The steps in a row that have round trips: what was not measured, or all lost, is a gap."""
    run: _Run = []
    for (x0, x1), band in zip(places, bands, strict=True):
        known = [each for each in band if each is not None]
        if len(known) == len(band):
            run.append((x0, x1, known))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _band(
    role: str, steps: Sequence[tuple[float, float, float, float]], highest: float, zero: float
) -> Shape:
    above = [(x, _height(high, highest, zero)) for x0, x1, _, high in steps for x in (x0, x1)]
    below = [(x, _height(low, highest, zero)) for x0, x1, low, _ in reversed(steps) for x in (x1, x0)]
    return Shape(role, (*above, *below))


def _height(rtt_s: float, highest: float, zero: float) -> float:
    return zero - min(rtt_s / highest, 1.0) * _RTT


def _time_axis(report: Report, height: float) -> Iterator[Shape]:
    span = report.until - report.since
    step = next((each for each in _TICKS_S if span / each <= 8), _TICKS_S[-1])
    offset = time.localtime(report.until).tm_gmtoff
    tick = -(-(report.since + offset) // step) * step - offset
    form = (
        "%H:%M:%S"
        if step < 60
        else "%H:%M"
        if span <= 86400
        else "%d.%m. %H:%M"
        if step < 86400
        else "%Y-%m-%d"
    )
    inner = _WIDTH - _LEFT - _RIGHT
    while tick <= report.until:
        x = _LEFT + inner * (tick - report.since) / span
        yield _line("grid", [(x, _HEAD + _TITLE), (x, height - _FOOT)])
        yield _text("faint", x, height - _FOOT + 16, _clock(tick, form), anchor="middle", size=11)
        tick += step


def _clock(at: float, form: str) -> str:
    return time.strftime(form, time.localtime(at))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _box(role: str, x0: float, y0: float, x1: float, y1: float) -> Shape:
    return Shape(role, ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _line(role: str, points: Sequence[tuple[float, float]]) -> Shape:
    return Shape(role, tuple(points), "line")


def _text(
    role: str, x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False, size: float = 12
) -> Shape:
    return Shape(role, ((x, y),), "text", text, anchor, bold, size)
