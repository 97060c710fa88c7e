"""Which ways into this host there are, and which of them a change would close. Pure.

A way in is the first packet of a new connection to the port that people administer the host by. The model
is asked before and after the change: a way that was open must stay so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from tsstack.switch.behind import MOST_NETWORKS, SHORTEST, Behind, edges_of, largest, parts
from tsstack.switch.strangers import peers, somebody

Reach = Callable[[str, int], Collection[Network] | None]
_Where = tuple[Network | None, str, int]
_SSH = 22
_MOST_PORTS = 3
# A network that many links have, each its own.
_LINK_LOCAL = {4: ipaddress.ip_network("169.254.0.0/16"), 6: ipaddress.ip_network("fe80::/64")}


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
    kept: tuple[Network, ...] | None = None
    """Set for somebody who loses the way in, where these are all there is, and keep theirs or are asked."""


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
    reach: Reach = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Way]:
    """The ways in of every admin source that are open now: of the live file, and of the one that follows.

    An admin source is a network, or an interface, of a zone of the preset `admin`. Of a network every part
    is asked that some zone of either file treats apart. `before` is None where no table of ours is live,
    so that everything is open. `ports` are those that people are known to come in by, `served` those on
    which a program serves SSH; where that is not known, those of `ssh` count.
    `own` are this host's addresses, from which nobody comes in.
    `beside` are the networks among the tailnet's addresses that this host has on another interface, `behind`
    all that it leads to; `reach` has all networks of an IP version that there can be behind an interface, or
    None where it may be anybody; `tell` takes a sentence about those that are too many.
    """
    files = [each for each in (before, after) if each is not None]
    if not any(map(has_admins, files)):
        return []
    live = Oracle(before, facts) if before is not None else None
    then = Oracle(after, facts)
    numbers = tuple(dict.fromkeys([*ports, *(tuple(served) or _ssh_ports(after))]))
    apart = {name for name, _ in (*facts.ports, *facts.vrf_members)}
    bare = live is None or not live.active
    sources = _Sources(files, beside or {}, own, behind, bare=bare, apart=apart)
    sources.has_tailnet = TAILNET_INTERFACE in facts.interfaces
    sources.peers_alone = bare and _has_peers_alone(facts, reach)
    ways: dict[Packet, Way] = {}
    doubted = set()
    stood: set[tuple[str, int, int]] = set()
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
                way_in = replace(way, packet=packet, within=known.network if known else None)
                if way.somebody and not way.network:
                    way_in = _stand(way_in, stood, partial(_kept, packet, live, then, sources, reach))
                if way_in.doubtful:
                    verdict = then.judge(packet)
                    told = (way.whose, packet.interface, port, verdict.zone)
                    if verdict.accepted or told in doubted:
                        continue
                    doubted.add(told)
                ways[packet] = way_in
    for interface in dict.fromkeys(way.packet.interface for way in ways.values() if way.network):
        many = sources.behind.too_many.get(interface)
        if many:
            tell(
                f"this host leads to {many:,} networks by {interface}, where admins may come in: "
                f"only the {MOST_NETWORKS:,} largest were asked about (this may lock out an admin)"
            )
    return list(ways.values())


def _stand(way: Way, stood: set[tuple[str, int, int]], kept: Callable[[], tuple[Network, ...] | None]) -> Way:
    """One of whom nothing is known stands for all; of those in other parts of everybody nobody knows."""
    if way.doubtful or _all_of(way) in stood:
        return replace(way, doubtful=True)
    stood.add(_all_of(way))
    return replace(way, kept=kept())


def _all_of(way: Way) -> tuple[str, int, int]:
    return way.packet.interface, way.packet.source.version, way.packet.port


def _kept(
    packet: Packet, live: Oracle | None, then: Oracle, sources: _Sources, reach: Reach
) -> tuple[Network, ...] | None:
    """All networks behind the interface of somebody who is let in no more, if they all keep their way in.

    Or are asked for themselves. None where somebody else may be there.
    """
    interface, behind = packet.interface, sources.behind
    if then.judge(packet).accepted or interface in behind.too_many:
        return None
    known, asked = reach(interface, packet.source.version), set(behind.of(interface))
    admins = live.members.by_interface(interface) if live is not None else ""
    if live is not None and not (admins and is_admin(admins, live.firewall.zones[admins])):
        asked.clear()
    for network in known or ():
        for address in parts(network, sources.finer_edges[network.version], sources.own):
            its = replace(packet, source=address)
            if then.judge(its).accepted or (live is not None and not live.judge(its).accepted):
                continue
            # Not of a single host by a router, nor of what another routing table alone leads to.
            if live is None or network not in asked or live.members.zone(address, interface) != admins:
                return None
    return None if known is None else tuple(known)


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
    # Where the interface itself is the admins' no more, what is left of its networks has to be all of them.
    narrowed = {_all_of(way) for way, verdict in verdicts if way.kept is not None and not verdict.accepted}
    told = set()
    for way, verdict in verdicts:
        if verdict.accepted:
            continue
        in_part = _where(way) in left and _all_of(way) not in narrowed and _is_taken(way, verdict, oracle)
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
                zones = {name: oracle.firewall.zones[name] for name in names}
                taken[names] = Membership(oracle.firewall.model_copy(update={"zones": zones}))
            if not taken[names].by_address(way.packet.source, way.packet.interface):
                left.add(_where(way))
    return left


def _is_taken(way: Way, verdict: Verdict, oracle: Oracle) -> bool:
    """Whether it is of an admin's network, and not in a zone for its interface."""
    by_source = oracle.members.by_address(way.packet.source, way.packet.interface)
    return way.network is not None and bool(by_source) and by_source == verdict.zone


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
        apart: Collection[str],
    ) -> None:
        """`bare` says that no rules of ours are live; what comes by those `apart` is seen as another's."""
        zones = [zone for stack in files if stack.firewall for zone in stack.firewall.zones.values()]
        networks = [*TAILNET, CHROMEOS, *(net for zone in zones for net in zone.sources)]
        self.edges = {version: edges_of(networks, version) for version in (4, 6)}
        self.somebody, self.peers = somebody(networks), peers(net for zone in zones for net in zone.sources)
        self.beside, self.own, self.bare, self.apart = beside, own, bare, apart
        self.has_tailnet, self.peers_alone = True, False
        names = (name for zone in zones for name in zone.interfaces)
        self.named = tuple(dict.fromkeys(name for name in names if not name.endswith("*")))
        self.behind = Behind([*((each, TAILNET_INTERFACE) for each in TAILNET), *behind], own)
        routed = [*networks, *self.behind.networks]
        self.finer_edges = {version: edges_of(routed, version) for version in (4, 6)}
        # Beyond a default route each zone is told of once: the largest networks of a long list stand for it.
        large = (net for zone in zones for net in largest(zone.sources))
        some = [*TAILNET, CHROMEOS, *large, *self.behind.networks]
        self.far_edges = {version: edges_of(some, version) for version in (4, 6)}


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
    whose = f"the admin source {network}"
    for address in parts(network, sources.edges[network.version], sources.own):
        interface = TAILNET_INTERFACE if is_tailnet(address) else outside
        if oracle.members.by_address(address, interface) == name:
            anywhere = is_tailnet(address) or address in CHROMEOS or address.is_link_local
            for link in [carrier or interface] if carrier or anywhere else links:
                yield Way(Packet(address, link, "tcp"), whose)
            yield from _besides(Way(Packet(address, carrier or interface, "tcp"), whose), sources)
    # A LAN or a bridge of containers within: some of the admins may be there, and nobody says so.
    for part, link in sources.behind.within(network):
        if link in links or part.prefixlen < SHORTEST[part.version]:
            continue
        if network.is_link_local:
            continue  # `_besides` has these
        for address in parts(part, sources.finer_edges[part.version], sources.own):
            held = oracle.members.by_address(address, link) == name
            if held and sources.behind.network_of(address, link) == part:
                whose = f"an admin of {network} behind {link}"
                yield Way(Packet(address, link, "tcp"), whose, doubtful=True, network=part)


