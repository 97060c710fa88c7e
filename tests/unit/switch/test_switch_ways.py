"""Which ways in a change would close: every part of every admin source, and the operator's own."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle, Packet
from tsstack.switch.arrivals import with_other_arrivals, with_shut
from tsstack.switch.guard import OWN, check_tailscale, check_ways, ways_of_sessions, with_routes
from tsstack.switch.logins import parse_connection
from tsstack.switch.ways import Route, Session, closed_ways, is_admin, ways_of_admins

FACTS = Facts(interfaces=("eth0", "eth1", "lo", "tailscale0"), default_interface="eth0")


def zones(*lines: str) -> Stack:
    return stack_of("firewall:\n  zones:\n" + "".join(f"    {line}\n" for line in lines))


def closed(before: Stack | None, after: Stack, ports: tuple[int, ...] = ()) -> list[str]:
    ways = ways_of_admins(before, after, FACTS, ports)
    return [str(each.way.packet) for each in closed_ways(after, FACTS, ways)]


LIVE = zones("admin: {sources: [10.0.0.0/8, 100.64.0.10/32, 'fd00:1::/48'], allow: all}", "dmz: {tcp: [80]}")


def test_nothing_is_closed_by_the_same_file() -> None:
    assert closed(LIVE, LIVE) == closed(None, LIVE) == []
    assert closed(None, zones("dmz: {interfaces: [eth0]}")) == []
    assert ways_of_admins(None, stack_of("host: {name: a}"), FACTS) == []


def test_every_part_of_a_network_is_asked() -> None:
    after = zones(
        "admin: {sources: [10.0.0.0/8, 100.64.0.10/32, 'fd00:1::/48'], allow: all}",
        "guests: {sources: [10.3.0.0/16, 'fd00:1:0:7::/64'], tcp: [80]}",
        "kiosk: {sources: [10.255.255.254/32], tcp: [80]}",
        "inner: {sources: [10.3.4.0/24], services: [ssh]}",
    )
    assert closed(LIVE, after) == [
        "tcp/22 from 10.3.0.1 on eth0",
        "tcp/22 from 10.3.5.1 on eth0",
        "tcp/22 from 10.255.255.254 on eth0",
        "tcp/22 from fd00:1:0:7::1 on eth0",
    ]
    assert closed(None, after) == [], "on a new host these never were the admins'"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("ops: {sources: [10.0.0.0/8, 'fd00:1::/48'], services: [ssh]}", "100.64.0.10 on tailscale0"),
        ("ops: {sources: [10.0.0.0/8, 100.64.0.10/32], services: [ssh]}", "fd00:1::1 on eth0"),
        ("ops: {sources: [100.64.0.10/32, 'fd00:1::/48'], services: [ssh]}", "10.0.0.1 on eth0"),
    ],
)
def test_a_source_that_is_gone(after: str, said: str) -> None:
    assert closed(LIVE, zones(after)) == [f"tcp/22 from {said}"]


def test_the_port_that_people_come_in_by() -> None:
    only_ssh = zones("ops: {sources: [10.0.0.0/8, 100.64.0.10/32, 'fd00:1::/48'], services: [ssh]}")
    assert closed(LIVE, only_ssh) == []
    assert closed(LIVE, only_ssh, (2222,))[0] == "tcp/2222 from 10.0.0.1 on eth0"
    other_port = stack_of(
        "firewall:\n  services: {ssh: [tcp/2222]}\n  zones:\n"
        "    ops: {sources: [10.0.0.0/8, 100.64.0.10/32, 'fd00:1::/48'], tcp: [22]}\n"
    )
    assert closed(LIVE, other_port)[0] == "tcp/2222 from 10.0.0.1 on eth0"


def test_an_admin_zone_that_is_an_interface() -> None:
    live = zones("admin: {interfaces: [eth1, 'wg*']}")
    after = zones("admin: {interfaces: [eth1]}", "dmz: {interfaces: ['wg*']}")
    assert closed(live, after) == ["tcp/22 from 198.51.100.1 on wg", "tcp/22 from 2001:db8::1 on wg"]


LAN = [
    (ipaddress.ip_network("192.168.15.0/24"), "eth1"),
    (ipaddress.ip_network("10.0.0.0/8"), "eth1"),
    (ipaddress.ip_network("10.0.0.0/24"), "eth0"),
    (ipaddress.ip_network("fe80::/64"), "eth0"),
    (ipaddress.ip_network("fe80::/64"), "eth1"),
    (ipaddress.ip_network("0.0.0.0/0"), "eth0"),
]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ("192.168.15.0/24", ["192.168.15.2 on eth1"]),
        ("192.168.15.0/25, 192.168.15.128/25", ["192.168.15.2 on eth1", "192.168.15.129 on eth1"]),
        ("10.0.0.0/8", ["10.0.1.1 on eth1"]),
        ("'fe80::/10'", ["fe80::1 on eth1"]),
        ("192.168.16.0/24", []),
        ("10.0.0.0/25", []),
    ],
)
def test_a_zone_by_sources_that_takes_a_network_of_an_admin_interface(sources: str, said: list[str]) -> None:
    dmz, admin = "dmz: {interfaces: [eth0], services: [ssh]}", "admin: {interfaces: [eth1], allow: all}"
    live, after = zones(dmz, admin), zones(dmz, admin, f"guests: {{sources: [{sources}], tcp: [80]}}")
    own = {ipaddress.ip_address("192.168.15.1")}
    ways = ways_of_admins(live, after, FACTS, own=own, behind=LAN)
    assert [str(each.way.packet) for each in closed_ways(after, FACTS, ways)] == [
        f"tcp/22 from {each}" for each in said
    ]
    assert not any(each.in_part or each.way.doubtful for each in closed_ways(after, FACTS, ways))
    ways = ways_of_admins(after, after, FACTS, own=own, behind=LAN)
    assert list(closed_ways(after, FACTS, ways)) == [], "what was taken before is nobody's loss"


@pytest.mark.parametrize(
    ("sources", "closes"),
    [
        ("192.168.15.50/32", False),
        ("192.168.15.128/25, 192.168.15.7/32", False),
        ("'fe80::5/128'", False),
        ("10.3.0.0/16", False),
        ("192.168.15.128/25, 192.168.15.0/25", True),
        ("10.9.0.0/16, 192.168.15.50/32", True),
        ("10.9.0.0/24", False),
        ("192.168.14.0/23", True),
        (", ".join(f"192.168.15.{at}/32" for at in range(2, 255)), True),
    ],
)
def test_a_new_zone_for_a_part_of_an_admin_network_is_a_doubt(sources: str, closes: bool) -> None:
    """A camera on the LAN: the admins there keep their way in, and whose that address is the file says."""
    admin = "admin: {interfaces: [eth1], services: [ssh]}"
    live, after = zones(admin), zones(admin, f"cam: {{sources: [{sources}], tcp: [80]}}")
    own, behind = (
        {ipaddress.ip_address("192.168.15.1")},
        [*LAN, (ipaddress.ip_network("10.9.0.0/16"), "eth1")],
    )
    ways = ways_of_admins(live, after, FACTS, own=own, behind=behind)
    if closes:
        with pytest.raises(CheckFailed, match="lock out an admin"):
            check_ways(after, FACTS, ways)
    else:
        (doubt,) = check_ways(after, FACTS, ways)
        assert "an admin behind eth1, falls into zone cam and firewall.default_policy refuses it" in doubt


@pytest.mark.parametrize("network", ["192.168.15.0/24", "192.168.15.0/25"])
def test_admins_that_a_new_source_names_are_the_rest_of_their_network_as_well(network: str) -> None:
    """The interface was the admins' before, and the file that takes a part of its network names them now."""
    live = zones("admin: {interfaces: [eth0], services: [ssh]}")
    after = zones(
        f"admin: {{interfaces: [eth0], sources: [{network}], services: [ssh]}}",
        "cam: {sources: [192.168.15.200/32], tcp: [80]}",
    )
    ways = ways_of_admins(live, after, FACTS, behind=[(LAN[0][0], "eth0")])
    assert "the admin source" in {way.whose.rpartition(" ")[0] for way in ways}
    (doubt,) = check_ways(after, FACTS, ways)
    assert "192.168.15.200 on eth0, an admin behind eth0, falls into zone cam" in doubt


