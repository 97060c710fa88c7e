"""Which packets prove a file: chosen from the model and a seed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from tsstack.model.facts import Facts
from tsstack.model.firewall import ForwardRule, Zone
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.beside import LINK_EDGES, probe_beside
from tsstack.prove.expected import (
    BROADCAST,
    ICMP_ERRORS,
    LISTENERS,
    NEIGHBOURS,
    ROUTER_ADVERTISEMENT,
    TAILNET_INTERFACE,
    Kind,
    Membership,
    Oracle,
    Packet,
    is_tailnet,
)
from tsstack.prove.foreign import write_tables
from tsstack.prove.probes import choose_flows, probe_host, probe_through
from tsstack.prove.roundabout import probe_alike, probe_borders, probe_named, probe_published, published_port
from tsstack.prove.terrain import (
    LINK_LOCAL,
    LOCAL,
    MOST_NETWORKS,
    MOST_PUBLISHED,
    PUBLIC,
    Country,
    Flow,
    Sender,
    Terrain,
    divide_places,
    is_usable,
    lay_out,
    part_of,
)

Service = tuple[Kind, int]
"""Protocol and port; port 0 for an echo request."""

PING: Service = ("icmp", 0)
_LAST_PORT = 65535
_LEAST_PER_SENDER = 40
_FEW = 6
_QUESTION = {4: 13, 6: 139}  # a timestamp (RFC 792), node information (RFC 4620): nobody needs them


@dataclass(frozen=True, slots=True)
class Limits:
    """How many packets at most, about: to this host and through it; and from how many source networks."""

    arriving: int = 60_000
    passing: int = 30_000
    networks: int = MOST_NETWORKS
    random_ports: int = 12
    """Of each protocol, from each sender."""


QUICK = Limits(5_000, 1_800, 40, 4)
"""For a proof that somebody waits for, of files with dozens of zones; smaller ones stay below it anyway."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A country and the packets that are sent in it, in order."""

    country: Country
    packets: tuple[Packet, ...]
    local: tuple[Address, ...] = LOCAL
    """This host's addresses in the world. A packet without a destination goes to the first of its family."""
    flows: tuple[Flow, ...] = ()
    """Connections that are had after all packets."""
    published: tuple[tuple[Address, Address, int], ...] = ()
    """Addresses of this host, and the place and port that another owner's rules lead each to."""
    ipv6: bool = True
    """Whether the kernel has any; else nothing here is of it."""
    homes: dict[int, Address] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.local:
            if not each.is_link_local and not is_tailnet(each):
                self.homes.setdefault(each.version, each)

    @property
    def terrain(self) -> Terrain:
        """The world that it needs."""
        country = self.country
        tables = write_tables(self.published)
        return Terrain(country.interfaces, self.local, country.places, country.detours, tables, self.ipv6)


def plan_packets(
    stack: Stack, facts: Facts, seed: int, limits: Limits | None = None, asked: Iterable[Packet] = ()
) -> Plan:
    """The packets that prove a file. The same file, facts and seed give the same packets.

    `asked` are packets to this host that are sent as well: their interfaces and destinations join the world.

    To this host: every zone's senders ask for every declared port, its neighbours, some random ports and
    an echo. Through this host: every sender to places behind every interface. What is past the limits is
    left out by chance, a zone's own ports and forward rules last. Without IPv6 in the kernel, all of it is.
    """
    rng = Random(seed)  # noqa: S311  no secret: it is there to be repeated
    oracle = Oracle(stack, facts)
    bounds = limits or Limits()
    country = lay_out(stack, facts, rng, bounds.networks)
    packets = dict.fromkeys(_arriving(oracle, country, rng, bounds))
    packets.update(dict.fromkeys(probe_host(oracle, country, rng)))
    packets.update(dict.fromkeys(probe_beside(oracle, country)))
    passing = list(dict.fromkeys(_passing(oracle, country, rng, bounds.passing)))
    packets.update(dict.fromkeys([*passing, *probe_through(oracle, country, passing, rng)]))
    packets.update(dict.fromkeys(probe_published(oracle, country)))
    packets.update(dict.fromkeys(probe_alike(oracle, country, rng)))
    packets.update(dict.fromkeys(probe_borders(oracle, country, rng)))
    packets.update(dict.fromkeys(probe_named(stack, oracle, country, rng)))
    published = (
        (public, place, published_port(oracle, place, name)) for public, place, name in country.published
    )
    plan = Plan(
        country,
        tuple(packets),
        (
            *LOCAL,
            LINK_LOCAL,
            *LINK_EDGES,
            *country.own_edges,
            *(public for public, _, _ in country.published),
        ),
        tuple(choose_flows(oracle, country, passing)),
        tuple(published),
    )
    whole = _with_asked(plan, tuple(asked))
    return whole if facts.ipv6 else _of_ipv4(whole)


