"""Which ways into this host there are, and which of them a change would close. Pure.

A way in is the first packet of a new connection to the port that people administer the host by. The model
is asked before and after the change: a way that was open must stay so.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tsstack.model.facts import Facts
from tsstack.model.firewall import Zone
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import (
    CHROMEOS,
    TAILNET,
    TAILNET_INTERFACE,
    Membership,
    Oracle,
    Packet,
    Verdict,
    is_tailnet,
)
from tsstack.switch.behind import MOST_NETWORKS, SHORTEST, Behind

_Where = tuple[Network | None, str, int]
_SSH = 22
_MOST_PORTS = 3
# For an admin zone that is an interface: an address that belongs to nobody (RFC 5737, RFC 3849).
SOMEBODY = (ipaddress.ip_address("198.51.100.1"), ipaddress.ip_address("2001:db8::1"))
# Where those of strangers are, for a file that names these: lists of what to keep out do.
_STRANGERS = (ipaddress.ip_network("32.0.0.0/3"), ipaddress.ip_network("2000::/3"))


class Session(NamedTuple):
    """A way in that is in use: who connects from which port, to which address and port of ours."""

    client: Address
    client_port: int
    """0: unknown."""
    server: Address
    port: int
    zone: str = ""
    """Of a link-local address: the link, by the name or the index of its interface."""
    protocol: Literal["tcp", "udp"] = "tcp"
    by_tailscaled: bool = False
    """Whether tailscaled itself is the SSH server (Tailscale SSH)."""
    live: bool = False
    """Whether it is somebody's on this host, and not known to be the operator's own."""

    def __str__(self) -> str:
        return f"{self.client} {self.client_port} {self.port}"


class Route(NamedTuple):
    """How this host answers an address: by which interface, and what is known of that route."""

    interface: str
    gateway: bool = False
    """Whether there is a router between; else the address is on the link."""
    learnt: bool = False
    """Whether the route came by a router advertisement."""


class Carrier(NamedTuple):
    """That a way is one of the packets that carry a tunnel."""

    tunnel: str
    answered: bool = False
    """Whether this host may begin it itself: then what comes in answers that, and needs no open port."""
    roams: bool = False
    """Whether the far end follows where it is sent from."""
    unread: bool = False
    """Whether only a guess says by which packets: one to its port from nobody, or nothing at all."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in, and whose it is in words: `your own session`, `the admin source 10.0.0.0/8`."""

    packet: Packet
    whose: str
    session: Session | None = None
    """The one that is in use; None for a way that an admin has."""
    route: Route | None = None
    """The way back, where it was asked for."""
    somebody: bool = False
    """Whether the source is an example: all behind the interface are meant."""
    doubtful: bool = False
    """Whether it is only possible that anybody comes in so: then nothing is refused for it."""
    shut: bool = False
    """Whether the live rules refuse it already: what lives on there no new rules can cut."""
    network: Network | None = None
    """Of an admin behind an interface: the network there that the source is an example of."""
    within: Network | None = None
    """Of an admin source: such a network that the packet is one of as well."""
    carrier: Carrier | None = None
    """Set where it is not a new connection, but carries the tunnel that one comes by."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A way that a change would close, by the key of the file that decides, in which zone (maybe none)."""

    way: Way
    zone: str
    path: str
    in_part: bool = False
    """Whether the zone names some of a network behind an admin interface, and leaves the rest of it open."""


