"""Kills, signals and faults that nobody foresaw: the host is one generation all the same."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import ONE, TWO, Host, Killed

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, LockedError, RollbackFailed, UsageError
from tsstack.model.facts import Facts, Paths
from tsstack.switch import deadman
from tsstack.switch.generations import Store
from tsstack.switch.lock import host_lock
from tsstack.switch.record import OVER, Pending, clear_pending, read_pending, write_pending
from tsstack.switch.recovery import recover
from tsstack.switch.signals import Interrupted
from tsstack.switch.site import Site
from tsstack.switch.transaction import Mode, Wanted, confirm, prepare
from tsstack.switch.verbs import activate_boot, activate_firewall_early, roll_back
from tsstack.system.clock import SystemClock
from tsstack.system.command import Result
from tsstack.system.processes import process_start

ARM = deadman.arm  # before a fixture takes it away
NEW = {"firewall/table": "new\n", "proxy/conf": "new\n", "tailscale/prefs": "new\n"}
Patch = pytest.MonkeyPatch


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.switch(ONE)
    return host


@pytest.fixture
def no_dead_man(monkeypatch: Patch) -> None:
    for name in ("arm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)


def assert_as_before(host: Host) -> None:
    assert host.listing() == ONE
    assert (host.store.current(), host.store.boot()) == (1, 1)
    assert [each.number for each in host.store.list()] == [0, 1]
    assert read_pending(host.site.paths.state) is None


def assert_live(host: Host, listing: dict[str, str], number: int) -> None:
    assert host.listing() == listing
    assert (host.store.current(), host.store.boot()) == (number, number)


def reboot(host: Host) -> None:
    """What a reboot takes away of our own."""
    shutil.rmtree(host.site.paths.run, ignore_errors=True)


def numbered(host: Host) -> list[str]:
    return sorted(path.name for path in host.store.folder.iterdir() if path.name.isdigit())


@pytest.mark.parametrize("step", ["activate", "verify", "warnings"])
@pytest.mark.parametrize(
    "fault", [KeyError("x"), RuntimeError("boom"), UnicodeDecodeError("utf-8", b"", 0, 1, "?")]
)
def test_a_fault_that_nobody_foresaw_is_undone_too(
    host: Host, monkeypatch: Patch, step: str, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(host.parts[2], step, fail)
    with pytest.raises(ApplyFailed, match=f"{type(fault).__name__}.*rolled back to generation 1"):
        host.switch(NEW)
    assert_as_before(host)


def test_a_fault_in_one_restore_does_not_keep_the_others_from_theirs(host: Host, monkeypatch: Patch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("text")

    host.parts[2].fail_at.add("activate")
    with monkeypatch.context() as patch:
        patch.setattr(host.parts[2], "restore", fail)
        with pytest.raises(RollbackFailed, match="proxy: KeyError: 'text'"):
            host.switch(NEW)
        assert host.listing()["firewall/table"] == "one\n"
        assert "tailscale/prefs" not in host.listing()
    with host_lock(host.site.paths.state, host.clock):
        prepare(host.site)
    assert_as_before(host)


def test_an_undo_that_cannot_look_at_the_machine_says_so(host: Host) -> None:
    host.parts[2].fail_at.add("activate")

    def blind(_: Paths) -> Facts:
        raise CheckFailed("nginx -V does not answer")

    host.site = replace(host.site, gather=blind)
    with pytest.raises(RollbackFailed, match="nginx -V does not answer"):
        host.switch(NEW)
    assert read_pending(host.site.paths.state) is not None


def test_a_kill_between_the_boot_link_and_the_end_is_undone_wholly(host: Host, monkeypatch: Patch) -> None:
    def die(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("tsstack.switch.transaction.clear_pending", die)
        with pytest.raises(Killed):
            host.switch(NEW)
    assert host.store.boot() == 2
    with host_lock(host.site.paths.state, host.clock):
        prepare(host.site)
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
def test_a_kill_of_confirm_after_the_boot_link_is_undone_wholly(host: Host, monkeypatch: Patch) -> None:
    def die(_: Path) -> None:
        raise Killed

    host.switch(NEW, Mode(confirm_s=60))
    with monkeypatch.context() as patch:
        patch.setattr("tsstack.switch.transaction.clear_pending", die)
        with pytest.raises(Killed):
            confirm(host.site)
    host.clock.time_s += 61
    assert recover(host.site) is not None
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
@pytest.mark.parametrize("fault", [Killed, KeyError])
def test_what_is_half_undone_can_be_confirmed_no_more(
    host: Host, monkeypatch: Patch, fault: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise fault

    host.switch(NEW, Mode(confirm_s=60))
    with monkeypatch.context() as patch:
        patch.setattr(host.parts[1], "restore", fail)
        with pytest.raises((Killed, RollbackFailed)):
            roll_back(host.site, None, Mode())
    assert host.listing() != ONE
    with pytest.raises(CheckFailed, match="was undone before the confirmation came"):
        confirm(host.site)
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_not_end_an_undoing(host: Host, monkeypatch: Patch, number: signal.Signals) -> None:
    host.switch(NEW, Mode(confirm_s=60))
    restore = host.parts[1].restore

    def interrupted(*args: object) -> None:
        os.kill(os.getpid(), number)
        restore(*args)

    monkeypatch.setattr(host.parts[1], "restore", interrupted)
    # Without ours, SIGTERM and SIGHUP would end this very process.
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    roll_back(host.site, None, Mode())
    assert_as_before(host)
    after = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert before == after


@pytest.mark.usefixtures("no_dead_man")
def test_a_disk_that_takes_no_record_keeps_a_rollback_by_hand_from_beginning(
    host: Host, monkeypatch: Patch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    host.switch(NEW, Mode(confirm_s=60))
    monkeypatch.setattr("tsstack.switch.recovery.write_pending", full)
    with pytest.raises(CheckFailed, match="Read-only") as refused:
        roll_back(host.site, None, Mode())
    assert "nothing was undone" in refused.value.hint
    assert host.listing() == NEW
    # What nobody else can wait for goes on all the same.
    host.clock.time_s += 61
    assert recover(host.site) is not None
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
def test_a_full_disk_does_not_keep_a_change_from_being_undone(host: Host, monkeypatch: Patch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.switch(NEW, Mode(confirm_s=60))
    monkeypatch.setattr("tsstack.switch.recovery.write_pending", full)
    roll_back(host.site, None, Mode())
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
def test_what_was_half_undone_without_a_note_is_confirmed_no_more(host: Host, monkeypatch: Patch) -> None:
    """The disk took no record of the undoing, and one part could not be brought back."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    host.switch(NEW, Mode(confirm_s=60))
    with monkeypatch.context() as patch:
        patch.setattr("tsstack.switch.recovery.write_pending", broken)
        patch.setattr(host.parts[1], "restore", broken)
        with pytest.raises(RollbackFailed):
            recover(host.site, unguarded=True)
    with pytest.raises(CheckFailed, match="was undone before the confirmation came"):
        confirm(host.site)
    assert_as_before(host)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_check_leaves_nothing(
    host: Host, monkeypatch: Patch, number: signal.Signals
) -> None:
    monkeypatch.setattr(host.parts[0], "check", lambda *_: os.kill(os.getpid(), number))
    # Without ours, SIGTERM would end this very process.
    before = signal.signal(number, lambda *_: pytest.fail("the signal was not taken"))
    try:
        with pytest.raises(Interrupted):
            host.switch(NEW)
    finally:
        signal.signal(number, before)
    assert_as_before(host)


