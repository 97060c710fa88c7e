"""A generation that is live or boots, and whose files are gone or damaged, is a dead end for nobody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_host import ONE, TWO, Host

from tsstack.errors import ApplyFailed, CheckFailed, RollbackFailed, UsageError
from tsstack.parts.firewall.fallback import keep_fallback, stage_fallback
from tsstack.switch.boot import activate_boot, activate_firewall_early
from tsstack.switch.intent import read_generation, read_intent
from tsstack.switch.lock import host_lock
from tsstack.switch.record import read_pending
from tsstack.switch.recovery import recover
from tsstack.switch.transaction import Mode, Wanted, observe_changes
from tsstack.switch.undone import last_undone, refuse_undone
from tsstack.switch.verbs import roll_back

THREE = {"firewall/table": "three\n", "tailscale/prefs": "three\n"}
OPEN = {"tailscale/prefs": "open\n", "proxy/conf": "open\n"}
LINKS = ("current", "boot")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Generation 3 is live."""
    host = Host(tmp_path)
    for tree in (ONE, TWO, THREE):
        host.switch(tree)
    host.journal.clear()
    return host


@pytest.fixture
def no_dead_man(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)


def lose(host: Host, number: int) -> None:
    shutil.rmtree(host.store.folder / str(number))


def damage(host: Host, number: int) -> None:
    (host.store.folder / str(number) / "manifest.json").write_text("")


def reboot(host: Host) -> None:
    shutil.rmtree(host.live)
    shutil.rmtree(host.site.paths.run, ignore_errors=True)


def numbers(host: Host) -> tuple[int, int]:
    return host.store.current(), host.store.boot()


@pytest.mark.parametrize("harm", [lose, damage])
class TestLive:
    def test_a_switch_makes_a_new_one_and_asks_every_part(self, host: Host, harm: object) -> None:
        """The proxy is in no tree that is known, yet something of it stands."""
        (host.live / "proxy").mkdir(exist_ok=True)
        (host.live / "proxy" / "conf").write_text("of the missing one\n")
        harm(host, 3)  # type: ignore[operator]
        outcome = host.switch(THREE)
        assert outcome.plan.names == ("proxy",)
        assert host.listing() == THREE
        assert numbers(host) == (4, 4)
        assert host.store.tree(4) == THREE

    def test_a_rollback_goes_to_any_that_is_whole(self, host: Host, harm: object) -> None:
        harm(host, 3)  # type: ignore[operator]
        outcome = roll_back(host.site, 1, Mode())
        assert host.listing() == ONE
        assert numbers(host) == (1, 1)
        assert "and it was live" in outcome.warnings[0]

    def test_a_rollback_without_a_number_goes_to_the_newest_before_it(self, host: Host, harm: object) -> None:
        harm(host, 3)  # type: ignore[operator]
        damage(host, 2)
        roll_back(host.site, None, Mode())
        assert numbers(host) == (1, 1)

    def test_a_rollback_without_a_number_passes_over_none_to_a_bare_host(
        self, host: Host, harm: object
    ) -> None:
        """Which has no firewall: who wants that says so."""
        harm(host, 3)  # type: ignore[operator]
        damage(host, 2)
        lose(host, 1)
        with pytest.raises(CheckFailed, match="no earlier generation is whole") as refused:
            roll_back(host.site, None, Mode())
        assert "--to 0" in refused.value.hint
        assert host.listing() == THREE
        roll_back(host.site, 0, Mode())
        assert host.listing() == {}

    def test_a_change_that_fails_leaves_what_stood(self, host: Host, harm: object) -> None:
        harm(host, 3)  # type: ignore[operator]
        host.parts[2].fail_at.add("verify")
        with pytest.raises(ApplyFailed):
            host.switch(TWO)
        assert host.listing() == THREE
        assert numbers(host) == (3, 3)
        assert read_pending(host.site.paths.state) is None
        host.parts[2].fail_at.clear()
        assert host.switch(TWO).generation == 4

    def test_what_is_said_of_it_names_a_way_on(self, host: Host, harm: object) -> None:
        harm(host, 3)  # type: ignore[operator]
        with pytest.raises(
            CheckFailed, match=r"generation 3 is missing|3/manifest\.json is damaged"
        ) as error:
            host.store.manifest(3)
        assert error.value.hint.startswith("`tsstack rollback --to 2` goes to the newest whole one")
        assert "`tsstack switch`" in error.value.hint

    def test_no_memory_of_it_makes_a_switch_do_nothing(
        self, host: Host, harm: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "tsstack.yaml"
        file.write_text("host: {name: three}\n")
        monkeypatch.setattr("tsstack.switch.intent.input_digest", lambda *_: "same")
        host.store.remember_inputs(3, "same")
        assert read_intent(host.site, file, host.facts).wanted.generation == 3
        harm(host, 3)  # type: ignore[operator]
        assert read_intent(host.site, file, host.facts).wanted.generation is None


def test_a_rollback_from_a_whole_one_passes_over_none_to_a_bare_host(host: Host) -> None:
    damage(host, 2)
    lose(host, 1)
    with pytest.raises(CheckFailed, match=r"no earlier generation is whole.*generation 2 is damaged"):
        roll_back(host.site, None, Mode())
    assert host.listing() == THREE
    lose(host, 2)  # as `generations --prune` does
    roll_back(host.site, None, Mode())
    assert numbers(host) == (0, 0)


def test_one_that_nothing_names_is_moved_away_or_not_there(host: Host) -> None:
    damage(host, 1)
    with pytest.raises(CheckFailed) as damaged:
        host.store.manifest(1)
    assert damaged.value.hint == f"move {host.store.folder / '1'} away"
    with pytest.raises(UsageError) as absent:
        read_generation(host.site, 9)
    assert absent.value.hint == "there are: 0, 2, 3"


def test_its_number_is_not_given_again(host: Host) -> None:
    """A link that dangles would name the new one: an undoing could not tell it from what was live."""
    lose(host, 3)
    assert host.store.next_number() == 4
    host.store.point("current", 2)
    host.store.point("boot", 2)
    host.store.remember_inputs(5, "of one that was removed by hand")
    assert host.store.next_number() == 6


def test_what_a_newer_tsstack_notes_beside_makes_none_damaged(host: Host) -> None:
    manifest = host.store.folder / "3" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "operator": "ann"}))
    assert host.store.fault(3) == ""
    assert host.store.manifest(3).number == 3