def ways_of_admins(
    before: Stack | None,
    after: Stack,
    facts: Facts,
    ports: Iterable[int] = (),
    *,
    beside: Mapping[Network, str] | None = None,
    served: Iterable[int] = (),
    own: Collection[Address] = (),
    behind: Iterable[tuple[Network, str]] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Way]:
    """The ways in of every admin source that are open now: of the live file, and of the one that follows.

    An admin source is a network, or an interface, of a zone of the preset `admin`. Of a network every part
    is asked that some zone of either file treats apart. `before` is None where no table of ours is live,
    so that everything is open. `ports` are those that people are known to come in by, `served` those on
    which a program serves SSH; where that is not known, those of `ssh` count.
    `own` are this host's addresses, from which nobody comes in.
    `beside` are the networks among the tailnet's addresses that this host has on another interface, `behind`
    all that it leads to; `tell` takes a sentence about those that are too many.
    """
    files = [each for each in (before, after) if each is not None]
    if not any(map(has_admins, files)):
        return []
    live = Oracle(before, facts) if before is not None else None
    then = Oracle(after, facts)
    numbers = tuple(dict.fromkeys([*ports, *(tuple(served) or _ssh_ports(after))]))
    sources = _Sources(files, beside or {}, own, behind, bare=live is None or not live.active)
    ways: dict[Packet, Way] = {}
    doubted = set()
    for stack in files:
        oracle = Oracle(stack, facts)
        for way in _admins(oracle, facts, stack, sources):
            for port in numbers:
                packet = replace(way.packet, port=port)
                known = ways.get(packet)
                # Who is an admin by the own source is one for certain, and more than an example of a network.
                if known is not None and (way.network or not known.network):
                    ways[packet] = replace(known, within=known.within or way.network)
                    continue
                if live is not None and not live.judge(packet).accepted:
                    continue
                if way.doubtful:
                    verdict = then.judge(packet)
                    told = (way.whose, packet.interface, port, verdict.zone)
                    if verdict.accepted or told in doubted:
                        continue
                    doubted.add(told)
                ways[packet] = replace(way, packet=packet, within=known.network if known else None)
    for interface in dict.fromkeys(way.packet.interface for way in ways.values() if way.network):
        many = sources.behind.too_many.get(interface)
        if many:
            tell(
                f"this host leads to {many:,} networks by {interface}, where admins may come in: "
                f"only the {MOST_NETWORKS:,} largest were asked about (this may lock out an admin)"
            )
    return list(ways.values())


def closed_ways(after: Stack, facts: Facts, ways: Sequence[Way]) -> Iterator[Closed]:
    """Those that the file refuses.

    tailscale's wgengine/netstack: what its own SSH server takes never comes as far as the kernel's rules.
    """
    asked = [
        way
        for way in ways
        if not (way.carrier and (way.shut or way.carrier.unread))
        and not (way.session and way.session.by_tailscaled)
    ]
    if not asked:
        return
    oracle = Oracle(after, facts)
    verdicts = [(way, oracle.judge(way.packet)) for way in asked]
    left = _left(verdicts, oracle)
    told = set()
    for way, verdict in verdicts:
        if verdict.accepted:
            continue
        in_part = _where(way) in left and _is_taken(way, verdict, oracle)
        if in_part:
            # A list of thousands to keep out says one sentence.
            if (_where(way), verdict.zone) in told:
                continue
            told.add((_where(way), verdict.zone))
        yield Closed(way, verdict.zone, verdict.path, in_part)


def _left(verdicts: Sequence[tuple[Way, Verdict]], oracle: Oracle) -> set[_Where]:
    """Where some of the admins' network is out of all that others take: not one host that is left in it."""
    takers: dict[_Where, set[str]] = {}
    for way, verdict in verdicts:
        if not verdict.accepted and _is_taken(way, verdict, oracle):
            takers.setdefault(_where(way), set()).add(verdict.zone)
    taken: dict[frozenset[str], Membership] = {}
    left = set()
    for way, verdict in verdicts:
        if verdict.accepted and _where(way) in takers and _is_rest(way, oracle):
            names = frozenset(takers[_where(way)])
            if names not in taken:
                zones = {name: oracle.firewall.zones[name] for name in names if name}
                taken[names] = Membership(oracle.firewall.model_copy(update={"zones": zones}))
            if not taken[names].by_address(way.packet.source, way.packet.interface):
                left.add(_where(way))
    return left


def _is_taken(way: Way, verdict: Verdict, oracle: Oracle) -> bool:
    """Whether it is of an admin's network, and not in a zone for its interface."""
    by_source = oracle.members.by_address(way.packet.source, way.packet.interface)
    return way.network is not None and by_source == verdict.zone


def _where(way: Way) -> _Where:
    return way.network or way.within, way.packet.interface, way.packet.port


def _is_rest(way: Way, oracle: Oracle) -> bool:
    """Whether it is still the admins' network: no host of it that another zone names, and not its ends."""
    network, source = way.network or way.within, way.packet.source
    if network is None or (network.num_addresses > 2 and source in {network[0], network[-1]}):
        return False
    name = oracle.members.by_address(source, way.packet.interface)
    return not name or is_admin(name, oracle.firewall.zones[name])


def has_admins(stack: Stack) -> bool:
    """Whether a zone of the file is of the preset `admin`."""
    zones = stack.firewall.zones if stack.firewall else {}
    return any(is_admin(name, zone) for name, zone in zones.items())