def _has_peers_alone(facts: Facts, reach: Reach) -> bool:
    """Whether nobody can come by the tailnet's interface but its peers by their own addresses.

    A subnet router may lead others there, from the networks that table 52 leads to (accept_routes).
    """
    if TAILNET_INTERFACE not in facts.interfaces or (facts.tailscale and not facts.tailscale.addresses):
        return True  # it is yet to join
    known = [reach(TAILNET_INTERFACE, version) for version in (4, 6)]
    return all(
        found is not None and all(each.is_link_local or _is_tailnets(each) for each in found)
        for found in known
    )


def _is_tailnets(network: Network) -> bool:
    return any(network.version == each.version and network.subnet_of(each) for each in TAILNET)  # type: ignore[arg-type]


def _besides(way: Way, sources: _Sources) -> Iterator[Way]:
    """By which other links an admin of a source may come, where no routing table tells."""
    address, known = way.packet.source, way.packet.interface
    if is_tailnet(address) and known != TAILNET_INTERFACE:
        # A peer, and not who has such an address on a LAN: by rules of ours that one never came in.
        links, doubtful = [TAILNET_INTERFACE], sources.bare or not sources.has_tailnet
    elif address.is_link_local:
        here = sources.behind.links(_LINK_LOCAL[address.version])
        links, doubtful = [link for link in here if link != TAILNET_INTERFACE], True
    else:
        return
    for link in links:
        if link != known and link not in sources.apart:
            packet = replace(way.packet, interface=link)
            yield replace(way, packet=packet, route=Route(link), doubtful=doubtful)


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
            if name != (by_source or oracle.members.by_interface(interface)):
                continue
            yield way if is_there else replace(way, doubtful=True)


def _behind_interface(interface: str, sources: _Sources) -> Iterator[Way]:
    """Somebody of whom nothing is known, and an address of each part of each network there."""
    whose, behind = f"an admin behind {interface}", sources.behind
    is_tailnets = interface == TAILNET_INTERFACE
    for address in sources.peers if is_tailnets and sources.peers_alone else sources.somebody:
        yield Way(Packet(address, interface, "tcp"), whose, somebody=True)
    for network in behind.of(interface):
        if is_tailnets and network.is_link_local:
            continue  # tailscaled takes from a peer what comes from its own addresses and routes
        far = network.prefixlen < SHORTEST[network.version]
        edges = sources.far_edges if far else sources.finer_edges
        for address in parts(network, edges[network.version], sources.own):
            found = behind.network_of(address, interface)
            # A LAN with addresses of the tailnet's ranges keeps no peer from having one.
            is_peer = found is None and is_tailnets and network in TAILNET
            if found == network or is_peer:
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
