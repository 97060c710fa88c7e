"""The country that packets are sent through, worked out from the file: who sends, what lies where. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import CHROMEOS, TAILNET, TAILNET_INTERFACE, is_tailnet

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
# What no host takes as a source or destination of unicast: RFC 6890 and RFC 4291 section 2.4.
_UNUSABLE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)
_UNZONED_INTERFACES = 3
T = TypeVar("T")
_NEIGHBOURS = 3
# Of a file with more, so many are chosen by chance: a proof must not take minutes.
_MOST_INTERFACES, MOST_NETWORKS = 120, 120
_INTERFACE_LENGTH = 15


@dataclass(frozen=True, slots=True)
class Sender:
    """A source address and the interface it comes in by. Not `main`: only a few packets are sent from it."""

    address: Address
    interface: str
    main: bool = True


@dataclass(frozen=True, slots=True)
class Country:
    """Interfaces, senders, and places beyond this host.

    Each place lies behind one interface, and some lie behind a second one for packets of another traffic
    class (`detours`): so an address is seen to leave by the interface that makes its zone, and by another.
    """

    interfaces: tuple[str, ...]
    senders: tuple[Sender, ...]
    places: tuple[tuple[Address, str], ...]
    detours: tuple[tuple[Address, str], ...]


def lay_out(stack: Stack, facts: Facts, rng: Random, most_networks: int = MOST_NETWORKS) -> Country:
    """The country of a file. The same seed gives the same country.

    Of more source networks than `most_networks` one of each zone is there, and others by chance.
    """
    firewall = stack.firewall or Firewall()
    every = list(dict.fromkeys(_interfaces(stack, firewall, facts)))
    needed = [name for name in (TAILNET_INTERFACE, stack.host.uplink or facts.default_interface) if name]
    interfaces = tuple(dict.fromkeys([*needed, *_some(every, _MOST_INTERFACES, rng)]))
    sources = list(dict.fromkeys(net for zone in firewall.zones.values() for net in zone.sources))
    networks = _choose(firewall, sources, most_networks, rng)
    senders = dict.fromkeys(
        sender for sender in _senders(interfaces, networks, rng) if sender.address not in LOCAL
    )
    places: dict[Address, str] = {}
    detours: dict[Address, str] = {}
    for address, interface in _places(stack, interfaces, networks, rng):
        if address not in LOCAL and places.setdefault(address, interface) != interface:
            detours.setdefault(address, interface)
    return Country(interfaces, tuple(senders), tuple(places.items()), tuple(detours.items()))


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
            real = next((name for name in facts.interfaces if name.startswith(start)), "")
            yield real or (start + "0" * 3)[:_INTERFACE_LENGTH]
            yield start  # a wildcard covers the bare name too
    yield TAILNET_INTERFACE
    if uplink := stack.host.uplink or facts.default_interface:
        yield uplink
    # Names that only look like one of the file's: a rule that matches too widely shows here.
    longer = [f"{name}1" for name in literal if len(name) < _INTERFACE_LENGTH]
    yield from longer[:_NEIGHBOURS]
    others = [name for name in facts.interfaces if name != "lo" and name not in literal]
    yield from others[:_UNZONED_INTERFACES]
    yield "nozone0"


def _senders(interfaces: tuple[str, ...], networks: list[Network], rng: Random) -> Iterator[Sender]:
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
            yield Sender(address, _home(address, interfaces, rng))
            for interface in rng.sample(interfaces, min(2, len(interfaces))):
                yield Sender(address, interface, main=False)
        for edge in _edges(network):
            yield Sender(edge, _home(edge, interfaces, rng), main=False)


def _home(address: Address, interfaces: tuple[str, ...], rng: Random) -> str:
    """Where packets of the address rightly come from; any interface, but for the tailnet's."""
    return TAILNET_INTERFACE if is_tailnet(address) else rng.choice(interfaces)


def _places(
    stack: Stack, interfaces: tuple[str, ...], networks: list[Network], rng: Random
) -> Iterator[tuple[Address, str]]:
    routes = stack.tailscale.advertise.routes if stack.tailscale else ()
    for network in (*_some(list(routes), MOST_NETWORKS, rng), *networks):
        for _ in range(2 if network.num_addresses > 1 else 1):
            address = _usable(_inside(network, rng))
            if address is not None:
                yield address, _home(address, interfaces, rng)
                yield address, rng.choice(interfaces)
    for at, interface in enumerate(interfaces):
        for version in (4, 6):
            yield _nobody(version, 0x8000 + at), interface


def _nobody(version: int, number: int) -> Address:
    """The address of that number (below 2**16) among those that belong to nobody."""
    network = _NOBODY[version]
    return network[number] if version == 4 else network[number << 64 | 1]


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