def is_admin(name: str, zone: Zone) -> bool:
    """Whether a zone is of the preset `admin`: by `preset`, or by its name without one."""
    return zone.preset == "admin" or (zone.preset is None and name == "admin")


def _ssh_ports(stack: Stack) -> tuple[int, ...]:
    ports = tuple(each.ports.first for each in stack.ports_of("ssh") if each.protocol == "tcp")
    return ports[:_MOST_PORTS] or (_SSH,)


class _Sources:
    """What the addresses of admins are chosen by."""

    def __init__(
        self,
        files: Sequence[Stack],
        beside: Mapping[Network, str],
        own: Collection[Address],
        behind: Iterable[tuple[Network, str]],
        *,
        bare: bool,
    ) -> None:
        """`bare` says that no rules of ours are live."""
        zones = [zone for stack in files if stack.firewall for zone in stack.firewall.zones.values()]
        networks = [*TAILNET, CHROMEOS, *(net for zone in zones for net in zone.sources)]
        self.edges = {version: _edges(networks, version) for version in (4, 6)}
        self.somebody = [
            _nobodys(example, strangers, networks)
            for example, strangers in zip(SOMEBODY, _STRANGERS, strict=True)
        ]
        self.beside, self.own, self.bare = beside, own, bare
        names = (name for zone in zones for name in zone.interfaces)
        self.named = tuple(dict.fromkeys(name for name in names if not name.endswith("*")))
        self.behind = Behind([*((each, TAILNET_INTERFACE) for each in TAILNET), *behind], own)
        routed = [*networks, *self.behind.networks]
        self.finer_edges = {version: _edges(routed, version) for version in (4, 6)}
        # Beyond a default route each zone is told of once: the largest networks of a long list stand for it.
        large = (net for zone in zones for net in _largest(zone.sources))
        some = [*TAILNET, CHROMEOS, *large, *self.behind.networks]
        self.far_edges = {version: _edges(some, version) for version in (4, 6)}


def _admins(oracle: Oracle, facts: Facts, stack: Stack, sources: _Sources) -> Iterator[Way]:
    """The ways of admins to no port yet, whether they are open or not."""
    uplink = stack.host.uplink or facts.default_interface
    outside = uplink or next(
        (name for name in facts.interfaces if name not in {"lo", TAILNET_INTERFACE}), "eth0"
    )
    for name, zone in oracle.firewall.zones.items():
        if is_admin(name, zone):
            for network in zone.sources:
                yield from _of_source(network, name, oracle, outside, sources)
            for pattern in zone.interfaces:
                yield from _of_interface(pattern, name, oracle, facts, sources)


def _of_source(network: Network, name: str, oracle: Oracle, outside: str, sources: _Sources) -> Iterator[Way]:
    """Of the zone `name`, but for what a longer network of another zone holds: that is no admin's."""
    carrier, links = _carrier(network, sources.beside), _links(network, outside, sources.behind)
    for address in _parts(network, sources.edges[network.version], sources.own):
        interface = TAILNET_INTERFACE if is_tailnet(address) else outside
        if oracle.members.by_address(address, interface) == name:
            anywhere = is_tailnet(address) or address in CHROMEOS or address.is_link_local
            for link in [carrier or interface] if carrier or anywhere else links:
                yield Way(Packet(address, link, "tcp"), f"the admin source {network}")
    # A LAN or a bridge of containers within: some of the admins may be there, and nobody says so.
    for part, link in sources.behind.within(network):
        if link in links or part.prefixlen < SHORTEST[part.version]:
            continue
        for address in _parts(part, sources.finer_edges[part.version], sources.own):
            held = oracle.members.by_address(address, link) == name
            if held and sources.behind.network_of(address, link) == part:
                whose = f"an admin of {network} behind {link}"
                yield Way(Packet(address, link, "tcp"), whose, doubtful=True, network=part)


def _of_interface(pattern: str, name: str, oracle: Oracle, facts: Facts, sources: _Sources) -> Iterator[Way]:
    """Of the zone `name`, by each interface that the pattern covers."""
    zone = oracle.firewall.zones[name]
    # Somebody stands for all who come by it, also where another zone's sources are everybody: not on a new
    # host where the admins there have sources of their own, which go before those. What is open to everybody
    # there by live rules they may come in by.
    own = {net.version for net in zone.sources} if sources.bare else set()
    for interface, is_there in _instances(pattern, facts, sources.named):
        for way in _behind_interface(interface, sources):
            asked = way.network or way.packet.source.version in own
            by_source = oracle.members.zone(way.packet.source, interface) if asked else ""
            if name == (by_source or oracle.members.by_interface(interface)):
                yield way if is_there else replace(way, doubtful=True)


