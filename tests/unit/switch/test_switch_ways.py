"""Which ways in a change would close: every part of every admin source, and the operator's own."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove.expected import Packet
from tsstack.switch import guard
from tsstack.switch.guard import OWN, Session, check_tailscale, check_ways, ways_of_sessions
from tsstack.switch.ways import Way, closed_ways, is_admin, ways_of_admins

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


def test_the_tailnet_address_in_use_is_part_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session from the LAN to the tailnet's address: SSH is open to the LAN, but not there."""
    monkeypatch.setattr(guard, "route_interface", lambda address: "eth0")
    after = zones("lan: {interfaces: [eth0], services: [ssh]}")
    client = ipaddress.ip_address("192.0.2.7")
    for server, cut in (("192.0.2.1", False), ("100.64.0.3", True), ("fd7a:115c:a1e0::3", True)):
        address = ipaddress.ip_address(server)
        if address.version == 6:
            client = ipaddress.ip_address("2001:db8::7")
        ways = ways_of_sessions((Session(client, 50000, address, 22),))
        if cut:
            with pytest.raises(
                CheckFailed, match=f"lock you out: tcp/22 from {client} on eth0 to {server}, {OWN}"
            ):
                check_ways(after, FACTS, ways)
        else:
            check_ways(after, FACTS, ways)


def test_a_session_over_the_tailnet_is_asked_on_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "route_interface", lambda address: "eth0")
    session = Session(ipaddress.ip_address("100.64.0.7"), 50000, ipaddress.ip_address("100.64.0.3"), 22)
    (way,) = ways_of_sessions((session,))
    assert way == Way(Packet(session.client, "tailscale0", "tcp", 22, session.server), OWN)
    check_ways(zones("internal: {interfaces: [tailscale0], services: [ssh]}"), FACTS, [way])
    with pytest.raises(CheckFailed, match=r"falls into zone peers and firewall\.default_policy refuses it"):
        check_ways(zones("peers: {interfaces: [tailscale0], tcp: [80]}"), FACTS, [way])


def test_tailscaleds_settings_cut_nobody() -> None:
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ShieldsUp": true, "ExitNodeAllowLANAccess": false}, '
        '"exit_node": null}'
    }
    snapshot = {"prefs": {"ShieldsUp": False}, "exit_nodes": [], "needs_login": False}
    ways = ways_of_admins(None, LIVE, FACTS)
    lan = [way for way in ways if way.packet.interface == "eth0"]
    check_tailscale(tree, snapshot, lan)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"lock out an admin: tcp/22 from 100\.64\.0\.10 on tail"):
        check_tailscale(tree, snapshot, ways)  # type: ignore[arg-type]


def test_thousands_of_sources_are_all_judged() -> None:
    sources = ", ".join(str(ipaddress.ip_address(0x0A000000 + 2 * at)) for at in range(2_000))
    live = zones(f"admin: {{sources: [{sources}]}}")
    after = zones(f"admin: {{sources: [{sources}]}}", "dmz: {sources: [10.0.0.0/30], tcp: [80]}")
    assert closed(live, after) == []
    assert len(ways_of_admins(live, after, FACTS)) == 2_000
