"""What a clock that is set wrong must not do to the history: age it out, drop it."""

from __future__ import annotations

import json
import sqlite3
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_clock import FakeClock

from tsstack.monitor import database as database_module
from tsstack.monitor import history as history_module
from tsstack.monitor.aging import APART_S, TRUSTED_S, Aging
from tsstack.monitor.archive import Archive
from tsstack.monitor.database import Database
from tsstack.monitor.history import History
from tsstack.monitor.quality import Histogram
from tsstack.monitor.rollup import TIERS, Bucket
from tsstack.monitor.sample import Sample

START = 1_800_000_000.0
DAY_S = 86400.0


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_GATHER_S", 0.02)


def count(path: Path) -> list[int]:
    sql = sqlite3.connect(path)
    try:
        return [sql.execute(f"SELECT count(*) FROM buckets_{n}").fetchone()[0] for n in range(len(TIERS))]  # noqa: S608
    finally:
        sql.close()


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def three_days(path: Path) -> None:
    base = Database.open(path, 50_000_000)
    begin = int(START - 3 * DAY_S)
    base.write(
        [(at, "exit:a", Bucket(0, Histogram({500: 20}))) for at in range(begin, int(START), 600)], (), ()
    )
    base.roll_up(START)
    base.prune(START)
    base.close()


def beat(history: History, clock: FakeClock) -> None:
    """One bucket more, written and tidied."""
    history.on_sample(Sample("exit:a", "tsmp", 0.0, 0.02))
    clock.sleep(11)
    history.on_sample(Sample("exit:a", "tsmp", 0.0, 0.02))
    wait_until(lambda: not history.status().waiting)
    time.sleep(0.3)  # tidied after it is written


@pytest.mark.parametrize("off_s", [-30 * DAY_S, -2 * DAY_S, 400 * DAY_S])
def test_a_clock_that_stands_wrong_and_runs_steadily_costs_nothing(tmp_path: Path, off_s: float) -> None:
    """A start without a battery and without a time server: after ten minutes all was gone."""
    path = tmp_path / "history.db"
    three_days(path)
    before = count(path)
    clock = FakeClock(START + off_s)
    history = History(path, clock=clock)
    history.start()
    for _ in range(4):
        beat(history, clock)
        clock.sleep(700)
    history.close()
    assert all(now >= then for now, then in zip(count(path), before, strict=True))
    # Somebody sets it: from then on what is old goes.
    clock.wall = START + DAY_S / 2
    history = History(path, clock=clock)
    history.start()
    for _ in range(4):
        beat(history, clock)
        clock.sleep(700)
    history.close()
    assert count(path)[0] < before[0]


def run(path: Path, clock: FakeClock, boot: str) -> None:
    """A quarter of an hour and more."""
    history = History(path, clock=clock, boot_id=boot)
    history.start()
    for _ in range(3):
        beat(history, clock)
        clock.sleep(700)
    history.close()


