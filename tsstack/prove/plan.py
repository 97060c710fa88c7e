"""Which packets prove a file: chosen from the model and a seed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random

from tsstack.model.facts import Facts
from tsstack.model.firewall import ForwardRule, Zone
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import (
    ICMP_ERRORS,
    LISTENERS,
    NEIGHBOURS,
    ROUTER_ADVERTISEMENT,
    TAILNET_INTERFACE,
    Kind,
    Oracle,
    Packet,
)
from tsstack.prove.terrain import LOCAL, MOST_NETWORKS, Country, Sender, is_usable, lay_out

Service = tuple[Kind, int]
"""Protocol and port; port 0 for an echo request."""

PING: Service = ("icmp", 0)
_LAST_PORT = 65535
_RANDOM_PORTS = 12
_LEAST_PER_SENDER = 40
_FEW = 6
_QUESTION = {4: 13, 6: 139}  # a timestamp (RFC 792), node information (RFC 4620): nobody needs them


@dataclass(frozen=True, slots=True)
class Limits:
    """How many packets at most, about: to this host and through it; and from how many source networks."""

    arriving: int = 60_000
    passing: int = 30_000
    networks: int = MOST_NETWORKS


QUICK = Limits(12_000, 6_000, 40)
"""For a proof that somebody waits for, of files with dozens of zones; smaller ones stay below it anyway."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A country and the packets that are sent in it, in order."""

    country: Country
    packets: tuple[Packet, ...]
    local: tuple[Address, ...] = LOCAL
    """This host's addresses in the world."""


def plan_packets(
    stack: Stack, facts: Facts, seed: int, limits: Limits | None = None, asked: Iterable[Packet] = ()
) -> Plan:
    """The packets that prove a file. The same file, facts and seed give the same packets.

    `asked` are packets to this host that are sent as well: their interfaces and destinations join the world.

    To this host: every zone's senders ask for every declared port, its neighbours, some random ports and
    an echo. Through this host: every sender to places behind every interface. What is past the limits is
    left out by chance, a zone's own ports and forward rules last.
    """
    rng = Random(seed)  # noqa: S311  no secret: it is there to be repeated
    oracle = Oracle(stack, facts)
    bounds = limits or Limits()
    country = lay_out(stack, facts, rng, bounds.networks)
    packets = dict.fromkeys(_arriving(oracle, country, rng, bounds.arriving))
    packets.update(dict.fromkeys(_passing(oracle, country, rng, bounds.passing)))
    return _with_asked(Plan(country, tuple(packets)), tuple(asked))


def plan_of(packets: tuple[Packet, ...]) -> Plan:
    """The plan of these packets alone, in the smallest country that has a place for all of them."""
    interfaces = dict.fromkeys(name for each in packets for name in (each.interface, each.outgoing) if name)
    places: dict[Address, str] = {}
    detours: dict[Address, str] = {}
    for each in packets:
        place = each.destination if each.outgoing else None
        if place and place not in LOCAL and places.setdefault(place, each.outgoing) != each.outgoing:
            detours[place] = each.outgoing
    local = dict.fromkeys([*LOCAL, *(each.destination for each in packets if each.destination)])
    own = tuple(each for each in local if each not in places)
    return Plan(Country(tuple(interfaces), (), tuple(places.items()), tuple(detours.items())), packets, own)


def _with_asked(plan: Plan, asked: tuple[Packet, ...]) -> Plan:
    """The plan with packets that somebody wants to be sent; what the world has no place for is left out."""
    country = plan.country
    places = {address for address, _ in (*country.places, *country.detours)}
    sent = [
        each
        for each in asked
        if not each.outgoing
        and is_usable(each.source)
        and each.source not in plan.local
        and (each.destination is None or (is_usable(each.destination) and each.destination not in places))
    ]
    interfaces = dict.fromkeys([*country.interfaces, *(each.interface for each in sent)])
    local = dict.fromkeys([*plan.local, *(each.destination for each in sent if each.destination)])
    return Plan(
        replace(country, interfaces=tuple(interfaces)),
        tuple(dict.fromkeys([*plan.packets, *sent])),
        tuple(local),
    )


