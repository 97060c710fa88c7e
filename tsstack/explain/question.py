"""From the words of a question to one packet: who sends it, by which interface, where to. Pure.

A zone stands for a packet that belongs to it. What is left out is worked out from the zones, from this
host's own routes and from what the tailnet says of itself, and said with its reason.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tsstack.errors import UsageError
from tsstack.explain.services import Service, icmp_of_version
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET, TAILNET_INTERFACE, Membership, Packet, is_tailnet
from tsstack.prove.terrain import LOCAL

FORMS = (
    "write `tsstack explain SOURCE [INTERFACE] PROTO/PORT`: SOURCE is an address, a zone or a node of the "
    "tailnet; PROTO/PORT is tcp/443, udp/53, icmp, icmp/echo-request, icmpv6/packet-too-big or a service "
    "like ssh; for example `tsstack explain dmz tcp/443` or `tsstack explain 192.168.1.7 eth0 icmp`"
)
# RFC 2544, RFC 5737, RFC 3849: nobody's addresses; then private ones, for a file that claims those.
_NOBODY = {
    4: ("198.18.0.0/15", "203.0.113.0/24", "192.0.2.0/24", "192.168.0.0/16", "10.0.0.0/8", "11.0.0.0/8"),
    6: ("2001:db8::/32", "fd00::/8", "3000::/8"),
}
_TRIES = 64
_INTERFACE_LENGTH = 15


@dataclass(frozen=True, slots=True)
class Route:
    """Where the kernel of this host sends a packet for an address."""

    interface: str
    local: bool = False
    """Whether the address is one of this host's own."""


def _no_route(_: Address) -> Route | None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of this host beside the file. The default knows nothing."""

    interfaces: tuple[str, ...] = ()
    uplink: str = ""
    addresses: Mapping[str, tuple[tuple[Address, int], ...]] = field(default_factory=dict)
    """This host's own addresses with their prefix lengths, by interface."""
    route: Callable[[Address], Route | None] = _no_route
    nodes: Callable[[str], tuple[Address, ...] | None] = lambda _: None
    """The addresses of a node of the tailnet by its name; None if tailscaled cannot be asked."""

    def owns(self, address: Address) -> bool:
        """Whether it is one of this host's own addresses."""
        return any(address == own for listed in self.addresses.values() for own, _ in listed)


@dataclass(frozen=True, slots=True)
class End:
    """One end of the packet, and how it was worked out where that was not said."""

    address: Address
    interface: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One packet, ready to be sent. `packet.destination` is always set."""

    packet: Packet
    destination: Address
    service: Service
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The words as they were typed."""

    source: str
    service: Service
    interface: str = ""
    to: str = ""
    out: str = ""
    source_port: int = 0
    version: int = 0
    """4, 6, or 0 for what the ends say."""


def resolve(asked: Asked, stack: Stack, around: Surroundings) -> Question:
    """The packet that is meant. Raises UsageError with the accepted forms."""
    return _Resolver(stack, around).question(asked)