def span(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as sql:
        return sql.execute("SELECT min(at), max(at) FROM buckets_0").fetchone()


@pytest.mark.parametrize("boots", [("one", "one"), ("one", "two")])
def test_a_restart_does_not_make_a_clock_that_is_ahead_right(tmp_path: Path, boots: tuple[str, str]) -> None:
    """After one, the tiers of a day, a week and a quarter were gone, and the right clock was doubted."""
    path = tmp_path / "history.db"
    three_days(path)
    clock = FakeClock(START)
    run(path, clock, "before")
    before = count(path)
    clock.wall += 120 * DAY_S
    for boot in boots:
        if boot == "two":
            clock.steady = 30.0
        run(path, clock, boot)
        clock.sleep(60)
    assert all(now > then for now, then in zip(count(path)[:2], before[:2], strict=True))
    # It is set right, a while after the host has started.
    clock.wall, clock.steady = START + DAY_S / 2, 50.0
    run(path, clock, "three")
    assert span(path)[1] < clock.wall
    assert count(path)[0] < before[0]


def test_what_is_measured_under_a_clock_that_stands_behind_is_summed_up_too(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    three_days(path)
    base = Database.open(path, 50_000_000)
    back = int(START - 30 * DAY_S)
    rows = [(at, "exit:a", Bucket(0, Histogram({500: 20}))) for at in range(back, back + 7200, 10)]
    minutes = count(path)[1]
    base.write(rows, (), ())
    base.roll_up(back + 7200)
    base.close()
    assert count(path)[1] == minutes + 120


def test_nor_does_it_where_an_earlier_release_kept_no_time(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    three_days(path)
    before = count(path)
    clock = FakeClock(START + 120 * DAY_S)
    history = History(path, clock=clock, boot_id="one")
    history.start()
    beat(history, clock)  # not for long enough to believe or doubt anything
    history.close()
    run(path, clock, "one")
    assert all(now > then for now, then in zip(count(path)[:2], before[:2], strict=True))


def test_a_history_that_begins_before_the_clock_is_set_knows_no_time_yet(tmp_path: Path) -> None:
    clock, path = FakeClock(1_000_000.0), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    beat(history, clock)
    clock.wall = START
    for _ in range(2):
        clock.sleep(700)
        beat(history, clock)
    history.close()
    assert span(path)[0] > START, "the bucket of 1970 is gone"


def test_a_time_that_was_never_right_is_believed_after_a_week_and_a_jump_begins_it_anew() -> None:
    aging = Aging(START, 100.0)
    assert aging.believes(START + 3600, 100.0)  # the host was off for an hour
    assert aging.believes(START + 7200, 3700.0)
    now_s, wall = 4000.0, START - 30 * DAY_S
    assert not aging.believes(wall, now_s)
    assert not aging.believes(wall + TRUSTED_S - 1, now_s + TRUSTED_S - 1)
    assert not aging.believes(wall + 3 * TRUSTED_S, now_s + TRUSTED_S + 1), "it was set meanwhile"
    assert not aging.believes(wall + 4 * TRUSTED_S - 2, now_s + 2 * TRUSTED_S - 1)
    assert aging.believes(wall + 4 * TRUSTED_S, now_s + 2 * TRUSTED_S + 1)
    # Set right again after all.
    right = START + now_s - 100.0 + 2 * TRUSTED_S + 60
    assert not aging.believes(right, now_s + 2 * TRUSTED_S + 60)
    behind = Aging(START, 0.0)
    assert not behind.believes(START - APART_S - 60, 0.0)
    assert behind.believes(START + 600, 600.0)


def restart(aging: Aging, now_s: float, *, same_boot: bool) -> Aging:
    return Aging.restored(json.loads(json.dumps(aging.export())), now_s, same_boot=same_boot)


def test_a_host_that_was_off_over_a_weekend_is_believed_and_its_clock_may_be_set_late() -> None:
    aging = restart(Aging(START, 5e6), 20.0, same_boot=False)
    assert aging.believes(START + 3 * DAY_S, 60.0)
    assert aging.believes(START + 6 * DAY_S + 600, 660.0)  # a saved time until then
    assert not aging.believes(START - 2 * DAY_S, 1260.0)


def test_a_monitor_that_starts_again_goes_on_with_the_time_of_its_boot() -> None:
    aging = restart(Aging(START, 100.0), 100.0 + 30 * DAY_S, same_boot=True)
    assert not aging.believes(START, 100.0 + 30 * DAY_S)
    assert aging.believes(START + 30 * DAY_S, 100.0 + 30 * DAY_S)


def test_what_doubts_a_clock_adds_up_over_starts_without_the_time_off() -> None:
    """A host that was off for a month, and then runs eight hours a day: no run of it takes a week."""
    aging, wall, days = Aging(START, 0.0), START + 30 * DAY_S, 0
    while not aging.believes(wall, 600.0):
        assert not aging.believes(wall + 8 * 3600, 600.0 + 8 * 3600) or days > 18
        wall, days = wall + (3 if days % 5 == 4 else 1) * DAY_S, days + 1
        aging = restart(aging, 0.0, same_boot=False)
        assert days < 23
    assert days > 18


@pytest.mark.parametrize("saved", [{}, {"known": [1]}, {"known": [1, "x"]}, {"known": [1, 2], "ran_s": 0}])
def test_a_time_that_was_not_kept_as_one_is_refused(saved: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Aging.restored(saved, 0.0, same_boot=True)


def test_a_clock_set_right_after_a_start_behind_sums_up_months_in_little_memory(
    tmp_path: Path,
) -> None:
    """The rows of all that time were read at once: 129 MiB for 20 paths."""
    path = tmp_path / "history.db"
    base = Database.open(path, 50_000_000)
    end = int(START) // 21600 * 21600
    begin = end - 8 * 86400
    rows = [
        (at, f"exit:{name}", Bucket(0, Histogram({500 + n: 2 for n in range(10)})))
        for at in range(begin, end, 900)
        for name in "abcdef"
    ]
    base.write(rows, (), ())
    base.roll_up(end)
    base.close()
    before = count(path)
    del rows
    base = Database.open(path, 50_000_000)
    back = begin + 86400
    base.write([(back + 10, "exit:a", Bucket(0, Histogram({500: 7})))], (), ())
    base.roll_up(back + 20)
    tracemalloc.start()
    base.roll_up(end)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    base.close()
    assert peak < 1_000_000
    assert count(path) == [before[0] + 1, *before[1:]]
    (past,) = Archive(path).qualities(back, back + 21600, ["exit:a"])
    assert past.quality.sent == 24 * 20 + 7


@pytest.mark.parametrize("at_once", [1, 7, 5000])
def test_summing_up_in_steps_is_summing_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(database_module, "_ROLLED_AT_ONCE", at_once)
    path = tmp_path / "history.db"
    base = Database.open(path, 50_000_000)
    begin = int(START) // 21600 * 21600
    times = [*range(begin, begin + 7200, 50), *range(begin + 40 * 86400, begin + 40 * 86400 + 30000, 400)]
    base.write([(at, name, Bucket(1, Histogram({500: 9}))) for at in times for name in ("a", "b")], (), ())
    base.roll_up(begin + 41 * 86400)
    base.close()
    sql = sqlite3.connect(path)
    for tier, each in enumerate(TIERS):
        found = sql.execute(f"SELECT at, path, lost, answered FROM buckets_{tier}").fetchall()  # noqa: S608
        wanted = Counter(at // each.width_s * each.width_s for at in times)
        assert {(at, path): (lost, answered) for at, path, lost, answered in found} == {
            (at, path): (many, 9 * many) for at, many in wanted.items() for path in (1, 2)
        }
    sql.close()


def test_a_date_that_is_set_wrong_on_a_host_that_is_up_is_doubted() -> None:
    """Within a boot nothing leads a week ahead: what a host sleeps is counted."""
    aging = Aging(START, 100.0)
    assert aging.believes(START + 2 * DAY_S, 100.0 + 2 * DAY_S)
    assert not aging.believes(START + 8 * DAY_S, 700.0 + 2 * DAY_S)
    assert aging.believes(START + 2 * DAY_S + 1200, 1300.0 + 2 * DAY_S)
