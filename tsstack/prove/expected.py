"""What the file says about one packet to this host, computed from the model alone.

Nothing here is shared with the renderer: this is the second opinion that the kernel is compared with.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall, Zone
from tsstack.model.names import Address, Network, Protocol
from tsstack.model.stack import Stack

TAILNET_INTERFACE = "tailscale0"
# Tailscale KB 1015 and 1033: the node addresses, and ChromeOS's range that tailscaled exempts.
TAILNET: tuple[Network, ...] = (
    ipaddress.ip_network("100.64.0.0/10"),
    ipaddress.ip_network("fd7a:115c:a1e0::/48"),
)
CHROMEOS = ipaddress.ip_network("100.115.92.0/23")


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection to this host."""

    source: Address
    interface: str
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port} from {self.source} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the packet is let in, and the key path that decides."""

    accepted: bool
    path: str
    zone: str = ""


def expect_input(stack: Stack, facts: Facts, packet: Packet) -> Verdict:
    """The verdict on a new connection to this host."""
    firewall = stack.firewall
    if firewall is None or not firewall.enabled:
        return Verdict(True, "firewall")
    if packet.interface == "lo":
        return Verdict(True, "firewall")
    if is_tailnet(packet.source) and packet.interface != TAILNET_INTERFACE:
        return Verdict(False, "firewall")
    port = facts.tailscale.port if facts.tailscale else 41641
    if packet.protocol == "udp" and packet.port == port:
        return Verdict(True, "tailscale")
    name = zone_of(firewall, packet.source, packet.interface)
    if name:
        opened = _opened_by(stack, firewall.zones[name], packet)
        if opened:
            return Verdict(True, f"firewall.zones.{name}.{opened}", name)
    return Verdict(firewall.default_policy == "accept", "firewall.default_policy", name)


def is_tailnet(source: Address) -> bool:
    """Whether only tailscaled can rightly deliver packets from `source`."""
    return source not in CHROMEOS and any(source in network for network in TAILNET)


def zone_of(firewall: Firewall, source: Address, interface: str) -> str:
    """The zone of a packet: by the longest source prefix, else by its interface; empty if none."""
    by_source = [
        (network.prefixlen, name)
        for name, zone in firewall.zones.items()
        for network in zone.sources
        if network.version == source.version and source in network
    ]
    if by_source:
        return max(by_source)[1]
    by_interface = [
        (len(pattern), name)
        for name, zone in firewall.zones.items()
        for pattern in zone.interfaces
        if _covers(pattern, interface)
    ]
    return max(by_interface)[1] if by_interface else ""


def _covers(pattern: str, interface: str) -> bool:
    if pattern.endswith("*"):
        return interface.startswith(pattern[:-1])
    return pattern == interface


def _opened_by(stack: Stack, zone: Zone, packet: Packet) -> str:
    """The key below the zone that opens the packet's port; empty when none does."""
    if zone.allow == "all":
        return "allow"
    ports = zone.tcp if packet.protocol == "tcp" else zone.udp
    for index, each in enumerate(ports):
        if packet.port in each:
            return f"{packet.protocol}[{index}]"
    for index, service in enumerate(zone.services):
        if any(
            packet.protocol == each.protocol and packet.port in each.ports for each in stack.ports_of(service)
        ):
            return f"services[{index}]"
    return ""