def test_admins_that_the_live_source_names_are_the_rest_of_their_network_as_well() -> None:
    """Nobody else is left of it: the other half is what the zone takes."""
    admin = "admin: {interfaces: [eth0], sources: [192.168.15.0/25], services: [ssh]}"
    live, after = zones(admin), zones(admin, "cam: {sources: [192.168.15.128/25], tcp: [80]}")
    (doubt,) = check_ways(after, FACTS, ways_of_admins(live, after, FACTS, behind=[(LAN[0][0], "eth0")]))
    assert "192.168.15.129 on eth0, an admin behind eth0, falls into zone cam" in doubt


@pytest.mark.parametrize("sources", ["192.168.15.53/32", "192.168.15.48/29"])
def test_a_host_that_a_route_of_its_own_leads_to_is_a_part_of_the_network_that_it_is_in(sources: str) -> None:
    """systemd-networkd sets such ones to the router, the DNS and the time servers that DHCP names."""
    admin = "admin: {interfaces: [eth1], services: [ssh]}"
    live, after = zones(admin), zones(admin, f"dns: {{sources: [{sources}], udp: [53]}}")
    server = [(ipaddress.ip_network("192.168.15.53/32"), "eth1")]
    (doubt,) = check_ways(after, FACTS, ways_of_admins(live, after, FACTS, behind=[*LAN, *server]))
    assert "an admin behind eth1, falls into zone dns" in doubt
    # By another link, or on no network, it is one by itself: a peer of a WireGuard's.
    default = [(ipaddress.ip_network("0.0.0.0/0"), "eth1")]
    for behind in ([(LAN[0][0], "eth0"), *server], [*default, *server]):
        with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 192\.168\.15\.53 on eth1"):
            check_ways(after, FACTS, ways_of_admins(live, after, FACTS, behind=behind))


def test_a_host_in_anothers_links_network_is_asked_where_its_own_link_has_a_shorter_one() -> None:
    """A laptop that comes by a tunnel, with an address of the LAN: by the LAN nobody is an admin."""
    admin = "admin: {interfaces: [eth1], services: [ssh]}"
    live, after = zones(admin), zones(admin, "guests: {sources: [10.0.0.5/32], tcp: [80]}")
    behind = [*LAN, (ipaddress.ip_network("10.0.0.5/32"), "eth1")]
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 10\.0\.0\.5 on eth1"):
        check_ways(after, FACTS, ways_of_admins(live, after, FACTS, behind=behind))


@pytest.mark.parametrize(
    ("admin", "closes"),
    [("sources: [10.7.0.0/16], interfaces: [eth1]", True), ("sources: [192.168.15.0/24], allow: all", False)],
)
def test_what_another_zone_lets_in_of_an_admin_network_is_not_the_rest_of_it(
    admin: str, closes: bool
) -> None:
    """One host of an operator's, say, where all others lose their way in."""
    taken, kept = ("192.168.15.0/24", "192.168.15.9/32") if closes else ("192.168.15.50/32", "10.1.0.0/16")
    live = zones("admin: {interfaces: [eth1], services: [ssh]}")
    after = zones(
        f"admin: {{{admin}}}",
        f"guests: {{sources: [{taken}], tcp: [80]}}",
        f"ops: {{sources: [{kept}], services: [ssh]}}",
    )
    ways = ways_of_admins(live, after, FACTS, behind=[(ipaddress.ip_network("192.168.15.0/24"), "eth1")])
    found = [each for each in closed_ways(after, FACTS, ways) if each.way.network]
    assert found
    assert {each.in_part for each in found} == {not closes}