def declared(oracle: Oracle) -> tuple[Service, ...]:
    """The ports that the file's zones and forward rules list (of a range its ends), as it lists them."""
    sections: list[Zone | ForwardRule] = [*oracle.firewall.zones.values(), *oracle.firewall.forward]
    return tuple(dict.fromkeys(each for section in sections for each in _listed(oracle, section)))


def _listed(oracle: Oracle, section: Zone | ForwardRule) -> Iterator[Service]:
    for _, kind, first, last in oracle.ports_of(section):
        yield kind, first
        yield kind, last


def _around(services: Iterable[Service], rng: Random) -> Iterator[Service]:
    """Each port, its neighbours, and the same port of the other protocol."""
    for kind, port in services:
        yield kind, port
        if port > 1:
            yield kind, port - 1
        if port < _LAST_PORT:
            yield kind, port + 1
        if rng.random() < 0.5:
            yield ("udp" if kind == "tcp" else "tcp"), port


def _some(services: list[Service], most: int, rng: Random) -> list[Service]:
    return services if len(services) <= most else rng.sample(services, most)


def _random_services(rng: Random) -> Iterator[Service]:
    yield from ((kind, rng.randint(1, _LAST_PORT)) for kind in ("tcp", "udp") for _ in range(_RANDOM_PORTS))


