"""What carries a tunnel: read from what the kernel says of it, and asked as a further way in."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle
from tsstack.switch.carriers import Carriers
from tsstack.switch.guard import check_tailscale, check_ways, ways_of_sessions
from tsstack.switch.tunnels import Peer, Tunnel, parse_tunnel, parse_wireguard
from tsstack.switch.ways import Route, Session, Way, ways_of_admins

FACTS = Facts(interfaces=("eth0", "lo", "v0", "wg0"), default_interface="eth0")
FAR, LOCAL = ipaddress.ip_address("203.0.113.9"), ipaddress.ip_address("203.0.113.1")
FAR6 = ipaddress.ip_address("2001:db8::9")
VXLAN = Tunnel("vxlan", "udp", 4789, (Peer(FAR),), LOCAL)
GRE = Tunnel("gre", "other", 47, (Peer(FAR),), LOCAL)
WIREGUARD = Tunnel(
    "wireguard",
    "udp",
    51820,
    (
        Peer(FAR, (ipaddress.ip_network("10.8.0.0/24"),)),
        Peer(FAR6, (ipaddress.ip_network("10.8.0.2/32"), ipaddress.ip_network("fd00::/8"))),
    ),
)
SESSION = Session(ipaddress.ip_address("10.8.0.2"), 50000, ipaddress.ip_address("10.8.0.1"), 22)
VPN = "vpn: {interfaces: [v0], services: [ssh]}"
SHUT, OPEN = (
    "dmz: {interfaces: [eth0], tcp: [80]}",
    "dmz: {interfaces: [eth0], tcp: [80], udp: [4789, 51820]}",
)


def zones(*lines: str) -> Stack:
    return stack_of("firewall:\n  zones:\n" + "".join(f"    {line}\n" for line in lines))


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def carried(
    tunnel: Tunnel,
    live: Stack | None,
    after: Stack,
    *,
    below: dict[str, list[str]] | None = None,
    ways: list[Way] | None = None,
) -> tuple[list[Way], list[Way]]:
    """The ways of a session on v0, or these, and what carries them."""
    route = Route("br0" if below else "v0")
    ways = ways or ways_of_sessions((SESSION,), lambda *_: route)

    def route_to(address: Address, _: Address | None) -> Route:
        return Route("eth0", gateway=address != FAR)

    made_of = below or {}

    def parts(name: str) -> list[str]:
        return made_of.get(name, [])

    carriers = Carriers({"v0": tunnel}, parts, route_to, FACTS, live=lambda: live, after=lambda: after)
    return ways, carriers.of(ways)


def judged(tunnel: Tunnel, live: Stack | None, after: Stack) -> list[str]:
    ways, carriers = carried(tunnel, live, after)
    return check_ways(after, FACTS, [*ways, *carriers])


@pytest.mark.parametrize("live", [None, zones(OPEN, VPN)])
def test_the_port_of_a_vxlan_is_closed(live: Stack | None) -> None:
    """On a new host too: neither direction of VXLAN answers the other."""
    words = (
        r"lock you out: udp/4789 from 203\.0\.113\.9 on eth0 to 203\.0\.113\.1, what carries v0 for your own"
    )
    with pytest.raises(CheckFailed, match=words):
        judged(VXLAN, live, zones(SHUT, VPN))
    assert judged(VXLAN, live, zones(OPEN, VPN)) == []


def test_what_the_live_rules_refuse_already_is_not_asked() -> None:
    for tunnel in (VXLAN, GRE, WIREGUARD):
        assert judged(tunnel, zones(SHUT, VPN), zones(SHUT, VPN)) == []


@pytest.mark.parametrize("tunnel", [GRE, WIREGUARD])
def test_a_tunnel_that_this_host_may_begin_is_a_doubt_but_where_a_zone_opens_it(tunnel: Tunnel) -> None:
    (doubt,) = judged(tunnel, None, zones(SHUT, VPN))
    assert "what carries v0 for your own session, falls into zone dmz" in doubt
    (doubt,) = judged(tunnel, stack_of("host: {name: a}"), zones(SHUT, VPN))
    assert doubt.endswith("(this may lock you out)")
    far = "far: {sources: [203.0.113.9/32, '2001:db8::9/128'], allow: all}"
    with pytest.raises(CheckFailed, match="lock you out") as caught:
        judged(tunnel, zones(SHUT, VPN, far), zones(SHUT, VPN))
    assert ("open " in (caught.value.hint or "")) is (tunnel is WIREGUARD), "no zone lists GRE"


@pytest.mark.parametrize(
    ("tunnel", "begun_here"),
    [
        (WIREGUARD._replace(peers=(Peer(FAR, begun_here=True),)), True),
        (WIREGUARD._replace(peers=(Peer(FAR),)), False),
        (GRE, True),
    ],
)
def test_a_zone_that_lets_in_all_opens_no_tunnel_that_this_host_begins(
    tunnel: Tunnel, begun_here: bool
) -> None:
    """A VPN's client has a port that nobody chose: to narrow the zone it is in cuts nothing."""
    everything, after = zones("lan: {interfaces: [eth0], allow: all}", VPN), zones(SHUT, VPN)
    if begun_here:
        (doubt,) = judged(tunnel, everything, after)
        assert "what carries v0 for your own session, falls into zone dmz" in doubt
    else:
        with pytest.raises(CheckFailed, match="lock you out: udp/51820"):
            judged(tunnel, everything, after)
    kept = WIREGUARD._replace(peers=(Peer(FAR, begun_here=True),))
    assert len(judged(kept, zones(OPEN, VPN), after)) == 1, "whatever opens the port"