@pytest.mark.parametrize("taken", ["192.168.15.0/24", "192.168.15.0/25, 192.168.15.128/25", "192.168.0.0/16"])
@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_one_admin_in_a_network_that_another_zone_takes_is_not_the_rest_of_it(
    interface: str, taken: str
) -> None:
    """The operator's own host, say: all others there lose their way in."""
    live = zones(f"admin: {{interfaces: [{interface}], services: [ssh]}}")
    after = zones(
        f"admin: {{interfaces: [{interface}], sources: [192.168.15.9/32], services: [ssh]}}",
        f"guests: {{sources: [{taken}], tcp: [80]}}",
    )
    ways = ways_of_admins(live, after, FACTS, behind=[(LAN[0][0], interface)])
    with pytest.raises(CheckFailed, match=rf"lock out an admin: tcp/22 from 192\.168\.15\.1 on {interface}"):
        check_ways(after, FACTS, ways)


def test_two_zones_that_share_an_admin_network_leave_no_rest_of_it_to_each_other() -> None:
    live = zones("admin: {interfaces: [eth1], services: [ssh]}")
    after = zones(
        "admin: {interfaces: [eth1], sources: [192.168.15.9/32, 192.168.15.209/32], services: [ssh]}",
        "guests: {sources: [192.168.15.0/25], tcp: [80]}",
        "cam: {sources: [192.168.15.128/25]}",
    )
    ways = ways_of_admins(live, after, FACTS, behind=[(LAN[0][0], "eth1")])
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 192\.168\.15\.1 on eth1"):
        check_ways(after, FACTS, ways)


def test_what_is_left_of_an_admin_network_without_a_zone_that_names_it_is_refused() -> None:
    """Interface and all: the part is lost by what the file leaves out, and not by what it says."""
    live = zones("admin: {interfaces: [eth1], services: [ssh]}")
    after = zones(
        "admin: {sources: [192.168.15.0/25], services: [ssh]}", "lan: {interfaces: [eth1], tcp: [80]}"
    )
    network = ipaddress.ip_network("192.168.15.0/24")
    ways = ways_of_admins(live, after, FACTS, behind=[(network, "eth1")])
    found = [each for each in closed_ways(after, FACTS, ways) if each.way.network]
    assert [(str(each.way.packet.source), each.in_part) for each in found] == [("192.168.15.129", False)]


def test_of_thousands_of_routes_the_largest_are_asked() -> None:
    """A routing table of the Internet must not hold up a switch; this host's own LAN is always asked."""
    admin = "admin: {interfaces: [eth1], services: [ssh]}"
    lan = ipaddress.ip_network("192.168.15.0/24")
    routes = [(ipaddress.ip_network((0x14000000 + (at << 9), 23)), "eth1") for at in range(5_000)]
    told: list[str] = []
    for behind, more in (([*routes, (lan, "eth1")], 1), ([*routes[:10], (lan, "eth1")], 0)):
        told.clear()
        own = {ipaddress.ip_address("192.168.15.1")}
        ways = ways_of_admins(zones(admin), zones(admin), FACTS, own=own, behind=behind, tell=told.append)
        assert ipaddress.ip_address("192.168.15.2") in {way.packet.source for way in ways}
        assert len(ways) <= 1_002
        assert len(told) == more
    assert told == []


def test_the_tailnet_is_the_network_of_its_interface() -> None:
    live = zones("admin: {interfaces: [tailscale0], allow: all}")
    after = zones(
        "admin: {interfaces: [tailscale0], allow: all}", "ci: {sources: [100.64.0.0/10], tcp: [80]}"
    )
    assert closed(live, after)[0] == "tcp/22 from 100.64.0.1 on tailscale0"
    ways = with_routes(ways_of_admins(live, live, FACTS), lambda *_: Route("eth0"))
    assert {way.route for way in ways if not way.somebody} == {Route("tailscale0")}, "also where it is down"


BY_LINKS = [
    (ipaddress.ip_network("192.168.15.0/24"), "eth1"),
    (ipaddress.ip_network("192.168.15.1/32"), "wg0"),
    (ipaddress.ip_network("10.9.0.0/16"), "wg0"),
    (ipaddress.ip_network("10.0.0.0/24"), "eth1"),
    (ipaddress.ip_network("10.8.0.0/24"), "eth0"),
    (ipaddress.ip_network("10.8.0.0/24"), "eth1"),
    (ipaddress.ip_network("fe80::/64"), "eth1"),
    (ipaddress.ip_network("0.0.0.0/1"), "wg0"),
    (ipaddress.ip_network("0.0.0.0/0"), "eth0"),
]


