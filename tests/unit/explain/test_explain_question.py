"""From the words of a question to one packet."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from tsstack import assets
from tsstack.errors import UsageError
from tsstack.explain.question import Asked, Question, Route, Surroundings, resolve
from tsstack.explain.services import parse_service
from tsstack.model.loader import load_presets, parse_stack

TEXT = """
host: {name: a, uplink: eth0}
firewall:
  services: {app: [tcp/8000], many: [tcp/1, udp/2]}
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    lan: {interfaces: ["veth*"], sources: [198.18.0.0/15, 10.0.0.0/8]}
    tail: {interfaces: [tailscale0]}
    admin: {sources: [100.64.0.10/32]}
    six: {sources: ["fd00:15::/64"]}
    nobody: {tcp: [1]}
"""
STACK = parse_stack(TEXT.encode(), Path("t.yaml"), load_presets(assets.folder("zones"))).stack
ip = ipaddress.ip_address


def ask(source: str, service: str, around: Surroundings | None = None, **more: Any) -> Question:
    asked = Asked(source, parse_service(service, STACK), **more)
    return resolve(asked, STACK, around or Surroundings(uplink="eth0"))


@pytest.mark.parametrize(
    ("text", "kind", "port", "shown"),
    [
        ("tcp/443", "tcp", 443, "tcp/443"),
        ("UDP/53", "udp", 53, "udp/53"),
        ("tcp/https", "tcp", 443, "tcp/443"),
        ("ssh", "tcp", 22, "tcp/22"),
        ("app", "tcp", 8000, "tcp/8000"),
        ("icmp", "icmp", 0, "icmp"),
        ("ping", "icmp", 0, "icmp"),
        ("icmp/echo-request", "icmp", 0, "icmp"),
        ("icmpv6", "icmp", 0, "icmpv6"),
    ],
)
def test_services(text: str, kind: str, port: int, shown: str) -> None:
    service = parse_service(text, STACK)
    assert (service.kind, service.port, service.text) == (kind, port, shown)


@pytest.mark.parametrize(
    "text",
    [
        "tcp",
        "tcp/0",
        "tcp/65536",
        "443",
        "icmp/ech",
        "icmp/echo-reply",
        "many",
        "a b",
        "",
        "tcp/x/y",
        "ping/1",
    ],
)
def test_what_is_no_service_is_told_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_service(text, STACK)
    assert refused.value.hint


def test_icmp_types_are_of_a_version() -> None:
    assert ask("dmz", "icmp/13").packet.icmp_type == 13
    neighbour = ask("dmz", "icmpv6/nd-neighbor-solicit").packet
    assert (neighbour.source.version, neighbour.icmp_type, neighbour.hop_limit) == (6, 135, 255)
    assert ask("dmz", "icmp/time-exceeded").packet.icmp_type == 11
    assert ask("dmz", "icmp/packet-too-big").packet.source.version == 6
    with pytest.raises(UsageError, match="IPv6"):
        ask("192.0.2.1", "icmpv6", interface="eth0")
    with pytest.raises(UsageError, match="reply"):
        ask("192.0.2.1", "icmp/0", interface="eth0")


def test_somebody_of_a_zone() -> None:
    assert ask("dmz", "ssh").packet.interface == "eth0"
    # 198.18.0.0/15 belongs to lan, so nobody of dmz has such an address.
    assert ask("dmz", "ssh").packet.source not in ipaddress.ip_network("198.18.0.0/15")
    assert ask("lan", "ssh").packet.interface == "veth0"
    here = Surroundings(interfaces=("eth0", "veth7a"), uplink="eth0")
    assert ask("lan", "ssh", here).packet.interface == "veth7a"
    admin = ask("admin", "ssh").packet
    assert (str(admin.source), admin.interface) == ("100.64.0.10", "tailscale0")
    assert ask("tail", "ssh").packet.source != admin.source
    assert ask("six", "ssh", version=6).packet.source in ipaddress.ip_network("fd00:15::/64")
    with pytest.raises(UsageError, match="IPv4"):
        ask("six", "ssh")
    with pytest.raises(UsageError, match="nobody"):
        ask("nobody", "ssh")
    with pytest.raises(UsageError, match="eth0 can belong to zone admin"):
        ask("admin", "ssh", interface="eth0")


def test_where_an_address_is_behind() -> None:
    routed = Surroundings(uplink="eth0", route=lambda _: Route("wg0"))
    assert ask("192.0.2.7", "ssh").packet.interface == "eth0"
    assert ask("192.0.2.7", "ssh", routed).packet.interface == "wg0"
    assert "its route" in ask("192.0.2.7", "ssh", routed).notes[0]
    assert ask("192.0.2.7", "ssh", routed, interface="eth9").packet.interface == "eth9"
    assert ask("100.64.0.3", "ssh", routed).packet.interface == "tailscale0"
    assert ask("fe80::1%eth3", "ssh").packet.interface == "eth3"


def test_where_it_goes() -> None:
    own = {"eth0": ((ip("192.0.2.2"), 24), (ip("fe80::2"), 64)), "eth1": ((ip("10.9.0.1"), 24),)}
    here = Surroundings(("eth0", "eth1"), "eth0", own)
    mine = ask("dmz", "ssh", here)
    assert (str(mine.destination), mine.packet.outgoing) == ("192.0.2.2", "")
    assert str(mine.packet.source) == "192.0.2.1"
    other = ask("dmz", "ssh", here, to="10.9.0.1")
    assert other.packet.outgoing == ""
    through = ask("dmz", "ssh", here, to="203.0.113.9", out="eth1")
    assert (str(through.destination), through.packet.outgoing) == ("203.0.113.9", "eth1")
    both = ask("lan", "ssh", to="lan")
    assert both.packet.source != both.destination
    assert "stands for this host's own address" in ask("dmz", "ssh").notes[0]


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("127.0.0.1", {}, "this host itself"),
        ("224.0.0.1", {}, "no address that one host"),
        ("dmzz", {}, "neither an address nor a zone"),
        ("192.0.2.1", {"to": "2001:db8::1"}, "IPv4"),
        ("192.0.2.1", {"to": "nowhere"}, "--to"),
        ("192.0.2.1", {"out": "eth1"}, "--out"),
    ],
)
def test_what_cannot_be_asked_is_said(source: str, more: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        ask(source, "ssh", **more)
    assert words in refused.value.message
    assert refused.value.hint


def test_nodes_of_the_tailnet() -> None:
    known = {"laptop": (ip("100.64.0.9"), ip("fd7a:115c:a1e0::9"))}
    here = Surroundings(uplink="eth0", nodes=lambda name: known.get(name, ()))
    assert str(ask("laptop", "ssh", here).packet.source) == "100.64.0.9"
    assert str(ask("laptop", "ssh", here, version=6).packet.source) == "fd7a:115c:a1e0::9"
    assert ask("laptop", "ssh", here).packet.interface == "tailscale0"
    with pytest.raises(UsageError, match="no node is called so"):
        ask("lapdog", "ssh", here)
    with pytest.raises(UsageError, match="tailscaled cannot be asked"):
        ask("laptop", "ssh")


@pytest.mark.parametrize("address", ["255.255.255.255", "0.1.2.3", "240.0.0.1", "224.0.0.1", "::"])
def test_what_no_host_sends_from_or_to_cannot_be_asked_about(address: str) -> None:
    with pytest.raises(UsageError, match="no address that one host sends"):
        ask(address, "tcp/80", interface="eth0")
    with pytest.raises(UsageError):
        ask("dmz", "tcp/80", to=address)


@pytest.mark.parametrize("source", ["198.19.255.254", "2001:db8:ffff::1"])
def test_this_host_never_stands_for_the_one_that_asks(source: str) -> None:
    assert ask(source, "tcp/80", interface="eth0").destination != ip(source)