def test_of_wireguards_peers_the_one_that_the_session_comes_from() -> None:
    for peers in (WIREGUARD.peers, WIREGUARD.peers[::-1]):
        _, carriers = carried(WIREGUARD._replace(peers=peers), None, zones(SHUT, VPN))
        assert [str(way.packet) for way in carriers] == ["udp/51820 from 2001:db8::9 on eth0"]
    live = zones("admin: {interfaces: [v0], allow: all}", OPEN)
    admins = ways_of_admins(live, live, FACTS)
    _, carriers = carried(WIREGUARD, live, live, ways=admins)
    assert {way.packet.source for way in carriers} == {FAR, FAR6}, "an admin may be any of them"
    assert not any(way.shut or way.doubtful for way in carriers)


def test_a_tunnel_by_another_and_one_that_takes_the_default_route() -> None:
    """What carries it is then led past it by a mark, which a routing table does not show."""
    ways = ways_of_sessions((SESSION,), lambda *_: Route("v0"))
    tunnels = {"v0": VXLAN, "wg0": WIREGUARD._replace(peers=(Peer(FAR6),))}
    live = zones(OPEN, VPN, "wg: {interfaces: [wg0], udp: [4789]}")
    carriers = Carriers(
        tunnels, lambda _: (), lambda *_: Route("wg0"), FACTS, live=lambda: live, after=lambda: live
    )
    assert [str(way.packet) for way in carriers.of(ways)] == [
        "udp/4789 from 203.0.113.9 on wg0 to 203.0.113.1",
        "udp/51820 from 2001:db8::9 on eth0",
    ]


def test_a_tunnel_that_is_one_port_of_several_is_a_doubt() -> None:
    lan = "lan: {interfaces: [br0], services: [ssh]}"
    ways, carriers = carried(VXLAN, zones(OPEN, lan), zones(SHUT, lan), below={"br0": ["v0", "p0"]})
    (doubt,) = check_ways(zones(SHUT, lan), FACTS, [*ways, *carriers])
    assert "udp/4789" in doubt
    ways, carriers = carried(VXLAN, zones(OPEN, lan), zones(SHUT, lan), below={"br0": ["v0"]})
    with pytest.raises(CheckFailed, match="udp/4789"):
        check_ways(zones(SHUT, lan), FACTS, [*ways, *carriers])
    _, taps = carried(Tunnel("tun"), None, zones(SHUT, lan), below={"br0": ["v0", "p0"]})
    assert taps == [], "a virtual machine's"