def test_admins_of_a_large_source_may_be_on_a_network_in_it_by_another_link() -> None:
    """All of private addresses, with a LAN among them: the uplink alone would keep its way in."""
    lan = [(ipaddress.ip_network("0.0.0.0/0"), "eth0"), (ipaddress.ip_network("10.9.0.0/24"), "eth1")]
    live = zones("admin: {sources: [10.0.0.0/8]}")
    after = zones("admin: {interfaces: [eth0]}", "lan: {interfaces: [eth1], tcp: [80]}")
    (doubt,) = check_ways(after, FACTS, ways_of_admins(live, after, FACTS, behind=lan))
    start = "tcp/22 from 10.9.0.1 on eth1, an admin of 10.0.0.0/8 behind eth1, falls into zone lan and"
    assert doubt.startswith(start)
    assert list(check_ways(live, FACTS, ways_of_admins(live, live, FACTS, behind=lan))) == []


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("192.168.15.0/24", "eth1"),
        ("192.168.15.7/32", "eth1"),
        ("10.9.3.0/24", "wg0"),
        ("10.8.0.0/24", "eth0"),
        ("10.0.0.0/8", "eth0"),
        ("45.0.0.0/8", "eth0"),
        ("'fe80::/64'", "eth0"),
    ],
)
def test_an_admin_source_is_asked_by_the_link_that_its_network_is_behind(source: str, link: str) -> None:
    """A VPN's network beside the LAN that the admins are on: only the uplink's zone would let it in."""
    admin = "admin: {interfaces: [%s], services: [ssh]}"
    live = zones(f"admin: {{sources: [{source}]}}", "wan: {interfaces: [eth0, eth1, wg0], tcp: [80]}")
    others = ", ".join({"eth0", "eth1", "wg0"} - {link})
    for after, keeps in ((zones(admin % link), True), (zones(admin % others), False)):
        ways = ways_of_admins(live, after, FACTS, behind=BY_LINKS)
        said = [str(each.way.packet) for each in closed_ways(after, FACTS, ways) if not each.way.doubtful]
        assert (said == []) is keeps
        assert all(each.endswith(f" on {link}") for each in said)


def test_an_admin_source_with_a_part_on_the_uplink_is_asked_there_as_well() -> None:
    """All of 10.0.0.0/8 by a VPN, and a LAN of it on the uplink."""
    live, after = zones("admin: {sources: [10.0.0.0/8]}"), zones("admin: {interfaces: [wg0]}")
    for network, said in (("10.9.0.0/24", ["tcp/22 from 10.0.0.1 on eth0"]), ("192.168.15.0/24", [])):
        lan = (ipaddress.ip_network(network), "eth0")
        ways = ways_of_admins(live, after, FACTS, behind=[(ipaddress.ip_network("10.0.0.0/8"), "wg0"), lan])
        assert [str(each.way.packet) for each in closed_ways(after, FACTS, ways)] == said


def test_who_is_an_admin_beyond_a_default_route_is_a_doubt() -> None:
    """A list of thousands to keep out says one sentence."""
    admin = "admin: {interfaces: [eth0], allow: all}"
    after = zones(admin, "blocked: {sources: [45.0.0.0/8, 46.0.0.0/8, 10.0.0.0/16], tcp: [80]}")
    ways = ways_of_admins(zones(admin), after, FACTS, behind=[*LAN[1:2], *LAN[-1:]])
    (doubt,) = check_ways(after, FACTS, ways)
    assert doubt.startswith("tcp/22 from 45.0.0.1 on eth0, an admin behind eth0, falls into zone blocked and")
    assert doubt.endswith("(this may lock out an admin)")
    ways = ways_of_admins(zones(admin), zones(admin), FACTS, behind=LAN)
    assert not any(way.doubtful for way in ways)


def test_of_a_list_of_thousands_beyond_a_default_route_the_largest_networks_stand_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A country to keep out must not hold up a switch; another zone beside it is told of all the same."""
    asked = 0
    judge = Oracle.judge

    def counted(oracle: Oracle, packet: Packet) -> Any:
        nonlocal asked
        asked += 1
        return judge(oracle, packet)

    monkeypatch.setattr(Oracle, "judge", counted)
    admin = "admin: {interfaces: [eth0], allow: all}"
    many = ", ".join(str(ipaddress.ip_network((0x2D000000 + (at << 9), 24))) for at in range(5_000))
    one = "one: {sources: [203.0.113.9/32], tcp: [80]}"
    after = zones(admin, f"blocked: {{sources: [{many}], tcp: [80]}}", one)
    ways = ways_of_admins(zones(admin), after, FACTS, behind=LAN[-1:])
    assert asked < 10_000
    assert {each.split(" falls into ")[1].split(" and ")[0] for each in check_ways(after, FACTS, ways)} == {
        "zone blocked", "zone one",
    }  # fmt: skip


def test_a_zone_of_everybody_that_hides_an_admin_interface_is_refused_on_a_new_host_too() -> None:
    """Its sources go before the interface: nobody at all would come in as an admin there."""
    world = "world: {sources: [0.0.0.0/0, '::/0'], %s}"
    shut, opened = (
        zones("admin: {interfaces: [eth0]}", world % each) for each in ("tcp: [80]", "allow: all")
    )
    said = ["tcp/22 from 198.51.100.1 on eth0", "tcp/22 from 2001:db8::1 on eth0"]
    assert closed(None, shut) == closed(opened, shut) == said
    assert closed(None, opened) == closed(shut, shut) == []
    others = "admin: {interfaces: [tailscale0], sources: [100.64.0.0/10, 'fd7a:115c:a1e0::/48']}"
    shut, opened = (zones(others, world % each) for each in ("tcp: [80]", "allow: all"))
    for bare in (None, stack_of("host: {name: a}"), stack_of("firewall: {enabled: false}")):
        assert closed(bare, shut) == [], "its own sources go before everybody"
    assert closed(opened, shut) == [each.replace("eth0", "tailscale0") for each in said]
    others = "admin: {interfaces: [eth0], sources: [100.64.0.0/10]}"
    assert closed(None, zones(others, world % "tcp: [80]")) == said[1:], "no source of its own is IPv6"


def test_a_list_of_what_no_packet_rightly_comes_from_closes_no_admin_interface() -> None:
    """The examples of somebody are in each such list."""
    admin = "admin: {interfaces: [eth0]}"
    bogons = "bogons: {sources: [192.0.2.0/24, 198.51.100.0/24, '2001:db8::/32', 32.0.0.0/8, '2000::/16']}"
    after = zones(admin, bogons)
    assert closed(None, after) == closed(zones(admin), after) == closed(after, after) == []
    gone = zones("dmz: {interfaces: [eth0], tcp: [80]}", bogons)
    assert closed(after, gone) == ["tcp/22 from 33.0.0.0 on eth0", "tcp/22 from 2001:: on eth0"]


@pytest.mark.parametrize(
    ("network", "taken", "known"),
    [
        ("0.0.0.0/1", "45.0.0.0/8", False),
        ("2000::/3", "'2a00::/16'", False),
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("2a00::/16", "'2a00::/16'", True),
    ],
)
def test_half_a_default_route_is_one(network: str, taken: str, known: bool) -> None:
    """What OpenVPN's `redirect-gateway def1` sets, and all of IPv6 that is given out."""
    admin, behind = "admin: {interfaces: [eth1], allow: all}", [(ipaddress.ip_network(network), "eth1")]
    after = zones(admin, f"blocked: {{sources: [{taken}], tcp: [80]}}")
    ways = ways_of_admins(zones(admin), after, FACTS, behind=behind)
    assert [each.way.doubtful for each in closed_ways(after, FACTS, ways)] == [not known]


