"""Which ways into this host there are, and which of them a change would close. Pure.

A way in is the first packet of a new connection to the port that people administer the host by. The model
is asked before and after the change: a way that was open must stay so.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tsstack.model.facts import Facts
from tsstack.model.firewall import Zone
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import CHROMEOS, TAILNET, TAILNET_INTERFACE, Oracle, Packet, is_tailnet

_SSH = 22
_MOST_PORTS = 3
# For an admin zone that is an interface: an address that belongs to nobody (RFC 5737, RFC 3849).
_SOMEBODY = (ipaddress.ip_address("198.51.100.1"), ipaddress.ip_address("2001:db8::1"))


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
    """Whether it is only possible that packets come by this interface: then nothing is refused for it."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A way that a change would close, by the key of the file that decides, in which zone (maybe none)."""

    way: Way
    zone: str
    path: str


def ways_of_admins(
    before: Stack | None,
    after: Stack,
    facts: Facts,
    ports: Iterable[int] = (),
    *,
    beside: Mapping[Network, str] | None = None,
    served: Iterable[int] = (),
    own: Collection[Address] = (),
) -> list[Way]:
    """The ways in of every admin source that are open now: of the live file, and of the one that follows.

    An admin source is a network, or an interface, of a zone of the preset `admin`. Of a network every part
    is asked that some zone of either file treats apart. `before` is None where no table of ours is live,
    so that everything is open. `ports` are those that people are known to come in by, `served` those on
    which a program serves SSH; where that is not known, those of `ssh` count.
    `own` are this host's addresses, from which nobody comes in.
    `beside` are the networks among the tailnet's addresses that this host has on another interface.
    """
    files = [each for each in (before, after) if each is not None]
    if not any(map(has_admins, files)):
        return []
    edges = {version: _edges(files, version) for version in (4, 6)}
    live = Oracle(before, facts) if before is not None else None
    numbers = tuple(dict.fromkeys([*ports, *(tuple(served) or _ssh_ports(after))]))
    ways: dict[Packet, Way] = {}
    for stack in files:
        oracle = Oracle(stack, facts)
        sources = _Sources(edges, beside or {}, own)
        for whose, address, interface, somebody in _admins(oracle, facts, stack, sources):
            for port in numbers:
                packet = Packet(address, interface, "tcp", port)
                if packet not in ways and (live is None or live.judge(packet).accepted):
                    ways[packet] = Way(packet, whose, somebody=somebody)
    return list(ways.values())


def closed_ways(after: Stack, facts: Facts, ways: Sequence[Way]) -> Iterator[Closed]:
    """Those that the file refuses.

    tailscale's wgengine/netstack: what its own SSH server takes never comes as far as the kernel's rules.
    """
    asked = [way for way in ways if not (way.session and way.session.by_tailscaled)]
    if not asked:
        return
    oracle = Oracle(after, facts)
    for way in asked:
        verdict = oracle.judge(way.packet)
        if not verdict.accepted:
            yield Closed(way, verdict.zone, verdict.path)


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


class _Sources(NamedTuple):
    """What the addresses of admins are chosen by."""

    edges: dict[int, list[int]]
    beside: Mapping[Network, str]
    own: Collection[Address]


def _admins(
    oracle: Oracle,
    facts: Facts,
    stack: Stack,
    sources: _Sources,
) -> Iterator[tuple[str, Address, str, bool]]:
    """Whose, an address of theirs, the interface that it comes in by, and whether it is an example."""
    uplink = stack.host.uplink or facts.default_interface
    outside = uplink or next(
        (name for name in facts.interfaces if name not in {"lo", TAILNET_INTERFACE}), "eth0"
    )
    for name, zone in oracle.firewall.zones.items():
        if not is_admin(name, zone):
            continue
        for network in zone.sources:
            for address in _parts(network, sources.edges[network.version], sources.own):
                interface = TAILNET_INTERFACE if is_tailnet(address) else outside
                # What a longer network of another zone holds is that zone's, and no admin's.
                if oracle.members.by_address(address, interface) == name:
                    carrier = _carrier(network, sources.beside) or interface
                    yield f"the admin source {network}", address, carrier, False
        for pattern in zone.interfaces:
            interface = _instance(pattern, facts)
            if oracle.members.by_interface(interface) == name:
                for address in _SOMEBODY:
                    yield f"an admin behind {interface}", address, interface, True


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


def _instance(pattern: str, facts: Facts) -> str:
    """An interface that a pattern covers, one of this host's if there is one."""
    if not pattern.endswith("*"):
        return pattern
    start = pattern[:-1]
    return next((name for name in facts.interfaces if name.startswith(start)), start)


def _edges(files: Iterable[Stack], version: int) -> list[int]:
    """Where one network of the files begins or ends: between two edges all addresses are treated alike."""
    networks: list[Network] = [*TAILNET, CHROMEOS]
    for stack in files:
        if stack.firewall is not None:
            networks += [net for zone in stack.firewall.zones.values() for net in zone.sources]
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