def test_every_part_is_looked_at_and_none_changed(host: Host) -> None:
    lose(host, 3)
    snapshots, plan = observe_changes(host.site, THREE, host.facts)
    assert list(snapshots) == ["firewall", "tailscale", "proxy"]
    assert not plan


def judged(host: Host) -> RollbackFailed:
    with host_lock(host.site.paths.state, host.clock), pytest.raises(RollbackFailed) as failure:
        recover(host.site)
    return failure.value


@pytest.mark.usefixtures("no_dead_man")
class TestUndoing:
    """The generation before is removed by hand while a change waits for its confirmation."""

    def test_the_host_is_back_and_goes_on_from_there(self, host: Host) -> None:
        host.switch(ONE, Mode(confirm_s=60))
        lose(host, 3)
        host.clock.sleep(61)
        with host_lock(host.site.paths.state, host.clock):
            recover(host.site)
        assert host.listing() == THREE
        assert numbers(host) == (3, 3)
        assert host.store.whole() == (0, 1, 2)
        roll_back(host.site, 2, Mode())
        assert host.listing() == TWO

    def test_a_part_that_cannot_come_back_without_its_files_bars_no_way(self, host: Host) -> None:
        """As nginx, whose configuration was there."""
        host.switch(ONE, Mode(confirm_s=60))
        lose(host, 3)
        host.parts[2].fail_at.add("restore")
        host.parts[2].needs_files = True
        with pytest.raises(RollbackFailed, match="proxy cannot be brought back") as failure:
            roll_back(host.site, None, Mode())
        assert "--to N" in failure.value.hint
        roll_back(host.site, 2, Mode())
        assert host.listing() == TWO
        assert numbers(host) == (2, 2)

    @pytest.mark.parametrize("asked", [False, True])
    def test_what_is_lost_hides_from_nobody_that_it_was_undone(self, host: Host, asked: bool) -> None:
        """Else a unit would make the same change again by itself."""
        host.switch(ONE, Mode(confirm_s=60), wanted=Wanted(ONE, source=b"a file\n"))
        lose(host, 3)
        host.parts[2].fail_at.add("restore")
        host.parts[2].needs_files = True
        if asked:
            with pytest.raises(RollbackFailed, match="proxy cannot be brought back"):
                roll_back(host.site, None, Mode())
        else:
            host.clock.sleep(61)
            judged(host)
        assert read_pending(host.site.paths.state) is None
        undone = last_undone(host.site)
        assert ("generation 4 was undone" in undone.words, undone.by_itself) == (True, not asked)
        with pytest.raises(CheckFailed, match="was not confirmed and was undone"):
            refuse_undone(host.site, b"a file\n")

    def test_a_part_that_needs_none_of_its_files_is_tried_again(self, host: Host) -> None:
        """The firewall's snapshot is the table itself: what nobody confirmed must not stand for good."""
        host.switch(ONE, Mode(confirm_s=60))
        lose(host, 3)
        host.clock.sleep(61)
        for part, needs_files in ((host.parts[0], False), (host.parts[2], True)):
            part.needs_files = needs_files
            part.fail_at.add("restore")
        told = judged(host)
        assert last_undone(host.site).words == ""
        assert "firewall cannot be brought back; proxy" in told.message
        assert "run `tsstack rollback`" in told.hint
        assert "or move pending.json away" in told.hint
        assert host.store.has(4)  # which the record names
        host.parts[0].fail_at.clear()
        assert "firewall" not in judged(host).message
        assert host.listing() == {**THREE, "proxy/conf": "one\n"}
        assert read_pending(host.site.paths.state) is None
        assert host.store.whole() == (0, 1, 2)
        assert host.switch(TWO).generation == 4

    def test_so_is_one_that_failed_only_as_it_was_given_back_once_more(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.switch(ONE, Mode(confirm_s=60))
        lose(host, 3)
        host.clock.sleep(61)
        restore, calls = host.parts[1].restore, []

        def once(*args: object) -> None:
            calls.append(args)
            if len(calls) == 2:
                raise RollbackFailed("tailscaled is away")
            restore(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(host.parts[1], "restore", once)
        judged(host)
        assert read_pending(host.site.paths.state) is not None

    def test_a_disk_that_does_not_answer_makes_none_missing(self, host: Host) -> None:
        """What cannot come back now is tried again, from the record; `is_file` would take it for gone."""
        host.switch(ONE, Mode(confirm_s=60))
        host.parts[2].fail_at.add("restore")
        host.parts[2].needs_files = True
        manifest = host.store.folder / "3" / "manifest.json"
        known = manifest.read_bytes()
        manifest.unlink()
        manifest.symlink_to(manifest)  # ELOOP: neither there nor not there
        with pytest.raises(RollbackFailed, match="proxy cannot be brought back"):
            roll_back(host.site, None, Mode())
        assert read_pending(host.site.paths.state) is not None
        manifest.unlink()
        manifest.write_bytes(known)
        host.parts[2].fail_at.clear()
        roll_back(host.site, None, Mode())
        assert host.listing() == THREE

    def test_a_boot_takes_the_one_before_and_not_what_nobody_confirmed(self, host: Host) -> None:
        host.switch(ONE, Mode(confirm_s=60))
        lose(host, 3)
        reboot(host)
        with pytest.raises(RollbackFailed, match="the firewall of generation 2 stands"):
            activate_firewall_early(host.site)
        with pytest.raises(RollbackFailed, match="generation 3 is missing; generation 2 came up"):
            activate_boot(host.site)
        assert host.listing() == TWO

    def test_what_a_boot_brought_up_whole_in_its_place_is_undone_no_more(self, host: Host) -> None:
        """Each retry would go back half-way to what is gone, and forth again."""
        host.switch({"firewall/table": "four\n", "proxy/conf": "four\n"}, Mode(confirm_s=60))
        lose(host, 3)
        reboot(host)
        host.parts[1].fail_at.add("restore")  # as a parameter that this boot's kernel has not
        with pytest.raises(RollbackFailed, match=r"tailscale cannot be brought back; .*2 came up"):
            activate_boot(host.site)
        assert host.listing() == TWO
        assert read_pending(host.site.paths.state) is None
        assert host.store.whole() == (0, 1, 2)
        assert "generation 4 was undone" in last_undone(host.site).words
        host.journal.clear()
        activate_boot(host.site)
        assert host.journal == ["verify firewall", "verify tailscale", "verify proxy"]

    def test_one_that_was_rolled_back_to_and_not_confirmed_stays(self, host: Host) -> None:
        roll_back(host.site, 1, Mode(confirm_s=60))
        lose(host, 3)
        reboot(host)
        host.parts[1].fail_at.add("restore")
        with pytest.raises(RollbackFailed, match="generation 2 came up"):
            activate_boot(host.site)
        assert read_pending(host.site.paths.state) is None
        assert host.store.whole() == (0, 1, 2)

    def test_what_a_boot_brought_up_in_part_is_tried_again(self, host: Host) -> None:
        host.switch({"firewall/table": "four\n", "proxy/conf": "four\n"}, Mode(confirm_s=60))
        lose(host, 3)
        reboot(host)
        host.parts[1].fail_at |= {"restore", "verify"}
        with pytest.raises(RollbackFailed, match="tailscale does not answer"):
            activate_boot(host.site)
        assert read_pending(host.site.paths.state) is not None
        host.parts[1].fail_at.clear()
        with pytest.raises(RollbackFailed, match="generation 2 came up"):
            activate_boot(host.site)
        activate_boot(host.site)
        assert host.listing() == TWO

    def test_what_stays_of_a_part_that_it_does_not_ask_for_is_tried_again(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of a tailscaled that comes up late: nobody else would take from it what was not confirmed."""
        host.switch({"firewall/table": "four\n", "proxy/conf": "four\n"}, Mode(confirm_s=60))
        for number in (2, 3):
            lose(host, number)
        reboot(host)
        tailscale, start = host.parts[1], host.parts[2].activate

        def come_up(*args: object) -> None:
            tailscale.warning = ""
            tailscale.fail_at.clear()
            start(*args)  # type: ignore[arg-type]

        tailscale.fail_at.add("restore")
        tailscale.warning = "tailscaled does not run, and keeps the settings that it has"
        monkeypatch.setattr(host.parts[2], "activate", come_up)
        with pytest.raises(RollbackFailed, match=r"tailscale cannot be brought back; .*1 came up"):
            activate_boot(host.site)
        assert host.listing() == ONE
        assert read_pending(host.site.paths.state) is not None
        with pytest.raises(RollbackFailed, match="generation 1 came up"):
            activate_boot(host.site)
        assert read_pending(host.site.paths.state) is None
        assert host.listing() == ONE

    def test_a_boot_keeps_the_record_of_what_is_there(self, host: Host) -> None:
        host.switch(ONE, Mode(confirm_s=60))
        reboot(host)
        host.parts[1].fail_at.add("restore")
        with pytest.raises(RollbackFailed, match="tailscale cannot be brought back"):
            activate_boot(host.site)
        assert read_pending(host.site.paths.state) is not None


class TestBoot:
    def test_the_early_firewall_is_that_of_the_newest_before_it(self, host: Host) -> None:
        lose(host, 3)
        reboot(host)
        with pytest.raises(RollbackFailed, match="3 is missing; the firewall of generation 2 stands") as told:
            activate_firewall_early(host.site)
        assert told.value.exit_code == 6
        assert host.listing() == {"firewall/table": "one\n"}

    def test_the_whole_host_comes_up_as_the_newest_before_it(self, host: Host) -> None:
        lose(host, 3)
        reboot(host)
        with pytest.raises(RollbackFailed, match="generation 3 is missing; generation 2 came up"):
            activate_boot(host.site)
        assert host.listing() == TWO
        assert numbers(host) == (2, 3)
        outcome, _ = activate_boot(host.site)  # by Restart=on-failure: there is nothing left to try
        assert (outcome.generation, numbers(host)) == (2, (2, 3))

    def test_one_without_a_firewall_is_passed_over(self, host: Host) -> None:
        host.switch({"proxy/conf": "four\n"})
        host.switch(THREE)
        lose(host, 5)
        reboot(host)
        with pytest.raises(RollbackFailed, match="firewall of generation 3 stands"):
            activate_firewall_early(host.site)
        with pytest.raises(RollbackFailed, match="generation 3 came up"):
            activate_boot(host.site)
        assert host.listing() == THREE

    def test_a_damaged_manifest_keeps_no_table_from_standing(self, host: Host) -> None:
        damage(host, 3)
        reboot(host)
        number, said = activate_firewall_early(host.site)
        assert (number, host.listing()) == (3, {"firewall/table": "three\n"})
        assert "3 is damaged" in said
        with pytest.raises(RollbackFailed, match="3 is damaged"):
            activate_boot(host.site)
        assert host.listing() == THREE
        activate_boot(host.site)

    def test_a_damaged_one_without_its_table_opens_no_host(self, host: Host) -> None:
        damage(host, 3)
        shutil.rmtree(host.store.folder / "3" / "firewall")
        reboot(host)
        with pytest.raises(RollbackFailed, match="firewall of generation 2 stands"):
            activate_firewall_early(host.site)
        with pytest.raises(RollbackFailed, match="generation 2 came up"):
            activate_boot(host.site)
        assert host.listing() == TWO

    def test_a_damaged_one_that_wanted_no_table_comes_up_itself(self, host: Host) -> None:
        """The fallback stands in for none: it does so beside a whole one too."""
        host.switch(OPEN, wanted=Wanted(OPEN, source=b"host: {name: a}  # no firewall: here\n"))
        damage(host, 4)
        reboot(host)
        number, said = activate_firewall_early(host.site)
        assert (number, host.listing()) == (4, {})
        assert "generation 4 has no firewall" in said
        assert "4 is damaged" in said
        with pytest.raises(RollbackFailed, match=r"4 is damaged.*it came up as far as its files are there"):
            activate_boot(host.site)
        assert host.listing() == OPEN
        assert numbers(host) == (4, 4)
        activate_boot(host.site)
        state = host.site.paths.state
        keep_fallback(state, stage_fallback(state, {"firewall/table": b"fallback\n"}))
        number, said = activate_firewall_early(host.site)
        assert (number, said.partition(";")[0]) == (4, "the fallback stands")

    @pytest.mark.parametrize(
        "source",
        [
            b"",
            b"\0" * 60,
            b"host: {name: a}\nproxy: {serv",
            b"host: {name: a}\nnewer: {}\n",
            b"host: {name: a}\nfirewall: {zones: {lan: {interfaces: [eth0], tcp: [22]}}}\n",
            b'host: {name: a}\n"fire\\x77all": {zones: {lan: {interfaces: [eth0], tcp: [22]}}}\n',
        ],
    )
    def test_a_damaged_one_of_which_nobody_knows_that_opens_no_host(self, host: Host, source: bytes) -> None:
        host.switch(OPEN, wanted=Wanted(OPEN, source=source))
        damage(host, 4)
        reboot(host)
        with pytest.raises(RollbackFailed, match="firewall of generation 3 stands"):
            activate_firewall_early(host.site)
        with pytest.raises(RollbackFailed, match="generation 3 came up"):
            activate_boot(host.site)
        assert host.listing() == THREE

    def test_a_damaged_one_whose_table_is_gone_from_its_folder_opens_no_host(self, host: Host) -> None:
        """A file cut off at the end of a block may be one without a firewall."""
        (host.store.folder / "3" / "firewall" / "table").unlink()
        (host.store.folder / "3" / "source.yaml").write_bytes(b"host: {name: a}\n")
        damage(host, 3)
        reboot(host)
        with pytest.raises(RollbackFailed, match="firewall of generation 2 stands"):
            activate_firewall_early(host.site)
        with pytest.raises(RollbackFailed, match="generation 2 came up"):
            activate_boot(host.site)

    def test_a_table_that_cannot_be_loaded_makes_way_for_an_older_one(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        firewall, load = host.parts[0], host.parts[0].activate

        def refuse(generation: Path, *rest: object) -> None:
            if generation.name in {"2", "3"}:
                raise ApplyFailed("nft refuses the table")
            load(generation, *rest)  # type: ignore[arg-type]

        reboot(host)
        monkeypatch.setattr(firewall, "activate", refuse)
        with pytest.raises(RollbackFailed, match="refuses the table; the firewall of generation 1"):
            activate_firewall_early(host.site)
        assert host.listing() == {"firewall/table": "one\n"}

    def test_a_table_behind_an_error_of_the_disk_is_not_taken_for_none(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From Python 3.12 on Path.glob finds nothing in a folder that cannot be read."""
        folder, load = host.store.folder / "3" / "firewall", host.parts[0].activate
        shutil.rmtree(folder)
        folder.symlink_to(folder)  # ELOOP: neither there nor not there

        def refuse(generation: Path, *rest: object) -> None:
            if generation.name == "3":
                raise ApplyFailed("the table cannot be read")
            load(generation, *rest)  # type: ignore[arg-type]

        reboot(host)
        monkeypatch.setattr(host.parts[0], "activate", refuse)
        with pytest.raises(RollbackFailed, match="cannot be read; the firewall of generation 2 stands"):
            activate_firewall_early(host.site)
        assert host.listing() == {"firewall/table": "one\n"}

    def test_a_whole_folder_behind_an_error_of_the_disk_makes_way_for_another(self, host: Host) -> None:
        """Of its files none are there to come up: it would be the host without any of them."""
        folder = host.store.folder / "3"
        shutil.rmtree(folder)
        folder.symlink_to(folder)  # ELOOP: neither there nor not there
        reboot(host)
        with pytest.raises(RollbackFailed, match=r"3 is damaged.*generation 2 came up in its place"):
            activate_boot(host.site)
        assert host.listing() == TWO

    def test_the_fallback_is_made_for_this(self, host: Host) -> None:
        state = host.site.paths.state
        keep_fallback(state, stage_fallback(state, {"firewall/table": b"fallback\n"}))
        lose(host, 3)
        reboot(host)
        with pytest.raises(RollbackFailed, match="the fallback stands"):
            activate_firewall_early(host.site)
        assert host.journal == ["activate firewall"]

    def test_a_live_one_that_was_for_a_test_and_is_lost_keeps_no_host_down(self, host: Host) -> None:
        host.switch(ONE, Mode(boot=False))
        lose(host, 4)
        reboot(host)
        activate_boot(host.site)
        assert host.listing() == THREE
        assert numbers(host) == (3, 3)

    def test_a_retry_without_its_live_one_takes_what_the_next_boot_would(self, host: Host) -> None:
        """And not the newest before it, which somebody has rolled back from."""
        roll_back(host.site, 2, Mode())
        host.switch(ONE, Mode(boot=False))
        lose(host, 4)
        with pytest.raises(RollbackFailed, match="generation 4 is missing; generation 2 came up"):
            activate_boot(host.site)
        assert host.listing() == TWO
        assert numbers(host) == (2, 2)

    def test_a_retry_without_its_live_one_takes_that_also_without_a_firewall(self, host: Host) -> None:
        host.switch(OPEN)
        host.switch(ONE, Mode(boot=False))
        lose(host, 5)
        with pytest.raises(RollbackFailed, match="generation 5 is missing; generation 4 came up"):
            activate_boot(host.site)
        assert host.listing() == OPEN

    def test_a_retry_never_takes_the_host_without_tsstack(self, host: Host) -> None:
        roll_back(host.site, 0, Mode())
        host.switch(ONE, Mode(boot=False))
        lose(host, 4)
        with pytest.raises(RollbackFailed, match="generation 4 is missing; generation 3 came up"):
            activate_boot(host.site)

    def test_where_nothing_else_is_there_the_host_stays_as_it_is(self, host: Host) -> None:
        for number in (1, 2, 3):
            lose(host, number)
        for deed in (activate_firewall_early, activate_boot):
            with pytest.raises((RollbackFailed, CheckFailed), match="generation 3 is missing"):
                deed(host.site)
        assert host.listing() == THREE
        assert host.switch(ONE).generation == 4
