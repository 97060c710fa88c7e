"""A change of the host is whole or it is undone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import ONE, TWO, Host, Killed

from tsstack.errors import ApplyFailed, CheckFailed, LockedError, RollbackFailed, UsageError
from tsstack.model.facts import Facts, Paths, TailscaleFacts
from tsstack.switch import record
from tsstack.switch.generations import Manifest, tree_digest
from tsstack.switch.lock import host_lock
from tsstack.switch.plan import Plan
from tsstack.switch.record import read_pending, write_pending
from tsstack.switch.recovery import recover
from tsstack.switch.transaction import Mode, Wanted, confirm, prepare
from tsstack.switch.verbs import confirm_change, roll_back


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_switch_makes_the_host_so_and_leaves_no_record(host: Host) -> None:
    outcome = host.switch(ONE)
    assert host.listing() == ONE
    assert (outcome.generation, outcome.previous) == (1, 0)
    assert (host.store.current(), host.store.boot()) == (1, 1)
    assert read_pending(host.site.paths.state) is None
    assert host.store.tree(1) == ONE


def test_nothing_to_do_touches_nothing(host: Host) -> None:
    host.switch(ONE)
    host.journal.clear()
    before = {
        path: path.lstat().st_mtime_ns for path in host.site.paths.state.rglob("*") if path.name != "lock"
    }
    outcome = host.switch(ONE)
    assert not outcome.changed
    assert host.journal == []
    assert {
        path: path.lstat().st_mtime_ns for path in host.site.paths.state.rglob("*") if path.name != "lock"
    } == before


def test_only_the_changed_parts_are_touched(host: Host) -> None:
    host.switch(ONE)
    host.journal.clear()
    host.switch(TWO)
    assert "activate firewall" not in host.journal
    assert host.journal.index("activate tailscale") < host.journal.index("activate proxy")
    assert host.listing() == TWO


def test_drift_is_repaired_without_a_new_generation(host: Host) -> None:
    host.switch(ONE)
    (host.live / "proxy" / "conf").write_text("edited by hand\n")
    outcome = host.switch(ONE)
    assert outcome.changed
    assert outcome.generation == 1
    assert host.listing() == ONE


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("step", ["activate", "verify"])
def test_a_failure_at_any_step_undoes_all(host: Host, part: int, step: str) -> None:
    host.switch(ONE)
    after = {"firewall/table": "new\n", "proxy/conf": "new\n", "tailscale/prefs": "new\n"}
    host.parts[part].fail_at.add(step)
    with pytest.raises(ApplyFailed) as failure:
        host.switch(after)
    assert failure.value.exit_code == 5
    assert host.listing() == ONE
    assert (host.store.current(), host.store.boot()) == (1, 1)
    assert read_pending(host.site.paths.state) is None
    assert [each.number for each in host.store.list()] == [0, 1]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_refused_check_changes_nothing(host: Host, part: int) -> None:
    host.switch(ONE)
    host.journal.clear()
    host.parts[part].fail_at.add("check")
    with pytest.raises(CheckFailed) as failure:
        host.switch({"firewall/table": "new\n", "proxy/conf": "new\n", "tailscale/prefs": "new\n"})
    assert failure.value.exit_code == 4
    assert host.listing() == ONE
    assert not [line for line in host.journal if line.startswith(("activate", "restore"))]
    assert [each.number for each in host.store.list()] == [0, 1]


def test_the_guard_refuses_before_anything_is_touched(host: Host) -> None:
    def guard(_: Path, plan: Plan) -> None:
        assert plan.names == ("firewall", "proxy")
        raise CheckFailed("you would be locked out")

    with pytest.raises(CheckFailed):
        host.switch(ONE, guard=guard)
    assert host.listing() == {}
    assert host.store.current() == 0


def test_an_incomplete_rollback_says_so_and_is_tried_again(host: Host) -> None:
    host.switch(ONE)
    host.parts[2].fail_at |= {"activate", "restore"}
    with pytest.raises(RollbackFailed) as failure:
        host.switch(TWO)
    assert failure.value.exit_code == 6
    assert "proxy cannot be brought back" in str(failure.value)
    assert read_pending(host.site.paths.state) is not None
    host.parts[2].fail_at.clear()
    host.switch(ONE)
    assert host.listing() == ONE
    assert read_pending(host.site.paths.state) is None


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_is_undone_by_the_next_command(
    host: Host, part: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.switch(ONE)
    victim = host.parts[part]
    activate = victim.activate

    def die(generation: Path, facts: Facts, report: Callable[[str], None]) -> None:
        if when == "after":
            activate(generation, facts, report)
        raise Killed

    monkeypatch.setattr(victim, "activate", die)
    with pytest.raises(Killed):
        host.switch({"firewall/table": "new\n", "proxy/conf": "new\n", "tailscale/prefs": "new\n"})
    monkeypatch.undo()
    assert read_pending(host.site.paths.state) is not None
    with host_lock(host.site.paths.state, host.clock):
        prepare(host.site)
    assert host.listing() == ONE
    assert host.store.current() == 1
    assert [each.number for each in host.store.list()] == [0, 1]


def test_two_switches_at_once_are_refused(host: Host) -> None:
    with host_lock(host.site.paths.state, host.clock), pytest.raises(LockedError) as failure:
        host.switch(ONE)
    assert failure.value.exit_code == 4
    assert host.listing() == {}


def test_rollback_goes_back_and_to_any_generation(host: Host) -> None:
    host.switch(ONE)
    host.switch(TWO)
    assert roll_back(host.site, None, Mode()).generation == 1
    assert host.listing() == ONE
    assert roll_back(host.site, 2, Mode()).generation == 2
    assert host.listing() == TWO
    assert roll_back(host.site, 0, Mode()).generation == 0
    assert host.listing() == {}
    assert host.store.boot() == 0
    with pytest.raises(UsageError):
        roll_back(host.site, 9, Mode())


def test_pitfall_16_rollback_renders_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.switch(ONE)
    host.switch(TWO)
    for part in host.parts:
        monkeypatch.setattr(part, "desired", lambda *_: pytest.fail("rendered"))
    roll_back(host.site, 1, Mode())
    assert host.listing() == ONE


def test_test_mode_does_not_change_the_next_boot(host: Host) -> None:
    host.switch(ONE)
    host.switch(TWO, Mode(boot=False))
    assert (host.store.current(), host.store.boot()) == (2, 1)


def waiting(host: Host) -> str:
    """A switch that waits for its confirmation: which one."""
    host.switch(TWO, Mode(confirm_s=60))
    pending = read_pending(host.site.paths.state)
    assert pending is not None
    return pending.id


class TestConfirm:
    @pytest.fixture(autouse=True)
    def _no_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("arm", "require_guard"):
            monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)

    def test_the_boot_link_waits_for_the_confirmation(self, host: Host) -> None:
        host.switch(ONE)
        outcome = host.switch(TWO, Mode(confirm_s=60))
        assert outcome.deadline_s == host.clock.time_s + 60
        assert (host.store.current(), host.store.boot()) == (2, 1)
        assert confirm(host.site) == 2
        assert host.store.boot() == 2
        assert read_pending(host.site.paths.state) is None

    def test_nothing_is_built_on_an_unconfirmed_change(self, host: Host) -> None:
        host.switch(ONE, Mode(confirm_s=60))
        with pytest.raises(CheckFailed, match="waits for its confirmation"):
            host.switch(TWO)

    def test_a_late_confirmation_finds_it_undone(self, host: Host) -> None:
        host.switch(ONE)
        host.switch(TWO, Mode(confirm_s=60))
        host.clock.time_s += 61
        with pytest.raises(CheckFailed, match="not confirmed in time"):
            confirm(host.site)
        assert host.listing() == ONE

    def test_rollback_undoes_it(self, host: Host) -> None:
        host.switch(ONE)
        host.switch(TWO, Mode(confirm_s=60))
        assert roll_back(host.site, None, Mode()).generation == 1
        assert host.listing() == ONE
        assert (host.store.current(), host.store.boot()) == (1, 1)

    def test_what_was_asked_about_is_undone_and_nothing_else(self, host: Host) -> None:
        host.switch(ONE)
        change = waiting(host)
        with pytest.raises(CheckFailed, match="asked about is over already"):
            roll_back(host.site, None, Mode(), pending_only="another")
        assert host.listing() == TWO
        assert roll_back(host.site, None, Mode(), pending_only=change).generation == 1
        # Once more, from one who was asked before: not one further back.
        with pytest.raises(CheckFailed, match="asked about is over already"):
            roll_back(host.site, None, Mode(), pending_only=change)
        assert host.listing() == ONE

    def test_a_session_that_was_opened_while_the_switch_was_at_work_confirms_nothing(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under the old rules maybe: only from when all is live on does a new one prove something."""
        there: list[str] = ["one"]
        activate = host.parts[0].activate

        def and_then_somebody_comes(*args: object) -> None:
            there.append("two")
            activate(*args)

        host.switch(ONE)
        monkeypatch.setattr(host.parts[0], "activate", and_then_somebody_comes)
        host.switch(TWO, Mode(confirm_s=60, sessions=lambda: tuple(there)))
        for known in there:
            with pytest.raises(CheckFailed, match="this session was open before"):
                confirm(host.site, (known,))
        assert confirm(host.site, ("three",)) == 2

    def test_what_was_asked_about_is_kept_and_nothing_else(self, host: Host) -> None:
        host.switch(ONE)
        asked = waiting(host)
        roll_back(host.site, None, Mode())
        change = waiting(host)
        assert host.store.current() == 2, "its number is given again"
        with pytest.raises(CheckFailed, match="asked about is over already"):
            confirm_change(host.site, same_session=True, pending_only=asked)
        assert host.store.boot() == 1
        assert confirm_change(host.site, same_session=True, pending_only=change) == 2
        assert host.store.boot() == 2

    def test_a_reboot_undoes_it(self, host: Host) -> None:
        host.switch(ONE)
        host.switch(TWO, Mode(confirm_s=600))
        pending = read_pending(host.site.paths.state)
        assert pending is not None
        write_pending(host.site.paths.state, replace(pending, boot_id="another boot"))
        done = recover(host.site)
        assert done is not None
        assert "rebooted" in done.reason
        assert host.listing() == ONE

    def test_a_dead_man_that_cannot_be_armed_changes_nothing(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise CheckFailed("no dead man")

        monkeypatch.setattr("tsstack.switch.deadman.arm", refuse)
        host.switch(ONE)
        with pytest.raises(CheckFailed, match="no dead man"):
            host.switch(TWO, Mode(confirm_s=60))
        assert host.listing() == ONE
        assert read_pending(host.site.paths.state) is None
        assert [each.number for each in host.store.list()] == [0, 1]


def test_what_the_tailnet_tells_is_rendered_in_the_same_change(host: Host) -> None:
    """The first enrolment makes the address known that the proxy binds."""

    def render(facts: Facts) -> tuple[dict[str, str], str]:
        address = facts.tailscale.addresses[0] if facts.tailscale else "127.0.0.1"
        return {"firewall/t": "x\n", "tailscale/prefs": "y\n", "proxy/conf": f"listen {address}\n"}, address

    before = host.facts

    def joined(_: Paths) -> Facts:
        if (host.live / "tailscale").exists():
            return replace(before, tailscale=TailscaleFacts((1, 1, 1), "Running", ("100.64.0.1",)))
        return before

    host.site = replace(host.site, gather=joined)
    outcome = host.switch({}, wanted=Wanted(*[render(before)[0]], render=render))
    assert host.listing()["proxy/conf"] == "listen 100.64.0.1\n"
    assert host.store.tree(outcome.generation) == host.listing()
    assert host.journal.count("activate proxy") == 1
    assert [each.number for each in host.store.list()] == [0, outcome.generation]


def test_a_generation_that_is_rendered_anew_has_its_own_time_and_summary(host: Host) -> None:
    """The node has got another address, and tailscaled has to be told something once more."""
    address = "100.64.0.1"

    def render(_: Facts) -> tuple[dict[str, str], str]:
        return {"firewall/t": "x\n", "tailscale/prefs": "y\n", "proxy/conf": f"listen {address}\n"}, address

    first = host.switch({}, wanted=Wanted(render(host.facts)[0], render=render))
    before, tree = host.store.manifest(first.generation), host.store.tree(first.generation)
    assert len(before.summary) > 1
    host.clock.sleep(3600)
    (host.live / "tailscale" / "prefs").write_text("drifted\n")
    address = "100.64.0.9"
    second = host.switch({}, wanted=Wanted(tree, render=render))
    manifest = host.store.manifest(second.generation)
    assert second.generation == first.generation + 1
    assert manifest.created_unix_s == before.created_unix_s + 3600
    assert [line.partition(":")[0] for line in manifest.summary] == ["proxy"]


def test_a_first_enrolment_tells_all_that_it_changed_once(host: Host) -> None:
    rendered = iter([{"firewall/t": "x\n", "tailscale/prefs": "y\n", "proxy/conf": "listen 100.64.0.1\n"}])
    tree = {"firewall/t": "x\n", "tailscale/prefs": "y\n", "proxy/conf": "listen 127.0.0.1\n"}
    outcome = host.switch({}, wanted=Wanted(tree, render=lambda _: (next(rendered), "digest")))
    summary = host.store.manifest(outcome.generation).summary
    assert {line.partition(":")[0] for line in summary} == {"firewall", "tailscale", "proxy"}
    assert len(summary) == len(set(summary))


def test_a_full_disk_while_staging_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.switch(ONE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tsstack.switch.generations.write_tree", full)
    with pytest.raises(CheckFailed, match="No space left") as failure:
        host.switch(TWO)
    assert failure.value.exit_code == 4
    assert host.listing() == ONE
    assert sorted(path.name for path in (host.site.paths.state / "generations").iterdir()) == ["0", "1"]


def test_warnings_are_handed_on(host: Host) -> None:
    host.parts[0].warning = "another table drops what we accept"
    assert host.switch(ONE).warnings == ("firewall: another table drops what we accept",)


def test_a_tree_cannot_leave_its_generation(host: Host) -> None:
    host.store.prepare()
    with (
        pytest.raises(ValueError, match="would leave"),
        host.store.staged(Manifest(5, 0, "", ""), {"../evil": "x"}, b""),
    ):
        pytest.fail("staged")


def test_generations_are_pruned_but_those_in_use(host: Host) -> None:
    for number in range(6):
        host.switch({"firewall/table": f"{number}\n"})
    roll_back(host.site, 2, Mode())
    assert host.store.prune(1) == (1, 3, 4, 5)
    assert [each.number for each in host.store.list()] == [0, 2, 6]


def test_digests_tell_trees_apart() -> None:
    assert tree_digest({"a": "bc"}) != tree_digest({"ab": "c"})
    assert tree_digest({"a": "1", "b": "2"}) == tree_digest({"b": "2", "a": "1"})


def test_a_record_that_cannot_be_read_stops_everything(host: Host) -> None:
    host.switch(ONE)
    (host.site.paths.state / "pending.json").write_text(json.dumps({"half": 1}))
    with pytest.raises(RollbackFailed, match="cannot be understood"):
        host.switch(TWO)


def test_a_rollback_works_on_a_full_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record goes where the reserve was."""
    host.switch(ONE)
    host.switch(TWO)
    reserve = host.site.paths.state / "reserve"
    assert reserve.stat().st_blocks * 512 >= 100_000
    write = record.write_durably

    def full(path: Path, text: str | bytes, *, mode: int = 0o644) -> None:
        if reserve.exists():
            raise OSError(28, "No space left on device", str(path))
        write(path, text, mode=mode)

    monkeypatch.setattr(record, "write_durably", full)
    roll_back(host.site, 1, Mode())
    assert host.listing() == ONE
    monkeypatch.undo()
    host.switch(TWO)
    assert reserve.exists()