def test_every_interface_that_a_wildcard_covers_is_asked() -> None:
    facts = replace(FACTS, interfaces=("eth0", "wg0", "wg1", "wg2"), ports=(("wg2", "br0"),))
    admin = "admin: {interfaces: ['wg*'], allow: all}"

    def lost(*more: str) -> list[tuple[str, bool]]:
        after = zones(admin, *more)
        found = closed_ways(after, facts, ways_of_admins(zones(admin), after, facts))
        return [(each.way.packet.interface, each.way.doubtful) for each in found]

    assert lost("guests: {interfaces: [wg1], tcp: [80]}") == [("wg1", False), ("wg1", False)]
    assert lost("guests: {interfaces: [wg7], tcp: [80]}") == [("wg7", True)], "it may come, or be new"
    assert lost("guests: {interfaces: [wg2], tcp: [80]}") == [], "a port of a bridge is nobody's way in"
    assert lost() == []


def test_what_was_shut_before_cannot_be_closed() -> None:
    """Admins whom the live file does not let in lose nothing."""
    assert LIVE.firewall is not None
    shut = LIVE.firewall.zones["admin"].model_copy(update={"allow": None})
    live = LIVE.model_copy(update={"firewall": LIVE.firewall.model_copy(update={"zones": {"admin": shut}})})
    assert closed(live, zones("dmz: {tcp: [80]}")) == []
    assert closed(LIVE, zones("dmz: {tcp: [80]}")) != []


def test_the_preset_makes_the_admin() -> None:
    assert LIVE.firewall is not None
    zone = LIVE.firewall.zones["admin"]
    told = [
        is_admin(name, zone.model_copy(update={"preset": preset}))
        for name, preset in (("admin", None), ("admin", "dmz"), ("ops", None), ("ops", "admin"))
    ]
    assert told == [True, False, False, True]


def test_no_firewall_closes_nothing() -> None:
    assert closed(LIVE, stack_of("host: {name: a}\nfirewall: {enabled: false}")) == []


def by(interface: str) -> Callable[..., Route]:
    return lambda *_: Route(interface)


def test_the_tailnet_address_in_use_is_part_of_the_question() -> None:
    """A session from the LAN to the tailnet's address: SSH is open to the LAN, but not there."""
    after = zones("lan: {interfaces: [eth0], services: [ssh]}")
    client = ipaddress.ip_address("192.0.2.7")
    for server, cut in (("192.0.2.1", False), ("100.64.0.3", True), ("fd7a:115c:a1e0::3", True)):
        address = ipaddress.ip_address(server)
        if address.version == 6:
            client = ipaddress.ip_address("2001:db8::7")
        ways = ways_of_sessions((Session(client, 50000, address, 22),), by("eth0"))
        if cut:
            with pytest.raises(
                CheckFailed, match=f"lock you out: tcp/22 from {client} on eth0 to {server}, {OWN}"
            ):
                check_ways(after, FACTS, ways)
        else:
            check_ways(after, FACTS, ways)


def test_a_session_over_the_tailnet_is_asked_on_its_interface() -> None:
    session = Session(ipaddress.ip_address("100.64.0.7"), 50000, ipaddress.ip_address("100.64.0.3"), 22)
    (way,) = ways_of_sessions((session,), by("tailscale0"))
    assert way.packet == Packet(session.client, "tailscale0", "tcp", 22, session.server)
    check_ways(zones("internal: {interfaces: [tailscale0], services: [ssh]}"), FACTS, [way])
    with pytest.raises(CheckFailed, match=r"falls into zone peers and firewall\.default_policy refuses it"):
        check_ways(zones("peers: {interfaces: [tailscale0], tcp: [80]}"), FACTS, [way])


@pytest.mark.parametrize(
    ("client", "server"), [("100.70.0.9", "203.0.113.1"), ("fd7a:115c:a1e0::9", "2001:db8::1")]
)
def test_an_address_of_the_tailnets_range_on_another_interface_is_dropped(client: str, server: str) -> None:
    """A provider's or a neighbour's 100.64.0.0/10: the rules take it for a forgery there."""
    session = Session(ipaddress.ip_address(client), 50000, ipaddress.ip_address(server), 22)
    ways = ways_of_sessions((session,), by("eth0"))
    open_there = zones("dmz: {interfaces: [eth0], services: [ssh]}", "internal: {interfaces: [tailscale0]}")
    with pytest.raises(CheckFailed, match=f"tcp/22 from {client} on eth0 .* by tailscale0 alone; .* by eth0"):
        check_ways(open_there, FACTS, ways)


