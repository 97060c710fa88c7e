"""Which peer is meant, and how it can be reached without the tailnet. Pure: statuses in, values out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tsstack.bench.figures import Via, Way
from tsstack.errors import UsageError

_LISTED = 20


@dataclass(frozen=True, slots=True)
class Peer:
    """A node of the tailnet, of ipnstate.PeerStatus."""

    name: str
    """Its DNS label, which is unique on a tailnet; else its host name."""
    dns_name: str
    host_name: str
    addresses: tuple[str, ...]
    online: bool
    """Whether it is connected to the control server, which says nothing of the way to it."""
    exit_node: bool
    """Whether it is the exit node in use."""
    endpoints: tuple[str, ...]
    """Where tailscaled reaches it now, or might: `IP:PORT`."""
    relay: str
    """The code of its home DERP region."""

    @property
    def address(self) -> str:
        """Its tailnet address, IPv4 where it has one."""
        return next((each for each in self.addresses if ":" not in each), self.addresses[0])


def peers_of(status: Mapping[str, Any]) -> tuple[Peer, ...]:
    """The peers that have an address, by name."""
    found = [_peer(raw) for raw in (status.get("Peer") or {}).values() if raw.get("TailscaleIPs")]
    return tuple(sorted(found, key=lambda peer: (peer.name, peer.addresses)))


def _peer(raw: Mapping[str, Any]) -> Peer:
    dns_name = _printable(str(raw.get("DNSName") or "").rstrip("."))
    host_name = _printable(str(raw.get("HostName") or ""))
    current = [str(raw["CurAddr"])] if raw.get("CurAddr") else []
    return Peer(
        name=dns_name.partition(".")[0] or host_name or str(raw["TailscaleIPs"][0]),
        dns_name=dns_name,
        host_name=host_name,
        addresses=tuple(str(each) for each in raw["TailscaleIPs"]),
        online=bool(raw.get("Online")),
        exit_node=bool(raw.get("ExitNode")),
        endpoints=tuple(dict.fromkeys([*current, *(str(each) for each in raw.get("Addrs") or ())])),
        relay=str(raw.get("Relay") or ""),
    )


def _printable(name: str) -> str:
    """A name that a node gave itself, without what a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in name)


def choose(status: Mapping[str, Any], wanted: str) -> Peer:
    """The peer with this name, host name or tailnet address; with no name the exit node in use.

    Raises UsageError that lists the peers there are.
    """
    peers = peers_of(status)
    hint = _listed(peers)
    if not wanted:
        found = next((peer for peer in peers if peer.exit_node), None)
        if found is None:
            raise UsageError("no exit node is in use: say which peer is meant", hint=hint)
        return found
    name = wanted.lower().rstrip(".")
    own = status.get("Self") or {}
    if name in {str(own.get("DNSName") or "").lower().rstrip("."), *map(str, own.get("TailscaleIPs") or ())}:
        raise UsageError(f"{wanted} is this host itself", hint=hint)
    for key in (_by_address, _by_full_name, _by_label, _by_host_name):
        matching = [peer for peer in peers if name in key(peer)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UsageError(
                f"{wanted} is the name of {len(matching)} peers",
                hint=f"take one of {', '.join(peer.name for peer in matching)}",
            )
    raise UsageError(f"the tailnet has no peer {wanted!r}", hint=hint)


def _by_address(peer: Peer) -> tuple[str, ...]:
    return peer.addresses


def _by_full_name(peer: Peer) -> tuple[str, ...]:
    return (peer.dns_name.lower(),)


def _by_label(peer: Peer) -> tuple[str, ...]:
    return (peer.name.lower(),)


def _by_host_name(peer: Peer) -> tuple[str, ...]:
    return (peer.host_name.lower(),)


def _listed(peers: tuple[Peer, ...]) -> str:
    if not peers:
        return "this tailnet has no other node that this host may see"
    online = [peer.name for peer in peers if peer.online]
    offline = [f"{peer.name} (offline)" for peer in peers if not peer.online]
    names = [*online, *offline]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"peers: {', '.join(names[:_LISTED])}{more}"


def way_of(answer: Mapping[str, Any], *, tsmp_s: float | None = None, icmp_s: float | None = None) -> Way:
    """The way that an answer to a disco ping came (ipnstate.PingResult)."""
    relay = str(answer.get("DERPRegionCode") or answer.get("DERPRegionID") or "")
    peer_relay = str(answer.get("PeerRelay") or "")
    endpoint = str(answer.get("Endpoint") or "")
    via: Via = "peer-relay" if peer_relay else "relay" if relay else "direct" if endpoint else "unknown"
    taken = answer.get("LatencySeconds")
    return Way(
        via=via,
        endpoint=peer_relay or endpoint,
        relay="" if via != "relay" else relay,
        disco_s=float(taken) if isinstance(taken, int | float) else None,
        tsmp_s=tsmp_s,
        icmp_s=icmp_s,
    )


def host_of(endpoint: str) -> str:
    """The address of `IP:PORT` or `[IP]:PORT`, without a zone; empty for what is neither."""
    host = endpoint.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def underlay_addresses(
    way: Way, peer: Peer, networks: Iterable[tuple[str, str]], own: Iterable[str]
) -> tuple[str, ...]:
    """Addresses at which the peer may be reached without the tailnet, the best first.

    That is where tailscaled reaches it now, and what it advertises in a network of ours. `networks` are this
    host's as (interface, `192.168.1.2/24`). Loopback, link-local and tailnet ones and `own` are left out.
    """
    here = [ipaddress.ip_interface(network).network for _, network in networks]
    found = [host_of(way.endpoint)] if way.via == "direct" else []
    for endpoint in peer.endpoints:
        host = host_of(endpoint)
        if host and any(ipaddress.ip_address(host) in network for network in here):
            found.append(host)
    refused = {*own, *peer.addresses, ""}
    return tuple(dict.fromkeys(each for each in found if each not in refused and _is_plain(each)))


def _is_plain(address: str) -> bool:
    """Neither loopback nor link-local nor of a tailnet (100.64.0.0/10, fd7a:115c:a1e0::/48)."""
    parsed = ipaddress.ip_address(address)
    tailnets = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))
    return not (parsed.is_loopback or parsed.is_link_local or any(parsed in each for each in tailnets))


def binding(
    address: str,
    source: str,
    networks: Iterable[tuple[str, str]],
    own_tailnet: Iterable[str],
    default_interface: str,
) -> str | None:
    """The interface that probes of the underlay must be bound to so that they stay out of the tunnel.

    Empty when the routes lead past the tunnel anyway: `source` is the address they leave with. None when
    no such interface is known; then nothing may be sent.
    """
    if source and source not in set(own_tailnet):
        return ""
    wanted = ipaddress.ip_address(address)
    for interface, network in networks:
        parsed = ipaddress.ip_interface(network)
        if wanted in parsed.network and str(parsed.ip) not in set(own_tailnet):
            return interface
    return default_interface or None
