"""The reader of our own table: many zones, and rules that are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from firewall_stack import stack_of

from tsstack.model.facts import Facts, Paths
from tsstack.parts.firewall.host import PART
from tsstack.parts.firewall.judge import Flow, read_ruleset


def ruleset(zones: int) -> str:
    named = [
        f"  z{n}: {{interfaces: [eth{n}], sources: [10.{n}.0.0/16], tcp: [{1000 + n}]}}" for n in range(zones)
    ]
    rules = [f"  - {{from: z0, to: z{n}, tcp: [25]}}" for n in range(1, zones)]
    text = "\n".join(["firewall:", " zones:", *named, " forward:", *rules])
    return PART.desired(stack_of(text), Facts())["nftables/tsstack.nft"]


@pytest.mark.parametrize("zones", [2, 8, 9, 30])
def test_the_zones_are_told_apart_however_many_there_are(zones: int) -> None:
    rules = read_ruleset(ruleset(zones))
    for at in range(zones):
        for port in (1000 + at, 1000 + (at + 1) % zones):
            by_interface = Flow("tcp", "203.0.113.9", "192.0.2.1", f"eth{at}", port=port)
            by_address = Flow("tcp", f"10.{at}.0.9", "192.0.2.1", "other0", port=port)
            wanted = "accept" if port == 1000 + at else "refuse"
            assert [rules.judge(each).verdict for each in (by_interface, by_address)] == [wanted, wanted]
        if at:
            through = Flow("tcp", "10.0.0.9", "203.0.113.9", "eth0", f"eth{at}", port=25)
            back = Flow("tcp", "203.0.113.9", "10.0.0.9", f"eth{at}", "eth0", port=25)
            assert [rules.judge(each).verdict for each in (through, back)] == ["accept", "refuse"]


@pytest.mark.parametrize(
    "rule",
    [
        "iifname vmap @zones.interfaces",
        'iifname vmap { "eth0" : accept }',
        "tcp dport >= 1000 accept",
        "meta mark 0x1 accept",
    ],
)
def test_a_rule_that_is_not_ours_is_no_refusal(rule: str) -> None:
    """A table of another version, say: it is not read as one that refuses everything, and nothing is cut."""
    text = ruleset(2)
    foreign = text.replace('\t\tiifname "lo" accept comment "always: loopback"\n', f"\t\t{rule}\n")
    assert foreign != text
    with pytest.raises(ValueError, match="not a rule of ours"):
        read_ruleset(foreign).judge(Flow("tcp", "203.0.113.9", "192.0.2.1", "eth0", port=1000))


def test_a_table_behind_an_error_of_the_disk_is_not_taken_for_none(tmp_path: Path) -> None:
    """`exists` says no of some errors, and of every one from Python 3.14 on: the host would be opened."""
    facts = Facts(paths=Paths(state=tmp_path / "state"))
    table = tmp_path / "3" / "nftables" / "tsstack.nft"
    table.parent.mkdir(parents=True)
    PART.check(tmp_path / "3", facts)
    table.symlink_to(table)  # ELOOP: neither there nor not there
    with pytest.raises(OSError, match="symbolic links"):
        PART.check(tmp_path / "3", facts)
