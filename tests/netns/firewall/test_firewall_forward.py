"""Packets through the host: between zones, to no zone, published ports, exit node, routes, masquerade."""

from __future__ import annotations

import itertools

import pytest
from firewall_world import World

pytestmark = pytest.mark.netns

ZONES = """
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [8080]}
    internal: {interfaces: [tailscale0], services: [ssh]}
    admin: {sources: [100.64.0.10/32, "fd7a:115c:a1e0::10/128"], allow: all}
    isolated: {interfaces: [br-guest]}
    lan: {interfaces: [lan0]}
    nas: {sources: [192.168.15.9/32]}
"""
FORWARD = """
  forward:
    - {from: internal, to: lan, tcp: [443, "7000-7002"], udp: [53]}
    - {from: admin, to: lan, allow: all}
    - {from: lan, to: isolated, tcp: [80]}
    - {from: lan, to: dmz, tcp: [443]}
"""
PEERS = {
    "wan": ("192.0.2.2", "2001:db8:1::2"),
    "tail": ("100.64.0.7", "fd7a:115c:a1e0::7"),
    "guest": ("10.66.0.2", "fd00:66::2"),
    "lan": ("192.168.15.2", "fd00:15::2"),
    "dock": ("172.17.0.2", "fd00:17::2"),
    "bare": ("172.18.0.2", "fd00:18::2"),
}
UNZONED = {"dock", "bare"}


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_without_rules_zones_are_shut_off_and_no_zone_reaches_all_but_the_isolated(
    world: World, family: int
) -> None:
    world.load(ZONES)
    seen = {
        (source, target): world.tcp(source, PEERS[target][family], 443, PEERS[source][family])
        for source, target in itertools.permutations(PEERS, 2)
    }
    expected = {
        (source, target): "answer" if source in UNZONED and target != "guest" else "silence"
        for source, target in seen
    }
    assert seen == expected


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_a_rule_opens_its_ports_from_its_zone_to_its_zone(world: World, family: int) -> None:
    world.load(ZONES + FORWARD)
    lan, tail, admin = (
        PEERS["lan"][family],
        PEERS["tail"][family],
        ("100.64.0.10", "fd7a:115c:a1e0::10")[family],
    )
    for port, expected in ((443, "answer"), (7001, "answer"), (80, "silence"), (7003, "silence")):
        assert world.tcp("tail", lan, port, tail) == expected, port
        assert world.tcp("tail", lan, port, admin) == "answer", "a source zone has rules of its own"
    assert world.udp("tail", lan, 53, tail) == "answer"
    assert world.udp("tail", lan, 443, tail) == "silence"
    assert world.ping("tail", lan, tail) == "silence", "listed ports do not bring ICMP"
    assert world.ping("tail", lan, admin) == "answer"
    assert world.tcp("lan", PEERS["guest"][family], 80) == "answer"
    assert world.tcp("lan", PEERS["guest"][family], 443) == "silence"
    assert world.tcp("guest", lan, 80) == "silence", "a rule has one direction"
    assert world.tcp("wan", lan, 443) == "silence"


def test_a_destination_belongs_to_a_zone_by_its_address_first(world: World) -> None:
    world.load(ZONES + FORWARD)
    assert world.tcp("tail", "192.168.15.2", 443, "100.64.0.7") == "answer"
    assert world.tcp("tail", "192.168.15.9", 443, "100.64.0.7") == "silence", "nas is not lan"
    world.load(ZONES + FORWARD + "    - {from: internal, to: nas, tcp: [5000]}\n")
    assert world.tcp("tail", "192.168.15.9", 5000, "100.64.0.7") == "answer"
    assert world.tcp("tail", "192.168.15.9", 443, "100.64.0.7") == "silence"
    assert world.tcp("tail", "192.168.15.2", 5000, "100.64.0.7") == "silence"


