"""The country that packets are sent through, worked out from the file: who sends, what lies where. Pure."""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import (
    CHROMEOS,
    TAILNET,
    TAILNET_INTERFACE,
    Membership,
    is_isolated,
    is_tailnet,
)
from tsstack.prove.frames import DETOUR_CLASSES

# RFC 2544 and RFC 3849: addresses that belong to nobody, for ends that only their interface tells apart.
_NOBODY: dict[int, Network] = {
    4: ipaddress.ip_network("198.18.0.0/15"),
    6: ipaddress.ip_network("2001:db8::/32"),
}
_LINK = ipaddress.ip_network("fe80::/64")
LOCAL: tuple[Address, ...] = (
    ipaddress.ip_address("198.19.255.254"),
    ipaddress.ip_address("2001:db8:ffff::1"),
    ipaddress.ip_address("100.127.255.254"),
    ipaddress.ip_address("fd7a:115c:a1e0:ffff::fffe"),
)
"""This host's own addresses in the world: one that no rule asks for, and one of the tailnet; IPv4, IPv6."""
LINK_LOCAL: Address = ipaddress.ip_address("fe80::5ee:1")
"""This host's own on every link of the world."""
PUBLIC: dict[int, Address] = {
    4: ipaddress.ip_address("198.19.255.192"),
    6: ipaddress.ip_address("2001:db8:ffff::240"),
}
# What no host takes as a source or destination of unicast: RFC 6890 and RFC 4291 section 2.4.
_UNUSABLE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)
_UNZONED_INTERFACES = 3
MOST_PUBLISHED = 18
_MOST_PARTS = 6
T = TypeVar("T")
_NEIGHBOURS = 3
# Of a file with more, so many are chosen by chance: a proof must not take minutes.
_MOST_INTERFACES, MOST_NETWORKS = 120, 120
_INTERFACE_LENGTH = 15
_LIKE_TAILNETS, _LIKE_LO, _UNZONED = f"{TAILNET_INTERFACE}1", "lo0", "nozone0"


@dataclass(frozen=True, slots=True)
class Sender:
    """A source address and the interface it comes in by. Not `main`: only a few packets are sent from it."""

    address: Address
    interface: str
    main: bool = True


@dataclass(frozen=True, slots=True)
class Country:
    """Interfaces, senders, and places beyond this host.

    Each place lies behind one interface, and some lie behind others as well, each for packets of a traffic
    class of its own (`detours`): so an address is seen to leave by the interface that makes its zone, and
    by those that make another.
    """

    interfaces: tuple[str, ...]
    senders: tuple[Sender, ...]
    places: tuple[tuple[Address, str], ...]
    detours: tuple[tuple[Address, str, int], ...]
    """With the traffic class."""
    corners: tuple[str, ...] = ()
    """The interfaces that rules treat apart: the tailnet's, the uplink, one of an isolated zone."""
    alike: tuple[str, ...] = ()
    """Interfaces whose names only look like ones that rules ask for: what matches too widely shows there."""
    bounds: dict[int, list[int]] = field(default_factory=dict)
    """By family, the numbers of addresses at which a network of the file begins or ends."""
    edges: tuple[Address, ...] = ()
    """The first and the last of each network that every file knows of, and those next to them."""
    own_edges: tuple[Address, ...] = ()
    """Addresses of this host, just within and without the tailnet's networks."""
    borders: tuple[tuple[Address, str], ...] = ()
    """Places at the edges of advertised routes and of zones' networks, and next to them: few go there."""
    published: tuple[tuple[Address, Address, str], ...] = ()
    """Addresses of this host whose ports another owner's rules lead to a place beyond it, or, with no
    interface, to another port of the same address."""

    @property
    def beyond(self) -> list[tuple[Address, str]]:
        """All places but those at borders, by each interface that they lie behind."""
        borders = {*self.borders}
        every = [*self.places, *((address, interface) for address, interface, _ in self.detours)]
        return [each for each in every if each not in borders]


@dataclass(frozen=True, slots=True)
class Terrain:
    """What the world is made of: interfaces, this host's addresses, and which address lies behind which
    interface."""

    interfaces: tuple[str, ...]
    local: tuple[Address, ...]
    routes: tuple[tuple[Address, str], ...]
    detours: tuple[tuple[Address, str, int], ...] = ()
    """The same for packets of a traffic class, one of `frames.DETOUR_CLASSES`."""
    foreign: str = ""
    """Tables of other owners (`tsstack.prove.foreign`), as nft commands."""
    ipv6: bool = True
    """Whether the kernel has any; else nothing here is of it."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection: of `source`, that comes in by `interface`, to this host or through it.

    Where `begun` is set this host begins it, from `destination`, to `port` of `source`.
    """

    protocol: str
    source: Address
    interface: str
    port: int
    destination: Address
    outgoing: str = ""
    begun: bool = False


