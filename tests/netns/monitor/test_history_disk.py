"""The memory on real file systems that are full or read-only: measuring goes on, and it says so once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_clock import FakeClock

from tsstack.monitor.archive import Archive
from tsstack.monitor.history import History
from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event

pytestmark = pytest.mark.netns
START = 1_800_000_000.0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=750", "tsstack-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def wait_until(done, what: str, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def feed(history: History, clock: FakeClock, seconds: int, paths: int = 20) -> None:
    for _ in range(seconds // 10):
        for path in range(paths):
            for number in range(5):
                history.on_sample(Sample(f"target:{path}", "icmp", 0.0, 0.01 * (number + 1)))
        clock.sleep(10)


def sent(folder: Path) -> int:
    return sum(
        each.quality.sent for each in Archive(folder / "history.db").qualities(START - 60, START + 9e5)
    )


def test_a_full_disk_is_said_once_and_nothing_is_lost_when_there_is_room_again(small: Path) -> None:
    clock = FakeClock(START)
    history = History(small / "history.db", clock=clock, retry_s=0.1)
    history.start()
    feed(history, clock, 60)
    wait_until(lambda: not history.status().waiting, "written while there is room")
    ballast = small / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as full:
            assert full.errno == 28
    feed(history, clock, 900)
    history.on_event(Event(clock.wall, "path-dead", "critical", "exit:a", "no answer", {}))
    wait_until(lambda: bool(history.troubles()), "said")
    (trouble,) = history.troubles()
    assert "full" in trouble.message
    assert str(small) in trouble.hint
    assert not history.status().writing
    assert history.status().waiting > 100
    feed(history, clock, 60)
    time.sleep(0.5)
    assert history.troubles() == (trouble,), "once, not at each try"
    ballast.unlink()
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()
    assert history.status().dropped == 0
    assert sent(small) == 20 * 5 * (60 + 900 + 60) // 10
    assert [each.about for each in Archive(small / "history.db").events()] == ["exit:a"]


def test_a_disk_that_is_full_from_the_start_is_waited_for(small: Path) -> None:
    ballast = small / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as full:
            assert full.errno == 28
    clock = FakeClock(START)
    history = History(small / "history.db", clock=clock, retry_s=0.1)
    history.start()
    history.keep("failover", {"at": "exit-a"})
    feed(history, clock, 60)
    wait_until(lambda: bool(history.troubles()), "said")
    assert not list(small.glob("*.damaged-*")), "full is not damaged"
    ballast.unlink()
    wait_until(lambda: not history.troubles(), "it is over")
    history.close()
    assert not list(small.glob("*.damaged-*")), "nor was it when there was room again"
    assert sent(small) == 20 * 5 * 6


def test_a_limit_above_the_disk_ends_in_a_trouble_and_a_whole_file(small: Path) -> None:
    """Nobody makes room: the history grows into the wall. It stays readable, the newest wait in memory."""
    clock = FakeClock(START)
    history = History(small / "history.db", clock=clock, retry_s=0.1)
    history.start()
    for _ in range(40):
        feed(history, clock, 600)
        if history.troubles():
            break
        time.sleep(0.3)
    assert history.troubles()
    assert sent(small) > 0
    history.close()
    assert not list(small.glob("*.damaged-*"))


def test_a_read_only_file_system_is_said_once_and_left_when_it_is_over(small: Path) -> None:
    clock = FakeClock(START)
    history = History(small / "history.db", clock=clock, retry_s=0.1)
    history.start()
    feed(history, clock, 60)
    history.close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    later = History(small / "history.db", clock=clock, retry_s=0.1)
    later.start()
    feed(later, clock, 60)
    (trouble,) = later.troubles()
    assert trouble.about == "history"
    assert "writable" in trouble.hint
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    wait_until(lambda: not later.troubles(), "it is over")
    later.close()
    assert sent(small) == 20 * 5 * 12