def test_a_link_local_session_comes_by_its_own_link() -> None:
    session = parse_connection("fe80::1234%eth1 50000 fe80::1%eth1 22")
    assert session is not None
    ways = ways_of_sessions((session,), by("eth0"))
    assert ways[0].packet.interface == "eth1"
    check_ways(zones("dmz: {interfaces: [eth0]}", "lan: {interfaces: [eth1], services: [ssh]}"), FACTS, ways)
    with pytest.raises(CheckFailed, match="lock you out: tcp/22 from fe80::1234 on eth1"):
        check_ways(zones("dmz: {interfaces: [eth0], tcp: [22]}", "lan: {interfaces: [eth1]}"), FACTS, ways)


def test_no_route_back_is_a_refusal() -> None:
    session = Session(ipaddress.ip_address("192.0.2.7"), 50000, ipaddress.ip_address("192.0.2.1"), 22)
    with pytest.raises(CheckFailed, match=r"no route back to 192\.0\.2\.7"):
        ways_of_sessions((session,), lambda *_: None)
    assert ways_of_sessions((session._replace(live=True),), lambda *_: None) == [], "lost already"
    ways = ways_of_sessions((session._replace(live=True),), by("eth0"))
    with pytest.raises(CheckFailed, match=r"cut somebody off: tcp/22 .*, a session that is open on this"):
        check_ways(zones("dmz: {tcp: [80]}"), FACTS, ways)


def test_what_tailscaled_itself_takes_needs_no_rule() -> None:
    """Its SSH server has the packet before the kernel's rules: no zone has to open tcp/22 for it."""
    session = Session(ipaddress.ip_address("100.64.0.9"), 50000, ipaddress.ip_address("100.64.0.1"), 22)
    (way,) = ways_of_sessions((session,), by("tailscale0"))
    after = zones("peers: {interfaces: [tailscale0], tcp: [80]}")
    with pytest.raises(CheckFailed, match="lock you out"):
        check_ways(after, FACTS, [way])
    (way,) = ways_of_sessions((session._replace(by_tailscaled=True),), by("tailscale0"))
    check_ways(after, FACTS, [way])


def test_admins_behind_another_subnet_router_are_asked_by_their_way_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda *_: Route("tailscale0"))
    tree = {"tailscale/prefs.json": '{"prefs": {"RouteAll": false}, "exit_node": null}'}
    snapshot = {"prefs": {"RouteAll": True}, "exit_nodes": [], "needs_login": False}
    live = zones("admin: {sources: [10.77.0.0/16]}")
    ways = ways_of_admins(live, live, FACTS)
    assert [way.packet.interface for way in ways] == ["eth0"]
    with pytest.raises(CheckFailed, match=r"accept_routes: without the routes .* back to 10\.77\.0\.1"):
        check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]


ETH0_IN, ETH1_IN = "{0}: {{interfaces: [eth0], {1}}}", "{0}: {{interfaces: [eth1], {1}}}"
SSH, WEB = "services: [ssh]", "tcp: [80]"


def both(eth0: str, eth1: str) -> Stack:
    return zones(ETH0_IN.format("a", eth0), ETH1_IN.format("b", eth1))


@pytest.mark.parametrize(
    ("live", "asked"),
    [
        (None, [("eth0", False), ("eth1", True)]),
        (both(SSH, SSH), [("eth0", False), ("eth1", True)]),
        (both(SSH, WEB), [("eth0", False)]),
        (both(WEB, SSH), [("eth1", False)]),
        (both(WEB, WEB), [("eth0", False), ("eth1", True)]),
    ],
)
def test_a_session_whose_answers_leave_by_another_interface(
    live: Stack | None, asked: list[tuple[str, bool]]
) -> None:
    """What the live rules let in by one of both alone has come by that one."""
    server = ipaddress.ip_address("192.168.15.1")
    session = Session(ipaddress.ip_address("203.0.113.9"), 50000, server, 22)

    def arrivals(session: Session, *, strict: bool = False, back: str = "eth0") -> list[tuple[str, bool]]:
        ways = ways_of_sessions((session,), by(back))
        holders = {server: ["eth1"], ipaddress.ip_address("192.0.2.1"): ["lo"]}
        found = with_other_arrivals(ways, holders, lambda _: strict, lambda: live, FACTS)
        return [(way.packet.interface, way.doubtful) for way in found]

    assert arrivals(session) == asked
    assert arrivals(session, strict=True) == [("eth0", False)], "the kernel drops what comes by the other"
    assert arrivals(session, back="eth1") == [("eth1", False)]
    on_loopback = session._replace(server=ipaddress.ip_address("192.0.2.1"))
    assert arrivals(on_loopback) == [("eth0", False)]
    peer = session._replace(client=ipaddress.ip_address("100.64.0.9"))
    assert arrivals(peer, back="tailscale0") == [("tailscale0", False)]


def test_what_only_may_come_by_an_interface_is_a_doubt() -> None:
    session = Session(ipaddress.ip_address("203.0.113.9"), 5, ipaddress.ip_address("192.168.15.1"), 22)
    (way,) = ways_of_sessions((session,), by("eth0"))
    maybe = replace(way, packet=replace(way.packet, interface="eth1"), doubtful=True)
    (doubt,) = check_ways(both(SSH, WEB), FACTS, [way, maybe])
    assert doubt.startswith(
        "tcp/22 from 203.0.113.9 on eth1 to 192.168.15.1, your own session: answers leave"
    )
    assert doubt.endswith("into zone b and firewall.default_policy refuses it (this may lock you out)")
    assert check_ways(both(SSH, SSH), FACTS, [way, maybe]) == []
    with pytest.raises(CheckFailed, match="on eth0 to"):
        check_ways(both(WEB, WEB), FACTS, [maybe, way])


