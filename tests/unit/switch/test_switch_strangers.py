"""Who is asked of whom nothing is known but the link: in parts of everybody, on the tailnet, on each link."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Network
from tsstack.model.stack import Stack
from tsstack.switch.behind import reachable
from tsstack.switch.guard import check_ways
from tsstack.switch.strangers import SOMEBODY, somebody
from tsstack.switch.ways import Way, ways_of_admins

FACTS = Facts(interfaces=("eth0", "eth1", "lo", "tailscale0"), default_interface="eth0")
NETWORK = ipaddress.ip_network


def zones(*lines: str) -> Stack:
    return stack_of("firewall:\n  zones:\n" + "".join(f"    {line}\n" for line in lines))


def at(*routes: tuple[str, str]) -> list[tuple[Network, str]]:
    return [(NETWORK(network), link) for network, link in routes]


def ways(before: Stack | None, after: Stack, *routes: tuple[str, str], facts: Facts = FACTS) -> list[Way]:
    return ways_of_admins(before, after, facts, behind=at(*routes))


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ((), ["198.51.100.1", "2001:db8::1"]),
        (("0.0.0.0/0", "::/0"), ["198.51.100.1", "2001:db8::1"]),
        (("0.0.0.0/1",), ["198.51.100.1", "32.0.0.0", "2001:db8::1"]),
        (("128.0.0.0/1", "198.51.100.0/24"), ["128.0.0.0", "32.0.0.0", "2001:db8::1"]),
        (("10.0.0.0/7",), ["198.51.100.1", "1.0.0.0", "11.0.0.0"]),
        (("2400::/12",), ["198.51.100.1", "2001:db8::1", "2400::", "2410::"]),
        (("224.0.0.0/3", "240.0.0.0/4", "fc00::/7", "fe80::/10"), ["198.51.100.1", "2001:db8::1"]),
        (("2001:db8::/32", "2000::/16"), ["198.51.100.1", "2001::"]),
        (("192.0.0.0/8", "198.0.0.0/8", "32.0.0.0/8"), ["33.0.0.0", "2001:db8::1"]),
    ],
)
def test_each_part_of_everybody_has_somebody(networks: tuple[str, ...], said: list[str]) -> None:
    found = [str(each) for each in somebody(map(NETWORK, networks))]
    assert set(said) <= set(found)
    assert found[0] == said[0], "who stands for all is asked first"
    assert len(found) - len(said) <= 1


def test_where_every_part_of_everybody_is_named_the_examples_stand_for_them() -> None:
    everybody = [*NETWORK("0.0.0.0/0").subnets(8), *NETWORK("2000::/3").subnets(13)]
    assert somebody(everybody) == list(SOMEBODY)


def test_half_of_everybody_in_another_zone_hides_not_the_other_half() -> None:
    half = "half: {sources: [%s], tcp: [80]}"
    live = zones("admin: {interfaces: [eth1]}", half % "128.0.0.0/1")
    after = zones("lan: {interfaces: [eth1], tcp: [80]}", half % "128.0.0.0/1")
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 32\.0\.0\.0 on eth1"):
        check_ways(after, FACTS, ways(live, after))
    assert check_ways(live, FACTS, ways(live, live)) == []
    # Who is in such a part, and no more in it than in the rest, is nobody whom one knows.
    opened = zones("admin: {interfaces: [eth1]}")
    after = zones("admin: {interfaces: [eth1]}", half % "0.0.0.0/1")
    (doubt,) = check_ways(after, FACTS, ways(opened, after))
    assert "an admin behind eth1, falls into zone half" in doubt


def test_link_local_admins_may_come_by_every_link_that_has_such_addresses() -> None:
    """The uplink is asked for certain; by the others nobody knows whether there is one."""
    links = (
        ("fe80::/64", "eth0"),
        ("fe80::/64", "eth1"),
        ("fe80::/64", "veth7"),
        ("fe80::/64", "tailscale0"),
    )
    facts = replace(FACTS, ports=(("veth7", "br0"),))
    live, lan = zones("admin: {sources: ['fe80::/10']}"), "lan: {interfaces: [eth1], tcp: [80]}"
    after = zones("admin: {interfaces: [eth0]}", lan)
    (doubt,) = check_ways(after, facts, ways(live, after, *links, facts=facts))
    assert doubt.startswith(
        "tcp/22 from fe80::1 on eth1, the admin source fe80::/10, falls into zone lan and"
    )
    assert doubt.endswith("(this may lock out an admin)")
    assert check_ways(live, facts, ways(live, live, *links, facts=facts)) == []
    with pytest.raises(CheckFailed, match="lock out an admin: tcp/22 from fe80::1 on eth0"):
        check_ways(zones(lan), facts, ways(live, zones(lan), *links, facts=facts))


def test_link_local_admins_of_a_source_of_everybody_are_asked_by_every_link_too() -> None:
    live, lan = zones("admin: {sources: ['::/0']}"), "lan: {interfaces: [eth1], tcp: [80]}"
    after = zones("admin: {interfaces: [eth0, tailscale0]}", lan)
    (doubt,) = check_ways(after, FACTS, ways(live, after, ("fe80::/64", "eth0"), ("fe80::/64", "eth1")))
    assert "tcp/22 from fe80::1 on eth1, an admin of ::/0 behind eth1, falls into zone lan" in doubt


def test_what_another_admin_zone_has_of_an_admin_interface_is_kept_or_refused_as_before() -> None:
    """By its source it is asked elsewhere: on this link its loss alone would be no more than a doubt."""
    live = zones("admin: {interfaces: [eth1]}", "ops: {preset: admin, sources: [10.0.0.0/8]}")
    opened = "dmz: {interfaces: [eth0], services: [ssh]}"
    after, lan = zones("admin: {sources: [192.168.15.0/24]}", opened), ("10.9.0.0/24", "192.168.15.0/24")
    behind = at(*((each, "eth1") for each in lan), ("0.0.0.0/0", "eth0"))
    found = ways_of_admins(live, after, FACTS, behind=behind, reach=lambda *_: list(map(NETWORK, lan)))
    with pytest.raises(CheckFailed, match=r"tcp/22 from 198\.51\.100\.1 on eth1"):
        check_ways(after, FACTS, found)


def test_a_lan_in_the_tailnets_range_keeps_no_peer_from_being_asked_about() -> None:
    """What has such an address on the LAN the rules drop; a peer may have it all the same."""
    lan, beside = ("100.70.0.0/24", "eth1"), {NETWORK("100.70.0.0/24"): "eth1"}
    live = zones("admin: {sources: [100.70.0.0/25]}")
    after = zones("peers: {interfaces: [tailscale0], tcp: [80]}")
    found = ways_of_admins(live, after, FACTS, behind=at(lan), beside=beside)
    with pytest.raises(CheckFailed, match=r"tcp/22 from 100\.70\.0\.1 on tailscale0"):
        check_ways(after, FACTS, found)
    tailnet = "admin: {interfaces: [tailscale0], allow: all}"
    after = zones(tailnet, "ci: {sources: [100.70.0.0/25], tcp: [80]}")
    (doubt,) = check_ways(after, FACTS, ways(zones(tailnet), after, lan))
    assert "tcp/22 from 100.70.0.1 on tailscale0, an admin behind tailscale0, falls into zone ci" in doubt


def test_a_host_without_a_tailnet_has_no_peer_to_lock_out() -> None:
    lan, beside = ("100.72.0.0/16", "eth0"), {NETWORK("100.72.0.0/16"): "eth0"}
    facts = replace(FACTS, interfaces=("eth0", "eth1", "lo"))
    ops = "ops: {interfaces: [eth0], services: [ssh]}"
    live, after = zones("admin: {sources: [100.72.0.0/16]}", ops), zones(ops)
    found = ways_of_admins(live, after, facts, behind=at(lan), beside=beside)
    assert all("on tailscale0" in doubt for doubt in check_ways(after, facts, found))


def test_a_network_of_peers_that_another_zone_takes_wholly_is_no_part_of_the_tailnet() -> None:
    """A site of 4via6, which has a route of its own on the same link."""
    tailnet, site = "admin: {interfaces: [tailscale0], allow: all}", "fd7a:115c:a1e0:b1a::/64"
    after = zones(tailnet, f"site: {{sources: ['{site}'], tcp: [80]}}")
    with pytest.raises(CheckFailed, match="from fd7a:115c:a1e0:b1a::1 on tailscale0"):
        check_ways(after, FACTS, ways(zones(tailnet), after, (site, "tailscale0")))


def test_everybody_in_a_zone_beside_the_tailnets_admins_is_no_lockout_on_a_new_host() -> None:
    after = zones(
        "admin: {interfaces: [tailscale0], allow: all}",
        "world: {sources: [32.0.0.0/3, '2000::/3'], services: [https]}",
    )
    yet_to_join = replace(FACTS, interfaces=("eth0", "eth1", "lo"))
    assert check_ways(after, yet_to_join, ways(None, after, facts=yet_to_join)) == []

    own = {4: [NETWORK("100.64.0.7/32")], 6: [NETWORK("fd7a:115c:a1e0::7/128"), NETWORK("fe80::/64")]}
    found = ways_of_admins(None, after, FACTS, reach=lambda _, version: own[version])
    assert check_ways(after, FACTS, found) == []


@pytest.mark.parametrize("world", ["128.0.0.0/1", "0.0.0.0/0"])
def test_whom_a_subnet_router_leads_to_a_new_host_is_asked_about(world: str) -> None:
    """They have no address of the tailnet's."""
    after = zones(
        "admin: {interfaces: [tailscale0]}",
        "peers: {sources: [100.64.0.0/10], services: [ssh]}",
        f"world: {{sources: [{world}], services: [https]}}",
    )
    known = [NETWORK("192.168.7.0/24"), NETWORK("100.64.0.7/32")]
    for reach in (lambda *_: known, lambda *_: None):
        found = ways_of_admins(None, after, FACTS, reach=reach)
        with pytest.raises(CheckFailed, match=r"tcp/22 from 198\.51\.100\.1 on tailscale0"):
            check_ways(after, FACTS, found)


