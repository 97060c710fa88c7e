"""Packets that try the rules which every file has, and those that no port list tells apart. Pure.

What a file opens is the business of `plan`. Here are the edges of the tailnet's networks, ICMP of all kinds,
TCP of no connection, protocols without ports, source ports of trust, fragments, marks, published ports,
`lo`: one sender of each zone and family tries each.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from tsstack.model.firewall import Zone
from tsstack.model.names import Address
from tsstack.prove.expected import (
    ACK,
    BROADCAST,
    OTHER_PROTOCOLS,
    RST,
    SYN,
    TAILNET_INTERFACE,
    TSMP,
    Kind,
    Oracle,
    Packet,
    is_tailnet,
)
from tsstack.prove.terrain import LINK_LOCAL, LOCAL, Country, Flow, Sender, is_usable

Service = tuple[Kind, int]

_FIN, _NULL = 0x01, 0x00
_BROKEN = (SYN | ACK, RST, _FIN, _NULL, SYN | _FIN)
# No host needs them: answers that nobody asked for, redirects, routers' words, masks, times (RFC 6918), and
# what has no meaning.
_ICMP_KINDS = {
    4: (4, 5, 9, 10, 14, 15, 16, 17, 18, 30, 40, 255),
    6: (5, 100, 127, 129, 137, 138, 140, 141, 142, 144, 200, 255),
}
# Of whom firewalls once believed everything: answers of DNS, FTP's data, NTP, DHCP.
_TRUSTED: tuple[Service, ...] = (
    ("udp", 53),
    ("udp", 123),
    ("tcp", 20),
    ("tcp", 443),
    ("udp", 67),
    ("udp", 547),
)
_MANY: dict[int, tuple[Address, ...]] = {
    4: (ipaddress.ip_address("224.0.0.1"), BROADCAST),
    6: (ipaddress.ip_address("ff02::1"),),
}
_TO_ITSELF: tuple[Service, ...] = (("tcp", 7), ("udp", 60999), ("icmp", 0))
_MOST_WITHIN = 64
_FLOW_PORT = 4433
_MOST_FLOWS, _MOST_INTERFACES = 40, 6


def first_of_each(oracle: Oracle, country: Country) -> list[tuple[str, Sender]]:
    """A sender of every zone and family, of no zone too, with the zone's name; one more by the tailnet."""
    found: dict[tuple[str, int, bool], Sender] = {}
    for sender in country.senders:
        address = sender.address
        if sender.main and not address.is_link_local:
            zone, by_tailnet = (
                oracle.members.zone(address, sender.interface),
                sender.interface == TAILNET_INTERFACE,
            )
            found.setdefault((zone, address.version, by_tailnet), sender)
    return [(zone, sender) for (zone, _, _), sender in found.items()]


def probe_host(oracle: Oracle, country: Country, rng: Random) -> Iterator[Packet]:
    """To this host."""
    yield from _own()
    edged = _edge_interfaces(country)
    for address in country.edges:
        for interface in edged:
            for kind, port in open_to(oracle, oracle.members.zone(address, interface)):
                yield Packet(address, interface, kind, port)
            yield Packet(address, interface, "udp", oracle.tailscaled_port)
    for zone, sender in first_of_each(oracle, country):
        yield from _probe_from(oracle, zone, sender, rng)
        if zone:
            within = _within(oracle, oracle.firewall.zones[zone])
            yield from (Packet(sender.address, sender.interface, *each) for each in within)
        opened = open_to(oracle, zone)[0]
        for own in (*country.own_edges, *LOCAL[2:]):
            if own.version == sender.address.version:
                yield Packet(sender.address, sender.interface, *opened, own)
    for sender in country.senders:
        if sender.address.version == 6 and sender.address.is_link_local:
            yield from _probe_link(sender)


