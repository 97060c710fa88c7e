"""Packets that come or go by ways which a renderer easily forgets. Pure.

Published ports: another owner's rules have given the packet its destination. Interfaces whose names only
look like ones that the file's rules ask for. The edges of advertised routes. Ports that no zone is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET_INTERFACE, TSMP, Kind, Oracle, Packet, is_tailnet
from tsstack.prove.foreign import PUBLISHED_PORT
from tsstack.prove.probes import first_of_each, open_to
from tsstack.prove.terrain import LOCAL, Country, Sender

Place = tuple[Address, str]
Service = tuple[Kind, int]
_CLOSED = 60999
_FEW = 3
_MOST_NAMED = 40


def probe_published(oracle: Oracle, country: Country) -> Iterator[Packet]:
    """By each published address: the ports that the sender's zone opens, and one of each protocol that it
    does not. The same without the publishing, to one place of no zone, where none of it may pass."""
    direct: set[int] = set()
    for _, place, interface in country.published:
        port, version = published_port(oracle, place, interface), place.version
        zoned = bool(interface) and not oracle.is_advertised(place)
        nobodys = zoned and not oracle.members.zone(place, interface)
        plain, known = (
            nobodys and version not in direct,
            interface in country.alike or (zoned and not nobodys),
        )
        direct |= {version} if plain else set()
        for zone, sender in first_of_each(oracle, country):
            if sender.address.version == version:
                ends, to = (sender.address, sender.interface), (place, interface)
                for kind, asked in _asked(oracle, zone, known=known):
                    yield Packet(*ends, kind, port, *to, asked_port=asked)
                    if plain:
                        yield Packet(*ends, kind, asked, *to)


def _asked(oracle: Oracle, zone: str, *, known: bool) -> list[tuple[Kind, int]]:
    """What is open to a zone; what is not as well, unless the `known` will do and there is any."""
    opened = [each for each in open_to(oracle, zone) if each[0] != "icmp"]
    return opened if opened and known else [*opened, ("tcp", _CLOSED), ("udp", _CLOSED)]


def published_port(oracle: Oracle, place: Address, interface: str) -> int:
    """To which port a published address leads: one that a forward rule lists, where one leads there; of this
    host's own one that a zone opens."""
    target = oracle.members.zone(place, interface)
    zones = oracle.firewall.zones.values()
    listing = [rule for rule in oracle.firewall.forward if rule.to_zone == target] if interface else zones
    return next((port for each in listing for _, _, port, _ in oracle.ports_of(each)), PUBLISHED_PORT)


def probe_alike(oracle: Oracle, country: Country, rng: Random) -> Iterator[Packet]:
    """By interfaces of nearly the right name: from nobody, and from addresses of a zone, to each zone and to
    what is offered; and back."""
    zone = oracle.members.zone
    targets: dict[tuple[str, int, bool], Place] = {}
    corners: dict[tuple[str, int], Place] = {}
    for address, interface in country.beyond:
        key = (zone(address, interface), address.version, oracle.is_advertised(address))
        if interface not in country.alike:
            targets.setdefault(key, (address, interface))
        if interface in country.corners and not oracle.members.by_address(address, interface):
            corners.setdefault((interface, address.version), (address, interface))
    offered = [*(place for (_, _, advertised), place in targets.items() if advertised), *corners.values()]
    strangers: dict[tuple[str, str, int], Sender] = {}
    for sender in country.senders:
        if sender.interface in country.alike and not sender.address.is_link_local:
            name = zone(sender.address, sender.interface)
            strangers.setdefault((sender.interface, name, sender.address.version), sender)
    for sender in strangers.values():
        # Who is in a zone by address is tried where the tailnet might go, who is in none in every zone.
        of_zone = bool(zone(sender.address, sender.interface))
        for place in offered if of_zone else targets.values():
            yield from _trip(sender, place, rng)
        own = LOCAL[2 if sender.address.version == 4 else 3]
        for kind, port in open_to(oracle, zone(sender.address, sender.interface)):
            yield Packet(sender.address, sender.interface, kind, port, own)
        yield Packet(sender.address, sender.interface, "other", TSMP)
    near: dict[tuple[str, int, bool], Place] = {}
    for address, interface in country.beyond:
        # A tailnet's address beyond another interface is nobody's, and of no rule that names it.
        strayed = interface in country.corners and interface != TAILNET_INTERFACE and is_tailnet(address)
        if interface in country.alike or strayed:
            near.setdefault((interface, address.version, is_tailnet(address)), (address, interface))
    for sender in _senders(oracle, country).values():
        for place in near.values():
            yield from _trip(sender, place, rng)


