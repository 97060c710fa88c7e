"""What happened, with its reasons. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from time import localtime, strftime
from typing import Any

from tsstack.monitor.episodes import Episodes
from tsstack.monitor.snapshot import Event as Happened
from tsstack.status.words import wrapped
from tsstack.tui.cells import Cells, Column, Line, Signs, Span, Table, joined, labelled, say

Event = Mapping[str, Any]
"""As `docs/monitor-socket.md` describes it."""

EVENTS = (
    Column("when", 8),
    Column("", 1),
    Column("about", 16, grow=1, leave=1),
    Column("what", 30, grow=4),
)
KEPT = 1000
_FIELDS = tuple(each.name for each in fields(Happened))
SEVERITIES = ("info", "warning", "critical")


def merge(known: Sequence[Event], news: Sequence[Event]) -> tuple[Event, ...]:
    """Both without doubles, the newest last, the oldest forgotten."""
    by_identity = {(each["at"], each["code"], each["about"], each["text"]): each for each in (*known, *news)}
    return tuple(sorted(by_identity.values(), key=lambda each: float(each["at"]))[-KEPT:])


def at_least(events: Sequence[Event], least: str) -> list[Event]:
    """The newest first, those at least so severe; of what is over that is how severe it was."""
    floor = SEVERITIES.index(least)
    if not floor:
        return [*reversed(events)]
    told = Episodes(Happened(**{name: each[name] for name in _FIELDS}) for each in events).told
    worst = (each.worst if each.event.over else each.event.severity for each in told)
    wanted = [SEVERITIES.index(severity) >= floor for severity in worst]
    return [each for each, is_wanted in zip(events, wanted, strict=True) if is_wanted][::-1]


def events(shown: Sequence[Event], signs: Signs, now: float, *, stale: bool, empty: str) -> Table:
    """The table of `shown`, which are the newest first."""

    def cells(row: int, _: Sequence[int]) -> Cells:
        return event_cells(shown[row], signs, now)

    keys = [f"{each['at']} {each['code']} {each['about']}" for each in shown]
    return Table(EVENTS, keys, cells, empty=empty, stale=stale)


def event_cells(event: Event, signs: Signs, now: float) -> Cells:
    """One event in the columns of `EVENTS`."""
    sign, look = sign_of(event, signs)
    when = "%H:%M:%S" if now - event["at"] < 12 * 3600 else "%b %d"
    return (
        say(strftime(when, localtime(event["at"])), "dim"),
        ((sign, look),),
        say(signs.words(event["about"])),
        say(signs.words(event["text"]), look if event["severity"] != "info" and not event["over"] else ""),
    )


def sign_of(event: Event, signs: Signs) -> Span:
    """A recovery looks like all is well, whatever it recovers from."""
    if event["over"]:
        return signs.level("ok")
    if event["severity"] == "info":
        return signs.sign("dot"), "dim"
    return signs.level(event["severity"])


def event_details(event: Event | None, signs: Signs, width: int) -> list[Line]:
    """One event in full: its sentence, and the numbers behind it."""
    if event is None:
        return []
    _, look = sign_of(event, signs)
    when = strftime("%Y-%m-%d %H:%M:%S", localtime(event["at"]))
    over = ", ends what an earlier event began" if event["over"] else ""
    lines = [joined([(when, "dim"), (event["code"], look), (f"{event['severity']}{over}", "dim")], "  ")]
    lines += [say(text) for text in wrapped(signs.words(event["text"]), max(20, width))]
    for name, value in event["data"].items():
        for at, text in enumerate(wrapped(signs.words(_told(value)), max(20, width - 12))):
            lines.append(labelled("" if at else signs.words(name)[:11], (text, "dim" if at else "")))
    return lines


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(each)}" for key, each in value.items()) or "-"
    return str(value)
