"""What this host was told to be, and how one generation differs from another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import localtime, strftime

from tsstack.status.words import span
from tsstack.tui.cells import Cells, Column, Line, Signs, Span, Table, joined, labelled, say
from tsstack.tui.frame import Frame, Generation

GENERATIONS = (
    Column("", 2),
    Column("no.", 4, right=True),
    Column("made", 16),
    Column("", 17),
    Column("what changed", 24, grow=4, leave=1),
)
MOST_LINES = 5000
"""Of a difference, so that the screen stays quick."""


def generations(frame: Frame, signs: Signs) -> Table:
    """All there are, the newest first."""

    known = frame.generations or ()

    def cells(row: int, _: Sequence[int]) -> Cells:
        return generation_cells(known[row], frame, signs)

    none = "no generation yet: `tsstack switch` makes the first"
    empty = "not read yet" if frame.generations is None else frame.generations_fault or none
    return Table(GENERATIONS, [str(each.number) for each in known], cells, empty=empty)


def generation_cells(generation: Generation, frame: Frame, signs: Signs) -> Cells:
    """One generation in the columns of `GENERATIONS`."""
    live = frame.status["generation"]
    pending = live["pending"]
    number = generation.number
    marks: list[Span] = []
    if number == live["current"]:
        marks.append(("live", "ok"))
    if number == live["boot"]:
        marks.append(("boot", "accent"))
    if pending is not None and pending["generation"] == number and number:
        marks.append(("pending", "warning"))
    first = generation.summary[0] if generation.summary else ("" if number else "without tsstack")
    more = f" (+{len(generation.summary) - 1} more)" if len(generation.summary) > 1 else ""
    return (
        say(signs.sign("arrow") if number == live["current"] else "", "accent"),
        say(str(number), "bold" if number == live["current"] else ""),
        say(strftime("%Y-%m-%d %H:%M", localtime(generation.made)) if generation.made else "", "dim"),
        joined(marks, " "),
        say(signs.words(generation.fault), "critical")
        if generation.fault
        else say(signs.words(first) + more),
    )


def generation_details(frame: Frame, signs: Signs, key: str) -> list[Line]:
    """One generation in full."""
    found = next((each for each in frame.generations or () if str(each.number) == key), None)
    if found is None:
        return []
    if found.fault:
        return [
            labelled("generation", (key, "bold")),
            labelled("fault", (signs.words(found.fault), "critical")),
        ]
    made = f"{span(frame.status['at'] - found.made)} ago" if found.number else "always"
    lines = [labelled("generation", (key, "bold"), (f"  {made}  {signs.words(found.source)}", "dim"))]
    lines += [
        labelled("" if at else "changed", (signs.words(text), "")) for at, text in enumerate(found.summary)
    ]
    return lines


def difference(old: Mapping[str, str], new: Mapping[str, str], signs: Signs) -> list[Line]:
    """How the rendered files of one generation differ from those of another: what would go and come."""
    from difflib import unified_diff
    from itertools import islice

    lines: list[Line] = []
    for path in sorted({*old, *new}):
        before, after = old.get(path, ""), new.get(path, "")
        if before == after or path.endswith("manifest.json"):
            continue
        lines.append(say(signs.words(path), "head"))
        # The first two lines are headers.
        for text in islice(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2), 2, None):
            look = {"+": "ok", "-": "critical", "@": "accent"}.get(text[:1], "dim")
            lines.append(say(signs.words(text.expandtabs(4)), look))
            if len(lines) >= MOST_LINES:
                return [*lines, say("and more", "dim")]
    return lines
