"""The memory: exact figures over any span, a bounded file, restarts, damage, and nothing that waits."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from math import ceil
from pathlib import Path

import pytest
from fake_clock import FakeClock

from tsstack.errors import TsstackError
from tsstack.monitor import database
from tsstack.monitor.archive import Archive
from tsstack.monitor.database import ASIDES, Database, companions
from tsstack.monitor.history import History
from tsstack.monitor.quality import Histogram, Quality
from tsstack.monitor.rollup import TIERS, Bucket
from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event, PathStatus, Snapshot
from tsstack.monitor.verdict import Level

START = 1_800_000_000.0  # a whole multiple of six hours is 1_799_992_800


def sample(path: str, rtt_s: float | None = 0.02, via: str = "unknown") -> Sample:
    return Sample(path, "icmp", 0.0, rtt_s, via=via)  # type: ignore[arg-type]


def event(at: float = START, **changed: object) -> Event:
    values = {
        "at": at, "code": "path-dead", "severity": "critical", "about": "exit:a", "text": "no answer",
        "data": {"lost": 3}, "over": False,
    }  # fmt: skip
    return Event(**{**values, **changed})  # type: ignore[arg-type]


def snapshot(levels: dict[str, Level], jitter_s: float | None = None) -> Snapshot:
    window = Quality(10, 10, 20, 0, 0.02, 0.02, 0.02, jitter_s, None)
    paths = tuple(
        PathStatus(key, "exit", "x", level, (), START, (window,), 0.02) for key, level in levels.items()
    )
    return Snapshot(START, START, "host", "1", paths, None)


def wait_until(done, what: str, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def run_one(path: Path, clock: FakeClock, feed, **options) -> History:
    history = History(path, clock=clock, **options)
    history.start()
    feed(history)
    history.close()
    return history


def total_bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in (path, *companions(path)) if each.exists())


def test_the_figures_of_a_span_are_those_of_all_its_probes(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "monitor" / "history.db"
    dice = random.Random(5)  # noqa: S311
    told: list[tuple[float, float | None]] = []

    def feed(history: History) -> None:
        for _ in range(3 * 3600):
            rtt_s = None if dice.random() < 0.05 else dice.lognormvariate(-4, 0.5)
            told.append((clock.wall, rtt_s))
            history.on_sample(sample("exit:a", rtt_s, "relay" if rtt_s and rtt_s > 0.02 else "direct"))
            clock.sleep(1)

    run_one(path, clock, feed)
    # A span whose edges lie within buckets of every width.
    since, until = START + 1230, START + 3 * 3600 - 50
    (past,) = Archive(path).qualities(since, until)
    inside = [rtt_s for at, rtt_s in told if since <= at < until]
    answers = sorted(rtt_s for rtt_s in inside if rtt_s is not None)
    assert (past.quality.sent, past.quality.lost) == (len(inside), len(inside) - len(answers))
    for share, found in ((0.5, past.quality.rtt_p50_s), (0.95, past.quality.rtt_p95_s)):
        assert found == pytest.approx(answers[ceil(share * len(answers)) - 1], rel=0.011)
    relayed = sum(rtt_s > 0.02 for rtt_s in answers) / len(answers)
    assert past.quality.relayed == pytest.approx(relayed, abs=1e-9)
    assert past.as_json()["quality"]["loss"] == past.quality.loss


def test_coarse_buckets_outlive_fine_ones_and_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    base = Database.open(path, 50_000_000)
    for step in range(0, 3 * 86400, 60):
        at = int(START) + step
        base.write([(at, "exit:a", Bucket(lost=1, rtts=Histogram({400: 9})))], (), ())
        if step % 7200 == 0:
            base.roll_up(at + 10)
            base.prune(at)
    end = START + 3 * 86400
    base.roll_up(end)
    base.prune(end)
    base.close()
    with sqlite3.connect(path) as sql:
        oldest = [sql.execute(f"SELECT min(at) FROM buckets_{n}").fetchone()[0] for n in range(3)]  # noqa: S608
    sql.close()
    assert oldest[0] >= end - TIERS[0].keep_s - 60, "fine buckets are gone after a day"
    assert oldest[1] <= START, "minutes stay a week"
    (past,) = Archive(path).qualities(START, end)
    assert (past.quality.sent, past.quality.lost) == (3 * 1440 * 10, 3 * 1440)


def test_a_plot_has_equal_steps_that_hold_every_probe_once(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"

    def feed(history: History) -> None:
        for minute in range(120):
            for _ in range(60):
                history.on_sample(sample("exit:a", None if minute >= 90 else 0.02))
                clock.sleep(1)

    run_one(path, clock, feed)
    points = Archive(path).series("exit:a", START, START + 7200, points=24)
    assert [each.at for each in points] == [START + 300 * number for number in range(24)]
    assert [each.quality.sent for each in points] == [300] * 24
    assert [each.quality.loss for each in points] == [0.0] * 18 + [1.0] * 6
    assert sum(each.quality.sent for each in Archive(path).series("exit:a", START, START + 7200)) == 7200
    assert all(each.quality.sent == 0 for each in Archive(path).series("nobody", START, START + 60))


def test_levels_and_jitter_come_from_snapshots_and_events(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"

    def feed(history: History) -> None:
        history.on_snapshot(snapshot({"exit:a": "good", "exit:b": "suspect"}, jitter_s=0.003))
        history.on_sample(sample("exit:a"))
        history.on_sample(sample("exit:b"))
        history.on_event(event(about="exit:a", code="path-dead"))
        history.on_event(event(about="exit:a", code="path-good", over=True))

    run_one(path, clock, feed)
    worst = {each.key: each.worst for each in Archive(path).qualities(START - 60, START + 60)}
    assert worst == {"exit:a": "dead", "exit:b": "suspect"}
    (past,) = Archive(path).qualities(START - 60, START + 60, ["exit:a"])
    assert past.quality.jitter_s == pytest.approx(0.003)


def test_a_restart_within_a_bucket_adds_to_it(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    for _ in range(3):
        run_one(path, clock, lambda history: history.on_sample(sample("exit:a")))
    (past,) = Archive(path).qualities(START - 60, START + 60)
    assert past.quality.sent == 3


def answered_on_disk(path: Path) -> int | None:
    """Of all probes in the finest buckets; None while there is nothing to read."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
            return sql.execute("SELECT sum(answered) FROM buckets_0").fetchone()[0]
    except sqlite3.OperationalError:
        return None