def _arriving(oracle: Oracle, country: Country, rng: Random, limit: int) -> Iterator[Packet]:
    everywhere = list(dict.fromkeys(_around(declared(oracle), rng)))
    own = {
        name: list(dict.fromkeys(_around(_listed(oracle, zone), rng)))
        for name, zone in oracle.firewall.zones.items()
    }
    tailscaled = list(_around([("udp", oracle.tailscaled_port)], rng))
    main = sum(sender.main for sender in country.senders)
    share = max(_LEAST_PER_SENDER, limit // max(main, 1))
    for sender in country.senders:
        zone = oracle.members.zone(sender.address, sender.interface)
        opened = own.get(zone, [])
        asked: list[Service] = [PING, *tailscaled, *_some(opened, share, rng)]
        if sender.main:
            asked += _some(everywhere, max(share - len(asked), _FEW), rng)
            asked += _random_services(rng)
            yield from _dhcp(sender)
            yield from _icmp(sender, rng)
        else:
            asked = [PING, *rng.sample(asked, min(_FEW, len(asked)))]
            asked += rng.sample(everywhere, min(_FEW, len(everywhere)))
        for kind, port in asked:
            yield Packet(sender.address, sender.interface, kind, port)
        # This host's own address of the tailnet answers there alone.
        own_address = LOCAL[2 if sender.address.version == 4 else 3]
        for kind, port in asked[:_FEW] + rng.sample(asked, min(_FEW, len(asked))):
            yield Packet(sender.address, sender.interface, kind, port, own_address)


def _dhcp(sender: Sender) -> Iterator[Packet]:
    """A DHCP reply, and what only looks like one."""
    for source_port, port in ((67, 68), (68, 67), (20000, 68), (547, 546)):
        yield Packet(sender.address, sender.interface, "udp", port, source_port=source_port)


@dataclass(frozen=True, slots=True)
class _Trip:
    """From a sender to a place beyond this host, and the ports that rules between their zones speak of."""

    sender: Sender
    address: Address
    outgoing: str
    listed: tuple[Service, ...] = ()


def _icmp(sender: Sender, rng: Random) -> Iterator[Packet]:
    """Errors, neighbour discovery as it comes from the link and as it never does, and a type nobody needs."""
    version = sender.address.version
    kinds = [(kind, 64) for kind in (*ICMP_ERRORS[version], _QUESTION[version])]
    if version == 6:
        kinds += [(kind, limit) for kind in (*NEIGHBOURS, ROUTER_ADVERTISEMENT) for limit in (254, 255)]
        kinds.append((rng.choice(LISTENERS), 1))
    for kind, hop_limit in kinds:
        yield Packet(sender.address, sender.interface, "icmp", icmp_type=kind, hop_limit=hop_limit)


def _passing(oracle: Oracle, country: Country, rng: Random, limit: int) -> Iterator[Packet]:
    """Through this host: trips that a forward rule or an advertisement speaks of first, others by chance."""
    everywhere = list(declared(oracle)) or [("tcp", 80)]
    spoken = list(_spoken_of(oracle, country, rng, limit))
    rng.shuffle(spoken)
    count = 0
    for trip in (*spoken, *_any_trips(country, rng, limit)):
        asked = [PING, rng.choice(everywhere), *rng.sample(trip.listed, min(len(trip.listed), 4 * _FEW))]
        asked += [("tcp" if rng.random() < 0.5 else "udp", rng.randint(1, _LAST_PORT))]
        for kind, port in asked if trip.listed else asked[count % 2 :]:
            yield Packet(trip.sender.address, trip.sender.interface, kind, port, trip.address, trip.outgoing)
            count += 1
        if count >= limit:
            return


def _spoken_of(oracle: Oracle, country: Country, rng: Random, limit: int) -> Iterator[_Trip]:
    """Trips between zones with forward rules, within a zone, and from the tailnet to anywhere.

    Of each kind `limit` at most: of more, some by chance.
    """
    zone = oracle.members.zone
    listed: dict[tuple[str, str], list[Service]] = {(name, name): [] for name in oracle.firewall.zones}
    for rule in oracle.firewall.forward:
        pair = listed.setdefault((rule.from_zone, rule.to_zone), [])
        pair += _around(_listed(oracle, rule), rng)
    senders: dict[str, list[Sender]] = {}
    for sender in country.senders:
        senders.setdefault(zone(sender.address, sender.interface), []).append(sender)
    places = [*country.places, *country.detours]
    beyond: dict[str, list[tuple[Address, str]]] = {}
    for address, outgoing in places:
        beyond.setdefault(zone(address, outgoing), []).append((address, outgoing))
    for (source, target), services in listed.items():
        ports = tuple(dict.fromkeys(services))
        yield from _some_trips(senders.get(source, []), beyond.get(target, []), ports, rng, limit)
    tailnet = [each for each in country.senders if each.interface == TAILNET_INTERFACE]
    yield from _some_trips(tailnet, places, (), rng, limit)


def _some_trips(
    senders: list[Sender],
    places: list[tuple[Address, str]],
    listed: tuple[Service, ...],
    rng: Random,
    most: int,
) -> Iterator[_Trip]:
    if len(senders) * len(places) <= most:
        yield from _trips(senders, places, listed)
        return
    for _ in range(most):
        yield from _trips([rng.choice(senders)], [rng.choice(places)], listed)


def _trips(
    senders: Iterable[Sender], places: Collection[tuple[Address, str]], listed: tuple[Service, ...] = ()
) -> Iterator[_Trip]:
    for sender in senders:
        for address, outgoing in places:
            # Link-local packets stay on their link (RFC 4291 section 2.5.6).
            if address.version == sender.address.version and not sender.address.is_link_local:
                yield _Trip(sender, address, outgoing, listed)


def _any_trips(country: Country, rng: Random, count: int) -> Iterator[_Trip]:
    """All trips that there are, in any order; of very many, so many by chance."""
    places = [*country.places, *country.detours]
    if len(country.senders) * len(places) <= 2 * count:
        every = list(_trips(country.senders, places))
        rng.shuffle(every)
        yield from every
        return
    for _ in range(count):
        yield from _trips([rng.choice(country.senders)], [rng.choice(places)])
