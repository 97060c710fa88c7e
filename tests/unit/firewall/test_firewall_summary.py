"""A change of the firewall is told in the words of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack import assets
from tsstack.model.facts import Facts
from tsstack.model.loader import load_presets, parse_stack
from tsstack.parts.firewall.host import PART
from tsstack.parts.firewall.summary import describe_difference
from tsstack.parts.part import Change

BASE = """
host: {name: one}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80, 443]}
    internal: {interfaces: [tailscale0]}
  forward:
    - {from: internal, to: dmz, services: [https]}
"""


def rendered(text: str) -> str:
    loaded = parse_stack(text.encode(), Path("tsstack.yaml"), load_presets(assets.folder("zones")))
    return PART.desired(loaded.stack, Facts())["nftables/tsstack.nft"]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("[80, 443]", "[80, 443, 9000-9010]"), ["~ firewall.zones.dmz tcp: 80, 443 -> 80, 443, 9000-9010"]),
        (("[80, 443]", "[443]"), ["~ firewall.zones.dmz tcp: 80, 443 -> 443"]),
        (("services: [https]", "services: [ssh]"), ["~ firewall.forward[0] tcp: 443 -> 22"]),
        (("[eth0]", "[eth0, eth1]"), ["+ zone dmz: eth1"]),
        (("[eth0]", "[eth1]"), ["+ zone dmz: eth1", "- zone dmz: eth0"]),
        (("[eth0]", "[eth0], sources: [192.0.2.0/24]"), ["+ zone dmz: 192.0.2.0/24"]),
        (
            ("forward:", "  guest: {interfaces: [br0]}\n  forward:"),
            ["+ zone guest: new", "+ zone guest: br0"],
        ),
        (
            ("interfaces: [eth0]", "interfaces: [eth0], ping: false"),
            ["~ firewall.zones.dmz.ping: earlier rules -> new rules"],
        ),
    ],
)
def test_what_differs_is_named(change: tuple[str, str], lines: list[str]) -> None:
    after = BASE.replace(*change)
    assert after != BASE
    told = [str(Change(*each)) for each in describe_difference(rendered(BASE), rendered(after))]
    assert set(lines) <= set(told), told
    assert len(told) <= len(lines) + 1, told


def test_what_opens_at_large_is_told_beside_whatever_else_changes() -> None:
    """Beside a port of another zone nothing was said of these, as if they followed from it."""
    after = BASE.replace("[80, 443]", "[80]").replace("[tailscale0]", "[tailscale0, tun0], allow: all")
    after = after.replace("firewall:\n", "firewall:\n  default_policy: accept\n")
    told = [subject for subject, _, _ in describe_difference(rendered(BASE), rendered(after))]
    assert {
        "firewall.zones.dmz tcp",
        "zone internal: tun0",
        "firewall.zones.internal.allow",
        "firewall.default_policy",
    } <= set(told)


def test_a_member_that_is_asked_at_another_place_is_the_same_member() -> None:
    before = BASE.replace("[eth0]", "['veth*']")
    after = before.replace("[tailscale0]", "[tailscale0, 'veth1*']")
    told = [str(Change(*each)) for each in describe_difference(rendered(before), rendered(after))]
    assert told == ["+ zone internal: veth1*"]


def test_nothing_differs_from_itself() -> None:
    assert describe_difference(rendered(BASE), rendered(BASE)) == ()


def test_ten_thousand_new_members_stay_readable() -> None:
    many = ", ".join(f"10.{i // 250}.{i % 250}.1" for i in range(0, 10_000))
    after = BASE.replace("[eth0]", f"[eth0], sources: [{many}]")
    told = describe_difference(rendered(BASE), rendered(after))
    assert len(told) < 20
    assert any(subject == "zone dmz: 9988 more" for subject, _, _ in told), told
