"""The links: every path that the monitor watches, with its figures and its round trips. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import localtime, strftime
from typing import Any

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
    labelled,
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
CHART_LINES = 3


def links(frame: Frame, signs: Signs, window: int) -> Table:
    """All paths in the monitor's order; `window` is which of its windows the figures are of."""
    monitor = frame.status["monitor"]
    paths = (monitor["state"] or {}).get("paths") or ()

    def cells(row: int, widths: Sequence[int]) -> Cells:
        path = paths[row]
        return link_cells(path, frame.rtts.get(path["key"], ()), signs, window, widths[_SPARK])

    empty = "the monitor watches nothing" if monitor["running"] else monitor["error"]
    return Table(LINKS, [path["key"] for path in paths], cells, empty=empty, stale="monitor" in frame.away)


def link_cells(
    path: Mapping[str, Any], rtts: tuple[float | None, ...], signs: Signs, window: int, spark_width: int
) -> Cells:
    """One path in the columns of `LINKS`."""
    figures = window_of(path, window)
    measured = bool(figures) and figures["sent"] > 0
    loss = figures["loss"] if measured else None
    return (
        (signs.level(path["level"]),),
        say(signs.words(path["key"])),
        say(path["level"], LOOK_OF[path["level"]]),
        say(percent(loss), "warning" if loss else ""),
        *(
            say(milliseconds(figures[name]) if measured else "")
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


def link_details(frame: Frame, signs: Signs, key: str, width: int) -> list[Line]:
    """One path in full: its chart, each window's figures, why it is thought of so."""
    paths = (frame.status["monitor"]["state"] or {}).get("paths") or ()
    path = next((each for each in paths if each["key"] == key), None)
    if path is None:
        return []
    sign, look = signs.level(path["level"])
    series = frame.rtts.get(key, ())
    peak = max((value for value in series[-width:] if value is not None and value != LOST), default=None)
    head: list[Span] = [
        (signs.words(key), "bold"),
        (f"{sign} {path['level']}", look),
        (f"since {strftime('%H:%M:%S', localtime(path['since']))}", ""),
        (f"latest {milliseconds(path['rtt_s'])}" if path["rtt_s"] is not None else "", ""),
        (f"peak {milliseconds(peak)}" if peak is not None else "", ""),
        (f"through {path['interface']}" if path["interface"] else "", ""),
        (path["source"], "dim"),
    ]
    lines = [joined([part for part in head if part[0]], f" {signs.sign('dot')} ")]
    lines += signs.chart(series, width, CHART_LINES)
    lines += [_window_line(figures) for figures in path["windows"]]
    lines += [(("! ", "warning"), (signs.words(cause["text"]), "warning")) for cause in path["causes"][:2]]
    if path["error"]:
        lines.append((("latest probe: ", "dim"), (signs.words(path["error"]), "critical")))
    lines = [fitted(line, width, signs.end) for line in lines]
    return [dimmed(line) for line in lines] if "monitor" in frame.away else lines


def _window_line(figures: Mapping[str, Any]) -> Line:
    if not figures["sent"]:
        return labelled(span(figures["window_s"]), ("nothing was sent", "dim"))
    spans: list[Span] = [
        (
            f"{figures['lost']} of {figures['sent']} lost ({percent(figures['loss'])})",
            "warning" if figures["lost"] else "",
        ),
        *(
            (f"{name} {milliseconds(figures[key])}", "")
            for name, key in (
                ("p50", "rtt_p50_s"),
                ("p95", "rtt_p95_s"),
                ("p99", "rtt_p99_s"),
                ("jitter", "jitter_s"),
            )
            if figures[key] is not None
        ),
    ]
    if figures["relayed"]:
        spans.append((f"{percent(figures['relayed'])} relayed", "warning"))
    return labelled(span(figures["window_s"]), *joined(spans))
