"""Tables that fit: a row is never wrapped, what matters least is left out first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.status.words import width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsstack.cli.glyphs import Terminal


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Of those that do not fit, the one with the highest `rank` goes first; 0 always stays."""

    title: str
    rank: int = 0
    right: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its looks, see `Terminal.paint`. The text holds no colour of its own."""

    text: str
    looks: tuple[str, ...] = ()


def table(
    terminal: Terminal, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, stretch: int = 0
) -> list[str]:
    """The rows below their titles, each within the terminal's width.

    The column `stretch` is clipped when the others alone leave it too little room.
    """
    widths = [
        max([len(column.title), *(width_of(row[at].text) for row in rows)])
        for at, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    while _total(widths, kept) > terminal.width and (loose := [at for at in kept if columns[at].rank]):
        kept.remove(max(loose, key=lambda at: columns[at].rank))
    widths[stretch] = max(4, widths[stretch] - max(0, _total(widths, kept) - terminal.width))
    titles = [Cell(column.title, ("dim",)) for column in columns]
    return [_line(terminal, columns, row, widths, kept) for row in (titles, *rows)]


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[at] for at in kept) + len(kept) - 1


def _line(
    terminal: Terminal,
    columns: Sequence[Column],
    row: Sequence[Cell],
    widths: Sequence[int],
    kept: Sequence[int],
) -> str:
    pieces = []
    for at in kept:
        text = terminal.clip(row[at].text, widths[at])
        blank = " " * (widths[at] - width_of(text))
        painted = terminal.paint(text, *row[at].looks)
        pieces.append(f"{blank}{painted}" if columns[at].right else f"{painted}{blank}")
    return " ".join(pieces).rstrip()
