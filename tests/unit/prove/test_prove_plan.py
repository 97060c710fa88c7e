"""What a proof sends, and what its table shows."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.model.facts import Facts
from tsstack.prove.beside import LINK_EDGES
from tsstack.prove.expected import ACK, CHROMEOS, SYN, TAILNET, Oracle, Packet, Verdict, is_tailnet
from tsstack.prove.frames import split_frame
from tsstack.prove.matrix import arriving_table, passing_table
from tsstack.prove.plan import QUICK, Plan, plan_packets
from tsstack.prove.proof import Proof, Row
from tsstack.prove.terrain import LOCAL, Country, lay_out
from tsstack.prove.vhosts import _WHILE_WE_LIVE
from tsstack.prove.world import NoWorld

FACTS = Facts(default_interface="eth0")
STACK = stack_of(
    """
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    admin: {sources: [10.0.0.0/8], allow: all}
    office: {sources: [10.1.0.0/16], tcp: [25]}
    isolated: {interfaces: [br-guest]}
"""
)


def land(seed: int) -> Country:
    return lay_out(STACK, FACTS, Random(seed))  # noqa: S311  to be repeated


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_packets(STACK, FACTS, 1, QUICK)


def test_dhcp_is_asked_both_ways_and_in_both_families(plan: Plan) -> None:
    for interface in ("eth0", "br-guest"):
        asked = {
            (each.source_port, each.port, each.destination is not None and each.destination.is_link_local)
            for each in plan.packets
            if each.protocol == "udp" and each.interface == interface
        }
        assert {(67, 68, False), (68, 67, False), (20000, 68, False), (547, 546, False)} <= asked
        assert {(547, 546, True), (546, 547, True), (20000, 546, True)} <= asked


def test_the_neighbours_of_every_port_of_dhcp_are_asked_by_somebody_who_is_refused(plan: Plan) -> None:
    oracle = Oracle(STACK, FACTS)
    asked = {
        (each.source_port, each.port): each
        for each in plan.packets
        if each.protocol == "udp" and each.source_port and not oracle.judge(each).accepted
    }
    four = {(66, 68), (68, 68), (67, 67), (67, 69)}
    six = {(546, 546), (548, 546), (547, 545), (547, 547)}
    assert four | six <= set(asked)
    assert {each.source.version for ports, each in asked.items() if ports in four} == {4}
    linked = [each.destination for ports, each in asked.items() if ports in six]
    assert all(each is not None and each.is_link_local for each in linked)
    assert str(asked[66, 68]).endswith(", from port 66"), "a difference says what was sent"


def test_both_sides_of_both_edges_of_the_links_addresses_are_tried(plan: Plan) -> None:
    oracle, link = Oracle(STACK, FACTS), ipaddress.ip_network("fe80::/10")
    for near in (
        {each.destination: each for each in plan.packets if each.port == 546 and each.destination},
        {each.source: each for each in plan.packets if each.icmp_type == 134 and each.hop_limit == 255},
        {each.source: each for each in plan.packets if each.icmp_type == 130 and each.hop_limit == 1},
    ):
        passed = {address: oracle.judge(each).accepted for address, each in near.items()}
        beside = [each for each in passed if each.packed[0] == 0xFE and each not in link]
        assert {each < link[0] for each in beside} == {True, False}
        assert not any(passed[each] for each in beside)
        assert any(passed[each] for each in passed if each in link and each.packed[1] >= 0xA0)


def test_who_has_a_link_local_address_of_ipv4_sends_nothing_to_one_of_ipv6() -> None:
    """A zone may hold 169.254.0.0/16; no kernel takes such a packet, whatever the file opens to it."""
    stack = stack_of("firewall: {zones: {a: {sources: [169.254.0.0/16], allow: all}}}")
    asked = [each for each in plan_packets(stack, FACTS, 1).packets if each.destination]
    assert any(each.source.version == 4 and each.source.is_link_local for each in asked)
    assert all(each.destination and each.destination.version == each.source.version for each in asked)
    edges = {each.destination for each in asked if (each.source_port, each.port) == (547, 546)}
    assert {*LINK_EDGES} <= edges


def test_tailscaled_is_asked_from_any_port(plan: Plan) -> None:
    found = {(each.source.version, each.source_port) for each in plan.packets if each.port == 41641}
    assert {(4, 1), (4, 65535), (6, 1), (6, 65535)} <= found


def test_a_mark_goes_through_this_host_too_where_that_is_refused_and_where_it_is_not(plan: Plan) -> None:
    oracle = Oracle(STACK, FACTS)
    marked = [each for each in plan.packets if each.marked and each.outgoing]
    assert {oracle.judge(each).accepted for each in marked} == {True, False}
    places = dict(plan.country.places)
    assert all(each.destination and places[each.destination] == each.outgoing for each in marked)


def test_of_a_kernel_without_ipv6_nothing_of_it_is_asked(plan: Plan) -> None:
    six = Packet(ipaddress.ip_address("2001:db8::7"), "eth0", "tcp", 22)
    asked = [six, Packet(ipaddress.ip_address("203.0.113.7"), "eth0", "tcp", 22)]
    alone = plan_packets(STACK, replace(FACTS, ipv6=False), 1, QUICK, asked)
    assert not alone.ipv6
    assert not alone.terrain.ipv6
    terrain = alone.terrain
    places = [*terrain.local, *(each[0] for each in (*terrain.routes, *terrain.detours))]
    ends = [each for packet in alone.packets for each in (packet.source, packet.destination) if each]
    of_flows = [each for flow in alone.flows for each in (flow.source, flow.destination)]
    assert {each.version for each in (*places, *ends, *of_flows)} == {4}
    assert "ip6 daddr" not in terrain.foreign
    assert asked[1] in alone.packets
    of_ipv4 = [each for each in plan.packets if each.source.version == 4]
    assert set(of_ipv4) <= set(alone.packets), "no less of IPv4 than elsewhere"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("/dev/net/tun: No such file or directory", "modprobe tun"),
        ("unshare: Operation not permitted", "user namespaces"),
        ("/proc/self/uid_map: Operation not permitted", "user namespaces"),
        ("/proc/sys/net/ipv4/ip_forward: Read-only file system", "let /proc/sys be writable"),
        ("No buffer space available", ""),
        ("it took too long", ""),
        ("/proc/sys/net/ipv6/conf/all/forwarding: No such file or directory", ""),
    ],
)
def test_the_hint_is_for_what_is_lacking(reason: str, words: str) -> None:
    hint = NoWorld(reason).hint
    assert words in hint
    assert bool(hint) is bool(words)


def test_the_edges_of_networks_send_and_those_next_to_them() -> None:
    country = land(1)
    senders = {str(each.address) for each in country.senders}
    assert {"10.0.0.0", "9.255.255.255", "10.255.255.255", "11.0.0.0"} <= senders
    assert {"10.1.0.0", "10.0.255.255", "10.1.255.255", "10.2.0.0"} <= senders
    for network in (*TAILNET, CHROMEOS):
        assert {network[0], network[0] - 1, network[-1], network[-1] + 1} <= {*country.edges}
        assert {network[1], network[0] - 2, network[-2], network[-1] + 2} <= {*country.own_edges, *LOCAL}


def test_names_that_only_look_like_the_files_are_there() -> None:
    assert {"eth01", "br-guest1", "nozone0"} <= set(land(1).interfaces)


def test_names_that_look_like_lo_the_tailnets_and_a_wildcard_send_and_are_gone_to() -> None:
    stack = stack_of("firewall: {zones: {vpn: {interfaces: ['wg*', 'ppp0*']}, far: {interfaces: [wan0]}}}")
    found = plan_packets(stack, FACTS, 1, QUICK)
    oracle, alike = Oracle(stack, FACTS), {"lo0", "tailscale01", "eth01", "wan01", "w0", "ppp1"}
    assert alike <= {*found.country.alike}
    assert not any(oracle.members.by_interface(each) for each in found.country.alike)
    asked = [each for each in found.packets if not each.asked_port]
    assert {each.interface for each in asked if not each.outgoing} >= alike
    for zone in ("vpn", "far"):
        there = [
            each for each in asked if each.outgoing and oracle.members.by_interface(each.outgoing) == zone
        ]
        assert {each.interface for each in there} >= alike
        back = [each for each in asked if oracle.members.by_interface(each.interface) == zone]
        assert {each.outgoing for each in back} >= alike


def test_ports_that_the_file_names_elsewhere_are_asked_for_from_every_zone() -> None:
    """What is behind the proxy, for one: it is nobody's business out there."""
    stack = stack_of(
        "proxy: {services: {wiki: {upstream: 8000}, db: {upstream: 5432, protocol: tcp, port: 5433}}}\n"
        "firewall: {services: {game: [udp/27015-27020]}, zones: {lan: {interfaces: [eth0], services: [ssh]}, "
        "net: {interfaces: [tailscale0]}}}"
    )
    found, oracle = plan_packets(stack, FACTS, 1, QUICK), Oracle(stack, FACTS)
    named = {("tcp", 80), ("tcp", 443), ("tcp", 8000), ("tcp", 5432), ("tcp", 5433)}
    named |= {("udp", 27015), ("udp", 27020)}
    for zone in ("", "lan", "net"):
        here = [each for each in found.packets if oracle.members.zone(each.source, each.interface) == zone]
        for version in (4, 6):
            asked = {(e.protocol, e.port) for e in here if not e.outgoing and e.source.version == version}
            assert named <= asked, (zone, version)