def _of_ipv4(plan: Plan) -> Plan:
    """What of a plan a kernel without IPv6 can be asked."""
    country = plan.country
    return Plan(
        replace(
            country,
            senders=tuple(each for each in country.senders if each.address.version == 4),
            places=tuple(each for each in country.places if each[0].version == 4),
            detours=tuple(each for each in country.detours if each[0].version == 4),
            edges=tuple(each for each in country.edges if each.version == 4),
            own_edges=tuple(each for each in country.own_edges if each.version == 4),
            published=tuple(each for each in country.published if each[0].version == 4),
        ),
        tuple(each for each in plan.packets if each.source.version == 4),
        tuple(each for each in plan.local if each.version == 4),
        tuple(each for each in plan.flows if each.source.version == 4),
        tuple(each for each in plan.published if each[0].version == 4),
        ipv6=False,
    )


def plan_of(packets: tuple[Packet, ...], *, ipv6: bool = True) -> Plan:
    """The plan of these packets alone, in the smallest country that has a place for all of them."""
    interfaces = dict.fromkeys(name for each in packets for name in (each.interface, each.outgoing) if name)
    interfaces.pop("lo", None)
    placed: dict[Address, dict[str, None]] = {}
    published: dict[tuple[Address, str], int] = {}
    for each in packets:
        if each.destination and each.outgoing:
            placed.setdefault(each.destination, {})[each.outgoing] = None
        if each.destination and each.asked_port:
            published[each.destination, each.outgoing] = each.port
    # Behind those of a whole plan, one of which may be a destination here.
    public = {way: PUBLIC[way[0].version] + MOST_PUBLISHED + 1 + at for at, way in enumerate(published)}
    places, detours = divide_places(placed)
    own = [each.destination for each in packets if each.destination and _is_own(each)]
    local = [each for each in dict.fromkeys([*LOCAL, *own, *public.values()]) if each not in placed]
    country = Country(
        tuple(interfaces) or (TAILNET_INTERFACE,),
        (),
        places,
        detours,
        published=tuple((here, *way) for way, here in public.items()),
    )
    led = tuple((here, way[0], published[way]) for way, here in public.items())
    plan = Plan(country, packets, tuple(local), published=led)
    return plan if ipv6 else _of_ipv4(plan)


def _is_own(packet: Packet) -> bool:
    """Whether its destination is an address of this host's own, no group that it listens to."""
    to = packet.destination
    return to is not None and not packet.outgoing and not to.is_multicast and to != BROADCAST


def _with_asked(plan: Plan, asked: tuple[Packet, ...]) -> Plan:
    """The plan with packets that somebody wants to be sent.

    They come first: an address is this host's, or lies beyond it, or sends. What of the plan has it
    otherwise makes way, as the kernel drops what claims to come from one of this host's own addresses.
    """
    sent = [each for each in asked if each.interface and not each.outgoing and _can_be_sent(each)]
    if not sent:
        return plan
    own = {each.destination for each in sent if each.destination}
    own |= {each.source for each in sent if each.interface == "lo" and not each.source.is_loopback}
    own = {each for each in own if not each.is_loopback}
    sent = [each for each in sent if each.interface == "lo" or each.source not in own]
    beyond = {each.source for each in sent if each.interface != "lo"}
    local = [each for each in dict.fromkeys([*plan.local, *own]) if each not in beyond]
    country = plan.country
    published = tuple(each for each in country.published if not {*each[:2]} & (own | beyond))
    kept_public = {public for public, _, _ in published}
    led = {(place, name) for _, place, name in published}
    kept = Plan(
        replace(
            country,
            interfaces=tuple(
                dict.fromkeys(
                    [*country.interfaces, *(each.interface for each in sent if each.interface != "lo")]
                )
            ),
            places=tuple(each for each in country.places if each[0] not in own),
            detours=tuple(each for each in country.detours if each[0] not in own),
            published=published,
        ),
        (),
        tuple(local),
        tuple(
            each
            for each in plan.flows
            if each.source not in own
            and (each.destination not in own if each.outgoing else each.destination in local)
        ),
        tuple(each for each in plan.published if each[0] in kept_public),
    )
    here = set(local)
    packets = [
        each
        for each in plan.packets
        if _goes_on(each, own, here, beyond)
        and (not each.asked_port or (each.destination, each.outgoing) in led)
    ]
    return replace(kept, packets=tuple(dict.fromkeys([*packets, *sent])))


def _can_be_sent(packet: Packet) -> bool:
    """Whether a host takes such a packet: from a link-local address as well, which its interface tells."""
    loop = packet.interface == "lo"
    ends = [packet.source, *([packet.destination] if packet.destination else [])]
    return all(is_usable(each) or each.is_link_local or (loop and each.is_loopback) for each in ends)


def _goes_on(packet: Packet, own: set[Address], local: set[Address], beyond: set[Address]) -> bool:
    """Whether a packet of the plan still has its place, with these addresses of this host and those not."""
    to = packet.destination
    if packet.interface == "lo":
        return packet.source in local
    if packet.source in own:
        return False
    return to is None or (to not in own if packet.outgoing else to not in beyond)


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


def _random_services(rng: Random, count: int) -> Iterator[Service]:
    yield from ((kind, rng.randint(1, _LAST_PORT)) for kind in ("tcp", "udp") for _ in range(count))


