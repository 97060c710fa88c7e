"""The second opinion against the tables of docs/firewall.md, and that it is one."""

from __future__ import annotations

import ast
import ipaddress
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.model.facts import Facts, TailscaleFacts
from tsstack.prove.expected import Oracle, Packet, Verdict, expect_input, zone_of

ROOT = Path(__file__).resolve().parents[3]
FACTS = Facts(default_interface="eth0")
FILE = """
tailscale: {advertise: {routes: [192.168.15.0/24, "fd00:15::/64"], exit_node: true}}
firewall:
  services: {ollama: [tcp/11434]}
  zones:
    dmz: {interfaces: [eth0, "veth*"], tcp: [80, 443, "8000-8100"], udp: [443]}
    lab: {interfaces: ["veth1*"], services: [dns], ping: false}
    internal: {interfaces: [tailscale0], services: [ssh, ollama]}
    admin: {sources: [100.64.0.10/32, "fd7a:115c:a1e0::10/128", 10.0.0.0/8], allow: all}
    office: {sources: [10.1.0.0/16], tcp: [25]}
    isolated: {interfaces: [br-guest]}
    guests: {preset: isolated, sources: [10.9.0.0/16]}
  forward:
    - {from: lab, to: dmz, services: [https], udp: ["5000-5010"]}
    - {from: lab, to: lab, tcp: [5432]}
    - {from: dmz, to: office, allow: all}
"""


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def packet(
    source: str, interface: str, service: str, to: str = "", out: str = "", *, sport: int = 0
) -> Packet:
    protocol, _, port = service.partition("/")
    assert protocol in {"tcp", "udp", "icmp"}
    where = address(to) if to else None
    return Packet(address(source), interface, protocol, int(port or 0), where, out, sport)  # type: ignore[arg-type]


def judge(*words: str, policy: str = "drop", sport: int = 0, facts: Facts = FACTS) -> Verdict:
    text = FILE.replace("firewall:\n", f"firewall:\n  default_policy: {policy}\n")
    return Oracle(stack_of(text), facts).judge(packet(*words, sport=sport))


@pytest.mark.parametrize(
    ("source", "interface", "zone"),
    [
        ("198.51.100.1", "eth0", "dmz"),
        ("198.51.100.1", "eth01", ""),
        ("198.51.100.1", "veth7", "dmz"),
        ("198.51.100.1", "veth", "dmz"),
        ("198.51.100.1", "veth1", "lab"),
        ("198.51.100.1", "veth12", "lab"),
        ("10.2.0.1", "eth0", "admin"),
        ("10.1.0.1", "eth0", "office"),
        ("10.1.0.1", "br-guest", "office"),
        ("11.0.0.0", "eth0", "dmz"),
        ("100.64.0.10", "tailscale0", "admin"),
        ("100.64.0.11", "tailscale0", "internal"),
        ("100.64.0.10", "eth0", "dmz"),
        ("fd7a:115c:a1e0::10", "tailscale0", "admin"),
        ("fd7a:115c:a1e0::10", "veth1", "lab"),
        ("2001:db8::1", "eth0", "dmz"),
        ("198.51.100.1", "wlan0", ""),
    ],
)
def test_an_end_belongs_to_the_longest_network_then_to_the_most_exact_interface(
    source: str, interface: str, zone: str
) -> None:
    firewall = stack_of(FILE).firewall
    assert firewall is not None
    assert zone_of(firewall, address(source), interface) == zone


@pytest.mark.parametrize(
    ("words", "action", "path"),
    [
        (("198.51.100.1", "eth0", "tcp/443"), "accept", "firewall.zones.dmz.tcp[1]"),
        (("2001:db8::1", "eth0", "udp/443"), "accept", "firewall.zones.dmz.udp[0]"),
        (("198.51.100.1", "eth0", "tcp/8000"), "accept", "firewall.zones.dmz.tcp[2]"),
        (("198.51.100.1", "eth0", "tcp/8100"), "accept", "firewall.zones.dmz.tcp[2]"),
        (("198.51.100.1", "eth0", "tcp/8101"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "eth0", "tcp/7999"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "eth0", "udp/80"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "eth0", "icmp"), "accept", "firewall.zones.dmz.ping"),
        (("198.51.100.1", "veth1", "icmp"), "drop", "firewall.zones.lab.ping"),
        (("198.51.100.1", "veth1", "udp/53"), "accept", "firewall.zones.lab.services[0]"),
        (("100.64.0.7", "tailscale0", "tcp/11434"), "accept", "firewall.zones.internal.services[1]"),
        (("10.2.0.1", "wlan0", "tcp/1"), "accept", "firewall.zones.admin.allow"),
        (("198.51.100.1", "wlan0", "tcp/443"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "wlan0", "icmp"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "lo", "tcp/1"), "accept", "firewall"),
        (("198.51.100.1", "wlan0", "udp/41641"), "accept", "tailscale"),
        (("198.51.100.1", "wlan0", "tcp/41641"), "drop", "firewall.default_policy"),
        (("100.64.0.10", "eth0", "tcp/443"), "drop", "firewall"),
        (("100.64.0.10", "eth0", "udp/41641"), "drop", "firewall"),
        (("fd7a:115c:a1e0::10", "veth1", "udp/53"), "drop", "firewall"),
        (("100.115.92.7", "eth0", "tcp/443"), "accept", "firewall.zones.dmz.tcp[1]"),
    ],
)
def test_packets_to_this_host(words: tuple[str, str, str], action: str, path: str) -> None:
    verdict = judge(*words)
    assert (verdict.action, verdict.path) == (action, path)
    assert verdict.accepted == (action == "accept")


