"""The monitor's section as a part of a generation: what differs is told, an alert's address is not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tsstack.model.facts import Facts, Paths
from tsstack.model.loader import parse_stack
from tsstack.parts.monitor import desired
from tsstack.parts.monitor.host import PART

BEFORE = """
host: {name: box, tailnet: tail.test}
monitor:
  max_loss: 5%
  alerts: ["ntfys://user:sesame@ntfy.example/topic", {command: [/usr/local/bin/page]}]
  targets: [{icmp: 1.1.1.1}]
"""


def tree(text: str) -> dict[str, str]:
    return dict(desired.render(parse_stack(text.encode(), Path("tsstack.yaml"), {}).stack))


def told(before: str, after: str) -> list[str]:
    changes = desired.compare(tree(before).get(desired.FILE), tree(after).get(desired.FILE))
    return [str(change) for change in changes]


def test_each_setting_that_differs_is_a_line_with_its_unit() -> None:
    after = BEFORE.replace("5%", "3%").replace("{icmp: 1.1.1.1}", "{icmp: 1.1.1.1}, {tcp: 'h:22'}")
    assert told(BEFORE, after) == [
        "~ monitor.max_loss: 5 % -> 3 %",
        "~ monitor.targets: icmp 1.1.1.1 -> icmp 1.1.1.1, tcp h:22",
    ]


def test_the_section_itself_comes_and_goes() -> None:
    without = "host: {name: box, tailnet: tail.test}\n"
    assert tree(without) == {}
    assert told(without, BEFORE) == ["+ monitor: as the file says"]
    assert told(BEFORE, without) == ["- monitor: as the file says"]
    assert told(BEFORE, BEFORE) == []


def test_another_alert_is_seen_and_its_address_is_not() -> None:
    after = BEFORE.replace("sesame", "open")
    (line,) = told(BEFORE, after)
    assert line.startswith("~ monitor.alerts: ntfys ")
    assert not any(
        word in line + tree(BEFORE)[desired.FILE] for word in ("sesame", "user", "example", "page")
    )


@pytest.mark.parametrize("garbled", ["", "{", "[]", '"x"'])
def test_settings_that_cannot_be_read_count_as_none(garbled: str) -> None:
    (change,) = desired.compare(garbled, tree(BEFORE)[desired.FILE])
    assert str(change) == "+ monitor: as the file says"


def test_that_nobody_watches_is_said_until_somebody_does(tmp_path: Path) -> None:
    facts = Facts(paths=Paths(state=tmp_path, run=tmp_path))
    assert PART.warnings(tmp_path, facts) == ()
    (tmp_path / "monitor").mkdir()
    (tmp_path / desired.FILE).write_text(tree(BEFORE)[desired.FILE])
    (said,) = PART.warnings(tmp_path, facts)
    assert "tsstack units install --monitor" in said
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "monitor.sock"))
        listener.listen()
        assert PART.warnings(tmp_path, facts) == ()


def test_what_is_live_is_what_the_live_generation_says(tmp_path: Path) -> None:
    facts = Facts(paths=Paths(state=tmp_path))
    assert [str(each) for each in PART.changes(tree(BEFORE), PART.observe({}, facts))] == [
        "+ monitor: as the file says"
    ]
    (tmp_path / "current/monitor").mkdir(parents=True)
    (tmp_path / "current" / desired.FILE).write_text(tree(BEFORE)[desired.FILE])
    assert PART.changes(tree(BEFORE), PART.observe({}, facts)) == ()
