"""What the dashboard's views are made of: spans of text with a look, lines of them, tables of lines. Pure.

No text is ever markup here, so words of others cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from tsstack.status.words import BARS, SIGNS, clean, spark

Span = tuple[str, str]
"""Text and its look: one of `LOOKS`, or empty."""
Line = tuple[Span, ...]

LOOKS = ("dim", "bold", "head", "accent", "ok", "warning", "critical", "unknown")
LOOK_OF = {
    "ok": "ok",
    "good": "ok",
    "warning": "warning",
    "suspect": "warning",
    "poor": "warning",
    "critical": "critical",
    "dead": "critical",
    "unknown": "unknown",
    "info": "",
}
"""The look of a level, of a path or a status or an event."""
LOST = -1.0
"""In a series of round trips: the probe was not answered."""
_LABEL = 11
_CROSS = ("✕", "x")


def say(text: str, look: str = "") -> Line:
    """One span as a line. For our own words; those of others go through `clean`."""
    return ((text, look),)


def labelled(label: str, *spans: Span) -> Line:
    """A line with its label before it, in a column of its own."""
    return ((f"{label:<{_LABEL}} ", "dim"), *spans)


def joined(spans: Iterable[Span], between: str = ", ") -> Line:
    """The spans with a dim text between each two."""
    line: list[Span] = []
    for span in spans:
        line += [(between, "dim"), span] if line else [span]
    return tuple(line)


def text_of(line: Line) -> str:
    """The line's bare text."""
    return "".join(text for text, _ in line)


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def cut(text: str, width: int, end: str = "…") -> str:
    """`text` in at most `width` columns, with a sign where it was cut."""
    if width_of(text) <= width:
        return text
    if width <= 0:
        return ""
    return (text[: width - 1] if text.isascii() else set_cell_size(text, width - 1)) + end


def fitted(line: Line, width: int, end: str = "…") -> Line:
    """The line in at most `width` columns."""
    left, kept = width, []
    for text, look in line:
        size = width_of(text)
        if size > left:
            kept.append((cut(text, left, end), look))
            break
        kept.append((text, look))
        left -= size
    return tuple(kept)


def dimmed(line: Line) -> Line:
    """The same words, all dim: what they say is old."""
    return tuple((text, "dim") for text, _ in line)


class Signs:
    """The signs that this terminal can show."""

    __slots__ = ("_at", "unicode")

    def __init__(self, *, unicode: bool) -> None:
        self.unicode = unicode
        self._at = 0 if unicode else 1

    @property
    def end(self) -> str:
        """What stands where a text was cut."""
        return "…" if self.unicode else "~"

    @property
    def bars(self) -> str:
        """From low to high."""
        return BARS[self._at]

    def sign(self, name: str) -> str:
        """A sign of `words.SIGNS`."""
        return SIGNS[name][self._at]

    def level(self, name: str) -> Span:
        """A level's sign in its look."""
        return SIGNS[name][self._at], LOOK_OF[name]

    def words(self, text: str) -> str:
        """Words of others as this terminal can show them."""
        text = clean(text)
        return text if self.unicode else text.encode("ascii", "replace").decode()

    def spark(self, values: tuple[float | None, ...], width: int, look: str = "accent") -> Line:
        """The latest `width` values, what was lost as a red cross, blanks where there is nothing."""
        return _spark(values[-width:] if width else (), width, look, self.bars, _CROSS[self._at])

    def chart(self, values: tuple[float | None, ...], width: int, height: int) -> list[Line]:
        """The latest `width` values in `height` lines, the highest of them at the top."""
        return _chart(values[-width:] if width else (), width, height, self.bars, _CROSS[self._at])


# Both are drawn again with every frame, and their values come once a second.
@lru_cache(maxsize=512)
def _spark(shown: tuple[float | None, ...], width: int, look: str, bars: str, cross: str) -> Line:
    text = spark([None if value is None or value < 0 else value for value in shown], bars)
    spans: list[Span] = [(" " * (width - len(shown)), "")]
    start = 0
    for at, value in enumerate(shown):
        if value is not None and value < 0:
            spans += [(text[start:at], look), (cross, "critical")]
            start = at + 1
    return _merged((*spans, (text[start:], look)))