def test_a_tunnel_of_which_nothing_is_known_is_told_where_its_link_is_closed() -> None:
    tun = Tunnel("tun")
    vpn = "dmz: {interfaces: [eth0], tcp: [22, 80], udp: [1194]}"
    doubts = judged(tun, zones(vpn, VPN), zones(SHUT, VPN))
    told = "v0 is a tunnel: what carries it comes by eth0 and was not asked about (this may lock you out)"
    assert doubts == [told]
    assert judged(tun, None, zones(SHUT, VPN)) == doubts
    assert judged(tun, zones(vpn, VPN), zones(vpn, VPN, "guests: {interfaces: [eth5], tcp: [80]}")) == []
    no_ssh = "dmz: {interfaces: [eth0], udp: [1194]}"
    assert judged(tun, zones(vpn, VPN), zones(no_ssh, VPN)) == [], "SSH and the web carry none"
    away = WIREGUARD._replace(peers=())
    (doubt,) = judged(away, zones(OPEN, VPN), zones(SHUT, VPN))
    assert doubt.startswith("v0 is a tunnel: what carries it comes by eth0: udp/51820 there is refused")
    assert judged(away, zones(OPEN, VPN), zones(OPEN.replace("80", "81"), VPN)) == []


def test_the_kernel_and_the_new_file_are_asked_once_for_many_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of admins may come by one tunnel, of which nothing is known."""
    live = zones(OPEN, VPN, "many: {sources: [10.1.0.0/24], tcp: [80]}")
    asked: list[Address] = []
    made: list[Stack] = []

    class Counted(Oracle):
        def __init__(self, stack: Stack, facts: Facts) -> None:
            made.append(stack)
            super().__init__(stack, facts)

    def route_to(address: Address, _: Address | None) -> Route:
        asked.append(address)
        return Route("eth0")

    monkeypatch.setattr("tsstack.switch.carriers.Oracle", Counted)
    (way,) = ways_of_sessions((SESSION,), lambda *_: Route("v0"))
    ways = [replace(way, whose=f"somebody {at}") for at in range(20)]
    for tunnel, peers in ((Tunnel("tun"), 2), (VXLAN, 1)):
        asked.clear()
        made.clear()
        carriers = Carriers(
            {"v0": tunnel}, lambda _: (), route_to, FACTS, live=lambda: live, after=lambda: live
        )
        assert len(carriers.of(ways)) == 20 * peers
        assert (len(asked), len(made) <= 2) == (peers, True)


def test_an_exit_node_leads_what_carries_a_tunnel_astray() -> None:
    """WireGuard finds its peer again from wherever its packets come."""
    tree = {
        "tailscale/prefs.json": '{"prefs": {"ExitNodeAllowLANAccess": true}, "exit_node": '
        '{"use": ["exit-a"], "otherwise": "block", "movable": true}}'
    }
    peers = [{"id": "n1", "name": "exit-a", "online": True}]
    snapshot = {"prefs": {"ExitNodeAllowLANAccess": True}, "exit_nodes": peers, "needs_login": False}
    far = VXLAN._replace(peers=(Peer(ipaddress.ip_address("198.51.100.9")),)), WIREGUARD._replace(local=LOCAL)
    live = zones(SHUT, VPN)
    for tunnel, certain in ((far[0], True), (VXLAN, False), (far[1], False)):
        ways, carriers = carried(tunnel, live, live)
        if certain:
            with pytest.raises(CheckFailed, match="what carries v0 would leave through the exit node"):
                check_tailscale(tree, snapshot, [*ways, *carriers], FACTS)  # type: ignore[arg-type]
        else:
            doubts = check_tailscale(tree, snapshot, [*ways, *carriers], FACTS)  # type: ignore[arg-type]
            assert len(doubts) == (tunnel is far[1])


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("vxlan", {2: packed("203.0.113.9"), 4: packed("203.0.113.1"), 15: b"\x12\xb5"}, VXLAN),
        ("vxlan", {16: FAR6.packed, 3: struct.pack("=I", 4), 15: b"\x12\xb5"}, 6),
        ("vxlan", {2: packed("239.1.1.1"), 3: struct.pack("=I", 4), 15: b"\x12\xb5"}, "eth0"),
        ("vxlan", {15: b"\x12\xb5"}, ""),
        ("gre", {7: packed("203.0.113.9"), 6: packed("203.0.113.1"), 14: bytes(2)}, GRE),
        ("gre", {7: packed("203.0.113.9"), 14: b"\1\0"}, ""),
        ("xfrm", {1: struct.pack("=I", 4)}, "eth0"),
        ("tun", {1: b"\1"}, ""),
        ("bridge", {}, None),
        ("", {}, None),
    ],
)
def test_what_the_kernel_says_of_a_link(
    kind: str, values: dict[int, bytes], said: Tunnel | str | int
) -> None:
    data = b"".join(attribute(key, value) for key, value in values.items())
    found = parse_tunnel(kind, data, {4: "eth0"})
    if said == 6:
        said = Tunnel("vxlan", "udp", 4789, (Peer(FAR6),), None, "eth0")
    assert found == (Tunnel(kind, link=said) if isinstance(said, str) else said)


@pytest.mark.parametrize(("kind", "number"), [("ipip", 4), ("sit", 41)])
def test_ip_in_ip(kind: str, number: int) -> None:
    data = attribute(2, LOCAL.packed) + attribute(3, FAR.packed)
    assert parse_tunnel(kind, data, {}) == Tunnel(kind, "other", number, (Peer(FAR),), LOCAL)


def test_geneve() -> None:
    data = attribute(2, FAR.packed) + attribute(5, b"\x17\xc1")
    assert parse_tunnel("geneve", data, {}) == Tunnel("geneve", "udp", 6081, (Peer(FAR),))


def test_what_wireguard_says_of_a_device() -> None:
    """A peer of many networks goes on in the next message; one that was never heard has no address."""

    def network(text: str) -> bytes:
        net = ipaddress.ip_network(text)
        family = socket.AF_INET if net.version == 4 else socket.AF_INET6
        values = attribute(1, struct.pack("=H", family)) + attribute(2, net.network_address.packed)
        return attribute(0, values + attribute(3, bytes([net.prefixlen])))

    def peer(key: bytes, end: bytes, *networks: str, keepalive_s: int = 0) -> bytes:
        ends = (attribute(4, end) if end else b"") + attribute(5, struct.pack("=H", keepalive_s))
        return attribute(0, attribute(1, key) + ends + attribute(9, b"".join(map(network, networks))))

    end4 = struct.pack("=H", socket.AF_INET) + b"\xca\x6c" + FAR.packed + bytes(8)
    end6 = struct.pack("=H", socket.AF_INET6) + b"\xca\x6c" + bytes(4) + FAR6.packed + bytes(4)
    peers = (
        peer(b"a" * 32, end4, "10.8.0.0/24"),
        peer(b"c" * 32, b"", "10.9.0.0/24"),
        peer(b"b" * 32, end6, "10.8.0.2/32"),
    )
    first = attribute(6, struct.pack("=H", 51820)) + attribute(8, b"".join(peers))
    assert parse_wireguard([first, attribute(8, peer(b"b" * 32, b"", "fd00::/8"))]) == WIREGUARD
    kept = attribute(8, peer(b"a" * 32, end4, "10.8.0.0/24", keepalive_s=25))
    (client,) = parse_wireguard([kept]).peers
    assert client == WIREGUARD.peers[0]._replace(begun_here=True)
    assert parse_wireguard([]) == Tunnel("wireguard")