def test_the_rest_of_a_new_hosts_tailnet_is_asked_about() -> None:
    taken = zones("admin: {interfaces: [tailscale0]}", "world: {sources: [0.0.0.0/0], tcp: [80]}")
    facts = replace(FACTS, interfaces=("eth0", "lo"))
    with pytest.raises(CheckFailed, match=r"from 100\.64\.0\.1 on tailscale0"):
        check_ways(taken, facts, ways(None, taken, facts=facts))


def test_half_of_a_network_without_a_zone_is_refused_and_no_part_that_another_takes() -> None:
    live, after = zones("admin: {interfaces: [eth1]}"), zones("admin: {sources: [192.168.15.0/25]}")
    lan = at(("192.168.15.0/24", "eth1"))

    def reach(_: str, version: int) -> list[Network]:
        return [lan[0][0]] if version == 4 else []

    found = ways_of_admins(live, after, FACTS, behind=lan, reach=reach)
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 192\.168\.15\.129 on eth1"):
        check_ways(after, FACTS, found)
    whole = zones("admin: {sources: [192.168.15.0/24]}")
    found = ways_of_admins(live, whole, FACTS, behind=lan, reach=reach)
    (ours,) = check_ways(whole, FACTS, found)
    assert ours.startswith(
        "by eth1 who is not in 192.168.15.0/24 no longer comes in: tcp/22 from 198.51.100.1"
    )
    assert "routes do not tell of who comes by another router (this may lock out an admin)" in ours