def test_dhcp_replies_pass_and_what_looks_like_one_does_not() -> None:
    assert judge("198.51.100.1", "wlan0", "udp/68", sport=67).accepted
    assert not judge("198.51.100.1", "wlan0", "udp/67", sport=68).accepted
    assert not judge("198.51.100.1", "wlan0", "udp/68").accepted
    assert not judge("2001:db8::1", "wlan0", "udp/546", sport=547).accepted
    assert judge("fe80::1", "wlan0", "udp/546", "fe80::2", sport=547).accepted


@pytest.mark.parametrize("to", ["100.64.0.1", "fd7a:115c:a1e0::1"])
def test_the_tailnets_addresses_answer_on_the_tailnet_alone(to: str) -> None:
    near = "198.51.100.1" if "." in to else "2001:db8::1"
    for policy in ("drop", "reject", "accept"):
        assert judge(near, "eth0", "tcp/443", to, policy=policy).action == "drop"
        assert judge(near, "eth0", "icmp", to, policy=policy).action == "drop"
    assert judge(near, "eth0", "udp/41641", to).accepted
    assert judge(near, "tailscale0", "tcp/22", to).accepted
    assert judge(near, "lo", "tcp/1", to).accepted
    assert judge("198.51.100.1", "eth0", "tcp/443", "100.115.92.1").accepted


@pytest.mark.parametrize(
    ("source", "kind", "hops", "accepted"),
    [
        ("198.51.100.1", 3, 64, True),
        ("198.51.100.1", 13, 64, False),
        ("2001:db8::1", 2, 64, True),
        ("2001:db8::1", 135, 255, True),
        ("2001:db8::1", 135, 254, False),
        ("2001:db8::1", 134, 255, False),
        ("fe80::1", 134, 255, True),
        ("fe80::1", 134, 254, False),
        ("fe80::1", 143, 1, True),
        ("2001:db8::1", 143, 1, False),
    ],
)
def test_icmp_that_no_host_can_do_without(source: str, kind: int, hops: int, accepted: bool) -> None:
    oracle = Oracle(stack_of(FILE), FACTS)
    sent = Packet(address(source), "wlan0", "icmp", icmp_type=kind, hop_limit=hops)
    assert oracle.judge(sent).accepted == accepted


def test_into_an_isolated_zone_goes_what_rules_list_and_no_more() -> None:
    text = FILE + "    - {from: dmz, to: isolated, tcp: [80]}\n"
    far = ("1.1.1.1", "br-guest")
    for policy, refused in (("drop", "drop"), ("reject", "reject"), ("accept", "drop")):
        stack = stack_of(text.replace("firewall:\n", f"firewall:\n  default_policy: {policy}\n"))
        oracle = Oracle(stack, FACTS)
        assert oracle.judge(packet("198.51.100.1", "eth0", "tcp/80", *far)).accepted
        for source in ("eth0", "veth1", "wlan0", "br-guest", "tailscale0"):
            assert oracle.judge(packet("198.51.100.1", source, "tcp/81", *far)).action == refused, source


def test_the_first_entry_that_lists_a_port_is_named() -> None:
    entries = "443, 443, '400-500', 450, '440-460', 470"
    oracle = Oracle(stack_of(f"firewall: {{zones: {{a: {{interfaces: [eth0], tcp: [{entries}]}}}}}}"), FACTS)
    named = {
        port: oracle.judge(packet("1.1.1.1", "eth0", f"tcp/{port}")).path for port in (443, 444, 450, 470)
    }
    assert named == {
        port: f"firewall.zones.a.tcp[{at}]" for port, at in ((443, 0), (444, 2), (450, 2), (470, 2))
    }


def test_tailscaled_is_accepted_where_it_listens() -> None:
    facts = Facts(tailscale=TailscaleFacts((1, 96, 0), "Running", port=41700))
    assert judge("198.51.100.1", "wlan0", "udp/41700", facts=facts).accepted
    assert not judge("198.51.100.1", "wlan0", "udp/41641", facts=facts).accepted