def test_what_the_live_rules_have_shut_no_switch_cuts() -> None:
    """A mosh server that was left behind, or a program that only calls itself so."""
    session = Session(ipaddress.ip_address("203.0.113.9"), 0, ipaddress.ip_address("203.0.113.1"), 60001)
    left = session._replace(protocol="udp", live=True)
    ways = ways_of_sessions((left, session), by("eth0"))
    closed = zones("dmz: {interfaces: [eth0], tcp: [22, 60001]}")
    opened = zones("dmz: {interfaces: [eth0], tcp: [60001], udp: [60001]}")
    assert [way.packet.protocol for way in with_shut(ways, lambda: closed, FACTS)] == ["tcp"]
    assert with_shut(ways, lambda: opened, FACTS) == ways
    assert with_shut(ways, lambda: None, FACTS) == ways, "without rules of ours all comes in"


def test_a_session_of_ones_own_that_the_live_rules_refuse_is_told_and_bars_nothing() -> None:
    """It has outlived the rules that let it in: the next change of anything else is no lock-out."""
    server = ipaddress.ip_address("203.0.113.1")
    session = Session(ipaddress.ip_address("203.0.113.77"), 50000, server, 22)
    ways = ways_of_sessions((session,), by("eth0"))
    live, after = (zones(f"dmz: {{interfaces: [eth0], tcp: [{ports}]}}") for ports in ("80", "80, 81"))
    (doubt,) = check_ways(after, FACTS, with_shut(ways, lambda: live, FACTS))
    assert doubt.startswith(
        "tcp/22 from 203.0.113.77 on eth0 to 203.0.113.1, your own session: the live rules"
    )
    opened = zones("dmz: {interfaces: [eth0], tcp: [22, 80]}")
    assert check_ways(opened, FACTS, with_shut(ways, lambda: live, FACTS)) == []
    for before in (opened, None, stack_of("host: {name: a}")):
        with pytest.raises(CheckFailed, match="lock you out"):
            check_ways(after, FACTS, with_shut(ways, lambda before=before: before, FACTS))  # type: ignore[misc]


def test_an_admin_source_that_this_host_has_on_another_interface() -> None:
    """On a new host such admins come in now; the rules would drop them as forged."""
    after = zones("admin: {sources: [100.70.0.0/25, 100.64.0.0/10], allow: all}")
    beside = {ipaddress.ip_network("100.70.0.0/24"): "eth1", ipaddress.ip_network("100.0.0.0/8"): "eth0"}
    ways = ways_of_admins(None, after, FACTS, beside={ipaddress.ip_network("100.70.0.0/24"): "eth1"})
    assert [str(each.way.packet) for each in closed_ways(after, FACTS, ways)] == [
        "tcp/22 from 100.70.0.1 on eth1"
    ]
    ways = ways_of_admins(None, after, FACTS, beside=beside)
    assert {way.packet.interface for way in ways} == {"eth0", "eth1"}, "the longer network counts"
    ways = ways_of_admins(after, after, FACTS, beside=beside)
    assert {way.packet.interface for way in ways} == {"tailscale0"}, "under our rules they came by no other"


def test_every_port_of_ssh_is_asked_as_far_as_there_are_few() -> None:
    ssh = "firewall:\n  services: {ssh: [tcp/22, tcp/2222, udp/22, tcp/2022, tcp/2023]}\n  zones:\n"
    live = stack_of(f"{ssh}    admin: {{sources: [10.0.0.0/8], allow: all}}\n")
    after = stack_of(f"{ssh}    ops: {{sources: [10.0.0.0/8], tcp: [22, 2222]}}\n")
    assert closed(live, after) == ["tcp/2022 from 10.0.0.1 on eth0"]
    assert len(ways_of_admins(live, after, FACTS)) == 3


def test_tailscaleds_settings_cut_nobody() -> None:
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ShieldsUp": true, "ExitNodeAllowLANAccess": false}, '
        '"exit_node": null}'
    }
    snapshot = {"prefs": {"ShieldsUp": False}, "exit_nodes": [], "needs_login": False}
    ways = ways_of_admins(None, LIVE, FACTS)
    lan = [way for way in ways if way.packet.interface == "eth0"]
    check_tailscale(tree, snapshot, lan, FACTS)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 100\.64\.0\.10 on tail"):
        check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]