def _within(oracle: Oracle, zone: Zone) -> Iterator[Service]:
    """What lies within the ranges that a zone opens: all of it, or of a long one every so many."""
    for _, kind, first, last in oracle.ports_of(zone):
        step = max(1, (last - first) // _MOST_WITHIN)
        yield from ((kind, port) for port in range(first + step, last, step))


def _own() -> Iterator[Packet]:
    """What this host says to itself; of its tailnet address too."""
    for address in LOCAL:
        for kind, port in _TO_ITSELF:
            yield Packet(address, "lo", kind, port, address)


def _edge_interfaces(country: Country) -> list[str]:
    others = [each for each in country.interfaces if each != TAILNET_INTERFACE]
    return [TAILNET_INTERFACE, *dict.fromkeys([*others[:1], *country.alike])]


def open_to(oracle: Oracle, zone: str) -> list[Service]:
    """An echo request, unless the zone opens ports: then a port of each protocol."""
    if not zone:
        return [("icmp", 0)]
    first: dict[Kind, int] = {}
    for _, kind, port, _ in oracle.ports_of(oracle.firewall.zones[zone]):
        first.setdefault(kind, port)
    return list(first.items()) or [("icmp", 0)]


def _probe_from(oracle: Oracle, zone: str, sender: Sender, rng: Random) -> Iterator[Packet]:
    version, ends = sender.address.version, (sender.address, sender.interface)
    opened = dict(open_to(oracle, zone))
    known = [(kind, port) for kind, port in opened.items() if kind != "icmp"]
    closed = rng.randint(1024, 65535)
    tcp, udp = opened.get("tcp", closed), opened.get("udp", closed)
    for icmp_type in _ICMP_KINDS[version]:
        yield Packet(*ends, "icmp", icmp_type=icmp_type, hop_limit=255)
    yield from (Packet(*ends, "other", protocol) for protocol in (*OTHER_PROTOCOLS, TSMP))
    yield from (Packet(*ends, "tcp", tcp, flags=flags) for flags in (*_BROKEN, ACK))
    yield Packet(*ends, "tcp", closed, flags=ACK)
    yield from (Packet(*ends, kind, closed, source_port=port) for kind, port in _TRUSTED)
    for kind, port in (*known, ("tcp", closed), ("udp", closed)):
        yield Packet(*ends, kind, port, marked=True)
        # RFC 7112: the first fragment of an IPv6 packet has all headers; the world's have eight bytes.
        if version == 4 or kind == "udp":
            yield Packet(*ends, kind, port, fragmented=True)
    for address in _MANY[version]:
        yield from (Packet(*ends, "udp", port, address) for port in {udp: None, closed: None})
        yield Packet(*ends, "udp", 68, address, source_port=67)


def _probe_link(sender: Sender) -> Iterator[Packet]:
    """From the link: DHCPv6 to this host's own address there, and what only looks like it; ICMP that no host
    needs, as routers send it."""
    for icmp_type in (0, *_ICMP_KINDS[6]):
        yield Packet(sender.address, sender.interface, "icmp", icmp_type=icmp_type, hop_limit=255)
    for source_port, port in ((547, 546), (546, 547), (547, 547), (20000, 546)):
        yield Packet(sender.address, sender.interface, "udp", port, LINK_LOCAL, source_port=source_port)


def probe_through(oracle: Oracle, country: Country, found: Iterable[Packet], rng: Random) -> Iterator[Packet]:
    """Through this host. Of `found`, which go there anyway, one from each zone to each shows the way."""
    seen: set[tuple[str, str, int, bool]] = set()
    offered = {each for each, _ in country.places if oracle.is_advertised(each)}
    used: set[tuple[Address, Address, Kind, int, int]] = set()
    marked: set[tuple[str, int, bool]] = set()
    zone, places = oracle.members.zone, dict(country.places)
    for packet in found:
        if packet.protocol != "tcp" or packet.destination is None:
            continue
        version = packet.source.version
        ends = zone(packet.source, packet.interface), zone(packet.destination, packet.outgoing)
        fate = (ends[0], version, oracle.judge(packet).accepted)
        # The class that has a packet marked is in the place of a detour's.
        if fate not in marked and places.get(packet.destination) == packet.outgoing:
            marked.add(fate)
            yield replace(packet, marked=True)
        key = (*ends, version, packet.interface == TAILNET_INTERFACE and packet.destination in offered)
        if key in seen:
            continue
        seen.add(key)
        for each in _probe_trip(packet, len(seen), rng):
            if each.protocol != "other" and not each.source_port:
                yield each
                continue
            # What has the ends of an earlier packet, or its reply's, would be taken to belong to it.
            there = (packet.source, packet.destination, each.protocol, each.source_port, each.port)
            back = (packet.destination, packet.source, each.protocol, *_swapped(each))
            # Nor can two of a protocol without ports be hidden behind one address at a time.
            if there not in used and back not in used and not oracle.judge(each).hidden:
                used.add(there)
                yield each


def _swapped(packet: Packet) -> tuple[int, int]:
    """The ports of a reply; another protocol's number is in its place."""
    if packet.protocol == "other":
        return packet.source_port, packet.port
    return packet.port, packet.source_port


def _probe_trip(packet: Packet, turn: int, rng: Random) -> Iterator[Packet]:
    """The same way as a packet: each protocol, and each kind of TCP that begins nothing, every other time."""

    def like(kind: Kind, port: int, flags: int = SYN, source_port: int = 0, icmp_type: int = 0) -> Packet:
        ends = (packet.source, packet.interface), (packet.destination, packet.outgoing)
        return Packet(*ends[0], kind, port, *ends[1], source_port, icmp_type, flags=flags)

    for flags in (SYN | ACK, (_FIN, ACK)[turn % 2]):
        yield like("tcp", packet.port, flags)
    for icmp_type in (5, 11) if packet.source.version == 4 else (2, 137):
        yield like("icmp", 0, icmp_type=icmp_type)
    for protocol in (OTHER_PROTOCOLS[turn % 4], OTHER_PROTOCOLS[(turn + 1) % 4]):
        yield like("other", protocol)
    yield like("tcp", packet.port, source_port=rng.choice((20, 53, 443)))


def choose_flows(oracle: Oracle, country: Country, found: Iterable[Packet]) -> Iterator[Flow]:
    """Connections of each kind: begun by this host, to it, and through it."""
    yield from _begun(country)
    for zone, sender in first_of_each(oracle, country):
        opened = dict(open_to(oracle, zone))
        to = LOCAL[sender.address.version == 6]
        if (
            "tcp" in opened
            and oracle.judge(Packet(sender.address, sender.interface, "tcp", opened["tcp"])).accepted
        ):
            yield Flow("tcp", sender.address, sender.interface, opened["tcp"], to)
    yield from _passing(oracle, country, found)


def _begun(country: Country) -> Iterator[Flow]:
    """By this host, to something behind each interface. What lies there belongs to nobody."""
    asked: dict[tuple[str, int], None] = {}
    for address, interface in country.places:
        key = (interface, address.version)
        known = {each for each, _ in asked}
        if (
            key in asked
            or not is_usable(address)
            or (is_tailnet(address) and interface != TAILNET_INTERFACE)  # an edge of a route: spoofed
            or (interface not in known and len(known) >= _MOST_INTERFACES)
        ):
            continue
        asked[key] = None
        for protocol in ("tcp", "udp"):
            yield Flow(protocol, address, interface, _FLOW_PORT, LOCAL[address.version == 6], begun=True)


def _passing(oracle: Oracle, country: Country, found: Iterable[Packet]) -> Iterator[Flow]:
    zone, places = oracle.members.zone, dict(country.places)
    chosen: dict[tuple[str, str, int, bool], None] = {}
    for packet in found:
        to = packet.destination
        if packet.protocol not in {"tcp", "udp"} or to is None:
            continue
        ends = zone(packet.source, packet.interface), zone(to, packet.outgoing)
        key = (*ends, packet.source.version, is_tailnet(to))
        if key in chosen or places.get(to) != packet.outgoing or not oracle.judge(packet).accepted:
            continue
        chosen[key] = None
        yield Flow(packet.protocol, packet.source, packet.interface, packet.port, to, packet.outgoing)
        if len(chosen) >= _MOST_FLOWS:
            return
