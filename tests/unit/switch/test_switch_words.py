"""What a switch, a late confirmation, and a change of settings say."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import ONE, TWO, Host
from fake_part import FolderPart

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.parts.part import Change, Snapshot, Tree
from tsstack.switch.recovery import recover
from tsstack.switch.transaction import Mode, confirm


class Unable(FolderPart):
    """Never sees a difference, and says what it cannot do."""

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        return ()

    def unmet(self, tree: Tree, snapshot: Snapshot, facts: Facts) -> tuple[str, ...]:
        return (f"cannot be had: {', '.join(sorted(tree))}",) if tree else ()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    unable = Unable("dns", host.live, host.journal)
    object.__setattr__(host.site, "parts", (*host.site.parts, unable))
    return host


def test_what_a_part_cannot_do_is_said_by_every_switch_and_only_while_it_is_asked_for(host: Host) -> None:
    split = {**ONE, "dns/split": "x\n"}
    told = ("dns: cannot be had: dns/split",)
    assert host.switch(split).warnings == told
    assert host.switch(split).warnings == told
    assert host.switch({**TWO, "dns/split": "x\n"}).warnings == told
    assert host.switch(TWO).warnings == ()


@pytest.fixture
def _unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arm", "disarm", "require_guard"):
        monkeypatch.setattr(f"tsstack.switch.deadman.{name}", lambda *_, **__: None)


@pytest.mark.usefixtures("_unguarded")
def test_a_confirmation_after_the_dead_man_came_hears_that_it_was_too_late(host: Host) -> None:
    host.switch(ONE)
    with pytest.raises(CheckFailed) as nothing:
        confirm(host.site)
    assert nothing.value.message == "no change waits for a confirmation"
    host.switch(TWO, Mode(confirm_s=60))
    host.clock.time_s += 61
    recover(host.site)  # as the dead man does
    with pytest.raises(
        CheckFailed, match=r"generation 2 was undone at .*: it was not confirmed in time"
    ) as late:
        confirm(host.site)
    assert "generation 1 is live" in late.value.hint
    host.switch(TWO)
    with pytest.raises(CheckFailed) as again:
        confirm(host.site)
    assert "undone" not in again.value.message


def test_an_empty_side_of_a_change_is_named() -> None:
    assert str(Change("service a, allow", "laptop@", "")) == "~ service a, allow: laptop@ -> none"
    assert str(Change("service a, allow", "", "laptop@")) == "~ service a, allow: none -> laptop@"