def test_what_has_not_passed_its_checks_has_no_number(host: Host, monkeypatch: Patch) -> None:
    """A kill during the check must leave nothing that `rollback` would take for an earlier generation."""
    seen: list[list[str]] = []
    monkeypatch.setattr(host.parts[0], "check", lambda *_: seen.append(numbered(host)))
    host.switch(NEW)
    assert seen == [["0", "1"]]
    assert numbered(host) == ["0", "1", "2"]


@pytest.mark.parametrize("moment", ["arm", "write_pending"])
def test_a_kill_before_anything_is_touched_leaves_no_number(
    host: Host, monkeypatch: Patch, moment: str
) -> None:
    """Looked at as the kill would find it: what Python tidies up after itself does not count."""
    seen: list[list[str]] = []

    def look(*_: object, **__: object) -> None:
        seen.append(numbered(host))
        raise Killed

    place = "tsstack.switch.deadman.arm" if moment == "arm" else "tsstack.switch.transaction.write_pending"
    monkeypatch.setattr(place, look)
    with pytest.raises(Killed):
        host.switch(NEW, Mode(confirm_s=60 if moment == "arm" else None))
    assert seen == [["0", "1"]]


def test_a_record_of_a_generation_that_has_no_number_yet_is_undone(host: Host, monkeypatch: Patch) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", die)
        with pytest.raises(Killed):
            host.switch(NEW)
    assert read_pending(host.site.paths.state) is not None
    with host_lock(host.site.paths.state, host.clock):
        prepare(host.site)
    assert_as_before(host)