@pytest.mark.parametrize("before", [None, "services: [ssh]"])
def test_everybody_in_a_zone_beside_an_admin_interface_of_a_lan_is_refused(before: str | None) -> None:
    """Nobody on the LAN would come in as an admin, nor as they did, be the LAN all there is."""
    world = "world: {sources: [0.0.0.0/0, '::/0'], %s}"
    admin = "admin: {interfaces: [eth1]}"
    live = zones(admin, world % before) if before else None
    after, lan = zones(admin, world % "tcp: [80]"), at(("192.168.15.0/24", "eth1"))
    found = ways_of_admins(live, after, FACTS, behind=lan, reach=lambda *_: [lan[0][0]])
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 198\.51\.100\.1 on eth1"):
        check_ways(after, FACTS, found)


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ([("10.9.0.0/24", ("eth1",)), ("0.0.0.0/0", ("eth0",))], ["10.9.0.0/24"]),
        ([("10.9.0.0/24", ("eth1",)), ("0.0.0.0/0", ("eth0", "eth1"))], None),
        ([("10.9.0.0/24", ("eth1",)), ("2000::/3", ("eth1",))], None),
        ([("10.9.0.0/24", ("eth1",)), ("10.30.0.0/16", ())], None),
        ([("10.0.0.0/8", ("eth1",)), ("fe80::/10", ("eth1",))], ["10.0.0.0/8", "fe80::/10"]),
        ([("10.9.0.0/24", ("eth1",)), ("224.0.0.0/4", ("eth1",)), ("ff00::/8", ("eth1",))], ["10.9.0.0/24"]),
        ([], []),
    ],
)
def test_what_there_can_be_behind_an_interface(
    routes: list[tuple[str, tuple[str, ...]]], found: list[str] | None
) -> None:
    known = reachable([(NETWORK(network), links) for network, links in routes], "eth1")
    assert (None if known is None else [str(each) for each in known]) == found