def test_an_interface_that_a_rule_asks_for_is_no_look_alike_of_another() -> None:
    stack = stack_of(
        "firewall: {zones: {net: {interfaces: [tailscale0]}, vpn: {interfaces: ['tailscale1*']}, "
        "lan: {interfaces: ['eth0']}, ports: {interfaces: ['eth1*', br, br1]}}}"
    )
    country = lay_out(stack, FACTS, Random(1))  # noqa: S311  to be repeated
    assert not {"tailscale0", "eth0", "br1"} & {*country.alike}
    assert {"tailscale0", "eth0", "br1", "lo0"} <= {*country.interfaces}


def test_this_host_begins_nothing_to_the_tailnet_by_another_interface() -> None:
    """The reply would be spoofed, so it is no place where something would answer."""
    stack = stack_of(
        "tailscale: {advertise: {routes: [100.128.0.0/32, 198.18.128.0/28]}}\n"
        "firewall: {zones: {lan: {interfaces: [eth0]}}}"
    )
    for seed in range(60):
        found = plan_packets(stack, FACTS, seed, QUICK)
        begun = [flow for flow in found.flows if flow.begun]
        assert begun
        assert not [flow for flow in begun if is_tailnet(flow.source) and flow.interface != "tailscale0"]


def test_a_name_that_has_no_room_for_another_letter_has_no_look_alike() -> None:
    names = ["abcdefghijklmno", "abcdefghijklmn"]
    stack = stack_of(f"firewall: {{zones: {{a: {{interfaces: {names}}}}}}}")
    interfaces = lay_out(stack, FACTS, Random(1)).interfaces  # noqa: S311  to be repeated
    assert max(map(len, interfaces)) == 15
    assert "abcdefghijklmn1" in interfaces