def _behind_interface(interface: str, sources: _Sources) -> Iterator[Way]:
    """Somebody of whom nothing is known, and an address of each part of each network there."""
    whose, behind = f"an admin behind {interface}", sources.behind
    for address in sources.somebody:
        yield Way(Packet(address, interface, "tcp"), whose, somebody=True)
    for network in behind.of(interface):
        far = network.prefixlen < SHORTEST[network.version]
        edges = sources.far_edges if far else sources.finer_edges
        for address in _parts(network, edges[network.version], sources.own):
            if behind.network_of(address, interface) == network:
                # RFC 4007: which link a link-local address is on no routing table tells; nor does one of the
                # tailnet while tailscaled is down.
                known = address.is_link_local or interface == TAILNET_INTERFACE
                route = Route(interface) if known else None
                packet = Packet(address, interface, "tcp")
                yield Way(packet, whose, None, route, somebody=far, doubtful=far, network=network)


def _links(network: Network, outside: str, behind: Behind) -> Sequence[str]:
    """By which links a source comes in: those that all of it is behind, where that is known."""
    known = behind.links(network)
    if not known or outside in known:
        return [outside]
    # A part of it may be on the uplink all the same: a LAN of a /24 beside a VPN's route to its /8.
    near = (each for each in behind.of(outside) if each.prefixlen >= SHORTEST[each.version])
    return [outside, *known] if any(each.overlaps(network) for each in near) else known


def _carrier(network: Network, beside: Mapping[Network, str]) -> str:
    """The interface that this host has a source on, where that is not the tailnet's; empty otherwise."""
    holders = [
        each
        for each in beside
        if each.version == network.version
        and each.prefixlen <= network.prefixlen
        and network.network_address in each
    ]
    return beside[max(holders, key=lambda each: each.prefixlen)] if holders else ""


def _instances(pattern: str, facts: Facts, named: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each interface that a pattern covers, and whether it counts as there.

    One that a file names and this host does not have may come: a tunnel that is down. Where this host has
    none at all, one example stands for all that are to come.
    """
    if not pattern.endswith("*"):
        yield pattern, True
        return
    start = pattern[:-1]
    ports = {port for port, _ in facts.ports}
    there = [name for name in facts.interfaces if name.startswith(start) and name not in ports]
    yield from ((name, True) for name in there or [start])
    yield from ((name, False) for name in named if name.startswith(start) and name not in facts.interfaces)


def _nobodys(example: Address, strangers: Network, networks: Iterable[Network]) -> Address:
    """The example, or else another address that is in no network of the file's but those of everybody."""
    named = [
        each
        for each in networks
        if each.version == example.version and each.prefixlen >= SHORTEST[each.version]
    ]
    if not any(example in each for each in named):
        return example
    found = int(strangers[0])
    for each in sorted(named, key=lambda network: network.network_address):
        if int(each[0]) > found:
            break
        found = max(found, int(each[-1]) + 1)
    return strangers[found - int(strangers[0])] if found <= int(strangers[-1]) else example


def _largest(networks: Iterable[Network]) -> list[Network]:
    return sorted(networks, key=lambda network: network.prefixlen)[:MOST_NETWORKS]


def _edges(networks: Iterable[Network], version: int) -> list[int]:
    """Where one network begins or ends: between two edges all addresses are treated alike."""
    found = set()
    for network in networks:
        if network.version == version:
            found |= {int(network[0]), int(network[-1]) + 1}
    return sorted(found)


def _parts(network: Network, edges: list[int], own: Collection[Address]) -> Iterator[Address]:
    """An address of each part of the network that no edge divides, none of them `own`."""
    first, end = int(network[0]), int(network[-1]) + 1
    inner = edges[bisect_right(edges, first) : bisect_left(edges, end)]
    starts = [first, *inner]
    for start, stop in zip(starts, [*inner, end], strict=True):
        # The first address of a network is its name rather than anybody's.
        first_host = start + 1 if stop - start > 2 else start
        addresses = (network[number - first] for number in range(first_host, stop))
        found = next((address for address in addresses if address not in own), None)
        if found is not None:
            yield found