def test_within_a_zone_traffic_passes_unless_it_is_isolated_or_rules_say_what(world: World) -> None:
    both = "firewall: {{zones: {{{name}: {{interfaces: [lan0, br-guest]}}}}{rules}}}"
    world.load(both.format(name="home", rules=""))
    assert world.tcp("lan", "10.66.0.2", 80) == "answer"
    world.load(both.format(name="isolated", rules=""))
    assert world.tcp("lan", "10.66.0.2", 80) == "silence"
    world.load(both.format(name="home", rules=", forward: [{from: home, to: home, tcp: [80]}]"))
    assert world.tcp("lan", "10.66.0.2", 80) == "answer"
    assert world.tcp("lan", "10.66.0.2", 81) == "silence"


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("policy", ["drop", "accept"])
def test_nothing_is_forwarded_into_an_isolated_zone_but_what_a_rule_lists(
    world: World, policy: str, family: int
) -> None:
    isolated, bare = PEERS["guest"][family], PEERS["bare"][family]
    world.load(ZONES.replace("firewall:", f"firewall:\n  default_policy: {policy}") + FORWARD)
    for source in ("wan", "tail", "lan", "dock", "bare"):
        assert world.tcp(source, isolated, 443, PEERS[source][family]) == "silence", source
        assert world.udp(source, isolated, 443, PEERS[source][family]) == "silence", source
        assert world.ping(source, isolated, PEERS[source][family]) == "silence", source
    assert world.counter("isolated.refused") > 0
    assert world.tcp("lan", isolated, 80, PEERS["lan"][family]) == "answer", "its rule"
    assert world.tcp("bare", PEERS["lan"][family], 80, bare) == "answer", "the rest is left alone"
    seen = world.tcp("wan", PEERS["lan"][family], 80, PEERS["wan"][family])
    assert seen == ("answer" if policy == "accept" else "silence")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_an_isolated_zone_gets_replies_from_no_zone(world: World, family: int) -> None:
    """Its egress needs a rule, which must name a zone: here the answers pass once the rule is gone."""
    import socket

    from firewall_world import within

    lan = PEERS["lan"][family]
    world.load(ZONES + "  forward: [{from: isolated, to: lan, tcp: [443]}]\n")
    with world.listen(world.space("lan"), lan, 443) as server:
        client = within(world.space("guest"), lambda: socket.create_connection((lan, 443), timeout=2))
        with client, server.accept()[0] as answering:
            # lan is in no zone now, and the table is swapped without cutting what is open.
            unzoned = world.stage(ZONES.replace("    lan: {interfaces: [lan0]}\n", ""))
            world.at_host("nft", "-f", str(unzoned / "nftables" / "tsstack.nft"))
            answering.sendall(b"reply")
            client.settimeout(2)
            assert client.recv(5) == b"reply"
    world.load(ZONES)


def test_an_isolated_zone_by_address_is_shut_too_and_another_zone_behind_its_wire_is_not(
    world: World,
) -> None:
    world.load(
        """
firewall:
  zones:
    guests: {preset: isolated, interfaces: ["br-*"]}
    cage: {preset: isolated, sources: [192.168.15.9/32, "fd00:15::2/128"]}
    printer: {sources: [10.66.0.2/32]}
"""
    )
    assert world.tcp("bare", "192.168.15.9", 80) == "silence"
    assert world.tcp("bare", "fd00:15::2", 80) == "silence"
    assert world.tcp("bare", "192.168.15.2", 80) == "answer"
    assert world.tcp("bare", "10.66.0.2", 80) == "answer", "an address goes before its interface"
    assert world.tcp("bare", "fd00:66::2", 80) == "silence"


def test_a_published_port_within_an_isolated_zone_is_not_reached_from_no_zone(world: World) -> None:
    world.load(ZONES)
    world.at_host("nft", "-f", "-", stdin=PUBLISH.replace("172.17.0.2", "10.66.0.2"))
    try:
        assert world.tcp("bare", "172.18.0.1", 8080) == "silence"
        assert world.tcp("wan", "192.0.2.1", 8080) == "silence"
    finally:
        world.at_host("nft", "delete", "table", "ip", "docker-like")


PUBLISH = """
table ip docker-like {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport { 8080, 8081 } dnat to 172.17.0.2:80
	}
}
"""


def test_pitfall_11_a_published_port_passes_only_if_the_zone_opens_the_port_that_was_asked(
    world: World,
) -> None:
    world.load(ZONES)
    world.at_host("nft", "-f", "-", stdin=PUBLISH)
    try:
        before = world.at_host("nft", "list", "table", "ip", "docker-like")
        assert world.tcp("wan", "192.0.2.1", 8080) == "answer"
        assert world.tcp("wan", "192.0.2.1", 8081) == "silence"
        assert world.tcp("guest", "10.66.0.1", 8080) == "silence"
        assert world.tcp("tail", "100.64.0.1", 8081, "100.64.0.10") == "answer", "admin may do all"
        assert world.tcp("wan", "172.17.0.2", 80) == "silence", "not published: not reached"
        assert world.at_host("nft", "list", "table", "ip", "docker-like") == before
    finally:
        world.at_host("nft", "delete", "table", "ip", "docker-like")


def tailscale(**advertise: str) -> str:
    keys = ", ".join(f"{key}: {value}" for key, value in advertise.items())
    return f"tailscale: {{advertise: {{{keys}}}}}\n"


def test_an_exit_node_lets_the_tailnet_out_of_the_uplink_and_nowhere_else(world: World) -> None:
    world.load(ZONES)
    assert world.tcp("tail", "198.51.100.9", 443, "100.64.0.7") == "silence"
    world.load(tailscale(exit_node="true") + ZONES)
    assert world.tcp("tail", "198.51.100.9", 443, "100.64.0.7") == "answer"
    assert world.udp("tail", "198.51.100.9", 443, "100.64.0.10") == "answer", "admins too"
    assert world.tcp("tail", "2001:db8:1::2", 443, "fd7a:115c:a1e0::7") == "answer"
    for target in ("192.168.15.2", "10.66.0.2", "172.17.0.2", "fd00:15::2"):
        assert world.tcp("tail", target, 443) == "silence", target
    assert world.tcp("lan", "198.51.100.9", 443) == "silence", "only the tailnet"


