"""The history's further answers: bad times, several courses at once, where it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from watched_links import NOON, Row, write_history

from tsstack.errors import TsstackError
from tsstack.monitor.archive import Archive, BadTime


def course(key: str, levels: list[tuple[int, str]], pace_s: int = 10) -> list[Row]:
    """Rows from NOON on: so many seconds of each level."""
    rows: list[Row] = []
    at = NOON
    for lasts_s, level in levels:
        for _ in range(0, lasts_s, pace_s):
            rows.append((at, key, None if level == "dead" else 0.02, level))  # type: ignore[arg-type]
            at += pace_s
    return rows


def test_bad_times_are_those_of_each_level(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    rows = course("exit:a", [(600, "good"), (20, "suspect"), (300, "dead"), (60, "poor"), (620, "good")])
    write_history(file, rows + course("exit:b", [(1600, "good")]))
    assert Archive(file).bad_times(NOON, NOON + 1600) == {"exit:a": BadTime(20, 60, 300, 10)}
    assert BadTime(20, 60, 300).bad_s == 360


@pytest.mark.parametrize("pace_s", [10, 30, 60])
def test_what_is_probed_rarely_is_bad_until_its_next_probe(tmp_path: Path, pace_s: int) -> None:
    file = tmp_path / "history.db"
    write_history(file, course("service:a", [(600, "good"), (900, "dead"), (600, "good")], pace_s=pace_s))
    assert Archive(file).bad_times(NOON, NOON + 2100) == {"service:a": BadTime(0, 0, 900, 10)}


def test_a_suspicion_alone_is_counted_and_is_not_bad(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    write_history(file, course("exit:a", [(100, "good"), (20, "suspect"), (100, "good")]))
    (spent,) = Archive(file).bad_times(NOON, NOON + 220).values()
    assert (spent, spent.bad_s) == (BadTime(20, 0, 0, 10), 0)


def test_a_pause_of_the_monitor_is_not_bad(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    before = course("exit:a", [(300, "good"), (100, "dead")])
    after = [(at + 3600, key, rtt_s, level) for at, key, rtt_s, level in course("exit:a", [(200, "good")])]
    write_history(file, before + after)
    assert Archive(file).bad_times(NOON, NOON + 4000)["exit:a"].dead_s == 100


def test_bad_times_end_with_the_span(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    write_history(file, course("exit:a", [(600, "dead")]))
    assert Archive(file).bad_times(NOON + 105, NOON + 205)["exit:a"].dead_s == pytest.approx(100)


def test_several_courses_are_each_as_alone(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    rows = course("exit:a", [(600, "good"), (300, "dead")]) + course("exit:b", [(900, "poor")])
    write_history(file, [*rows, *course("exit:c", [(900, "good")])])
    archive = Archive(file)
    both = archive.many_series(["exit:a", "exit:b", "exit:gone"], NOON, NOON + 900, points=9)
    assert both["exit:a"] == archive.series("exit:a", NOON, NOON + 900, points=9)
    assert both["exit:b"] == archive.series("exit:b", NOON, NOON + 900, points=9)
    assert [each.worst for each in both["exit:a"]] == ["good"] * 6 + ["dead"] * 3
    assert [each.quality.sent for each in both["exit:gone"]] == [0] * 9
    assert set(both) == {"exit:a", "exit:b", "exit:gone"}


def test_where_it_ends_and_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    rows = course("exit:a", [(600, "good"), (300, "dead")]) + course("exit:b", [(300, "good")])
    write_history(file, rows)
    archive = Archive(file)
    assert (archive.begin(), archive.end()) == (NOON // 21600 * 21600, NOON + 900), "six hours are a bucket"
    assert archive.levels(NOON) == {"exit:a": "dead", "exit:b": "good"}
    assert archive.levels(NOON + 600) == {"exit:a": "dead"}


def test_an_empty_history_ends_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    write_history(file, [])
    assert (Archive(file).end(), Archive(file).levels(0), Archive(file).bad_times(0, NOON)) == (0, {}, {})


def test_no_history_is_told(tmp_path: Path) -> None:
    with pytest.raises(TsstackError, match="no history"):
        Archive(tmp_path / "history.db").end()


def test_a_history_that_is_closed_to_us_is_told(tmp_path: Path) -> None:
    """As a user who may not read it: in a child of its own, since root may read all."""
    file = tmp_path / "history.db"
    write_history(file, [])
    file.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534) if os.geteuid() == 0 else file.chmod(0)
        try:
            Archive(file).paths()
        except TsstackError as error:
            os._exit(0 if "Permission denied" in error.message and "sudo" in error.hint else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