def test_published_ports_lead_into_an_advertised_route_and_to_this_host_itself() -> None:
    stack = stack_of(
        "tailscale: {advertise: {routes: [192.168.15.0/24, 'fd00:15::/64']}}\n"
        "firewall: {zones: {lan: {interfaces: [eth0], tcp: [22], udp: [53]}, "
        "net: {interfaces: [tailscale0]}}}"
    )
    found, oracle = plan_packets(stack, FACTS, 1, QUICK), Oracle(stack, FACTS)
    by_published = [each for each in found.packets if each.asked_port and each.destination]
    for version in (4, 6):
        into = [
            each
            for each in by_published
            if each.source.version == version and each.destination and oracle.is_advertised(each.destination)
        ]
        assert {each.protocol for each in into} == {"tcp", "udp"}
        passing = [each for each in into if oracle.judge(each).accepted]
        assert {each.interface for each in passing} >= {"tailscale0"}
        assert any(not oracle.judge(each).accepted for each in into if each.interface == "eth0")
        here = [each for each in by_published if each.source.version == version and not each.outgoing]
        assert {oracle.judge(each).accepted for each in here} == {True, False}
        assert {each.destination for each in here} <= {*found.local}


def test_both_sides_of_an_advertised_routes_edges_are_gone_to_from_the_tailnet() -> None:
    stack = stack_of(
        "tailscale: {advertise: {routes: [192.168.15.0/24]}}\n"
        "firewall: {zones: {net: {interfaces: [tailscale0]}, a: {sources: [10.0.0.0/8], tcp: [1]}}}"
    )
    found, oracle = plan_packets(stack, FACTS, 1, QUICK), Oracle(stack, FACTS)
    gone = {
        str(each.destination): oracle.judge(each).accepted
        for each in found.packets
        if each.interface == "tailscale0" and each.outgoing == "nozone0" and each.destination
    }
    edges = {"192.168.14.255": False, "192.168.15.0": True, "192.168.15.255": True, "192.168.16.0": False}
    assert edges.items() <= gone.items()
    into = {str(each.destination) for each in found.packets if each.outgoing == "nozone0"}
    assert {"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"} <= into


