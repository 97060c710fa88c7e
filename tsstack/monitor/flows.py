"""Which connections left by the way out that was just left. Pure.

A connection that goes out by an exit node carries, on the tunnel, an address of this node or of a network
that it routes for, and leads neither to the tailnet nor to what a peer routes nor to this host. One that
went out by the uplink carries an address of the uplink. All else is none of ours: connections from outside,
those of the tailnet, those of the LAN, tailscaled's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from tsstack.monitor.choice import DIRECT
from tsstack.system.conntrack import Connection

# Tailscale's own ranges: CGNAT (RFC 6598) and its ULA.
TAILNET = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))
_NOWHERE = tuple(
    ip_network(text)
    for text in ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8")
)
# tailscaled marks what its own sockets send, and saves that with the connection.
_OWN_MARK, _MARK_MASK = 0x80000, 0xFF0000
_UDP = 17

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What tells the connections of a way out from others."""

    tunnel: frozenset[str]
    """This node's addresses on the tailnet."""
    uplink: frozenset[str]
    """The addresses of the uplink's interface."""
    local: frozenset[str]
    """All of this host's addresses."""
    attached: tuple[Network, ...] = ()
    """Networks that this host's interfaces are in."""
    peers: tuple[Network, ...] = ()
    """Networks that other nodes of the tailnet route for."""
    routed: tuple[Network, ...] = ()
    """Networks that this host routes for (what it advertises)."""
    tailscaled_port: int = 41641


def left_by(node: str, connections: Iterable[Connection], around: Surroundings) -> tuple[Connection, ...]:
    """The connections that went out by `node` (DIRECT: by the uplink)."""
    return tuple(each for each in connections if _went_by(node, each, around))


def _went_by(node: str, connection: Connection, around: Surroundings) -> bool:
    original, reply = connection.original, connection.reply
    # Where replies come from is the real far end, whatever a DNAT made of the asked address.
    inward = reply.source in around.local
    own = connection.mark & _MARK_MASK == _OWN_MARK
    if inward or own or _within(reply.source, (*TAILNET, *_NOWHERE)):
        return False
    carried = reply.destination  # the source address on the wire, after any NAT of ours
    if node == DIRECT:
        own = original.protocol == _UDP and original.source_port == around.tailscaled_port
        return carried in around.uplink and not own and not _within(reply.source, around.attached)
    if _within(reply.source, around.peers):
        return False
    if carried in around.tunnel:
        return True
    return _within(carried, around.routed) and not _within(reply.source, around.attached)


def _within(address: str, networks: Iterable[Network]) -> bool:
    parsed = ip_address(address)
    return any(parsed in network for network in networks)
