"""The packets that carry a tunnel, as further ways in: without them what comes by the tunnel is lost. Pure.

tailscale0 is none of these: tailscaled finds a way of its own, by relays too, and its port is always open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from ipaddress import ip_network
from typing import TYPE_CHECKING

from tsstack.model.facts import Facts
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import Kind, Oracle, Packet, Verdict
from tsstack.switch.strangers import SOMEBODY
from tsstack.switch.ways import Carrier, Route, Way

if TYPE_CHECKING:
    from tsstack.switch.tunnels import Peer, Tunnel

_DEEP = 4
_MOST_PEERS = 50
# Each direction goes to the port of the other end: to conntrack no packet of one answers one of the other.
_ONE_WAY = frozenset({"vxlan", "geneve"})
_ROAMING = "wireguard"
# What tunnels of which nothing is known are mostly carried by: OpenVPN (by TCP too), WireGuard, IPsec, GRE.
_USUAL: tuple[tuple[Kind, int], ...] = (
    ("udp", 1194), ("udp", 51820), ("udp", 500), ("udp", 4500), ("tcp", 443), ("tcp", 1194), ("other", 50),
    ("other", 47),
)  # fmt: skip


class Carriers:
    """What this host's tunnels mean for the ways in."""

    def __init__(
        self,
        tunnels: Mapping[str, Tunnel],
        below: Callable[[str], Sequence[str]],
        route_to: Callable[[Address, Address | None], Route | None],
        facts: Facts,
        *,
        live: Callable[[], Stack | None],
        after: Callable[[], Stack | None],
    ) -> None:
        """`below` has the parts of an interface; `live` is None where no rules of ours are in force."""
        self._tunnels, self._below, self._facts = tunnels, below, facts
        self._route_to = cache(route_to)  # many ways come by one peer
        self._live, self._after = live, after
        self._oracle: Oracle | None = None
        self._closing: dict[Packet, bool] = {}

    def of(self, ways: Iterable[Way]) -> list[Way]:
        """A way for each packet that carries one of these, once for each whose it is."""
        found: dict[tuple[Packet, str], Way] = {}
        if not self._tunnels:
            return []
        stack = self._live()
        self._oracle = Oracle(stack, self._facts) if stack is not None else None
        left = list(ways)
        for _ in range(_DEEP):  # a tunnel may go by another
            carriers = [carrier for way in left for carrier in self._of(way)]
            left = []
            for way in carriers:
                if (way.packet, way.whose) not in found:
                    found[way.packet, way.whose] = way
                    left.append(way)
        return sorted(found.values(), key=lambda way: way.doubtful)

    def _of(self, way: Way) -> Iterator[Way]:
        link = way.packet.interface if way.somebody or way.route is None else way.route.interface
        for name, certain in self._under(link):
            tunnel = self._tunnels[name]
            peers = self._peers(tunnel, way) if tunnel.port else []
            for peer in peers[:_MOST_PEERS]:
                yield from self._by_peer(way, name, peer, certain=certain)
            if not peers:
                yield from self._by_somebody(way, name)

    def _under(self, link: str, deep: int = _DEEP) -> Iterator[tuple[str, bool]]:
        """Each tunnel that an interface is, or is made of; not certain where it has other parts besides."""
        if link in self._tunnels:
            yield link, True
            return
        parts = self._below(link) if deep else ()
        for part in parts:
            for name, certain in self._under(part, deep - 1):
                # A bridge's taps are mostly those of virtual machines.
                if self._tunnels[name].kind != "tun":
                    yield name, certain and len(parts) == 1

    @staticmethod
    def _peers(tunnel: Tunnel, way: Way) -> list[Peer]:
        if way.somebody:
            return list(tunnel.peers)
        source, best = way.packet.source, -1
        found: list[Peer] = []
        for peer in tunnel.peers:
            lengths = [
                net.prefixlen for net in peer.networks if net.version == source.version and source in net
            ]
            length = 0 if not peer.networks else max(lengths, default=-1)
            if length > best:
                best, found = length, [peer]
        return found

    def _by_peer(self, way: Way, name: str, peer: Peer, *, certain: bool) -> Iterator[Way]:
        tunnel = self._tunnels[name]
        route = self._route_to(peer.address, tunnel.local)
        if route is None:
            return
        if tunnel.link and route.interface != tunnel.link:
            route = route._replace(interface=tunnel.link)
        elif route.interface == name and self._facts.default_interface:
            # What carries a default route is led past it by a mark.
            route = Route(self._facts.default_interface, gateway=True)
        packet = Packet(peer.address, route.interface, tunnel.protocol, tunnel.port, tunnel.local)
        verdict = self._oracle.judge(packet) if self._oracle is not None else None
        meant = verdict is not None and self._is_meant(verdict, tunnel, peer)
        carrier = Carrier(
            name, answered=tunnel.kind not in _ONE_WAY and not meant, roams=tunnel.kind == _ROAMING
        )
        yield replace(
            _carrying(way, carrier, packet, route),
            doubtful=way.doubtful or not certain,
            shut=verdict is not None and not verdict.accepted,
        )

    def _is_meant(self, verdict: Verdict, tunnel: Tunnel, peer: Peer) -> bool:
        """Whether the live rules let the tunnel in by intent: then the far end may be who begins it."""
        if self._oracle is None or peer.begun_here or not verdict.path.startswith("firewall.zones."):
            return False
        if tunnel.kind == _ROAMING or not verdict.path.endswith(".allow"):
            return True
        # What is no TCP and no UDP comes in by `allow: all` alone, which mostly means others.
        return ip_network(peer.address) in self._oracle.firewall.zones[verdict.zone].sources

    def _by_somebody(self, way: Way, name: str) -> Iterator[Way]:
        """Of whom nothing is known: by the default routes, which carry most."""
        tunnel = self._tunnels[name]
        for somebody in SOMEBODY:
            route = self._route_to(somebody, None)
            if tunnel.link:
                route = Route(tunnel.link, gateway=route.gateway if route else False)
            if route is None or route.interface in {name, "lo"}:
                continue
            packet = Packet(somebody, route.interface, "udp", tunnel.port)
            carrier = Carrier(name, answered=True, roams=True, unread=True)
            if packet not in self._closing:
                self._closing[packet] = self._closes_some(packet)
            shut = not self._closing[packet]
            yield replace(_carrying(way, carrier, packet, route), doubtful=True, shut=shut)

    @cached_property
    def _then(self) -> Oracle | None:
        after = self._after()
        return Oracle(after, self._facts) if after is not None else None

    def _closes_some(self, packet: Packet) -> bool:
        """Whether the new rules refuse on the interface what comes in now and may well carry a tunnel."""
        then = self._then
        if then is None:
            return False
        asked: list[tuple[Kind, int]] = [("udp", packet.port)] if packet.port else list(_USUAL)
        sources = [packet.source]
        if self._oracle is not None:
            oracle, zones = self._oracle, self._oracle.firewall.zones
            sources += [zone.sources[0][0] for zone in zones.values() if zone.sources]
            if not packet.port:
                names = dict.fromkeys(oracle.members.zone(each, packet.interface) for each in sources)
                listed = (each for name in names if name for each in oracle.ports_of(zones[name]))
                asked += [(kind, first) for _, kind, first, _ in listed if kind == "udp"]
        packets = [
            replace(packet, source=source, protocol=kind, port=port)
            for source in sources
            for kind, port in asked
        ]
        return any(
            not then.judge(each).accepted and (self._oracle is None or self._oracle.judge(each).accepted)
            for each in packets
        )


def _carrying(way: Way, carrier: Carrier, packet: Packet, route: Route) -> Way:
    whose = f"what carries {carrier.tunnel} for {way.whose}"
    return Way(packet, whose, way.session, route, carrier=carrier)
