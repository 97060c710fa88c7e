"""Lines of the log, and troubles that become events once."""

from __future__ import annotations

import io

import pytest

from tsstack.monitor.events import MOST_CHARACTERS, EventPrinter, line
from tsstack.monitor.snapshot import Event
from tsstack.monitor.troubles import Troubles, changes


def event(**changed: object) -> Event:
    values = {
        "at": 0.0, "code": "path-dead", "severity": "critical", "about": "exit:a",
        "text": "no answer", "data": {},
    }  # fmt: skip
    return Event(**{**values, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("severity", "over", "prefix"),
    [("critical", False, "<2>"), ("warning", False, "<4>"), ("info", False, "<6>"), ("info", True, "<5>")],
)
def test_a_line_carries_its_priority(severity: str, over: bool, prefix: str) -> None:
    assert line(event(severity=severity, over=over)) == f"{prefix}exit:a: no answer [path-dead]\n"


def test_an_event_is_one_line_whatever_it_holds() -> None:
    hostile = "a\nb\r\x1b[31mred\x1b[0m\x00\u2028c\x85d"
    told = line(event(text=hostile, about="x\n<0>forged"))
    assert told.count("\n") == 1
    assert told.isprintable() or told[:-1].isprintable()
    assert told.startswith("<2>x\\x0a<0>forged: a\\x0ab")
    assert len(line(event(text="x" * 100_000))) <= MOST_CHARACTERS + 4


def test_a_line_holds_no_token() -> None:
    told = line(
        event(about="target:https:https://u:pw@x.example/h?t=s3cret", text="see http://x.example/?k=s3cret")
    )
    assert "s3cret" not in told
    assert "pw@" not in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_prefix() -> None:
    screen, journal = Terminal(), io.StringIO()
    EventPrinter(screen).print(event())
    EventPrinter(journal).print(event())
    assert screen.getvalue().endswith(" critical exit:a: no answer [path-dead]\n")
    assert screen.getvalue()[0] != "<"
    assert journal.getvalue() == "<2>exit:a: no answer [path-dead]\n"


def test_a_closed_log_ends_nothing() -> None:
    stream = io.StringIO()
    printer = EventPrinter(stream)
    stream.close()
    printer.print(event())


def test_a_trouble_is_told_when_it_begins_and_when_it_is_over() -> None:
    troubles = Troubles()
    before = troubles.standing()
    troubles.begin("history", "the disk is full, 0.5 MB left", "make room")
    (begun,) = changes(before, troubles.standing(), 5.0)
    assert (begun.code, begun.severity, begun.about, begun.over) == ("trouble", "warning", "history", False)
    assert begun.text == "the disk is full, 0.5 MB left (make room)"
    before = troubles.standing()
    troubles.begin("history", "the disk is full, 12 MB left")
    assert changes(before, troubles.standing(), 6.0) == []  # other numbers are no news
    before = troubles.standing()
    troubles.begin("history", "the disk is gone")
    (other,) = changes(before, troubles.standing(), 6.5)
    assert (other.text, other.over) == ("the disk is gone", False)
    before = troubles.standing()
    troubles.end("history")
    troubles.end("history")
    (over,) = changes(before, troubles.standing(), 7.0)
    assert (over.about, over.severity, over.over) == ("history", "info", True)
    assert over.text == "over: the disk is gone"