def test_default_policy() -> None:
    assert judge("198.51.100.1", "eth0", "tcp/81", policy="reject").action == "reject"
    assert judge("198.51.100.1", "eth0", "tcp/81", policy="accept").action == "accept"
    assert judge("198.51.100.1", "wlan0", "tcp/81", policy="accept").action == "accept"
    for isolated in (("198.51.100.1", "br-guest"), ("10.9.0.1", "eth0")):
        assert judge(*isolated, "tcp/81", policy="accept").action == "drop"
        assert judge(*isolated, "tcp/81", policy="reject").action == "reject"
    assert judge("100.64.0.10", "eth0", "tcp/81", policy="reject").action == "drop", "spoofed"


@pytest.mark.parametrize(
    ("words", "action", "path"),
    [
        # from no zone
        (("198.51.100.1", "wlan0", "tcp/1", "10.1.0.1", "eth0"), "accept", "firewall"),
        # advertised routes, exit node
        (
            ("100.64.0.7", "tailscale0", "tcp/1", "192.168.15.9", "br-guest"),
            "accept",
            "tailscale.advertise.routes[0]",
        ),
        (("100.64.0.7", "tailscale0", "icmp", "192.168.16.9", "br-guest"), "drop", "firewall.default_policy"),
        (("100.64.0.7", "tailscale0", "icmp", "1.1.1.1", "eth0"), "accept", "tailscale.advertise.exit_node"),
        (("100.64.0.7", "tailscale0", "tcp/1", "10.1.0.1", "eth0"), "drop", "firewall.default_policy"),
        (("100.64.0.7", "tailscale0", "tcp/1", "1.1.1.1", "wlan0"), "drop", "firewall.default_policy"),
        (("10.9.0.1", "tailscale0", "tcp/1", "192.168.15.9", "eth0"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "br-guest", "tcp/1", "1.1.1.1", "eth0"), "drop", "firewall.default_policy"),
        # rules between two zones, and within one
        (
            ("198.51.100.1", "veth1", "tcp/443", "1.1.1.1", "eth0"),
            "accept",
            "firewall.forward[0].services[0]",
        ),
        (("198.51.100.1", "veth1", "udp/5010", "1.1.1.1", "eth0"), "accept", "firewall.forward[0].udp[0]"),
        (("198.51.100.1", "veth1", "udp/5011", "1.1.1.1", "eth0"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "veth1", "icmp", "1.1.1.1", "eth0"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "eth0", "icmp", "10.1.0.1", "wlan0"), "accept", "firewall.forward[2].allow"),
        (("198.51.100.1", "eth0", "tcp/1", "1.1.1.1", "veth7"), "accept", "firewall.zones.dmz"),
        (("198.51.100.1", "veth1", "tcp/5432", "1.1.1.1", "veth12"), "accept", "firewall.forward[1].tcp[0]"),
        (("198.51.100.1", "veth1", "tcp/5433", "1.1.1.1", "veth12"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "br-guest", "tcp/1", "1.1.1.1", "br-guest"), "drop", "firewall.default_policy"),
        (("198.51.100.1", "eth0", "tcp/1", "1.1.1.1", "wlan0"), "drop", "firewall.default_policy"),
        # a tailnet address beyond another interface is nobody's but that interface's
        (("198.51.100.1", "eth0", "tcp/1", "100.64.0.10", "eth0"), "accept", "firewall.zones.dmz"),
        (("198.51.100.1", "eth0", "tcp/1", "100.64.0.10", "tailscale0"), "drop", "firewall.default_policy"),
        (("100.64.0.10", "eth0", "tcp/1", "1.1.1.1", "veth7"), "drop", "firewall"),
    ],
)
def test_packets_through_this_host(words: tuple[str, ...], action: str, path: str) -> None:
    verdict = judge(*words)
    assert (verdict.action, verdict.path) == (action, path)


def test_the_default_policy_of_what_passes_through() -> None:
    words = ("198.51.100.1", "eth0", "tcp/1", "1.1.1.1", "wlan0")
    assert judge(*words, policy="reject").action == "reject"
    assert judge(*words, policy="accept").action == "accept"
    isolated = ("198.51.100.1", "br-guest", "tcp/1", "1.1.1.1", "br-guest")
    assert judge(*isolated, policy="accept").action == "drop"


def test_a_file_without_a_firewall_refuses_nothing() -> None:
    verdict = expect_input(stack_of("host: {name: a}"), FACTS, packet("100.64.0.1", "eth0", "tcp/1"))
    assert verdict.accepted


def test_it_shares_nothing_with_the_renderer() -> None:
    allowed = (
        "tsstack.model",
        "tsstack.prove",
        "ipaddress",
        "collections",
        "dataclasses",
        "typing",
        "random",
        "bisect",
        "itertools",
        "json",
        "re",
    )
    packets = ("expected", "terrain", "plan", "probes", "foreign", "frames")
    services = ("handshakes", "hosting", "lies", "lists", "places", "questions", "strangers")
    for name in (*packets, *services):
        tree = ast.parse((ROOT / "tsstack" / "prove" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for each in names:
                assert each.startswith((*allowed, "__future__", "struct")), f"{name}.py imports {each}"
