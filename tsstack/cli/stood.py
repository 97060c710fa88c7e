"""How `nginx-test` looks: from judgements to lines for a terminal, and to JSON. Pure."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tsstack.cli.columns import Cell, Column, table
from tsstack.cli.glyphs import COLOUR_OF, Terminal, clean
from tsstack.cli.short_screen import in_rows
from tsstack.parts.proxy.probe import ANSWER_S
from tsstack.status.words import time_left

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsstack.parts.proxy.standing import ServiceState, Standing, VhostState

_ROWS = 12
"""Of each table, beyond what is wrong: a host with a thousand services still fits one screen."""

_FAULTS = 6

_VHOSTS = (
    Column("", right=False),
    Column("NAME", right=False),
    Column("PORT", 2),
    Column("CERTIFICATE"),
    Column("SERVICES", 1, right=False),
)
_SERVICES = (Column("", right=False), Column("SERVICE", right=False), Column("UPSTREAM", right=False))


def describe(standing: Standing, terminal: Terminal, rows: int | None = None) -> list[str]:
    """The screen: the verdict, each point, the names with their certificates, the upstreams.

    In `rows` lines where they are given: then what is wrong comes before what is well.
    """
    whole = _whole(standing, terminal)
    if rows is None or len(whole) <= rows:
        return whole
    wrong: list[str] = []
    well: list[str] = []
    for point in standing.points:
        lines = _sentence(terminal, point.level, clean(f"{point.about}: {point.words}"), point.hint)
        (well if point.level == "ok" else wrong).extend(lines)
    wrong += _faults(standing.vhosts, terminal)
    bad = [each for each in standing.services if each.level != "ok"]
    wrong += _part(terminal, _SERVICES, bad, [_service_row(each, terminal) for each in bad], "services")
    wrong += _faults(bad, terminal)
    vhosts = [_vhost_row(each, terminal) for each in standing.vhosts]
    names = _part(terminal, _VHOSTS, standing.vhosts, vhosts, "names")
    return in_rows([_verdict(standing, terminal)], [well, names], wrong, rows, terminal)


def _whole(standing: Standing, terminal: Terminal) -> list[str]:
    lines = [_verdict(standing, terminal), ""]
    for point in standing.points:
        words = clean(f"{point.about}: {point.words}")
        lines += _sentence(terminal, point.level, words, point.hint)
    lines += _part(
        terminal, _VHOSTS, standing.vhosts, [_vhost_row(each, terminal) for each in standing.vhosts], "names"
    )
    lines += _faults(standing.vhosts, terminal)
    rows = [_service_row(each, terminal) for each in standing.services]
    lines += _part(terminal, _SERVICES, standing.services, rows, "services")
    return lines + _faults(standing.services, terminal)


def standing_json(standing: Standing) -> dict[str, Any]:
    """What `--json` prints."""
    return {"status": standing.level, **asdict(standing)}


def _faults(states: Sequence[VhostState] | Sequence[ServiceState], terminal: Terminal) -> list[str]:
    """What is wrong with names and ports, each fault once: when nginx is down all of them have the same."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for each in states:
        if each.words:
            names.setdefault((each.level, each.words, each.hint), []).append(each.name)
    lines: list[str] = []
    for (level, words, hint), owners in list(names.items())[:_FAULTS]:
        more = f" and {len(owners) - 3} more" if len(owners) > 3 else ""
        lines += _sentence(terminal, level, clean(f"{', '.join(owners[:3])}{more}: {words}"), hint)
    if len(names) > _FAULTS:
        lines.append(f"  and {len(names) - _FAULTS} more faults: see --json")
    return lines


def _verdict(standing: Standing, terminal: Terminal) -> str:
    levels = [each.level for each in standing.points]
    levels += [each.level for each in standing.vhosts] + [each.level for each in standing.services]
    bad = sum(level != "ok" for level in levels)
    names, services = len(standing.vhosts), len(standing.services)
    words = f"{names} name{'s' * (names != 1)}, {services} service{'s' * (services != 1)}"
    words += f"; {bad} of {len(levels)} judgements are not ok" if bad else "; all is well"
    head = f" {standing.level}"
    rest = terminal.clip(f"  {words}", terminal.width - len(head) - 1)
    return terminal.sign(standing.level) + terminal.level(standing.level, head) + rest


def _sentence(terminal: Terminal, level: str, words: str, hint: str) -> list[str]:
    """A sign and a sentence, wrapped below itself; what to do about it in a line of its own."""
    room = max(20, terminal.width - 2)
    first, *more = textwrap.wrap(words, room) or [""]
    lines = [f"{terminal.sign(level)} {first}", *(f"  {each}" for each in more)]
    if hint and level != "ok":
        arrow = terminal.sign("arrow")
        lines += [
            f"  {arrow if at == 0 else ' ' * len(arrow)} {each}"
            for at, each in enumerate(textwrap.wrap(clean(hint), max(20, room - len(arrow) - 1)))
        ]
    return lines


def _part(
    terminal: Terminal,
    columns: Sequence[Column],
    states: Sequence[VhostState] | Sequence[ServiceState],
    rows: Sequence[Sequence[Cell]],
    what: str,
) -> list[str]:
    """A table: what is wrong first, then as many others as fit a screen."""
    if not rows:
        return []
    order = sorted(range(len(rows)), key=lambda at: states[at].level == "ok")
    bad = sum(each.level != "ok" for each in states)
    shown = order[: max(_ROWS, min(bad, 2 * _ROWS))]
    lines = ["", *table(terminal, columns, [rows[at] for at in shown], stretch=1)]
    left = len(rows) - len(shown)
    if left:
        wrong = bad - sum(states[at].level != "ok" for at in shown)
        lines.append(f"  and {left} more {what}" + (f", {wrong} of them not ok" if wrong else ", all ok"))
    return lines


def _vhost_row(vhost: VhostState, terminal: Terminal) -> list[Cell]:
    left = "-" if vhost.days_left is None else time_left(vhost.days_left * 86400)
    return [
        _mark(terminal, vhost.level),
        Cell(vhost.name, ("bold",)),
        Cell(str(vhost.port)),
        Cell(left, () if vhost.level == "ok" else (COLOUR_OF[vhost.level],)),
        Cell(terminal.clip(", ".join(vhost.services), max(30, terminal.width - 100))),
    ]


def _service_row(service: ServiceState, terminal: Terminal) -> list[Cell]:
    answers = "takes connections" if service.url.startswith("tcp://") else "answers"
    words = [
        *(f"{each} {answers}" for each in service.answering),
        *(f"{each} gives no answer within {ANSWER_S:g} s" for each in service.mute),
        *(f"{each} is silent" for each in service.silent),
    ]
    looks = () if service.level == "ok" else (COLOUR_OF[service.level],)
    return [
        _mark(terminal, service.level),
        Cell(service.name, ("bold",)),
        Cell(terminal.clip(clean(", ".join(words)), max(10, terminal.width - len(service.name) - 4)), looks),
    ]


def _mark(terminal: Terminal, level: str) -> Cell:
    plain = Terminal(colour=False, unicode=terminal.unicode, width=terminal.width)
    return Cell(plain.sign(level), (COLOUR_OF[level],))
