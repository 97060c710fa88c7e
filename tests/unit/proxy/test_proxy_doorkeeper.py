"""Ending the identity daemon, on real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsstack.errors import ApplyFailed
from tsstack.model.facts import Facts, Paths
from tsstack.parts.proxy import doorkeeper


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def started(run: Path, pid: int) -> Facts:
    """A host on which `pid` is on record as the daemon."""
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    (run / "identity.state").write_text(json.dumps({"pid": pid, "start": start, "stamp": ""}))
    return Facts(systemd=False, paths=Paths(run=run))


def test_a_daemon_that_ends_by_itself_just_before_it_is_told_to_is_ended(
    process: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, kill = started(tmp_path, process.pid), os.kill

    def too_late(pid: int, number: int) -> None:
        kill(pid, signal.SIGKILL)
        process.wait()
        kill(pid, number)

    monkeypatch.setattr(os, "kill", too_late)
    doorkeeper.ensure_stopped(facts)
    assert not doorkeeper.was_started(facts)


def test_a_process_that_took_over_the_pid_is_let_alone(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    facts = started(tmp_path, process.pid)
    state = tmp_path / "identity.state"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"start": "1"}))
    doorkeeper.ensure_stopped(facts)
    assert process.poll() is None
    assert not doorkeeper.was_started(facts)


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[Facts]:
    """A host on which a daemon of our own may be started."""
    generation = tmp_path / "state" / "generations" / "1" / "nginx"
    generation.mkdir(parents=True)
    (generation / "identity.json").write_text("{}")
    (tmp_path / "state" / "current").symlink_to("generations/1")
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path, tmp_path / "none", tmp_path)
    facts = Facts(systemd=False, paths=paths)
    yield facts
    doorkeeper.ensure_stopped(facts)


def test_one_of_whom_the_disk_takes_no_note_runs_and_is_known_to_whoever_started_it(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undoing that is tried again would start another one each time."""
    run, started = facts.paths.run, []
    start = doorkeeper.start
    monkeypatch.setattr(
        doorkeeper, "start", lambda *how, **more: started.append(start(*how, **more)) or started[-1]
    )
    (run / f".identity.state.{os.getpid()}.new").mkdir()  # in the way of the note
    doorkeeper.ensure_running(facts)
    doorkeeper.ensure_running(facts)
    assert len(started) == 1
    assert doorkeeper.is_running(facts)
    assert not (run / "identity.state").exists()
    (run / f".identity.state.{os.getpid()}.new").rmdir()
    doorkeeper.ensure_running(facts)
    assert json.loads((run / "identity.state").read_text())["pid"] == started[0], "now there is room"
    doorkeeper.ensure_stopped(facts)
    assert not doorkeeper.is_running(facts)
    assert not Path(f"/proc/{started[0]}").exists() or "Z" in Path(f"/proc/{started[0]}/stat").read_text()


def test_one_that_runs_is_not_started_anew_while_the_package_is_gone(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorkeeper.ensure_running(facts)
    monkeypatch.setattr(doorkeeper, "_CODE", ("gone.py",))
    assert doorkeeper.is_running(facts)
    doorkeeper.ensure_stopped(facts)
    assert not doorkeeper.is_running(facts)


def test_one_that_hangs_is_not_ended_for_another_that_cannot_start(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorkeeper.ensure_running(facts)
    pid = json.loads((facts.paths.run / "identity.state").read_text())["pid"]
    started: list[object] = []
    with monkeypatch.context() as gone:
        gone.setattr(doorkeeper, "_CODE", ("gone.py",))
        gone.setattr(doorkeeper, "_answers", lambda _: False)
        gone.setattr(doorkeeper, "start", lambda *how, **_: started.append(how))
        with pytest.raises(ApplyFailed, match="cannot be started"):
            doorkeeper.ensure_running(facts)
    assert started == []
    assert doorkeeper.is_running(facts)
    assert json.loads((facts.paths.run / "identity.state").read_text())["pid"] == pid
