"""A screen that is higher than the window: what is wrong stays, what is well gives way. Pure, and light."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsstack.cli.glyphs import Terminal


HIGHER = "make the window higher"


def in_rows(
    head: Sequence[str],
    well: Sequence[Sequence[str]],
    wrong: Sequence[str],
    rows: int | None,
    out: Terminal,
    *,
    more: str = HIGHER,
) -> list[str]:
    """Head, what is well by sections, what is wrong; where `rows` are too few what is wrong comes before.

    Of a section its first line says most, and goes last. What had no room a last line tells, and with
    `more` how to see it.
    """
    lines = [*head, *(line for section in well for line in section), *wrong]
    if rows is None or len(lines) <= rows:
        return lines
    first = [*head, *wrong]
    kept = [*first, *_shortened(well, max(0, rows - 1 - len(first)))][: rows - 1]
    left = len(lines) - len(kept)
    return [*kept, out.paint(out.clip(f"  and {left} lines more: {more}", out.width), "dim")]


def _shortened(sections: Sequence[Sequence[str]], room: int) -> list[str]:
    """So many lines: the longest sections lose their ends, then the last ones go whole."""
    keep = [len(each) for each in sections]
    while sum(keep) > room and max(keep) > 1:
        keep[keep.index(max(keep))] -= 1
    lines = [line for section, count in zip(sections, keep, strict=True) for line in section[:count]]
    return lines[:room]