def lay_out(stack: Stack, facts: Facts, rng: Random, most_networks: int = MOST_NETWORKS) -> Country:
    """The country of a file. The same seed gives the same country.

    Of more source networks than `most_networks` one of each zone is there, and others by chance.
    """
    firewall = stack.firewall or Firewall()
    uplink = stack.host.uplink or facts.default_interface
    like = tuple(dict.fromkeys(_look_alikes(firewall, uplink)))
    every = list(dict.fromkeys([*_interfaces(stack, firewall, facts), *like, _UNZONED]))
    needed = [name for name in (TAILNET_INTERFACE, uplink) if name]
    # One that a rule does ask for looks like itself: of `tailscale1*` tailscale0 is another.
    zoned = Membership(firewall).by_interface
    alike = tuple(name for name in like if name not in needed and not zoned(name))
    some = _some(every, _MOST_INTERFACES, rng)
    interfaces = tuple(dict.fromkeys([*needed, *some, *alike, _UNZONED]))
    sources = list(dict.fromkeys(net for zone in firewall.zones.values() for net in zone.sources))
    networks = _choose(firewall, sources, most_networks, rng)
    corners = tuple(dict.fromkeys([*needed, *_isolated(firewall, interfaces)]))
    senders = dict.fromkeys(
        sender
        for sender in _senders(firewall, interfaces, networks, corners, rng)
        if sender.address not in LOCAL
    )
    placed: dict[Address, dict[str, None]] = {}
    for address, interface in _places(stack, interfaces, networks, corners, rng):
        if address not in LOCAL:
            placed.setdefault(address, {})[interface] = None
    borders = [
        (address, interface)
        for address, interface in dict.fromkeys(_borders(stack, firewall, interfaces, networks, rng))
        if address not in LOCAL and interface not in placed.get(address, {})
    ]
    for address, interface in borders:
        placed.setdefault(address, {})[interface] = None
    places, detours = divide_places(placed)
    beyond = {*places, *((address, name) for address, name, _ in detours)}
    routes = stack.tailscale.advertise.routes if stack.tailscale else ()
    edges = [each for network in (*TAILNET, CHROMEOS) for each in _edges(network)]
    taken = {*placed, *edges, *LOCAL, *(each.address for each in senders)}
    inner = [each for network in (*TAILNET, CHROMEOS) for each in _beside_edges(network)]
    return Country(
        interfaces,
        tuple(senders),
        places,
        detours,
        corners,
        alike,
        _bounds((*networks, *TAILNET, CHROMEOS)),
        tuple(each for each in edges if each not in LOCAL and each not in placed),
        tuple(each for each in inner if each not in taken),
        tuple(each for each in borders if each in beyond),
        tuple(
            _published(
                firewall,
                routes,
                [*places, *(each[:2] for each in detours)],
                corners=corners,
                alike=alike,
                taken=taken,
            )
        ),
    )


def divide_places(
    placed: Mapping[Address, Iterable[str]],
) -> tuple[tuple[tuple[Address, str], ...], tuple[tuple[Address, str, int], ...]]:
    """Addresses with all interfaces that each shall lie behind, as the places and detours of a country.

    There are only so many traffic classes; an interface past them is left out.
    """
    places, detours = [], []
    for address, interfaces in placed.items():
        first, *others = interfaces
        places.append((address, first))
        detours += [(address, name, kind) for name, kind in zip(others, DETOUR_CLASSES, strict=False)]
    return tuple(places), tuple(detours)


def _isolated(firewall: Firewall, interfaces: tuple[str, ...]) -> list[str]:
    """An interface of an isolated zone, if there is one."""
    members = Membership(firewall)
    shut = (each for each in interfaces if (name := members.by_interface(each)) and _is_shut(firewall, name))
    return [name for name in (next(shut, ""),) if name]


def _is_shut(firewall: Firewall, name: str) -> bool:
    return is_isolated(name, firewall.zones[name])