def _arriving(oracle: Oracle, country: Country, rng: Random, bounds: Limits) -> Iterator[Packet]:
    everywhere = list(dict.fromkeys(_around(declared(oracle), rng)))
    own = {
        name: list(dict.fromkeys(_around(_listed(oracle, zone), rng)))
        for name, zone in oracle.firewall.zones.items()
    }
    tailscaled = list(_around([("udp", oracle.tailscaled_port)], rng))
    main = sum(sender.main for sender in country.senders)
    share = max(_LEAST_PER_SENDER, bounds.arriving // max(main, 1))
    for sender in country.senders:
        zone = oracle.members.zone(sender.address, sender.interface)
        opened = own.get(zone, [])
        asked: list[Service] = [PING, *tailscaled, *_some(opened, share, rng)]
        if sender.main:
            asked += _some(everywhere, max(share - len(asked), _FEW), rng)
            asked += _random_services(rng, bounds.random_ports)
            yield from _dhcp(sender)
            yield from _icmp(sender, rng)
        else:
            asked = [PING, *opened[:1], *rng.sample(asked, min(_FEW, len(asked)))]
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
    corners = [*_corner_trips(oracle, country, rng, limit * 2 // 3)]
    first = [*(each for each in spoken if each.listed)][: limit // 12]
    count, gone = 0, set[tuple[int, int, str, str]]()
    for trip in (*corners, *first, *spoken, *_any_trips(country, rng, limit)):
        way = (int(trip.sender.address), int(trip.address), trip.sender.interface, trip.outgoing)
        if way in gone:
            continue
        gone.add(way)
        asked = [PING, ("tcp", rng.randint(1, _LAST_PORT))]
        if trip.listed:
            asked += rng.sample(trip.listed, min(len(trip.listed), 4 * _FEW))
        elif count % 3 == 0:
            asked = [rng.choice(everywhere), ("udp", rng.randint(1, _LAST_PORT))]
        for kind, port in asked:
            yield Packet(trip.sender.address, trip.sender.interface, kind, port, trip.address, trip.outgoing)
            count += 1
        if count >= limit:
            return


def _corner_trips(oracle: Oracle, country: Country, rng: Random, most: int) -> list[_Trip]:
    """From everybody of each zone to everybody of each, by the interfaces that rules treat apart.

    That is: from and to each zone, by an address and by an interface, by the tailnet's interface, the
    uplink, an isolated one and another. Of more than `most` some by chance.
    """
    members = oracle.members

    def kind(address: Address, interface: str) -> tuple[object, ...]:
        by_address = members.by_address(address, interface)
        name = by_address or members.by_interface(interface)
        place = interface if interface in country.corners else "another"
        part = bool(by_address) and part_of(address, country.bounds)
        return address.version, name, part, place

    senders: dict[tuple[object, ...], Sender] = {}
    for each in country.senders:
        if not (each.address.is_link_local or oracle.is_spoofed(Packet(each.address, each.interface, "tcp"))):
            senders.setdefault(kind(each.address, each.interface), each)
    places: dict[tuple[object, ...], tuple[Address, str]] = {}
    for address, outgoing in country.beyond:
        places.setdefault(kind(address, outgoing), (address, outgoing))
    trips = list(_trips(senders.values(), places.values()))
    rng.shuffle(trips)
    listed = _listed_between(oracle, rng)
    return [replace(each, listed=_spoken_by(members, each, listed)) for each in trips[:most]]


def _listed_between(oracle: Oracle, rng: Random) -> dict[tuple[str, str], tuple[Service, ...]]:
    """By the zones of a forward rule: its ports and those around; with no second zone one of each rule."""
    found: dict[tuple[str, str], list[Service]] = {}
    for rule in oracle.firewall.forward:
        ports = list(_listed(oracle, rule))
        found.setdefault((rule.from_zone, rule.to_zone), []).extend(_around(ports, rng))
        found.setdefault((rule.from_zone, ""), []).extend(ports[:1])
    return {zones: tuple(dict.fromkeys(ports)) for zones, ports in found.items()}


def _spoken_by(
    members: Membership, trip: _Trip, listed: dict[tuple[str, str], tuple[Service, ...]]
) -> tuple[Service, ...]:
    """The ports of the rules between the zones of a trip; without any, some of the rules to other zones."""
    source = members.zone(trip.sender.address, trip.sender.interface)
    target = members.zone(trip.address, trip.outgoing)
    return listed.get((source, target)) or listed.get((source, ""), ())


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
    places = country.beyond
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
            apart = address != sender.address and not sender.address.is_link_local
            if apart and address.version == sender.address.version:
                yield _Trip(sender, address, outgoing, listed)


def _any_trips(country: Country, rng: Random, count: int) -> Iterator[_Trip]:
    """All trips that there are, in any order; of very many, so many by chance."""
    places = country.beyond
    if len(country.senders) * len(places) <= 2 * count:
        every = list(_trips(country.senders, places))
        rng.shuffle(every)
        yield from every
        return
    for _ in range(count):
        yield from _trips([rng.choice(country.senders)], [rng.choice(places)])