def _senders(oracle: Oracle, country: Country) -> dict[tuple[str, int, bool], Sender]:
    """One of each zone and family, and one more by the tailnet's interface; of no zone as well."""
    found: dict[tuple[str, int, bool], Sender] = {}
    for sender in country.senders:
        name, by_tailnet = (
            oracle.members.zone(sender.address, sender.interface),
            sender.interface == TAILNET_INTERFACE,
        )
        rightly = by_tailnet or not is_tailnet(sender.address)
        if rightly and not sender.address.is_link_local and sender.interface not in country.alike:
            found.setdefault((name, sender.address.version, by_tailnet), sender)
    return found


def probe_borders(oracle: Oracle, country: Country, rng: Random) -> Iterator[Packet]:
    """To the edges of networks and next to them: from the tailnet, from the zones that rules let go to either
    side of the edge, and from the zone of the interface that they lie behind."""
    senders, members = _senders(oracle, country), oracle.members
    offered = [each for (name, _, by_tailnet), each in senders.items() if name and by_tailnet]
    offered = [*_of_version(offered, 4)[:_FEW], *_of_version(offered, 6)[:_FEW]]
    for address, interface in country.borders:
        for sender in offered:
            yield from _trip(sender, (address, interface), rng)
        sides = {members.zone(each, interface) for each in (address - 1, address, address + 1)}
        rules = [rule for rule in oracle.firewall.forward if rule.to_zone in sides][:_FEW]
        asked = [(rule.from_zone, next(iter(oracle.ports_of(rule)), None)) for rule in rules]
        within = [
            (name, None) for name in {**dict.fromkeys(sorted(sides)), members.by_interface(interface): None}
        ]
        for name, listed in (*asked, *within):
            keys = ((name, address.version, by_tailnet) for by_tailnet in (False, True))
            for sender in [senders[key] for key in keys if key in senders][:1]:
                yield from _trip(sender, (address, interface), rng, listed[1:3] if listed else None)


def _of_version(senders: list[Sender], version: int) -> list[Sender]:
    return [each for each in senders if each.address.version == version]


def _trip(sender: Sender, place: Place, rng: Random, to: tuple[Kind, int] | None = None) -> Iterator[Packet]:
    if sender.address.version == place[0].version and sender.address != place[0]:
        kind, port = to or ("tcp", rng.randint(1024, 65535))
        yield Packet(sender.address, sender.interface, kind, port, *place)


def probe_named(stack: Stack, oracle: Oracle, country: Country, rng: Random) -> Iterator[Packet]:
    """To this host, from every zone: ports that the file names elsewhere, as those behind its proxy."""
    named = list(dict.fromkeys(_named(stack)))
    named = named if len(named) <= _MOST_NAMED else rng.sample(named, _MOST_NAMED)
    for _, sender in first_of_each(oracle, country):
        yield from (Packet(sender.address, sender.interface, kind, port) for kind, port in named)


def _named(stack: Stack) -> Iterator[Service]:
    if stack.proxy:
        yield from (("tcp", port) for port in (stack.proxy.http_port, stack.proxy.https_port))
        for service in stack.proxy.services.values():
            ports = [service.port, *(each.port for each in service.upstream)]
            yield from (("tcp", port) for port in ports if port)
    for listed in (stack.firewall.services if stack.firewall else {}).values():
        yield from ((each.protocol, port) for each in listed for port in (each.ports.first, each.ports.last))