def test_a_killed_daemon_loses_ten_seconds_and_no_rollup(tmp_path: Path) -> None:
    """Rollups are made of what is on disk, so one that was due while nobody ran is made at the next start."""
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    for _ in range(1200):
        history.on_sample(sample("exit:a"))
        clock.sleep(1)
    # What the writer has taken is not on the disk yet, and a copy of a file that is written to is no file.
    wait_until(lambda: answered_on_disk(path) == 1190, "written")
    # No close: the writer's file stays as a kill would leave it. Meanwhile days pass.
    copy = tmp_path / "copy.db"
    for ours, theirs in zip((path, companions(path)[0]), (copy, companions(copy)[0]), strict=True):
        theirs.write_bytes(ours.read_bytes())
    history.close()
    clock.sleep(10 * 86400)
    run_one(copy, clock, lambda later: later.on_sample(sample("exit:a")))
    with sqlite3.connect(copy) as sql:
        six_hours = sql.execute("SELECT sum(answered) FROM buckets_3").fetchone()[0]
    sql.close()
    assert six_hours == 1190


def test_a_clock_set_back_loses_nothing(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    for turn in range(2):
        for _ in range(2000):
            history.on_sample(sample("exit:a"))
            clock.sleep(1)
        wait_until(lambda: not history.status().waiting, "written")
        if turn == 0:
            clock.wall = START
    clock.sleep(3600)
    history.on_sample(sample("exit:a"))
    history.close()
    (past,) = Archive(path).qualities(START - 900, START + 7200)
    assert past.quality.sent == 4001


def test_a_clock_set_wrong_ages_nothing_out(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    history.on_sample(sample("exit:a"))
    clock.sleep(20)
    history.on_sample(sample("exit:a"))
    wait_until(lambda: not history.status().waiting, "written")
    clock.wall += 10 * 365 * 86400.0
    clock.steady += 700
    history.on_event(event())
    wait_until(lambda: not history.status().waiting, "written")
    clock.wall -= 10 * 365 * 86400.0
    history.on_sample(sample("exit:a"))
    clock.sleep(30000)  # the coarse buckets that were made too early are made again
    history.close()
    (past,) = Archive(path).qualities(START - 60, START + 60)
    assert past.quality.sent == 3


def test_documents_outlive_the_daemon_and_know_their_boot(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    state = {"at": "exit-a", "moves": [1.5], "records": {"exit-a": {"relapses": 2}}}
    run_one(path, clock, lambda history: history.keep("failover", state), boot_id="one")
    later = History(path, clock=clock, boot_id="two")
    later.start()
    document = later.kept("failover")
    assert document is not None
    assert (document.value, document.boot) == (state, "one")
    assert later.kept("judges") is None
    later.keep("failover", state)
    again = later.kept("failover")
    assert again is not None
    assert again.boot == "two"
    later.close()


def test_the_files_stay_within_their_limit(tmp_path: Path) -> None:
    """200 paths for nine days in a twenty-fifth of the room: the file is full from the first hours on."""
    path, limit_bytes = tmp_path / "history.db", 2_000_000
    base = Database.open(path, limit_bytes)
    dice = random.Random(7)  # noqa: S311
    counts = [{dice.randrange(300, 500): dice.randrange(1, 9) for _ in range(6)} for _ in range(50)]
    largest, at = 0, int(START)
    for step in range(9 * 24 * 2):
        at += 1800
        rows = [
            (at, f"target:icmp:10.0.0.{n}", Bucket(rtts=Histogram(dice.choice(counts)))) for n in range(200)
        ]
        base.write(rows, [event(at)] * 5, ())
        base.roll_up(at + 10)
        base.checkpoint()
        if base.too_large:
            base.keep_within(at)
        if step % 40 == 0:
            base.prune(at)
        largest = max(largest, total_bytes(path))
    base.close()
    assert largest <= limit_bytes
    assert largest > limit_bytes // 2, "the room is used"
    assert Archive(path).qualities(at - 3600, at), "the newest stays"
    pasts = Archive(path).qualities(START, at)
    assert len(pasts) == 200
    assert pasts[0].since < at - 2 * 86400, "coarse buckets reach back further than fine ones could"


def test_our_own_limit_is_helped_by_making_room(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock, limit_bytes=1_000_000)
    history.start()
    for _ in range(7):
        for _ in range(40):
            for number in range(200):
                history.on_sample(sample(f"target:icmp:10.0.0.{number}", 0.01 + number / 1e4))
            clock.sleep(10)
        wait_until(lambda: not history.status().waiting, "written")
    assert history.troubles() == ()
    assert history.status().size_bytes <= 1_000_000
    assert history.status().dropped == 0
    history.close()
    assert total_bytes(path) <= 1_000_000


def test_large_events_give_way_to_the_limit(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock, limit_bytes=1_000_000)
    history.start()
    for number in range(900):
        history.on_event(event(START + number, data={"long": "y" * 3900}))
    wait_until(lambda: not history.status().waiting, "written")
    assert history.troubles() == ()
    history.close()
    assert total_bytes(path) <= 1_000_000
    assert Archive(path).events()[-1].at == START + 899


def test_events_are_kept_found_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"

    def feed(history: History) -> None:
        history.on_event(event(START, about="exit:a", severity="warning", code="path-poor"))
        history.on_event(event(START + 1, about="exit:b", severity="info", code="started"))
        history.on_event(event(START + 2, about="exit:a", severity="info", code="path-good", over=True))
        history.on_event(event(START + 3, about="exit:a", text="x" * 5000, data={"long": "y" * 9000}))

    run_one(path, clock, feed)
    archive = Archive(path)
    assert [each.code for each in archive.events()] == ["path-poor", "started", "path-good", "path-dead"]
    assert [each.at for each in archive.events(since=START + 1.5)] == [START + 2, START + 3]
    assert [each.code for each in archive.events(about="exit:b")] == ["started"]
    assert [each.code for each in archive.events(least="warning")] == ["path-poor", "path-good", "path-dead"]
    assert [each.code for each in archive.events(limit=1)] == ["path-dead"]
    assert archive.events()[0].data == {"lost": 3}
    assert len(archive.events()[-1].text) == 1000
    assert archive.events()[-1].data == {"left_out": "9012 characters"}
    monkeypatch.setattr(database, "EVENTS_MOST", 2)
    base = Database.open(path, 2_000_000)
    base.prune(START)
    base.close()
    assert [each.code for each in archive.events()] == ["path-good", "path-dead"]


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(4096 * 2, len(data), 4096):
        data[place : place + 600] = os.urandom(600)
    path.write_bytes(data)


def damage_one_page(path: Path) -> None:
    """A page of old buckets, which nothing but a check would read today."""
    place = path.stat().st_size // 4096 // 2 * 4096
    with path.open("r+b") as file:
        file.seek(place)
        file.write(os.urandom(4096))


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096 + 100)


def damage_foreign(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is longer than a header of one hundred bytes" * 3)


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "somebody's").write_text("file")


def damage_other_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    sql.close()


def damage_newer(path: Path) -> None:
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()


def fill(history: History, clock: FakeClock) -> None:
    for _ in range(50):
        for number in range(40):
            history.on_sample(sample(f"target:{number}"))
        clock.sleep(10)
    history.keep("failover", {"at": "exit-a"})


DAMAGES = [
    damage_one_page,
    damage_middle,
    damage_cut,
    damage_foreign,
    damage_folder,
    damage_other_program,
    damage_newer,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    run_one(path, clock, lambda history: fill(history, clock))
    damage(path)
    history = History(path, clock=clock)
    history.start()
    history.on_sample(sample("exit:a"))
    (trouble,) = history.troubles()
    (aside,) = [each for each in tmp_path.glob("history.db.damaged-*") if not each.name.endswith("-wal")]
    assert trouble.about == "history damaged"
    assert str(aside) in trouble.hint
    if damage is damage_folder:
        assert (aside / "somebody's").read_text() == "file"
    history.close()
    assert [each.key for each in Archive(path).qualities(START, clock.wall + 60)] == ["exit:a"]


def test_damage_while_it_runs_keeps_what_this_run_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CACHE_KIB", 8)  # so that pages are read again at once
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    fill(history, clock)
    wait_until(lambda: not history.status().waiting, "written")
    # Another program writes into the middle of the open file: its pages and those of the WAL are garbage.
    for each in (path, companions(path)[0]):
        data = bytearray(each.read_bytes())
        data[100:] = os.urandom(max(0, len(data) - 100))
        with each.open("r+b") as file:
            file.write(data)
    with path.open("r+b") as file:
        file.write(b"\0" * 100)
    clock.sleep(10)
    history.on_sample(sample("exit:late"))
    history.on_event(event(code="path-dead", about="exit:late"))
    wait_until(lambda: not history.status().waiting and history.troubles(), "a new file", 15)
    history.keep("more", {"x": 1})
    history.close()
    later = History(path, clock=clock)
    later.start()
    document = later.kept("failover")
    assert document is not None
    assert document.value == {"at": "exit-a"}
    later.close()
    assert [each.about for each in Archive(path).events()] == ["exit:late"]


def test_a_trouble_ends_when_the_damaged_file_is_gone(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    path.write_bytes(b"garbage" * 100)
    history = History(path, clock=clock)
    history.start()
    assert history.troubles()
    for aside in tmp_path.glob("*.damaged-*"):
        aside.unlink()
    history.on_event(event())
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()


def test_few_damaged_files_are_kept(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    for number in range(ASIDES + 3):
        path.write_bytes(b"garbage %d" % number * 50)
        run_one(path, clock, lambda history: None)
    asides = sorted(tmp_path.glob("*.damaged-*"))
    assert len(asides) == ASIDES
    assert any(b"garbage %d" % (ASIDES + 2) in each.read_bytes() for each in asides), "the newest stays"


def test_a_removed_file_is_noticed(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    history.keep("failover", {"at": "exit-a"})
    history.on_event(event())
    wait_until(lambda: not history.status().waiting, "written")
    for each in (path, *companions(path)):
        each.unlink(missing_ok=True)
    history.on_event(event(START + 5, about="exit:b"))
    history.close()
    assert [each.about for each in Archive(path).events()] == ["exit:b"]
    later = History(path, clock=clock)
    later.start()
    assert later.kept("failover") is not None
    later.close()


def test_an_older_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    run_one(path, clock, lambda history: history.on_event(event()))
    monkeypatch.setattr(database, "VERSION", 2)
    monkeypatch.setattr(database, "MIGRATIONS", {1: ("ALTER TABLE documents ADD COLUMN more TEXT",)})
    base = Database.open(path, 2_000_000)
    base.close()
    with sqlite3.connect(path) as sql:
        assert sql.execute("PRAGMA user_version").fetchone() == (2,)
        assert sql.execute("SELECT count(more) FROM documents").fetchone() == (0,)
        assert sql.execute("SELECT count(*) FROM events").fetchone() == (1,)
    sql.close()


def test_a_folder_that_cannot_be_made_is_said_once_and_waited_for(tmp_path: Path) -> None:
    clock, blocker = FakeClock(START), tmp_path / "monitor"
    blocker.write_text("a file in the folder's place")
    history = History(blocker / "history.db", clock=clock, retry_s=0.1)
    history.start()
    history.on_sample(sample("exit:a"))
    history.on_event(event())
    (trouble,) = history.troubles()
    assert "cannot be written" in trouble.message
    assert not history.status().writing
    time.sleep(0.4)
    assert history.troubles() == (trouble,)
    blocker.unlink()
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()
    assert len(Archive(blocker / "history.db").events()) == 1


def test_a_history_that_somebody_else_holds_is_said_as_that(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    made = History(path, clock=FakeClock(START), retry_s=0.1)
    made.start()
    made.close()
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    history = History(path, clock=FakeClock(START), retry_s=0.1)
    history.start()
    history.on_event(event())
    wait_until(history.troubles, "it is said")
    assert "fuser -v" in history.troubles()[0].hint and "ls -ld" not in history.troubles()[0].hint
    held.close()
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsstack.monitor import history as module

    monkeypatch.setattr(module, "ROWS_MOST", 100)
    monkeypatch.setattr(module, "EVENTS_MOST", 10)
    clock, blocker = FakeClock(START), tmp_path / "monitor"
    blocker.write_text("")
    history = History(blocker / "history.db", clock=clock, retry_s=0.05)
    history.start()
    for number in range(30):
        for path in range(20):
            history.on_sample(sample(f"target:{path}"))
        history.on_event(event(START + number))
        clock.sleep(10)
    assert history.status().waiting <= 110
    wait_until(lambda: history.status().waiting <= 110, "bounded")
    assert history.status().dropped >= 29 * 20 - 100 + 20
    blocker.unlink()
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()
    assert [each.at for each in Archive(blocker / "history.db").events()][-1] == START + 29


def test_a_reader_and_the_writer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    history.on_event(event())
    wait_until(lambda: len(Archive(path).events()) == 1, "written")
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
    history.on_event(event(START + 1))
    wait_until(lambda: len(Archive(path).events()) == 2, "written beside a reader")
    assert history.troubles() == ()
    assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
    reader.close()
    history.close()
    assert len(Archive(path).events()) == 2


def test_without_a_history_the_reader_says_so(tmp_path: Path) -> None:
    with pytest.raises(TsstackError, match="there is no history"):
        Archive(tmp_path / "history.db").paths()
    (tmp_path / "history.db").write_bytes(b"garbage" * 100)
    with pytest.raises(TsstackError, match="cannot be read"):
        Archive(tmp_path / "history.db").paths()
    with pytest.raises(ValueError, match="point"):
        Archive(tmp_path / "history.db").series("x", 5, 5)


def test_the_file_is_for_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "monitor" / "history.db"
    run_one(path, FakeClock(START), lambda history: history.on_event(event()))
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    assert path.parent.stat().st_mode & 0o777 & ~0o750 == 0


def test_taking_in_a_sample_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is stuck in its transaction: the loop's side goes on at full speed."""
    clock, path = FakeClock(START), tmp_path / "history.db"
    history = History(path, clock=clock)
    history.start()
    history.on_event(event())
    wait_until(lambda: not history.status().waiting, "written")
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for _ in range(200):
        for number in range(10):
            history.on_sample(sample(f"target:{number}"))
        history.on_event(event())
        history.keep("failover", {"at": str(clock.wall)})
        clock.sleep(10)
    assert time.monotonic() - began < 1.5, "the busy writer waits 2 s for the lock"
    lock.execute("ROLLBACK")
    lock.close()
    history.close()


def test_the_memory_is_cheap_to_import() -> None:
    code = (
        "import sys, tsstack.monitor.history, tsstack.monitor.archive, tsstack.monitor.events;"
        "heavy = ('apprise', 'prometheus_client', 'pydantic', 'requests', 'asyncio');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
