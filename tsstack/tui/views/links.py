"""The links: every path that the monitor watches, with its figures and its round trips. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import localtime, strftime
from typing import Any

from tsstack.monitor.links import BADNESS, KINDS
from tsstack.status.words import milliseconds, percent, span
from tsstack.tui.cells import (
    LOOK_OF,
    LOST,
    Cells,
    Column,
    Line,
    Signs,
    Span,
    Table,
    dimmed,
    fitted,
    joined,
    say,
)
from tsstack.tui.frame import Frame

LINKS = (
    Column("", 1),
    Column("link", 22, grow=2),
    Column("level", 7, leave=5),
    Column("loss", 6, right=True),
    Column("p50", 8, right=True),
    Column("p95", 8, right=True, leave=1),
    Column("p99", 8, right=True, leave=4),
    Column("jitter", 7, right=True, leave=3),
    Column("via", 6, leave=6),
    Column("round trips", 12, grow=3, leave=2),
)
_SPARK = len(LINKS) - 1
CHART_LINES, CHART_MOST = 3, 16
"""Lines of a chart: where it gets an axis there are more than the first; and never more than the second."""


def links(frame: Frame, signs: Signs, window: int) -> Table:
    """All paths, the worst first as in `ts-quality`; `window` is which of its windows the figures are of."""
    monitor = frame.status["monitor"]
    told = (monitor["state"] or {}).get("paths") or ()
    paths = sorted(told, key=lambda path: (-BADNESS[path["level"]], KINDS.index(path["kind"])))

    def cells(row: int, widths: Sequence[int]) -> Cells:
        path = paths[row]
        return link_cells(path, frame.rtts.get(path["key"], ()), signs, window, widths[_SPARK])

    empty = "the monitor watches nothing" if monitor["state"] is not None else monitor["error"]
    return Table(LINKS, [path["key"] for path in paths], cells, empty=empty, stale="monitor" in frame.away)


def link_cells(
    path: Mapping[str, Any], rtts: tuple[float | None, ...], signs: Signs, window: int, spark_width: int
) -> Cells:
    """One path in the columns of `LINKS`."""
    figures = window_of(path, window)
    measured = bool(figures) and figures["sent"] > 0
    loss = figures["loss"] if measured else None
    before = "dim" if path["level"] == "unknown" else ""  # figures of then beside a level of now
    return (
        (signs.level(path["level"]),),
        say(signs.words(path["key"])),
        say(path["level"], LOOK_OF[path["level"]]),
        say(percent(loss), before or ("warning" if loss else "")),
        *(
            say(milliseconds(figures[name]) if measured else "", before)
            for name in ("rtt_p50_s", "rtt_p95_s", "rtt_p99_s", "jitter_s")
        ),
        say("" if path["via"] == "unknown" else path["via"], "warning" if path["via"] == "relay" else "dim"),
        signs.spark(rtts, spark_width, "accent" if path["level"] == "good" else LOOK_OF[path["level"]]),
    )


def window_of(path: Mapping[str, Any], window: int) -> Mapping[str, Any]:
    """The figures of one window, the last where there are fewer; empty where there are none."""
    windows = path["windows"]
    return windows[min(window, len(windows) - 1)] if windows else {}


def window_name(frame: Frame, window: int) -> str:
    """How long the window is: 10 s, 60 s, 15 min."""
    for path in (frame.status["monitor"]["state"] or {}).get("paths") or ():
        if path["windows"]:
            return span(window_of(path, window)["window_s"])
    return ""


def link_details(frame: Frame, signs: Signs, key: str, width: int, height: int = 24) -> list[Line]:
    """One path in full: why it is thought of so, its chart, each window's figures; in `height` lines."""
    paths = (frame.status["monitor"]["state"] or {}).get("paths") or ()
    path = next((each for each in paths if each["key"] == key), None)
    if path is None:
        return []
    series = frame.rtts.get(key, ())
    first = [_head(path, series, signs, width), *_why(path, signs)]
    last = _window_lines(path["windows"])
    most = height - len(first) - len(last)
    axis = [_time_axis(width, signs)] if most > CHART_LINES else []
    chart = signs.chart(series, width, max(1, min(most - len(axis), CHART_MOST)))
    lines = [fitted(line, width, signs.end) for line in (*first, *chart, *axis, *last)]
    return [dimmed(line) for line in lines] if "monitor" in frame.away else lines


def _head(path: Mapping[str, Any], series: tuple[float | None, ...], signs: Signs, width: int) -> Line:
    sign, look = signs.level(path["level"])
    peak = max((value for value in series[-width:] if value is not None and value != LOST), default=None)
    head: list[Span] = [
        (signs.words(path["key"]), "bold"),
        (f"{sign} {path['level']}", look),
        (f"since {strftime('%H:%M:%S', localtime(path['since']))}", ""),
        (f"latest {milliseconds(path['rtt_s'])}" if path["rtt_s"] is not None else "", ""),
        (f"peak {milliseconds(peak)}" if peak is not None else "", ""),
        (f"through {path['interface']}" if path["interface"] else "", ""),
        (path["source"], "dim"),
    ]
    return joined([part for part in head if part[0]], f" {signs.sign('dot')} ")


def _why(path: Mapping[str, Any], signs: Signs) -> list[Line]:
    """What speaks against it, and what came of the latest probe."""
    lines: list[Line] = [
        (("! ", "warning"), (signs.words(cause["text"]), "warning")) for cause in path["causes"][:2]
    ]
    if path["error"]:
        counts = path.get("counted", True)
        said: list[Span] = [(signs.words(path["error"]), "critical" if counts else "warning")]
        said += [] if counts else [(", which says nothing of this link and is not counted", "dim")]
        lines.append((("latest probe: ", "dim"), *said))
    return lines


def _time_axis(width: int, signs: Signs) -> Line:
    """How long ago the columns of a chart are, one a second, the latest at the right."""
    text = "now".rjust(width)
    tick = "'" if not signs.unicode else "╵"
    for minutes in range(1, width // 60 + 1):
        label = f"{tick} {minutes} min ago" if minutes > 1 else f"{tick} 60 s ago"
        at = width - 60 * minutes
        text = text[:at] + label + text[at + len(label) :]
    return ((text, "dim"),)


_FIGURES = (("p50", "rtt_p50_s"), ("p95", "rtt_p95_s"), ("p99", "rtt_p99_s"), ("jitter", "jitter_s"))


def _window_lines(windows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The figures of each window below each other, under their names."""
    if not windows:
        return []
    names = "".join(f"{name:>9}" for name, _ in _FIGURES)
    lines: list[Line] = [((f"{'last':<8}{'lost':<22}{names}", "dim"),)]
    for figures in windows:
        label: Span = (f"{span(figures['window_s']):<8}", "dim")
        if not figures["sent"]:
            lines.append((label, ("nothing was sent", "dim")))
            continue
        lost = f"{figures['lost']} of {figures['sent']} ({percent(figures['loss'])})"
        spans: list[Span] = [label, (f"{lost:<22}", "warning" if figures["lost"] else "")]
        spans.append(("".join(f"{milliseconds(figures[key]):>9}" for _, key in _FIGURES), ""))
        if figures["relayed"]:
            spans.append((f"  {percent(figures['relayed'])} relayed", "warning"))
        lines.append(tuple(spans))
    return lines