@lru_cache(maxsize=16)
def _chart(shown: tuple[float | None, ...], width: int, height: int, bars: str, cross: str) -> list[Line]:
    top = max((value for value in shown if value is not None and value >= 0), default=0.0)
    steps = len(bars)
    lines: list[Line] = []
    for floor in range((height - 1) * steps, -1, -steps):
        spans: list[Span] = [(" " * (width - len(shown)), "")]
        for value in shown:
            if value is None or (value < 0 and floor):
                spans.append((" ", ""))
            elif value < 0:
                spans.append((cross, "critical"))
            else:
                full = max(1, round(value / top * height * steps)) if top else 1
                part = min(steps, full - floor)
                spans.append((bars[part - 1], "accent") if part > 0 else (" ", ""))
        lines.append(_merged(spans))
    return lines


def _merged(spans: Sequence[Span]) -> Line:
    merged: list[Span] = []
    for text, look in spans:
        if merged and (merged[-1][1] == look or not text.strip(" ")):  # blanks have any look
            merged[-1] = (merged[-1][0] + text, merged[-1][1])
        elif text:
            merged.append((text, look))
    return tuple(merged)


class Column(NamedTuple):
    """A column of a table."""

    title: str
    width: int
    """At least so many columns of the terminal."""
    grow: int = 0
    """Its share of what is left over."""
    right: bool = False
    """Figures stand at the right."""
    leave: int = 0
    """Where there is no room the columns with the highest number go first; 0 stays."""


Cells = tuple[Line, ...]


class Table(NamedTuple):
    """Rows that are made when they are looked at: of a thousand only those on the screen."""

    columns: tuple[Column, ...]
    keys: Sequence[str]
    """What each row is, so that a cursor stays on it."""
    cells: Callable[[int, Sequence[int]], Cells]
    """The cells of row N; the columns' widths are told, 0 for one that has left."""
    empty: str = ""
    """What is said instead of rows when there are none."""
    stale: bool = False
    """Whether these are the last words of someone who does not answer now."""


GAP = 2
"""Columns of the terminal between two columns of a table."""


_GAP = " " * GAP


def lay_out(columns: Sequence[Column], width: int) -> list[int]:
    """How wide each column is in a table of `width`; 0 for those that have no room."""
    kept = set(range(len(columns)))
    while True:
        needed = sum(columns[at].width for at in kept) + GAP * max(0, len(kept) - 1)
        leaving = max(kept, key=lambda at: (columns[at].leave, at), default=-1)
        if needed <= width or leaving < 0 or columns[leaving].leave == 0:
            break
        kept.remove(leaving)
    left, shares = max(0, width - needed), sum(columns[at].grow for at in kept)
    widths = [column.width if at in kept else 0 for at, column in enumerate(columns)]
    for at in sorted(kept):
        if columns[at].grow:
            more = left * columns[at].grow // shares
            widths[at] += more
            left, shares = left - more, shares - columns[at].grow
    return widths


def row_line(columns: Sequence[Column], widths: Sequence[int], cells: Cells, end: str = "…") -> Line:
    """One row with each cell in its column."""
    line: list[Span] = []
    for column, width, cell in zip(columns, widths, cells, strict=True):
        if not width:
            continue
        if line:
            line.append((_GAP, ""))
        shown = fitted(cell, width, end)
        room = " " * (width - sum([width_of(text) for text, _ in shown]))
        line += [(room, ""), *shown] if column.right else [*shown, (room, "")]
    return _merged(line)


def heading(columns: Sequence[Column], widths: Sequence[int]) -> Line:
    """The titles, each above its column."""
    return row_line(columns, widths, tuple(say(column.title, "head") for column in columns))