def _published(
    firewall: Firewall,
    routes: Collection[Network],
    beyond: list[tuple[Address, str]],
    *,
    corners: Collection[str],
    alike: Collection[str],
    taken: Collection[Address],
) -> Iterator[tuple[Address, Address, str]]:
    """Of each family: something of each advertised route's ways, of no zone, and of each of some zones.

    Places of nobody are told by their interface where rules treat that apart, or might for its name.
    """
    members = Membership(firewall)
    for version in (4, 6):
        found: dict[tuple[bool, str, str], tuple[Address, str]] = {}
        # From the end: those of nobody, which no advertised route holds.
        for address, interface in reversed(beyond):
            # A rule that names an address of the tailnet minds its interface as well.
            if address.version == version and (interface == _LIKE_TAILNETS or not is_tailnet(address)):
                offered, name = any(address in each for each in routes), members.zone(address, interface)
                apart = interface in corners or (interface in alike and not name and not offered)
                found.setdefault((offered, name, interface if apart else ""), (address, interface))
        # What is offered first, then no zone, isolated ones, and others by what no corner has.
        order = sorted(
            found,
            key=lambda key: (
                not key[0],
                bool(key[1]),
                not key[1] or not _is_shut(firewall, key[1]),
                bool(key[1] and key[2]),
            ),
        )
        led = [found[key] for key in order[:MOST_PUBLISHED]]
        own = PUBLIC[version] + len(led)
        every = [*((PUBLIC[version] + at, *to) for at, to in enumerate(led)), (own, own, "")]
        yield from (each for each in every if each[0] not in taken)


def _some(things: list[T], most: int, rng: Random) -> list[T]:
    """All of them, or so many by chance, in their order."""
    if len(things) <= most:
        return things
    return [things[at] for at in sorted(rng.sample(range(len(things)), most))]


def _choose(firewall: Firewall, sources: list[Network], most: int, rng: Random) -> list[Network]:
    if len(sources) <= most:
        return sources
    own = dict.fromkeys(rng.choice(zone.sources) for zone in firewall.zones.values() if zone.sources)
    others = [each for each in sources if each not in own]
    return [*own, *_some(others, max(0, most - len(own)), rng)][: max(most, MOST_NETWORKS)]


def _interfaces(stack: Stack, firewall: Firewall, facts: Facts) -> Iterator[str]:
    """All that the file names, an instance of each wildcard, and some that no zone names."""
    patterns = [pattern for zone in firewall.zones.values() for pattern in zone.interfaces if pattern != "lo"]
    literal = [pattern for pattern in patterns if not pattern.endswith("*")]
    yield from literal
    for pattern in patterns:
        if pattern.endswith("*"):
            start = pattern[:-1]
            known = (name for name in facts.interfaces if name.startswith(start) and name != "lo")
            yield next(known, "") or (start + "0" * 3)[:_INTERFACE_LENGTH]
            if start != "lo":
                yield start  # a wildcard covers the bare name too
    yield TAILNET_INTERFACE
    if uplink := stack.host.uplink or facts.default_interface:
        yield uplink
    others = [name for name in facts.interfaces if name != "lo" and name not in literal]
    yield from others[:_UNZONED_INTERFACES]


def _look_alikes(firewall: Firewall, uplink: str) -> Iterator[str]:
    """Names that begin as one of a rule, or as one without its last letter: no rule asks for them."""
    patterns = [pattern for zone in firewall.zones.values() for pattern in zone.interfaces if pattern != "lo"]
    literal = [pattern for pattern in patterns if not pattern.endswith("*")]
    yield from (_LIKE_LO, _LIKE_TAILNETS)
    longer = [f"{name}1" for name in {uplink: None, **dict.fromkeys(literal)} if name]
    yield from [name for name in longer if len(name) <= _INTERFACE_LENGTH][: _NEIGHBOURS + 1]
    starts = [pattern[:-1] for pattern in patterns if pattern.endswith("*") and len(pattern) > 2]
    yield from (f"{start[:-1]}{'1' if start.endswith('0') else '0'}" for start in starts[:_NEIGHBOURS])


def _senders(
    firewall: Firewall,
    interfaces: tuple[str, ...],
    networks: list[Network],
    corners: tuple[str, ...],
    rng: Random,
) -> Iterator[Sender]:
    firsts = {net for zone in firewall.zones.values() for net in (*zone.sources[:1], *zone.sources[-1:])}
    for at, interface in enumerate(interfaces):
        for version in (4, 6):
            yield Sender(_nobody(version, at + 1), interface)
            # The tailnet's own addresses: at home on tailscale0, a lie anywhere else.
            home = interface == TAILNET_INTERFACE
            yield Sender(_inside(TAILNET[version == 6], rng), interface, main=home)
        yield Sender(_inside(CHROMEOS, rng), interface, main=False)
        yield Sender(_LINK[rng.randrange(1, 1 << 64)], interface)
    for network in networks:
        address = _usable(_inside(network, rng))
        if address is not None:
            at_home = _home(address, interfaces, rng)
            yield Sender(address, at_home)
            others = (*corners, rng.choice(interfaces), *([_LIKE_TAILNETS] if network in firsts else []))
            for interface in dict.fromkeys(others):
                if interface != at_home:
                    yield Sender(address, interface, main=False)
        for edge in _edges(network):
            yield Sender(edge, _home(edge, interfaces, rng), main=False)


