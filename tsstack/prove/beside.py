"""Packets a port or an address beside what the rules of every file ask for. Pure.

Those rules stand before all zones, so one sender suffices for each packet: one that the file refuses, as
what a zone opens anyway tells nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from tsstack.model.names import Address
from tsstack.prove.expected import LISTENERS, ROUTER_ADVERTISEMENT, Oracle, Packet
from tsstack.prove.terrain import LINK_LOCAL, Country, Sender

Ports = tuple[int, int]
"""Source port and port."""

# RFC 2131 and RFC 8415: a server's port is 67 and 547, a client's 68 and 546.
_DHCP: tuple[Ports, ...] = ((66, 68), (68, 68), (67, 67), (67, 69))
_DHCPV6: tuple[Ports, ...] = ((546, 546), (548, 546), (547, 545), (547, 547))
_DHCPV6_REPLY: Ports = (547, 546)
# Whoever speaks to tailscaled from behind a NAT does so from any port.
_ANY_PORTS = (1, 65535)
LINK_EDGES: tuple[Address, ...] = tuple(
    map(ipaddress.ip_address, ("fe7f:ffff::5ee:1", "febf:ffff::5ee:1", "fec0::5ee:1"))
)
"""This host's own addresses about the edges of fe80::/10: just before it, at its end, just behind it."""


def probe_beside(oracle: Oracle, country: Country) -> Iterator[Packet]:
    """To this host: the neighbours of DHCP, of the link's addresses, and any port's word to tailscaled."""
    rightly = [each for each in country.senders if not oracle.is_spoofed(_from(each))]
    near = [each for each in rightly if each.address.version == 6 and each.address.is_link_local]
    far = [each for each in rightly if not each.address.is_link_local]
    four = [each for each in far if each.address.version == 4]
    six = [each for each in far if each.address.version == 6]
    for ports in _DHCP:
        yield from _one(oracle, (_from(each, ports) for each in four))
    for ports in _DHCPV6:
        yield from _one(oracle, (_from(each, ports, LINK_LOCAL) for each in near))
    for edge in LINK_EDGES:
        yield from _one(oracle, (_from(each, _DHCPV6_REPLY, edge) for each in near))
        at_edge = [Sender(edge + 1, each.interface) for each in near]
        for kind, hop_limit in ((ROUTER_ADVERTISEMENT, 255), (LISTENERS[0], 1)):
            heard = (
                Packet(each.address, each.interface, "icmp", icmp_type=kind, hop_limit=hop_limit)
                for each in at_edge
            )
            yield from _one(oracle, heard)
    for senders in (four, six):
        for port in _ANY_PORTS if senders else ():
            yield _from(senders[0], (port, oracle.tailscaled_port))


def _from(sender: Sender, ports: Ports = (0, 0), to: Address | None = None) -> Packet:
    return Packet(sender.address, sender.interface, "udp", ports[1], to, source_port=ports[0])


def _one(oracle: Oracle, packets: Iterable[Packet]) -> Iterator[Packet]:
    """The first that the file refuses; else the first."""
    every = list(packets)
    yield from [*(each for each in every if not oracle.judge(each).accepted), *every][:1]