def test_an_isolated_tailnet_node_gets_no_exit(world: World) -> None:
    zones = ZONES.replace("isolated: {", "isolated: {sources: [100.64.0.7/32], ")
    world.load(tailscale(exit_node="true", routes="[192.168.15.0/24]") + zones)
    assert world.tcp("tail", "198.51.100.9", 443, "100.64.0.7") == "silence"
    assert world.tcp("tail", "192.168.15.2", 443, "100.64.0.7") == "silence"
    assert world.tcp("tail", "198.51.100.9", 443, "100.64.0.10") == "answer"


def test_advertised_routes_are_reached_from_the_tailnet_alone(world: World) -> None:
    world.load(tailscale(routes='[192.168.15.0/24, 172.17.0.0/16, "fd00:15::/64"]') + ZONES)
    for target in ("192.168.15.2", "192.168.15.9", "172.17.0.2", "fd00:15::2"):
        assert world.tcp("tail", target, 22) == "answer", target
    assert world.tcp("tail", "172.18.0.2", 22) == "silence"
    assert world.tcp("wan", "192.168.15.2", 22) == "silence"
    assert world.tcp("wan", "172.17.0.2", 22) == "silence"


def seen_by(world: World, source: str, to: str) -> str:
    """The source address that a server at `to` (port 5999) sees."""
    server = world.listen(world.space("lan"), to, 5999)
    with server:
        assert world.tcp("tail", to, 5999, source) == "answer"
        link, address = server.accept()
        link.close()
        return str(address[0])


def test_masquerade_where_tailscaled_does_not_do_it(world: World) -> None:
    routes = tailscale(routes='[192.168.15.0/24, "fd00:15::/64"]')
    world.load(routes + ZONES)
    assert seen_by(world, "100.64.0.7", "192.168.15.2") == "100.64.0.7", "tailscaled's own work"
    world.load(routes.replace("{advertise", "{netfilter: off, advertise").replace("off", '"off"') + ZONES)
    assert seen_by(world, "100.64.0.7", "192.168.15.2") == "192.168.15.1"
    assert seen_by(world, "fd7a:115c:a1e0::7", "fd00:15::2") == "fd00:15::1"
    world.load(
        tailscale(routes="[192.168.15.0/24]", snat="false").replace("{adv", '{netfilter: "off", adv') + ZONES
    )
    assert seen_by(world, "100.64.0.7", "192.168.15.2") == "100.64.0.7"


def test_a_forward_rule_hides_its_own_connections_only(world: World) -> None:
    world.load(
        ZONES
        + "  forward:\n"
        + "    - {from: admin, to: lan, tcp: [5999], masquerade: true}\n"
        + "    - {from: internal, to: lan, tcp: [5999]}\n"
    )
    assert seen_by(world, "100.64.0.10", "192.168.15.2") == "192.168.15.1"
    assert seen_by(world, "100.64.0.7", "192.168.15.2") == "100.64.0.7"
    assert seen_by(world, "fd7a:115c:a1e0::10", "fd00:15::2") == "fd00:15::1"


@pytest.mark.parametrize(
    ("policy", "tcp", "udp"), [("reject", "answer", "answer"), ("accept", "answer", "answer")]
)
def test_other_default_policies(world: World, policy: str, tcp: str, udp: str) -> None:
    world.load(ZONES.replace("firewall:", f"firewall:\n  default_policy: {policy}"))
    with world.listen(world.host, "192.0.2.1", 2222):
        assert world.tcp("wan", "192.0.2.1", 2222) == tcp
        refused = world.counter("dmz.refused") if policy == "reject" else world.counter("dmz.default")
        assert refused == 1
    assert world.udp("wan", "192.0.2.1", 2222) == udp
    assert world.udp("bare", "fd00:18::1", 2222) == udp
    assert world.tcp("wan", "192.168.15.2", 80) == "answer", "forwarding alike"
    if policy == "accept":
        assert world.tcp("guest", "10.66.0.1", 2222) == "silence", "isolated stays so"
        assert world.tcp("guest", "192.168.15.2", 80) == "silence"
        assert world.ping("guest", "10.66.0.1") == "silence"


def test_pitfall_06_literal_and_nested_wildcard_interfaces_in_one_file(world: World) -> None:
    world.load(
        """
firewall:
  zones:
    one: {interfaces: [lan0], tcp: [1001]}
    two: {interfaces: ["lan*", "b*"], tcp: [1002]}
    three: {interfaces: ["br-*", "docker*"], tcp: [1003]}
"""
    )
    seen = {
        peer: [port for port in (1001, 1002, 1003) if world.tcp(peer, to, port) == "answer"]
        for peer, to in {
            "lan": "192.168.15.1",
            "bare": "172.18.0.1",
            "guest": "10.66.0.1",
            "dock": "172.17.0.1",
            "wan": "192.0.2.1",
        }.items()
    }
    assert seen == {"lan": [1001], "bare": [1002], "guest": [1003], "dock": [1003], "wan": []}
