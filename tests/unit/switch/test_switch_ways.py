"""Which ways in a change would close: every part of every admin source, and the operator's own."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove.expected import Packet
from tsstack.switch.arrivals import with_other_arrivals, without_shut
from tsstack.switch.guard import OWN, check_tailscale, check_ways, ways_of_sessions
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
    assert [way.packet.protocol for way in without_shut(ways, lambda: closed, FACTS)] == ["tcp"]
    assert without_shut(ways, lambda: opened, FACTS) == ways
    assert without_shut(ways, lambda: None, FACTS) == ways, "without rules of ours all comes in"


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
    assert ways_of_admins(after, after, FACTS, beside=beside) == [], "under our rules they never came in"


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