class _Resolver:
    def __init__(self, stack: Stack, around: Surroundings) -> None:
        self._zones = stack.firewall.zones if stack.firewall else {}
        self._members = Membership(stack.firewall) if stack.firewall else None
        self._around = around
        self._uplink = stack.host.uplink or around.uplink
        self._taken: Address | None = None

    def question(self, asked: Asked) -> Question:
        version = asked.version or asked.service.version or _version(asked.source) or _version(asked.to)
        source = self._end(asked.source, version or 4, asked.interface, "SOURCE")
        version = source.address.version
        own = self._around.route(source.address)
        if source.address.is_loopback or self._around.owns(source.address) or (own and own.local):
            raise UsageError(
                f"{source.address} is this host itself; what it sends to itself goes by lo and always passes",
                hint=FORMS,
            )
        if source.interface == "lo":
            raise UsageError("what comes by lo is this host's own, and always passes", hint=FORMS)
        _require_unicast(source.address)
        self._taken = source.address
        to, note = self._destination(asked, source)
        if to.address.version != version:
            raise UsageError(
                f"{source.address} cannot send to {to.address}: one is IPv4, the other IPv6",
                hint="-4 and -6 choose for zones and nodes",
            )
        icmp_type, hop_limit = icmp_of_version(asked.service, version)
        packet = Packet(
            source.address,
            source.interface,
            asked.service.kind,
            asked.service.port,
            to.address,
            to.interface,
            asked.source_port,
            icmp_type,
            hop_limit,
        )
        notes = tuple(each for each in (source.reason, note, to.reason) if each)
        return Question(packet, to.address, asked.service, notes)

    def _end(self, word: str, version: int, interface: str, role: str) -> End:
        """The address and interface that a word stands for."""
        address = _address(word)
        if address is not None:
            scope = word.partition("%")[2]
            chosen = interface or scope
            return End(address, chosen) if chosen else self._by_route(address)
        if word in self._zones:
            return self._in_zone(word, version, interface)
        found = self._around.nodes(word) or ()
        fitting = [each for each in found if each.version == version]
        if fitting:
            return End(fitting[0], interface or TAILNET_INTERFACE, f"{word} is {fitting[0]} on the tailnet")
        raise self._unknown(word, role)

    def _unknown(self, word: str, role: str) -> UsageError:
        near = difflib.get_close_matches(word, self._zones, n=1)
        known = f"the file's zones are {', '.join(self._zones)}" if self._zones else "the file has no zone"
        asked = self._around.nodes(word)
        nodes = "tailscaled cannot be asked for its nodes" if asked is None else "no node is called so"
        guess = f"did you mean {near[0]!r}? " if near else ""
        return UsageError(
            f"{word!r} as {role} is neither an address nor a zone ({known}; {nodes})", hint=f"{guess}{FORMS}"
        )

    def _by_route(self, address: Address) -> End:
        """An address whose interface was not said."""
        if is_tailnet(address):
            return End(address, TAILNET_INTERFACE)
        route = self._around.route(address)
        if route is not None and route.interface and not route.local:
            return End(
                address, route.interface, f"{address} is taken to be behind {route.interface}: its route"
            )
        if self._uplink:
            return End(address, self._uplink, f"{address} is taken to be behind the uplink, {self._uplink}")
        raise UsageError(
            f"it is not known behind which interface {address} is",
            hint="name the interface: tsstack explain ADDRESS INTERFACE PROTO/PORT",
        )

    def _in_zone(self, name: str, version: int, interface: str) -> End:
        """Somebody of a zone: by its interfaces first, then by its sources."""
        zone = self._zones[name]
        chosen = [interface] if interface else [self._instance(pattern) for pattern in zone.interfaces]
        chosen.sort(key=lambda each: each not in self._around.interfaces)
        for each in chosen:
            for address in self._candidates(zone.sources, each, version):
                if self._belongs(address, each, name):
                    return End(address, each)
        for network in zone.sources:
            if network.version == version and not interface:
                for address in _some_of(network):
                    end = self._by_route(address)
                    if self._belongs(address, end.interface, name):
                        return end
        if any(network.version != version for network in zone.sources) and not interface:
            other = "-4" if version == 6 else "-6"
            raise UsageError(f"nobody of zone {name} has an IPv{version} address", hint=f"try {other}")
        by = f" by {interface}" if interface else ""
        raise UsageError(
            f"no packet{by} can belong to zone {name}: other zones take it all, or it names nothing",
            hint="`tsstack explain TS202` tells how zones share addresses",
        )

    def _belongs(self, address: Address, interface: str, zone: str) -> bool:
        if self._members is None or self._around.owns(address) or address == self._taken:
            return False
        spoofed = is_tailnet(address) and interface != TAILNET_INTERFACE
        return not spoofed and self._members.zone(address, interface) == zone

    def _candidates(self, sources: tuple[Network, ...], interface: str, version: int) -> Iterator[Address]:
        if interface == TAILNET_INTERFACE:
            yield from _some_of(TAILNET[version == 6])
        else:
            for own, length in self._around.addresses.get(interface, ()):
                if own.version == version and not own.is_link_local:
                    yield from _some_of(ipaddress.ip_network(f"{own}/{length}", strict=False))
            for text in _NOBODY[version]:
                yield from _some_of(ipaddress.ip_network(text))
        for network in sources:
            if network.version == version:
                yield from _some_of(network)

    def _instance(self, pattern: str) -> str:
        """An interface that a pattern covers, one of this host's if there is one."""
        if not pattern.endswith("*"):
            return pattern
        start = pattern[:-1]
        real = [name for name in self._around.interfaces if name.startswith(start)]
        return real[0] if real else f"{start}0"[:_INTERFACE_LENGTH]

    def _destination(self, asked: Asked, source: End) -> tuple[End, str]:
        """Where the packet goes, and a note. An empty interface: it is for this host."""
        version = source.address.version
        if not asked.to:
            if asked.out:
                raise UsageError("--out names where a packet leaves; it needs --to", hint=FORMS)
            return self._own_address(source.interface, version)
        address = _address(asked.to)
        if address is not None:
            _require_unicast(address)
            route = self._around.route(address)
            if not asked.out and (self._around.owns(address) or (route is not None and route.local)):
                return End(address, ""), ""
        end = self._end(asked.to, version, asked.out, "--to")
        return (end if not asked.out else End(end.address, asked.out)), ""

    def _own_address(self, interface: str, version: int) -> tuple[End, str]:
        for own, _ in self._around.addresses.get(interface, ()):
            if own.version == version and (version == 4 or not own.is_link_local):
                return End(own, ""), ""
        tailnet = interface == TAILNET_INTERFACE
        placeholder = LOCAL[(version == 6) + 2 * tailnet]
        if placeholder == self._taken:
            placeholder -= 1
        return End(placeholder, ""), f"{placeholder} stands for this host's own address"


def _address(word: str) -> Address | None:
    try:
        return ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return None


def _version(word: str) -> int:
    address = _address(word)
    return address.version if address else 0


def _some_of(network: Network) -> Iterable[Address]:
    """A few addresses of a network that a host can have, spread over it."""
    size = network.num_addresses
    first = 1 if size > 2 else 0
    yield from (network[at] for at in range(first, min(size, first + 4)))
    step = max(size // _TRIES, 1)
    yield from (network[at] for at in range(first + step, size - 1, step))


def _require_unicast(address: Address) -> None:
    # RFC 6890: "this network", and what was kept for the future, the broadcast address with it.
    nobody = address.version == 4 and (int(address) >> 24 == 0 or int(address) >> 28 == 0xF)
    if nobody or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise UsageError(
            f"{address} is no address that one host sends to another from or to",
            hint="multicast, broadcast, loopback, reserved and unspecified addresses cannot be asked about",
        )
