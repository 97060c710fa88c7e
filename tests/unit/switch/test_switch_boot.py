"""What the boot unit and the undoing do where a daemon comes up, or goes back, late."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import ONE, Host

from tsstack.errors import ApplyFailed, RollbackFailed
from tsstack.model.facts import Facts
from tsstack.parts.part import Snapshot
from tsstack.switch.verbs import activate_boot


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.switch(ONE)
    host.journal.clear()
    return host


def test_what_a_late_part_undoes_is_set_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tailscaled clears the DNS of its interface when it has joined, after we have set it."""
    firewall, _, proxy = host.parts
    (host.live / "proxy" / "conf").unlink()
    late = proxy.activate

    def undo_another(generation: Path, facts: object, report: object) -> None:
        (host.live / "firewall" / "table").unlink(missing_ok=True)
        late(generation, facts, report)  # type: ignore[arg-type]

    monkeypatch.setattr(proxy, "activate", undo_another)
    activate_boot(host.site)
    assert host.listing() == ONE
    assert host.journal.count(f"activate {firewall.name}") == 1


def test_a_part_with_nothing_to_change_is_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings may be those of the file while its daemon is not up: the unit is to try again."""

    def still_down(*_: object) -> None:
        raise ApplyFailed("tailscaled is in state Starting")

    with monkeypatch.context() as patch:
        patch.setattr(host.parts[0], "verify", still_down)
        with pytest.raises(RollbackFailed, match="firewall: tailscaled is in state Starting"):
            activate_boot(host.site)
    assert activate_boot(host.site)[0].generation == 1


def test_what_a_late_part_undoes_while_all_goes_back_is_brought_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firewall stands for tailscaled here, which goes back after the DNS of its interface has."""
    firewall, _, proxy = host.parts
    goes_back = firewall.restore

    def undo_another(snapshot: Snapshot, facts: Facts) -> None:
        (host.live / "proxy" / "conf").unlink(missing_ok=True)
        goes_back(snapshot, facts)

    monkeypatch.setattr(firewall, "restore", undo_another)
    proxy.fail_at.add("verify")
    with pytest.raises(ApplyFailed, match="rolled back"):
        host.switch({"firewall/table": "two\n", "proxy/conf": "two\n"})
    assert host.listing() == ONE
