"""The exit nodes: the file's candidates in their order, then whoever else offers to be one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tsstack.status.figures import figures_of, way_cells, ways_apart
from tsstack.status.gather import HUNG
from tsstack.status.words import wrapped
from tsstack.tui.cells import Cells, Column, Line, Signs, Span, Table, cut, dimmed, labelled, say
from tsstack.tui.frame import Frame
from tsstack.tui.views.overview import exit_in_use

EXITS = (
    Column("", 2),
    Column("exit node", 14, grow=1),
    Column("level", 9),
    Column("loss", 6, right=True),
    Column("p50", 8, right=True),
    Column("p95", 8, right=True, leave=1),
    Column("via", 10, leave=3),
    Column("", 12, grow=8, leave=2),
)
DIRECT = "direct"
"""The bare uplink, as `tsstack exit-node use` names it."""


class ExitNode(NamedTuple):
    """A way out that one can choose."""

    name: str
    candidate: bool
    """Whether the file names it: no other can be chosen."""
    in_use: bool
    level: str
    path: Any
    """The monitor's figures of the way to it; None when it is not watched."""
    notes: tuple[str, ...]


def exit_nodes(frame: Frame) -> list[ExitNode]:
    """All ways out, the file's first."""
    status = frame.status
    state = status["monitor"]["state"] or {}
    told = {each["name"].lower(): each for each in (state.get("exit") or {}).get("candidates") or ()}
    paths = {path["key"]: path for path in state.get("paths") or ()}
    offering = [peer for peer in status["peers"] if peer["exit_node"]]
    offered = {name: peer for peer in offering for name in peer["names"]}
    offered |= {peer["name"].lower(): peer for peer in offering}
    wanted = list(dict.fromkeys([*status["exit"]["wanted"], *(each["name"] for each in told.values())]))
    known = {name.lower() for name in wanted}
    named = [offered[key]["name"] for key in known if key in offered]
    names = [*wanted, *(peer["name"] for peer in offering if peer["name"] not in named)]
    nodes = []
    for name in names:
        key = name.lower()
        candidate, peer = told.get(key), offered.get(key)
        path = paths.get(f"exit:{key}")
        notes = [
            word
            for word, holds in (
                ("offers no exit", peer is None if candidate is None else not candidate["offered"]),
                ("offline", peer is not None and not peer["online"]),
                ("by hand", (status["exit"]["manual"] or "").lower() == key),
                ("not in the file", key not in known),
            )
            if holds
        ]
        if candidate and candidate["barred_s"]:
            notes.append(f"barred for {candidate['barred_s']:.0f} s more")
        notes += [cause["text"] for cause in path["causes"]] if path else []
        level = candidate["level"] if candidate else "unknown"
        if apart := ways_apart(path, level):
            notes.append(apart)
        using = status["exit"]["using"].lower() == key
        nodes.append(ExitNode(name, key in known, using, level, path, tuple(notes)))
    return nodes


def exits(frame: Frame, signs: Signs) -> Table:
    """The table of `exit_nodes`."""
    nodes = exit_nodes(frame)

    old = bool({"tailscaled", "monitor"} & set(frame.away))

    def cells(row: int, _: Sequence[int]) -> Cells:
        mark, name, *rest = exit_cells(nodes[row], signs)
        if frame.old_exit:
            mark, name = dimmed(mark), dimmed(name)
        return (mark, name, *(map(dimmed, rest) if old else rest))

    heard = "tailscaled" not in frame.away
    empty = "this tailnet offers no exit node" if heard else "unknown: tailscaled does not answer"
    return Table(EXITS, [node.name for node in nodes], cells, empty=empty)


def exit_cells(node: ExitNode, signs: Signs) -> Cells:
    """One exit node in the columns of `EXITS`."""
    figures = figures_of(node.path)
    loss, median, p95 = way_cells(node.path)
    via = node.path["via"] if node.path else ""
    sign, look = signs.level(node.level)
    before = "dim" if node.level == "unknown" else ""  # figures of then beside a level of now
    return (
        say(signs.sign("arrow") if node.in_use else "", "accent"),
        say(signs.words(node.name), "bold" if node.in_use else ""),
        say(f"{sign} {node.level}", look),
        say(loss, before or ("warning" if figures and figures["loss"] else "")),
        say(median, before),
        say(p95, before),
        say("" if via == "unknown" else via, "warning" if via == "relay" else "dim"),
        say(signs.words("; ".join(node.notes)), "dim"),
    )


def exit_details(frame: Frame, signs: Signs, width: int, key: str | None = None) -> list[Line]:
    """Which way is in use, how it is chosen, and why; and what is said of the row `key`, in full."""
    status = frame.status
    way = status["exit"]
    text, look = exit_in_use(status, signs)
    monitor = status["monitor"]
    chosen: Span = ("by the monitor", "")
    if monitor["error"] == HUNG:
        chosen = (f"not known: {HUNG}", "warning")
    elif not monitor["running"]:
        chosen = ("by nobody: no monitor runs", "dim")
    if way["manual"] is not None:
        chosen = (f"by hand: {signs.words(way['manual'] or DIRECT)}, until `a`", "warning")
    elif way["maintenance"]:
        chosen = ("by nobody: maintenance, until `m`", "warning")
    line = labelled("in use", (text, look))
    lines = [dimmed(line) if frame.old_exit else line, labelled("chosen", chosen)]
    state = (status["monitor"]["state"] or {}).get("exit")
    if state:
        line = labelled("moves", (f"{state['moves']} since the monitor started", ""))
        lines.append(dimmed(line) if "monitor" in frame.away else line)
    noted = "; ".join(next((node.notes for node in exit_nodes(frame) if node.name == key), ()))
    for number, text in enumerate(wrapped(signs.words(noted), max(20, width - 12)) if noted else ()):
        name = "" if number else cut(signs.words(key or ""), 11, signs.end)
        line = labelled(name, (text, ""))
        lines.append(dimmed(line) if {"tailscaled", "monitor"} & set(frame.away) else line)
    for number, sentence in enumerate(way["why"][:4]):
        for part, text in enumerate(wrapped(signs.words(sentence), max(20, width - 12))):
            lines.append(labelled("why" if not number and not part else "", (text, "")))
    return lines