def test_a_damaged_manifest_is_named(host: Host) -> None:
    (host.store.path(1) / "manifest.json").write_text("{torn")
    with pytest.raises(CheckFailed, match=r"1/manifest\.json is damaged"):
        host.store.list()


def test_a_signal_after_the_end_of_a_change_does_not_deny_it(host: Host, monkeypatch: Patch) -> None:
    def clear(state: Path) -> None:
        clear_pending(state)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("tsstack.switch.transaction.clear_pending", clear)
    assert host.switch(NEW).generation == 2
    assert host.listing() == NEW
    assert (host.store.current(), host.store.boot()) == (2, 2)


def test_an_end_that_cannot_be_made_durable_is_undone(host: Host, monkeypatch: Patch) -> None:
    def clear(state: Path) -> None:
        clear_pending(state)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("tsstack.switch.transaction.clear_pending", clear)
    with pytest.raises(ApplyFailed):
        host.switch(NEW)
    assert_as_before(host)


def test_a_second_signal_does_not_tear_the_undoing(host: Host, monkeypatch: Patch) -> None:
    def report(line: str) -> None:
        if line == "undo":
            os.kill(os.getpid(), signal.SIGINT)

    host.site = replace(host.site, report=report)
    monkeypatch.setattr(host.parts[2], "activate", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(ApplyFailed, match="interrupted by SIGINT"):
        host.switch(NEW)
    assert_as_before(host)


def test_what_the_tailnet_tells_may_concern_a_part_that_is_done(host: Host) -> None:
    """tailscaled's port is known once it has joined, and the firewall has to let it in."""
    rendered = [{**NEW, "firewall/table": "port 41641\n"}, {**NEW, "firewall/table": "port 7\n"}]
    wanted = Wanted(rendered[0], render=lambda _: (rendered[1], "digest"))
    outcome = host.switch({}, wanted=wanted)
    assert host.listing() == rendered[1] == host.store.tree(outcome.generation)
    assert numbered(host) == ["0", "1", str(outcome.generation)]


def test_a_number_that_is_given_again_brings_no_old_memory(host: Host) -> None:
    host.parts[2].fail_at.add("verify")

    def remember(line: str) -> None:
        if line == "undo":
            host.store.remember_inputs(2, "digest")

    host.site = replace(host.site, report=remember)
    with pytest.raises(ApplyFailed):
        host.switch(NEW)
    assert host.store.rendered_from(2) == ""


def test_a_kill_while_a_generation_is_dropped_leaves_no_half(host: Host, monkeypatch: Patch) -> None:
    host.switch(NEW)
    roll_back(host.site, 1, Mode())

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            host.store.drop(2)
    assert numbered(host) == ["0", "1"]
    host.store.prepare()
    assert sorted(path.name for path in host.store.folder.iterdir()) == ["0", "1"]


@pytest.mark.usefixtures("no_dead_man")
def test_what_an_unconfirmed_change_goes_back_to_is_not_pruned(host: Host) -> None:
    host.switch(TWO, Mode(boot=False))
    host.switch(NEW, Mode(confirm_s=60))
    assert (host.store.current(), host.store.boot()) == (3, 1)
    host.store.prune(0)
    assert numbered(host) == ["0", "1", "2", "3"]
    with pytest.raises(UsageError, match="in use"):
        host.store.drop(2)
    assert roll_back(host.site, None, Mode()).generation == 2
    assert host.listing() == TWO


@pytest.mark.parametrize(
    "record", [b"\xff\xfe", b"[]", json.dumps({"id": "x", "phase": "no", "target": 1}).encode()]
)
def test_a_damaged_record_stops_everything_but_the_early_firewall(host: Host, record: bytes) -> None:
    (host.site.paths.state / "pending.json").write_bytes(record)
    with pytest.raises(RollbackFailed, match="cannot be understood"):
        host.switch(TWO)
    host.journal.clear()
    assert activate_firewall_early(host.site)[0] == 1
    assert host.journal == ["activate firewall"]


@pytest.mark.usefixtures("no_dead_man")
def test_the_early_firewall_is_the_boot_generations(host: Host) -> None:
    """Not that of a generation which was live for a test when the unconfirmed change was made."""
    host.switch({**TWO, "firewall/table": "for a test\n"}, Mode(boot=False))
    host.switch(NEW, Mode(confirm_s=60))
    assert activate_firewall_early(host.site)[0] == 1
    assert host.listing()["firewall/table"] == "one\n"


def test_a_time_that_is_over_before_the_record_is_written_changes_nothing(
    host: Host, monkeypatch: Patch
) -> None:
    """The dead man found no record and went home: nobody would undo the change."""

    def slow(*_: object, **__: object) -> None:
        host.clock.time_s += 2

    monkeypatch.setattr("tsstack.switch.deadman.arm", slow)
    host.journal.clear()
    with pytest.raises(CheckFailed, match="time to confirm"):
        host.switch(NEW, Mode(confirm_s=1))
    assert "activate firewall" not in host.journal
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
def test_a_record_so_late_that_the_dead_man_may_be_gone_changes_nothing(
    host: Host, monkeypatch: Patch
) -> None:
    """The host slept between the two: he has found nothing to guard."""

    def late(state: Path, pending: Pending) -> None:
        host.clock.time_s += deadman.RECORD_S
        write_pending(state, pending)

    monkeypatch.setattr("tsstack.switch.transaction.write_pending", late)
    host.journal.clear()
    with pytest.raises(CheckFailed, match="stood still"):
        host.switch(NEW, Mode(confirm_s=3600))
    assert "activate firewall" not in host.journal
    assert_as_before(host)


@pytest.mark.usefixtures("no_dead_man")
def test_slow_checks_do_not_eat_the_time_to_confirm(host: Host, monkeypatch: Patch) -> None:
    def slow(*_: object) -> None:
        host.clock.time_s += 30

    monkeypatch.setattr(host.parts[0], "check", slow)
    outcome = host.switch(NEW, Mode(confirm_s=10))
    assert outcome.deadline_s == host.clock.time_s + 10


def test_daemons_that_are_not_root_pass_whatever_the_operators_umask(tmp_path: Path) -> None:
    """nginx's workers reach the identity daemon's socket through these folders."""
    host = Host(tmp_path)
    before = os.umask(0o077)
    try:
        host.switch(ONE)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    state, live = host.site.paths.state, host.live
    modes = {path.stat().st_mode & 0o777 for path in (state, state / "generations" / "1", live / "proxy")}
    assert modes == {0o755}
    assert (state / "lock").stat().st_mode & 0o777 == 0o600


class TestBoot:
    """The live state is gone, the disk is as it was."""

    @pytest.mark.parametrize("step", ["observe", "activate", "verify"])
    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_a_part_that_does_not_come_up_takes_no_other_down(
        self, host: Host, monkeypatch: Patch, part: int, step: str
    ) -> None:
        def fail(*_: object) -> None:
            raise CheckFailed("no uplink yet")

        host.switch(NEW)
        shutil.rmtree(host.live)
        victim = host.parts[part]
        with monkeypatch.context() as patch:
            patch.setattr(victim, step, fail)
            with pytest.raises(RollbackFailed, match=f"not wholly: {victim.name}: no uplink yet") as failure:
                activate_boot(host.site)
        assert failure.value.exit_code == 6
        others = {path: text for path, text in NEW.items() if not path.startswith(victim.name)}
        assert {path: host.listing().get(path) for path in others} == others
        outcome, _ = activate_boot(host.site)
        assert outcome.generation == 2
        assert host.listing() == NEW

    def test_what_was_live_for_a_test_gives_way(self, host: Host) -> None:
        host.switch(TWO, Mode(boot=False))
        reboot(host)
        activate_boot(host.site)
        assert_live(host, ONE, 1)

    @pytest.mark.usefixtures("no_dead_man")
    @pytest.mark.parametrize("mode", [Mode(boot=False), Mode(confirm_s=60)])
    def test_a_retry_of_the_boot_leaves_what_somebody_switched_to_since(
        self, host: Host, monkeypatch: Patch, mode: Mode
    ) -> None:
        monkeypatch.setattr("tsstack.switch.boot.stands", lambda *_: True)
        reboot(host)
        host.parts[0].fail_at.add("verify")
        with pytest.raises(RollbackFailed):
            activate_boot(host.site)
        host.parts[0].fail_at.clear()
        host.switch(NEW, mode)
        shutil.rmtree(host.live)
        if mode.confirm_s:  # it may be undone, and what could not come up would be there again
            with pytest.raises(RollbackFailed, match="a change waits for its confirmation"):
                activate_boot(host.site)
        else:
            activate_boot(host.site)  # by Restart=on-failure
        assert host.listing() == NEW
        assert (host.store.current(), host.store.boot()) == (2, 1)
        if mode.confirm_s:
            assert confirm(host.site) == 2

    @pytest.mark.usefixtures("no_dead_man")
    def test_a_boot_that_has_kept_run_undoes_what_nobody_guards(self, host: Host) -> None:
        """systemctl(1), soft-reboot: the mark of the boot before is there, and the dead man is not."""
        host.switch(NEW, Mode(confirm_s=60))
        _, said = activate_boot(host.site)
        assert "its dead man was gone" in said
        assert_as_before(host)

    @pytest.mark.parametrize("told_by", ["process_start", "_userspace"])
    def test_a_container_that_is_started_anew_gives_up_what_was_tested(
        self, host: Host, monkeypatch: Patch, told_by: str
    ) -> None:
        """It may keep /run, and the machine's boot id is as before; so does a soft-reboot."""
        monkeypatch.setattr(f"tsstack.switch.begun.{told_by}", lambda *_: "one")
        host.switch(TWO, Mode(boot=False))
        monkeypatch.setattr(f"tsstack.switch.begun.{told_by}", lambda *_: "another")
        activate_boot(host.site)
        assert_live(host, ONE, 1)

    @pytest.mark.parametrize("told_by", ["process_start", "_userspace"])
    @pytest.mark.parametrize("words", [("one", ""), ("", "one")])
    def test_what_is_not_known_makes_no_other_boot(
        self, host: Host, monkeypatch: Patch, told_by: str, words: tuple[str, str]
    ) -> None:
        """The unit may not look at process 1 behind hidepid=1,gid=; and systemd may be slow once."""
        (host.site.paths.run / "begun").unlink()
        monkeypatch.setattr(f"tsstack.switch.begun.{told_by}", lambda *_: words[0])
        host.switch(TWO, Mode(boot=False))
        monkeypatch.setattr(f"tsstack.switch.begun.{told_by}", lambda *_: words[1])
        activate_boot(host.site)
        assert (host.store.current(), host.store.boot()) == (2, 1)

    def test_what_was_known_once_is_not_forgotten(self, host: Host, monkeypatch: Patch) -> None:
        """A systemd that is slow during a switch makes no later soft-reboot look like this boot."""
        for word in ("one", ""):
            monkeypatch.setattr("tsstack.switch.begun._userspace", lambda word=word: word)
            host.switch(TWO if word else ONE, Mode(boot=False))
        host.switch(TWO, Mode(boot=False))
        monkeypatch.setattr("tsstack.switch.begun._userspace", lambda: "another")
        activate_boot(host.site)
        assert_live(host, ONE, 1)

    def test_a_systemd_that_hangs_keeps_no_host_down(self, host: Host, monkeypatch: Patch) -> None:
        def hang(*_: object, **__: object) -> None:
            raise CommandFailed("systemctl did not end", returncode=-1, stderr="")

        reboot(host)
        monkeypatch.setattr("tsstack.switch.begun.run", hang)
        monkeypatch.setattr("tsstack.switch.begun.Path", lambda _: host.site.paths.state)
        activate_boot(host.site)
        assert_live(host, ONE, 1)
        host.switch(TWO)
        assert_live(host, TWO, 2)

    def test_the_early_firewall_by_hand_makes_no_boot_of_a_host_that_is_up(self, host: Host) -> None:
        host.switch(TWO, Mode(boot=False))
        activate_firewall_early(host.site)
        activate_boot(host.site)
        assert (host.store.current(), host.store.boot()) == (2, 1)

    def test_a_command_that_was_refused_before_the_boot_unit_ran_changes_nothing_of_it(
        self, host: Host
    ) -> None:
        host.switch(TWO, Mode(boot=False))
        reboot(host)
        host.parts[0].fail_at.add("check")
        with pytest.raises(CheckFailed):
            host.switch(NEW)
        activate_boot(host.site)
        assert_live(host, ONE, 1)

    @pytest.mark.usefixtures("no_dead_man")
    @pytest.mark.parametrize("fault", ["restore", "record"])
    def test_what_cannot_be_undone_keeps_no_host_down(self, host: Host, fault: str) -> None:
        host.switch(NEW, Mode(confirm_s=60))
        shutil.rmtree(host.live)
        if fault == "restore":
            host.parts[2].fail_at.add("restore")
        else:
            (host.site.paths.state / "pending.json").write_text("{")
        reboot(host)
        with pytest.raises(RollbackFailed, match="the change that was pending"):
            activate_boot(host.site)
        assert_live(host, ONE, 1)


class TestDeadMan:
    @pytest.fixture
    def pending(self, host: Host, no_dead_man: None) -> Pending:
        host.switch(NEW, Mode(confirm_s=60))
        pending = read_pending(host.site.paths.state)
        assert pending is not None
        return pending

    def test_it_waits_for_a_lock_that_is_kept(self, host: Host, pending: Pending, monkeypatch: Patch) -> None:
        free_s = host.clock.time_s + 300

        def later(duration_s: float) -> None:
            host.clock.time_s += duration_s
            if host.clock.time_s > free_s:
                lock.__exit__(None, None, None)

        lock = host_lock(host.site.paths.state, host.clock)
        lock.__enter__()
        monkeypatch.setattr(host.clock, "sleep", later)
        assert pending.deadline_s is not None
        assert "undone" in deadman.watch(host.site, pending.id, pending.deadline_s)
        assert_as_before(host)

    def test_it_tries_again_what_could_not_be_brought_back(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        host.parts[0].fail_at.add("restore")

        def sleep(duration_s: float) -> None:
            host.clock.time_s += duration_s
            if host.clock.time_s > 1200:
                host.parts[0].fail_at.clear()

        monkeypatch.setattr(host.clock, "sleep", sleep)
        assert pending.deadline_s is not None
        assert "undone" in deadman.watch(host.site, pending.id, pending.deadline_s)
        assert_as_before(host)

    @pytest.mark.parametrize("comes", ["stands", "is done before anybody looks", "never", "not even started"])
    def test_what_fails_behind_walls_is_handed_over_to_one_who_stands_or_tried_on(
        self, host: Host, pending: Pending, monkeypatch: Patch, comes: str
    ) -> None:
        host.parts[0].fail_at.add("restore")
        paths, ran, began_s = host.site.paths, [], host.clock.time_s

        def run(argv: list[str], **_: object) -> None:
            ran.append([word for word in argv if "tsstack-deadman-" in word] + argv[:2])
            if argv[0] != "systemd-run":
                host.parts[0].fail_at.clear()  # what was in the way is gone meanwhile
                return
            assert "--walled" not in argv
            if comes == "stands":
                other = os.getppid()
                paths.run.mkdir(exist_ok=True)
                (paths.run / f"deadman-{pending.id}.ready").write_text(f"{other} {process_start(other)}\n")
            elif comes == "is done before anybody looks":
                host.parts[0].fail_at.clear()
                with host_lock(paths.state, host.clock):
                    recover(host.site)
            elif comes == "not even started":
                host.parts[0].fail_at.clear()
                raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr("tsstack.system.command.run", run)
        assert pending.deadline_s is not None
        said = deadman.watch(host.site, pending.id, pending.deadline_s, walled=True)
        bare = f"tsstack-deadman-{pending.id}-bare"
        assert ran[0] == [f"--unit={bare}", "systemd-run", "--collect"]
        assert ran[1:] == ([[bare, "systemctl", "stop"]] if comes == "never" else [])
        if comes == "stands":
            assert "one without walls goes on" in said
            assert read_pending(paths.state) is not None, "he finds what is left to do"
        else:
            assert_as_before(host)
        assert host.clock.time_s - began_s < 120

    @pytest.mark.parametrize("needs_s", [25, 50, 400])
    def test_a_successor_on_a_slow_machine_is_given_more_time_at_each_try(
        self, host: Host, pending: Pending, monkeypatch: Patch, needs_s: float
    ) -> None:
        host.parts[0].fail_at.add("restore")
        ready = host.site.paths.run / f"deadman-{pending.id}.ready"
        up_s = [0.0]

        def run(argv: list[str], **_: object) -> None:
            up_s[0] = host.clock.time_s + (needs_s if argv[0] == "systemd-run" else 1e9)

        def sleep(duration_s: float) -> None:
            host.clock.time_s += duration_s
            if up_s[0] and host.clock.time_s >= up_s[0]:
                ready.write_text(f"{os.getppid()} {process_start(os.getppid())}\n")

        ready.parent.mkdir(exist_ok=True)
        monkeypatch.setattr("tsstack.system.command.run", run)
        monkeypatch.setattr(host.clock, "sleep", sleep)
        assert pending.deadline_s is not None
        said = deadman.watch(host.site, pending.id, pending.deadline_s, walled=True)
        assert "one without walls goes on" in said
        assert host.clock.time_s - pending.deadline_s < 4 * needs_s + 120

    def test_a_successor_whom_another_try_started_is_judged_again(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        """Who cannot come up is sent home, too, where nobody could tell at first what he was doing."""
        host.parts[0].fail_at.add("restore")
        ran: list[str] = []

        def run(argv: list[str], **_: object) -> Result:
            ran.append(" ".join(argv[:2]))
            if argv[:2] == ["systemctl", "stop"]:
                host.parts[0].fail_at.clear()
            if argv[0] == "systemd-run":
                raise CommandFailed("Unit was already loaded", returncode=1, stderr="")
            return Result(0, "activating\n", "")

        monkeypatch.setattr("tsstack.system.command.run", run)
        assert pending.deadline_s is not None
        assert "undone" in deadman.watch(host.site, pending.id, pending.deadline_s, walled=True)
        assert "systemctl stop" in ran

    @pytest.mark.parametrize("kept", ["nothing", "another change"])
    def test_he_whose_change_never_came_goes_home_early(
        self, host: Host, pending: Pending, kept: str
    ) -> None:
        """Its command was killed, or gave him up, between arming him and the record."""
        if kept == "nothing":
            clear_pending(host.site.paths.state)
        began_s, deadline_s = host.clock.time_s, host.clock.time_s + 3600
        assert "nothing to do" in deadman.watch(host.site, "never came", deadline_s)
        assert 30 < host.clock.time_s - began_s < 120
        assert (read_pending(host.site.paths.state) is None) is (kept == "nothing")

    def test_he_stays_while_a_record_is_being_cleared_that_the_disk_then_keeps(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        """It is moved away until that is durable, and back where it is not; the lock is held meanwhile."""
        paths = host.site.paths
        record = paths.state / "pending.json"
        gone_s, back_s = host.clock.time_s + 40, host.clock.time_s + 90
        clearing = contextlib.ExitStack()

        def sleep(duration_s: float) -> None:
            host.clock.time_s += duration_s
            if record.exists() and gone_s < host.clock.time_s < back_s:
                clearing.enter_context(host_lock(paths.state, host.clock))
                record.rename(paths.state / OVER)
            elif host.clock.time_s >= back_s and not record.exists() and (paths.state / OVER).exists():
                (paths.state / OVER).rename(record)
                clearing.close()

        monkeypatch.setattr(host.clock, "sleep", sleep)
        assert "undone" in deadman.watch(host.site, pending.id, host.clock.time_s + 300)
        assert_as_before(host)

    def test_he_waits_to_the_deadline_over_a_record_that_cannot_be_read(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        def fail(_: Path) -> Pending:
            raise OSError(errno.EIO, "Input/output error")

        def sleep(duration_s: float) -> None:
            host.clock.time_s += duration_s
            if host.clock.time_s > until_s:
                broken.undo()

        assert pending.deadline_s is not None
        until_s = pending.deadline_s + 600
        broken = pytest.MonkeyPatch()
        broken.setattr(deadman, "read_pending", fail)
        monkeypatch.setattr(host.clock, "sleep", sleep)
        assert "undone" in deadman.watch(host.site, pending.id, pending.deadline_s + 300)
        assert_as_before(host)

    def test_who_comes_up_too_late_is_sent_home(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        ran: list[list[str]] = []
        monkeypatch.setattr("tsstack.system.command.run", lambda argv, **_: ran.append([*argv]))
        with pytest.raises(CheckFailed, match="did not come up"):
            ARM(host.site, pending, systemd=True)
        started = [
            word.removeprefix("--unit=") for argv in ran for word in argv if word.startswith("--unit=")
        ]
        assert started == [f"tsstack-deadman-{pending.id}", f"tsstack-deadman-{pending.id}-bare"]
        assert [argv[2] for argv in ran if argv[:2] == ["systemctl", "stop"]] == started

    def test_an_interrupt_while_he_is_armed_ends_the_switch(
        self, host: Host, pending: Pending, monkeypatch: Patch
    ) -> None:
        """It is no reason to go on with one who stands without walls. (The fixture takes `arm` away.)"""
        started: list[str] = []

        def start(name: str, *_: object) -> None:
            started.append(name)
            raise Interrupted("interrupted by SIGINT")

        monkeypatch.setattr(deadman, "_start_unit", start)
        with pytest.raises(Interrupted):
            ARM(host.site, pending, systemd=True)
        assert len(started) == 1


def test_the_folder_that_one_stands_in_gives_the_dead_man_no_code(tmp_path: Path, monkeypatch: Patch) -> None:
    """python(1): -m puts the working folder first on the module path, and that may be anybody's."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "argparse.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    monkeypatch.chdir(trap)
    clock = SystemClock()
    site = Site(Paths(tmp_path, tmp_path / "state", tmp_path / "run", tmp_path / "none"), parts=())
    pending = Pending("trap", "activating", 1, False, True, 0, deadline_s=clock.now_s() + 60)
    try:
        deadman.arm(site, pending, systemd=False)
    except CheckFailed as error:
        pytest.fail(str(error))
    finally:
        deadman.disarm(site, pending.id)
    assert not (tmp_path / "sprung").exists()


def test_a_change_over_which_nobody_stands_guard_any_more_is_undone(host: Host, monkeypatch: Patch) -> None:
    """The dead man was killed after he was armed: a confirmation that nobody waits for is no safety."""

    def arm_one_that_dies(site: Site, pending: Pending, **_: object) -> None:
        site.paths.run.mkdir(parents=True, exist_ok=True)
        (site.paths.run / f"deadman-{pending.id}.ready").write_text(f"{os.getpid()} 1\n")  # another start

    monkeypatch.setattr("tsstack.switch.deadman.arm", arm_one_that_dies)
    with pytest.raises(ApplyFailed, match="the dead man is gone"):
        host.switch(TWO, Mode(confirm_s=60))
    assert_as_before(host)
    assert read_pending(host.site.paths.state) is None


def test_trouble_of_the_machine_while_a_stage_is_judged_changes_nothing(host: Host) -> None:
    """An OSError of the guard or the proof is a refusal (4), no failure that nobody understands (1)."""

    def guard(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(CheckFailed, match="could not be judged"):
        host.switch(TWO, guard=guard)
    assert_as_before(host)


def test_a_disk_that_does_not_take_the_reserve_is_a_refusal(host: Host, monkeypatch: Patch) -> None:
    (host.site.paths.state / "reserve").unlink()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tsstack.switch.record.write_durably", read_only)
    with pytest.raises(CheckFailed, match="reserve cannot be written: Read-only"):
        host.switch(TWO)
    assert_as_before(host)


def test_a_record_that_is_cleared_for_good_is_not_undone(host: Host, monkeypatch: Patch) -> None:
    """The disk fails right after the clearing is durable: an undoing would leave the host between two."""
    unlink = Path.unlink

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.name == OVER:
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fail)
    assert host.switch(TWO).generation == 2
    assert host.listing() == TWO
    assert read_pending(host.site.paths.state) is None


def test_a_machine_that_cannot_be_looked_at_is_a_refusal(tmp_path: Path) -> None:
    def gather(_: Paths) -> Facts:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(CheckFailed, match=r"cannot be looked at: .*Too many open files"):
        Site(paths=Paths(state=tmp_path), gather=gather).facts()


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path, monkeypatch: Patch) -> None:
    """The holder's pid is a courtesy; an undoing must not fail for it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with host_lock(tmp_path, SystemClock()):
            pass
    with (
        host_lock(tmp_path, SystemClock()),
        pytest.raises(LockedError, match=rf"\(pid {os.getpid()}\)"),
        host_lock(tmp_path, SystemClock()),
    ):
        pass