def test_each_admin_is_asked_of_the_exit_node_by_the_own_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the LAN is spared with allow_lan_access, one behind a router is not, private or not."""
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ExitNodeAllowLANAccess": true}, "exit_node": '
        '{"use": ["exit-a"], "otherwise": "block", "movable": true}}'
    }
    peers = [{"id": "n1", "name": "exit-a", "online": True}]
    snapshot = {"prefs": {"ExitNodeAllowLANAccess": True}, "exit_nodes": peers, "needs_login": False}
    far = ipaddress.ip_address("10.77.0.1")
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda to, *_: Route("eth0", gateway=to == far))
    live = zones("admin: {sources: [10.3.0.0/16, 10.77.0.0/16]}")
    ways = ways_of_admins(live, live, FACTS)
    assert [str(way.packet.source) for way in ways] == ["10.3.0.1", "10.77.0.1"]
    assert check_tailscale(tree, snapshot, ways[:1], FACTS) == []  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"10\.77\.0\.1 on eth0, .*: replies to 10\.77\.0\.1 would leave"):
        check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]


def test_admins_behind_a_router_on_an_admin_interface_are_a_doubt_of_the_exit_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A route says that there are hosts, and not that any is an admin's: this host's own LAN alone does."""
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ExitNodeAllowLANAccess": %s}, "exit_node": '
        '{"use": ["exit-a"], "otherwise": "block", "movable": true}}'
    }
    spared = {path: text % "true" for path, text in tree.items()}
    not_spared = {path: text % "false" for path, text in tree.items()}
    peers = [{"id": "n1", "name": "exit-a", "online": True}]
    snapshot = {"prefs": {"ExitNodeAllowLANAccess": True}, "exit_nodes": peers, "needs_login": False}
    lan, *far = (ipaddress.ip_network(each) for each in ("192.168.15.0/24", "10.9.0.0/16", "10.10.0.0/16"))
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda to, *_: Route("eth0", gateway=to not in lan))
    live = zones("admin: {interfaces: [eth0], services: [ssh]}")
    ways = ways_of_admins(live, live, FACTS, behind=[(each, "eth0") for each in (lan, *far)])
    (doubt,) = check_tailscale(spared, snapshot, ways, FACTS)  # type: ignore[arg-type]
    assert doubt.startswith("tailscale.exit_node: replies to an admin behind eth0 would leave through the")
    assert doubt.endswith("(this may lock out an admin)")
    ways = [way for way in ways if not way.somebody]
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 192\.168\.15\.1 on eth0"):
        check_tailscale(not_spared, snapshot, ways, FACTS)  # type: ignore[arg-type]


def test_an_admin_source_is_refused_an_exit_node_also_where_a_route_leads_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The live file's admin interface has the same packet, as of somebody behind a router."""
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ExitNodeAllowLANAccess": true}, "exit_node": '
        '{"use": ["exit-a"], "otherwise": "block", "movable": true}}'
    }
    peers = [{"id": "n1", "name": "exit-a", "online": True}]
    snapshot = {"prefs": {"ExitNodeAllowLANAccess": True}, "exit_nodes": peers, "needs_login": False}
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda *_: Route("eth0", gateway=True))
    live, after = (
        zones(f"admin: {{interfaces: [eth0]{each}}}") for each in ("", ", sources: [10.77.0.0/16]")
    )
    ways = ways_of_admins(live, after, FACTS, behind=[(ipaddress.ip_network("10.77.0.0/16"), "eth0")])
    with pytest.raises(
        CheckFailed, match=r"tcp/22 from 10\.77\.0\.1 on eth0, the admin source 10\.77\.0\.0/16: t"
    ):
        check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]


def test_hundreds_of_networks_behind_an_interface_leave_no_admin_source_unasked() -> None:
    """Of so many ways the route is asked; a router with a dynamic protocol has more networks."""
    live = zones("lan: {preset: admin, interfaces: [eth1]}", "ops: {preset: admin, sources: [10.77.0.0/16]}")
    behind = [(ipaddress.ip_network((0x14000000 + (at << 9), 23)), "eth1") for at in range(600)]
    ways = with_routes(ways_of_admins(live, live, FACTS, behind=behind), by("eth0"))
    unasked = [way for way in ways if way.route is None and not way.somebody]
    assert [str(way.packet.source) for way in ways if way.whose == "the admin source 10.77.0.0/16"] == [
        "10.77.0.1"
    ]
    assert len(unasked) == 101
    assert all(way.network for way in unasked)


def test_routes_that_peers_advertise_are_asked_of_tailscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With accept_routes the network of the LAN may lead over the tailnet, when a peer advertises it."""
    tree = {"tailscale/prefs.json": '{"prefs": {"RouteAll": true, "RunSSH": true}, "exit_node": null}'}
    snapshot = {"prefs": {"RouteAll": False}, "exit_nodes": [], "needs_login": False}
    peers = {"Peer": {"a": {"PrimaryRoutes": ["10.0.0.0/8", "0.0.0.0/0"]}, "b": {"PrimaryRoutes": None}}}
    monkeypatch.setattr("tsstack.system.localapi.LocalApi.status", lambda _: peers)
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda *_: Route("eth0"))
    ways = ways_of_admins(None, zones("admin: {sources: [192.0.2.0/24, 100.64.0.10/32]}"), FACTS)
    (doubt,) = check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]
    assert "tailscale.ssh: " in doubt
    assert "(this may lock out an admin)" in doubt
    ways = ways_of_admins(None, LIVE, FACTS)
    with pytest.raises(CheckFailed, match=r"tailscale\.accept_routes: a peer advertises 10\.0\.0\.0/8"):
        check_tailscale(tree, snapshot, ways, FACTS)  # type: ignore[arg-type]


def test_thousands_of_sources_are_all_judged() -> None:
    sources = ", ".join(str(ipaddress.ip_address(0x0A000000 + 2 * at)) for at in range(2_000))
    live = zones(f"admin: {{sources: [{sources}]}}")
    after = zones(f"admin: {{sources: [{sources}]}}", "dmz: {sources: [10.0.0.0/30], tcp: [80]}")
    assert closed(live, after) == []
    assert len(ways_of_admins(live, after, FACTS)) == 2_000


def test_no_admin_comes_from_this_host_itself() -> None:
    """A router has the first address of its network, which would be the first to think of."""
    own = {
        ipaddress.ip_address("192.0.2.1"),
        ipaddress.ip_address("192.0.2.2"),
        ipaddress.ip_address("10.9.0.9"),
    }
    file = zones("admin: {sources: [192.0.2.0/24, 10.9.0.9/32]}")
    found = [str(way.packet.source) for way in ways_of_admins(None, file, FACTS, own=own)]
    assert found == ["192.0.2.3"]