def test_a_wildcard_that_covers_lo_stands_for_another_interface() -> None:
    for pattern in ("lo*", "l*"):
        stack = stack_of(f"firewall: {{zones: {{a: {{interfaces: ['{pattern}']}}}}}}\n")
        facts = Facts(default_interface="eth0", interfaces=("lo", "eth0"))
        interfaces = lay_out(stack, facts, Random(1)).interfaces  # noqa: S311  to be repeated
        assert "lo" not in interfaces
        assert any(name.startswith("l") for name in interfaces)


def test_chromeos_addresses_come_by_every_interface() -> None:
    country = land(1)
    assert {each.interface for each in country.senders if each.address in CHROMEOS} == set(country.interfaces)


@pytest.mark.parametrize("seed", range(1, 9))
def test_an_address_of_each_part_lies_behind_each_interface_that_rules_treat_apart(seed: int) -> None:
    country = land(seed)
    for part in ("10.0.0.0/16", "10.1.0.0/16"):
        network = ipaddress.ip_network(part)
        behind = {name for address, name in country.beyond if address in network}
        assert {"tailscale0", "eth0", "br-guest"} <= behind


def test_the_same_seed_sends_the_same_and_another_something_else(plan: Plan) -> None:
    assert plan_packets(STACK, FACTS, 1, QUICK).packets == plan.packets
    assert plan_packets(STACK, FACTS, 2, QUICK).packets != plan.packets


def test_a_difference_is_shown_in_the_table_though_no_zone_has_a_say_in_it() -> None:
    packet = Packet(ipaddress.ip_address("198.51.100.1"), "eth0", "udp", 41641)
    verdict = Verdict("accept", "tailscale")
    oracle = Oracle(STACK, FACTS)
    shown = {
        seen: arriving_table(oracle, Proof((Row(packet, verdict, seen, "dmz", "(this host)"),), 1, 0.0)).cells
        for seen in ("accept", "drop")
    }
    assert not shown["accept"]
    assert [cell.mark for cell in shown["drop"].values()] == ["wrong"]


def test_the_way_through_shows_what_may_begin_a_connection() -> None:
    """An answer that passes is no open way, and TCP of no connection that is refused closes none."""
    ends = (ipaddress.ip_address("198.18.0.7"), "eth0")
    to = ipaddress.ip_address("10.1.0.9")
    accepted, refused = (
        Verdict("accept", "dmz", "firewall.forward"),
        Verdict("drop", "dmz", "firewall.forward"),
    )

    def row(packet: Packet, verdict: Verdict, seen: str) -> Row:
        return Row(packet, verdict, seen, "dmz", "office")

    def tcp(flags: int = SYN, flow: str = "") -> Packet:
        return Packet(*ends, "tcp", 80, to, "eth1", flags=flags, flow=flow)

    def mark(*rows: Row) -> str:
        return passing_table(Oracle(STACK, FACTS), Proof(rows, 1, 0.0)).cells[("dmz", "office")].mark

    answer = row(tcp(flow="the answer of a connection that is open"), accepted, "accept")
    odd = row(tcp(SYN | ACK), refused, "drop")
    assert mark(row(tcp(), refused, "drop"), answer) == "closed"
    assert mark(row(tcp(), accepted, "accept"), odd) == "open"
    assert mark(row(tcp(), refused, "drop"), row(tcp(SYN | ACK), refused, "accept")) == "wrong"


def test_fragments_are_one_packet_together() -> None:
    frame = (
        bytes.fromhex("4500001c000100004011") + bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + bytes(range(8))
    )
    first, second = split_frame(frame + bytes(range(8, 16)))
    assert first[20:] + second[20:] == bytes(range(16))
    assert (first[6], second[6:8]) == (0x20, b"\0\1")


def test_nginx_of_a_proof_is_not_begun_when_its_parent_is_gone(tmp_path: Path) -> None:
    """prctl(2) speaks of the parent that there is then: whoever was killed before that ends nobody."""
    mark = tmp_path / "begun"
    begin = (
        "import os, time\nparent = os.getpid()\nif os.fork() == 0:\n    DELAY\n"
        "    os.execvp('setpriv', ['setpriv', '--pdeathsig', 'KILL', 'sh', '-c', "
        f"{_WHILE_WE_LIVE!r}, str(parent), 'touch', {str(mark)!r}])\nWAIT\n"
    )
    for delay, wait, begun in (("time.sleep(0.3)", "os._exit(0)", False), ("pass", "os.wait()", True)):
        code = begin.replace("DELAY", delay).replace("WAIT", wait)
        subprocess.run([sys.executable, "-c", code], check=True)
        time.sleep(0.8)
        assert mark.exists() is begun
