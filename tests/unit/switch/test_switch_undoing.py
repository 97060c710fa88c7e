"""An undoing that is cut off: what it undid had waited for its confirmation, and that is kept in mind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import ONE, Host, Killed

from tsstack.errors import CheckFailed
from tsstack.switch import deadman
from tsstack.switch.lock import host_lock
from tsstack.switch.record import Pending, read_pending, write_pending
from tsstack.switch.recovery import recover
from tsstack.switch.transaction import Mode, Wanted
from tsstack.switch.undone import last_undone, refuse_undone
from tsstack.switch.verbs import roll_back
from tsstack.system.processes import process_start

NEW = {"firewall/table": "new\n", "proxy/conf": "new\n", "tailscale/prefs": "new\n"}
FILE = b"host: {name: new}\n"
Patch = pytest.MonkeyPatch


@pytest.fixture
def host(tmp_path: Path, monkeypatch: Patch) -> Host:
    """A change waits for its confirmation, and nobody stands guard."""
    for name in ("arm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)
    host = Host(tmp_path)
    host.switch(ONE)
    host.switch(NEW, Mode(confirm_s=60), wanted=Wanted(NEW, FILE))
    return host


def waiting(host: Host) -> Pending:
    pending = read_pending(host.site.paths.state)
    assert pending is not None
    return pending


def cut_off(host: Host, monkeypatch: Patch) -> None:
    """The deadline has passed, and whoever undoes it is killed half-way."""

    def die(*_: object) -> None:
        raise Killed

    host.clock.time_s += 61
    with monkeypatch.context() as patch:
        patch.setattr(host.parts[1], "restore", die)
        with host_lock(host.site.paths.state, host.clock), pytest.raises(Killed):
            recover(host.site)
    assert host.listing() != ONE


def assert_remembered(host: Host) -> None:
    assert host.listing() == ONE
    assert last_undone(host.site).by_itself
    with pytest.raises(CheckFailed, match="was not confirmed and was undone"):
        refuse_undone(host.site, FILE)


def test_no_unit_tries_the_file_again(host: Host, monkeypatch: Patch) -> None:
    cut_off(host, monkeypatch)
    with host_lock(host.site.paths.state, host.clock):
        done = recover(host.site, booting=True)
    assert done is not None
    assert done.reason == "it was not confirmed in time"
    assert_remembered(host)


def test_the_dead_man_ends_what_was_cut_off(host: Host, monkeypatch: Patch) -> None:
    change = waiting(host).id
    cut_off(host, monkeypatch)
    assert "was undone" in deadman.watch(host.site, change, host.clock.now_s())
    assert_remembered(host)


def test_whoever_comes_too_late_goes_no_further_back(host: Host, monkeypatch: Patch) -> None:
    cut_off(host, monkeypatch)
    with host_lock(host.site.paths.state, host.clock):
        recover(host.site)
    with pytest.raises(CheckFailed, match="generation 1 is live, and nothing was changed"):
        roll_back(host.site, None, Mode())


@pytest.mark.parametrize("confirm_s", [None, 60])
@pytest.mark.parametrize("by", ["the dead man", "the next command", "a boot"])
def test_a_change_whose_command_died_is_no_reason_to_go_further_back(
    tmp_path: Path, monkeypatch: Patch, confirm_s: int | None, by: str
) -> None:
    """Whoever comes in then and types `rollback` would be on a host without a firewall."""
    for name in ("arm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)
    host = Host(tmp_path)
    host.switch(ONE)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(host.parts[1], "activate", die)
        with pytest.raises(Killed):
            host.switch(NEW, Mode(confirm_s=confirm_s))
    pending = waiting(host)
    assert pending.phase == "activating"
    if by == "the dead man":
        assert "was undone" in deadman.watch(host.site, pending.id, host.clock.now_s())
    else:
        with host_lock(host.site.paths.state, host.clock):
            assert recover(host.site, booting=by == "a boot") is not None
    assert host.listing() == ONE
    with pytest.raises(CheckFailed, match="generation 1 is live, and nothing was changed"):
        roll_back(host.site, None, Mode())
    assert host.listing() == ONE
    roll_back(host.site, 0, Mode())
    assert host.listing() == {}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(("takes_s", "ended"), [(5.0, False), (600.0, True)])
def test_the_dead_man_gives_time_to_who_undoes_it(
    host: Host, monkeypatch: Patch, worker: subprocess.Popen[bytes], takes_s: float, ended: bool
) -> None:
    """A `tsstack rollback` that is at it when the deadline passes; not one that hangs."""
    pending = waiting(host)
    at_it = {"holder_pid": worker.pid, "holder_start": process_start(worker.pid)}
    write_pending(host.site.paths.state, replace(pending, phase="activating", waited=True, **at_it))
    lock = host_lock(host.site.paths.state, host.clock)
    lock.__enter__()
    host.clock.time_s += 61
    free_s, kept = host.clock.time_s + takes_s, True

    def sleep(duration_s: float) -> None:
        nonlocal kept
        host.clock.time_s += duration_s
        if kept and (host.clock.time_s > free_s or worker.poll() is not None):
            kept = False
            lock.__exit__(None, None, None)

    monkeypatch.setattr(host.clock, "sleep", sleep)
    deadman.watch(host.site, pending.id, pending.deadline_s or 0.0)
    assert (worker.poll() is not None) is ended
    assert_remembered(host)
