"""Ending the identity daemon, on real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