def _home(address: Address, interfaces: tuple[str, ...], rng: Random) -> str:
    """Where packets of the address rightly come from; any interface, but for the tailnet's."""
    return TAILNET_INTERFACE if is_tailnet(address) else rng.choice(interfaces)


def _places(
    stack: Stack,
    interfaces: tuple[str, ...],
    networks: list[Network],
    corners: tuple[str, ...],
    rng: Random,
) -> Iterator[tuple[Address, str]]:
    routes = stack.tailscale.advertise.routes if stack.tailscale else ()
    chosen = [*_some(list(routes), MOST_NETWORKS, rng), *networks]
    bounds = _bounds((*chosen, *TAILNET, CHROMEOS))
    for network in chosen:
        for part in _parts(network, bounds):
            address = _usable(part.address(rng))
            if address is not None:
                yield address, _home(address, interfaces, rng)
                yield from ((address, each) for each in corners)
                yield address, _LIKE_TAILNETS if is_tailnet(address) else rng.choice(interfaces)
    for at, interface in enumerate(interfaces):
        for version in (4, 6):
            yield _nobody(version, 0x8000 + at), interface


def _borders(
    stack: Stack, firewall: Firewall, interfaces: tuple[str, ...], networks: list[Network], rng: Random
) -> Iterator[tuple[Address, str]]:
    """The edges of advertised routes behind an interface of no zone, as nothing but the route leads there;
    those of zones' networks there too, and behind the interface of a zone."""
    routes = stack.tailscale.advertise.routes if stack.tailscale else ()
    for route in _some(list(routes), MOST_NETWORKS, rng):
        yield from ((edge, _UNZONED) for edge in _edges(route))
    members = Membership(firewall)
    zoned = ((each, members.by_interface(each)) for each in interfaces if each != TAILNET_INTERFACE)
    home = next((each for each, name in zoned if name and not _is_shut(firewall, name)), _UNZONED)
    for network in networks:
        for edge in _edges(network):
            at = (TAILNET_INTERFACE,) if is_tailnet(edge) else (_UNZONED, home)
            yield from ((edge, each) for each in at)


def _bounds(networks: Iterable[Network]) -> dict[int, list[int]]:
    """By family, where one of the networks begins or ends: within them all addresses are treated alike."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for each in networks:
        found[each.version] |= {int(each[0]), int(each[-1]) + 1}
    return {version: sorted(numbers) for version, numbers in found.items()}


def part_of(address: Address, bounds: dict[int, list[int]]) -> int:
    """In which part of the addresses of its family it lies."""
    return bisect_right(bounds[address.version], int(address))


def _parts(network: Network, bounds: dict[int, list[int]]) -> Iterator[_Part]:
    """The parts of a network that others divide it into; of very many the first and the last ones."""
    numbers = bounds[network.version]
    first, end = int(network[0]), int(network[-1]) + 1
    inner = numbers[bisect_right(numbers, first) : bisect_left(numbers, end)]
    parts = list(zip([first, *inner], [*inner, end], strict=True))
    if len(parts) > _MOST_PARTS:
        parts = [*parts[: _MOST_PARTS // 2], *parts[-_MOST_PARTS // 2 :]]
    yield from (_Part(network, start - first, stop - start) for start, stop in parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """`size` addresses of a network, from number `start` on."""

    network: Network
    start: int
    size: int

    def address(self, rng: Random) -> Address:
        """One of them: neither the first nor the last, which may be no host's."""
        at = rng.randrange(1, self.size - 1) if self.size > 2 else 0
        return self.network[self.start + at]


def _nobody(version: int, number: int) -> Address:
    """The address of that number (below 2**16) among those that belong to nobody."""
    network = _NOBODY[version]
    return network[number] if version == 4 else network[number << 64 | 1]


def _beside_edges(network: Network) -> list[Address]:
    """The second and the last but one of a network, and the last but one outside of it at either end."""
    first, last = network[0], network[-1]
    return [first - 2, first + 1, last - 1, last + 2]


def _inside(network: Network, rng: Random) -> Address:
    size = network.num_addresses
    # Of an IPv4 network neither the first nor the last: some stacks take them for its broadcasts.
    return network[rng.randrange(1, size - 1) if size > 2 else rng.randrange(size)]


def is_usable(address: Address) -> bool:
    """Whether a host takes unicast from the address, and to it, beyond its own link."""
    return not any(address in network for network in _UNUSABLE)


def _usable(address: Address) -> Address | None:
    return address if is_usable(address) else None


def _edges(network: Network) -> Iterable[Address]:
    """The first and last address of a network and their neighbours outside."""
    first, last = network[0], network[-1]
    found = [first, last]
    if int(first) > 0:
        found.append(first - 1)
    if int(last) + 1 < 1 << network.max_prefixlen:
        found.append(last + 1)
    return [each for each in found if _usable(each) is not None]
