"""Which connections the file lets through this host or to it, by the interfaces that there are."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

from tsstack.doctor.flows import ANY, HERE, Way, Ways
from tsstack.explain.surroundings import look_around
from tsstack.parts.firewall.members import open_ports
from tsstack.prove.expected import TAILNET, TAILNET_INTERFACE

if TYPE_CHECKING:
    from tsstack.explain.question import Surroundings
    from tsstack.model.facts import Facts
    from tsstack.model.firewall import ForwardRule, Zone
    from tsstack.model.names import Network
    from tsstack.model.stack import Stack

# Each source of a zone costs questions to the kernel, and most of them are behind the same interface.
_MOST_SOURCES = 32


def ways_of(stack: Stack, facts: Facts) -> Ways:
    """Asks the kernel for addresses and routes. Raises CheckFailed or OSError."""
    own = facts.tailscale.addresses if facts.tailscale else ()
    uplink = stack.host.uplink or facts.default_interface
    around = look_around(uplink, facts.paths.tailscale_socket, own)
    networks: dict[str, list[Network]] = {TAILNET_INTERFACE: [*TAILNET]}
    for interface, listed in around.addresses.items():
        networks.setdefault(interface, []).extend(
            ip_interface(f"{address}/{size}").network for address, size in listed
        )
        networks.setdefault(HERE, []).extend(ip_network(address) for address, _ in listed)
    through: list[Way] = []
    advertise = stack.tailscale.advertise if stack.tailscale else None
    behind: dict[str, list[Network]] = {}
    for route in advertise.routes if advertise else ():
        if interface := _behind(route, around):
            behind.setdefault(interface, []).append(route)
    for interface, routes in behind.items():
        networks.setdefault(interface, []).extend(routes)
        through.append(Way((TAILNET_INTERFACE,), (interface,), sources=TAILNET, targets=tuple(routes)))
    if advertise and advertise.exit_node and uplink:
        through.append(Way((TAILNET_INTERFACE,), (uplink,), sources=TAILNET))
    zones = stack.firewall.zones if stack.firewall else {}
    members: dict[str, tuple[str, ...]] = {}
    for name, zone in zones.items():
        here = [each for each in around.interfaces if any(fnmatchcase(each, it) for it in zone.interfaces)]
        for source in zone.sources[:: -(-len(zone.sources) // _MOST_SOURCES) or 1]:
            interface = _behind(source, around) or uplink or ANY
            networks.setdefault(interface, []).append(source)
            here.append(interface)
        members[name] = tuple(dict.fromkeys(here))
    for at, rule in enumerate(stack.firewall.forward if stack.firewall else ()):
        for ports in _listed(stack, rule, f"firewall.forward[{at}]"):
            through.append(Way(members[rule.from_zone], members[rule.to_zone], *ports))
    opened = [
        Way(members[name], (HERE,), *ports)
        for name, zone in zones.items()
        for ports in _listed(stack, zone, f"firewall.zones.{name}")
    ]
    if facts.tailscale and uplink:
        port = facts.tailscale.port
        # To a peer whose network is refused it has other ways.
        opened.append(Way((uplink,), (HERE,), "udp", port, port, sources=()))
    return Ways(tuple(through), tuple(opened), {name: tuple(each) for name, each in networks.items()})


def _behind(network: Network, around: Surroundings) -> str:
    """The interface that it is behind; empty: none."""
    # The first of its addresses is often this host's own.
    for at in range(min(network.num_addresses, 4) - 1, -1, -1):
        route = around.route(network[at])
        if route is not None and not route.local and route.interface:
            return route.interface
    return ""


def _listed(stack: Stack, rule: Zone | ForwardRule, path: str) -> Iterable[tuple[str, int, int]]:
    if rule.allow == "all":
        return [("", 0, 65535)]
    listed = zip(("tcp", "udp"), open_ports(stack, rule, path), strict=True)
    return [(protocol, span.first, span.last) for protocol, spans in listed for span in spans]
