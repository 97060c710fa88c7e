"""What the file says about one packet, computed from the model alone: the second opinion on the kernel.

Nothing here is shared with the renderer. The semantics are those of docs/firewall.md, read anew.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall, ForwardRule, Zone
from tsstack.model.names import Address, Network
from tsstack.model.sections import Advertise
from tsstack.model.stack import Stack

TAILNET_INTERFACE = "tailscale0"
# Tailscale KB 1015 and 1033: the node addresses, and ChromeOS's range that tailscaled exempts.
TAILNET: tuple[Network, ...] = (
    ipaddress.ip_network("100.64.0.0/10"),
    ipaddress.ip_network("fd7a:115c:a1e0::/48"),
)
CHROMEOS = ipaddress.ip_network("100.115.92.0/23")
TAILSCALED_PORT = 41641
# What no host can do without, by type: errors (RFC 792; RFC 4443), and neighbour discovery (RFC 4861) and
# listener discovery (RFC 2710, RFC 3810), which never come from beyond the link.
ICMP_ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
NEIGHBOURS = (133, 135, 136)
ROUTER_ADVERTISEMENT = 134
LISTENERS = (130, 131, 132, 143)
_LINK_HOP_LIMIT = 255
_LINK_LOCAL = ipaddress.ip_network("fe80::/10")
BROADCAST = ipaddress.ip_address("255.255.255.255")
_BITS = {4: 32, 6: 128}

# Of no connection, so "invalid": what conntrack takes as the first packet of one is, of ICMP, a question
# (linux/net/netfilter/nf_conntrack_proto_icmp.c, _icmpv6.c; neighbour and listener discovery it does not
# track), and of TCP a SYN, or an ACK of a connection that it has not seen (nf_conntrack-sysctl: tcp_loose).
_ICMP_FIRST = {4: (8, 13, 15, 17), 6: (128, *LISTENERS, 133, ROUTER_ADVERTISEMENT, 135, 136, 139)}
SYN, ACK, RST = 0x02, 0x10, 0x04
# RFC 1122 section 3.2.2: no ICMP error answers one (nor a redirect), or what was sent to many.
_UNANSWERED = {4: (3, 4, 5, 11, 12), 6: (*range(128), 137)}
OTHER_PROTOCOLS = (4, 47, 50, 132)
"""IP in IP, GRE, ESP and SCTP: what no zone lists by port, so only `allow: all` opens it."""
TSMP = 99
"""tailscaled's own ping, which it has answered before (tailscale, net/packet/tsmp.go)."""

Action = Literal["accept", "drop", "reject"]
Kind = Literal["tcp", "udp", "icmp", "other"]
Listed = tuple[str, Kind, int, int]
"""Key, protocol, first and last port of one entry of a zone or a forward rule."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection to this host, or through it where `outgoing` is set.

    `icmp` is an echo request, of ICMP or ICMPv6, unless `icmp_type` says otherwise; it has no ports. `other`
    is another protocol, of the number `port`.
    """

    source: Address
    interface: str
    protocol: Kind
    port: int = 0
    destination: Address | None = None
    """None: any address of this host."""
    outgoing: str = ""
    """The interface it leaves by; empty: it is for this host."""
    source_port: int = 0
    icmp_type: int = 0
    """Of an `icmp` packet that is no echo request: its type. 0: it is one."""
    hop_limit: int = 64
    flags: int = SYN
    """Of a `tcp` packet."""
    asked_port: int = 0
    """Not 0: a published port, of which another owner's rule makes `destination` and `port`."""
    marked: bool = False
    """Another owner's rule has given it a mark."""
    fragmented: bool = False
    """It comes in two fragments."""
    flow: str = ""
    """Not empty: it belongs to a connection that is open, and what it is there."""

    def __hash__(self) -> int:
        # Thousands are looked up; the hash of an address alone takes longer than this.
        return hash((int(self.source), self.interface, self.port, self.protocol, self.outgoing))

    @property
    def service(self) -> str:
        """`tcp/443`, `ping`, or `icmp-type-3`."""
        if self.protocol == "icmp":
            return f"icmp-type-{self.icmp_type}" if self.icmp_type else "ping"
        if self.protocol == "other":
            return f"protocol-{self.port}"
        return f"{self.protocol}/{self.port}"

    @property
    def invalid(self) -> bool:
        """Whether conntrack can make no connection of it. Of an open connection nothing here is."""
        if self.flow:
            return False
        if self.protocol == "icmp" and self.icmp_type:
            return self.icmp_type not in _ICMP_FIRST[self.source.version]
        return self.protocol == "tcp" and self.flags not in {SYN, ACK}

    @property
    def silent(self) -> bool:
        """Whether a refusal may go untold. IP in IP and TSMP have no checksum; kernels look for one."""
        if self.protocol == "icmp" and self.icmp_type:
            return self.icmp_type in _UNANSWERED[self.source.version]
        to = self.destination
        many = to is not None and (to.is_multicast or to == BROADCAST)
        bare = self.protocol == "other" and self.port in {OTHER_PROTOCOLS[0], TSMP}
        return many or bare or (self.protocol == "tcp" and bool(self.flags & RST))

    def __str__(self) -> str:
        to = f" to {self.destination}" if self.destination else ""
        through = f" on {self.outgoing}" if self.outgoing else ""
        extra = [
            *([f"from port {self.source_port}"] if self.source_port and self.protocol != "other" else []),
            *([f"of flags {self.flags:#04x}"] if self.protocol == "tcp" and self.flags != SYN else []),
            *([f"by the published port {self.asked_port}"] if self.asked_port else []),
            *(["with a mark"] if self.marked else []),
            *(["in fragments"] if self.fragmented else []),
            *([self.flow] if self.flow else []),
        ]
        return ", ".join([f"{self.service} from {self.source} on {self.interface}{to}{through}", *extra])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the packet, the key path that decides, and the zone it comes from."""

    action: Action
    path: str
    zone: str = ""
    hidden: str = ""
    """The key that hides its source behind this host, if it leaves so."""

    @property
    def outcome(self) -> str:
        """The action, and whether the source is hidden: `accept`, `accept, hidden`, `drop`, `reject`."""
        return f"{self.action}, hidden" if self.hidden else self.action

    @property
    def accepted(self) -> bool:
        """Whether the packet passes."""
        return self.action == "accept"


def expect_input(stack: Stack, facts: Facts, packet: Packet) -> Verdict:
    """The verdict on a new connection to this host."""
    return Oracle(stack, facts).judge(packet)


def is_tailnet(source: Address) -> bool:
    """Whether only tailscaled can rightly deliver packets from `source`."""
    return source not in CHROMEOS and _in_tailnet(source)


def zone_of(firewall: Firewall, address: Address, interface: str) -> str:
    """The zone of one end of a packet; empty if none. For many packets, keep a `Membership`."""
    return Membership(firewall).zone(address, interface)


def is_isolated(name: str, zone: Zone) -> bool:
    """Whether a zone is of the preset `isolated`: by `preset`, or by its name without one."""
    return zone.preset == "isolated" or (zone.preset is None and name == "isolated")


def _in_tailnet(address: Address) -> bool:
    return any(address in network for network in TAILNET)


class Membership:
    """To which zone an end belongs: by the longest network that holds it, else by its interface."""

    def __init__(self, firewall: Firewall) -> None:
        self._networks: dict[tuple[int, int], dict[int, str]] = {}
        self._names: dict[str, str] = {}
        stars: dict[str, str] = {}
        for name, zone in firewall.zones.items():
            for network in zone.sources:
                shift = _BITS[network.version] - network.prefixlen
                owners = self._networks.setdefault((network.version, shift), {})
                owners.setdefault(int(network.network_address) >> shift, name)
            for pattern in zone.interfaces:
                if pattern.endswith("*"):
                    stars.setdefault(pattern[:-1], name)
                else:
                    self._names.setdefault(pattern, name)
        self._by_length = sorted(self._networks)  # the smaller the shift, the longer the prefix
        self._stars = sorted(stars.items(), key=lambda entry: -len(entry[0]))
        self._known: dict[tuple[int, int, str], str] = {}

    def zone(self, address: Address, interface: str) -> str:
        """The zone, or the empty string."""
        key = (address.version, int(address), interface)  # quicker than the hash of an address
        if key not in self._known:
            self._known[key] = self.by_address(address, interface) or self.by_interface(interface)
        return self._known[key]

    def by_address(self, address: Address, interface: str) -> str:
        """The zone that has the address among its sources; the tailnet's count on tailscale0 alone."""
        if interface != TAILNET_INTERFACE and _in_tailnet(address):
            return ""
        number = int(address)
        for version, shift in self._by_length:
            if version == address.version:
                owner = self._networks[version, shift].get(number >> shift)
                if owner is not None:
                    return owner
        return ""

    def by_interface(self, interface: str) -> str:
        """The zone that names the interface: literally, else by the longest wildcard."""
        if interface in self._names:
            return self._names[interface]
        return next((zone for start, zone in self._stars if interface.startswith(start)), "")


class Oracle:
    """Judges packets by one file. Remembers what it has worked out: made for thousands of packets."""

    def __init__(self, stack: Stack, facts: Facts) -> None:
        firewall = stack.firewall
        self.active = firewall is not None and firewall.enabled
        self._stack = stack
        self.firewall = firewall or Firewall()
        self.members = Membership(self.firewall)
        self._uplink = stack.host.uplink or facts.default_interface
        self._advertise = stack.tailscale.advertise if stack.tailscale else Advertise()
        self._hiding_rules = any(rule.masquerade for rule in self.firewall.forward)
        self._hides_tailnet = (
            stack.tailscale is not None
            and stack.tailscale.netfilter != "on"
            and self._advertise.snat
            and (self._advertise.exit_node or bool(self._advertise.routes))
        )
        port = facts.tailscale.port if facts.tailscale else 0
        self.tailscaled_port = port or TAILSCALED_PORT
        self._pairs: dict[tuple[str, str], list[tuple[int, ForwardRule]]] = {}
        for at, rule in enumerate(self.firewall.forward):
            self._pairs.setdefault((rule.from_zone, rule.to_zone), []).append((at, rule))
        zones = self.firewall.zones
        self._zone_ports = {name: _Ports(zone, self.ports_of(zone)) for name, zone in zones.items()}
        self._rule_ports = [_Ports(rule, self.ports_of(rule)) for rule in self.firewall.forward]
        self._spoofed: dict[tuple[Address, str], bool] = {}
        self._opened: dict[tuple[str, Kind, int], str] = {}
        self._listed: dict[tuple[int, Kind, int], str] = {}

    def judge(self, packet: Packet) -> Verdict:
        """The verdict on the first packet of a new connection."""
        if not self.active:
            return Verdict("accept", "firewall")
        if self.is_spoofed(packet):
            return Verdict("drop", "firewall")
        if packet.flow:
            return Verdict("accept", "firewall")
        verdict = self._judge_passing(packet) if packet.outgoing else self._judge_arriving(packet)
        if packet.outgoing and verdict.accepted and not packet.invalid:
            return replace(verdict, hidden=self._hidden_by(packet))
        return verdict

    def _hidden_by(self, packet: Packet) -> str:
        """docs/firewall.md, "Masquerading": the key that hides the source of what passes; empty if none."""
        if self._hides_tailnet and packet.interface == TAILNET_INTERFACE != packet.outgoing:
            return "tailscale.advertise.snat"
        if not self._hiding_rules or packet.destination is None:
            return ""
        zones = (
            self.members.zone(packet.source, packet.interface),
            self.members.zone(packet.destination, packet.outgoing),
        )
        for at, rule in self._pairs.get(zones, []):
            if rule.masquerade and self._lists(at, packet):
                return f"firewall.forward[{at}].masquerade"
        return ""

    def _judge_arriving(self, packet: Packet) -> Verdict:
        needed = self._needed_for(packet)
        if needed:
            return Verdict("accept", needed)
        ping_of_tailscaled = ("other", TSMP, TAILNET_INTERFACE)
        if packet.invalid or (packet.protocol, packet.port, packet.interface) == ping_of_tailscaled:
            return Verdict("drop", "firewall")
        to = packet.destination
        if to is not None and is_tailnet(to) and packet.interface != TAILNET_INTERFACE:
            return Verdict("drop", "firewall")
        name = self.members.zone(packet.source, packet.interface)
        if not name:
            return Verdict(self.firewall.default_policy, "firewall.default_policy")
        zone, path = self.firewall.zones[name], f"firewall.zones.{name}"
        if packet.protocol == "icmp" and not packet.icmp_type:
            return (
                Verdict("accept", f"{path}.ping", name) if zone.ping else self._refuse(name, f"{path}.ping")
            )
        opened = self._opened_by(name, packet.protocol, packet.port)
        return Verdict("accept", f"{path}.{opened}", name) if opened else self._refuse(name)

    def _needed_for(self, packet: Packet) -> str:
        """The section for whose sake a packet passes before all zones; empty if none."""
        if packet.protocol == "udp" and packet.port == self.tailscaled_port and packet.interface != "lo":
            return "tailscale"
        dhcp = packet.protocol == "udp" and self._is_dhcp_reply(packet)
        needed = packet.interface == "lo" or dhcp or (packet.icmp_type and _is_needed(packet))
        return "firewall" if needed else ""

    def _is_dhcp_reply(self, packet: Packet) -> bool:
        """RFC 2131 section 4.1; RFC 8415 section 7.2, to the link-local address that had asked."""
        if packet.source.version == 4:
            return (packet.source_port, packet.port) == (67, 68)
        linked = packet.destination is not None and packet.destination in _LINK_LOCAL
        return linked and (packet.source_port, packet.port) == (547, 546)

    def is_spoofed(self, packet: Packet) -> bool:
        """Whether the packet comes from a tailnet address by an interface that is not the tailnet's."""
        if packet.interface in {"lo", TAILNET_INTERFACE}:
            return False
        key = (packet.source, packet.interface)
        if key not in self._spoofed:
            self._spoofed[key] = is_tailnet(packet.source)
        return self._spoofed[key]

    def is_advertised(self, address: Address) -> bool:
        """Whether it lies in a network that this host advertises to the tailnet."""
        return any(address in route for route in self._advertise.routes)

    def _judge_passing(self, packet: Packet) -> Verdict:
        """The six steps of docs/firewall.md, "Packets through this host"."""
        if packet.destination is None:
            raise ValueError(f"{packet}: a packet that passes through has a destination")
        source = self.members.zone(packet.source, packet.interface)
        target = self.members.zone(packet.destination, packet.outgoing)
        shut = bool(target) and is_isolated(target, self.firewall.zones[target])
        if not source:
            return self._refuse(target) if shut else Verdict("accept", "firewall")
        if packet.invalid:
            return Verdict("drop", "firewall", source)
        advertised = self._advertised(source, packet, packet.destination)
        if advertised:
            return Verdict("accept", advertised, source)
        path = self._forwarded_by(source, target, packet)
        if path:
            return Verdict("accept", path, source)
        if not target and packet.asked_port:
            opened = self._opened_by(source, packet.protocol, packet.asked_port)
            if opened:
                return Verdict("accept", f"firewall.zones.{source}.{opened}", source)
        return self._refuse(target if shut else source)

    def _advertised(self, source: str, packet: Packet, destination: Address) -> str:
        """The key of the advertisement that lets the packet through; empty if none does.

        A route goes before all zones; the exit node before zones by interface only, not by address.
        """
        if packet.interface != TAILNET_INTERFACE or is_isolated(source, self.firewall.zones[source]):
            return ""
        for at, route in enumerate(self._advertise.routes):
            if destination in route:
                return f"tailscale.advertise.routes[{at}]"
        leaves = self._advertise.exit_node and packet.outgoing == self._uplink
        if leaves and not self.members.by_address(destination, packet.outgoing):
            return "tailscale.advertise.exit_node"
        return ""

    def _refuse(self, name: str, path: str = "firewall.default_policy") -> Verdict:
        """The default policy, which opens nothing to an isolated zone."""
        policy = self.firewall.default_policy
        if policy == "accept" and is_isolated(name, self.firewall.zones[name]):
            return Verdict("drop", f"firewall.zones.{name}", name)
        return Verdict(policy, "firewall.default_policy" if policy == "accept" else path, name)

    def _opened_by(self, name: str, protocol: Kind, port: int) -> str:
        """The key below the zone that opens the port; empty when none does."""
        key = (name, protocol, port)
        if key not in self._opened:
            self._opened[key] = self._zone_ports[name].key(protocol, port)
        return self._opened[key]

    def _forwarded_by(self, source: str, target: str, packet: Packet) -> str:
        """The first forward rule between the zones that lists the packet; empty when none does.

        Without any rule between them, one zone that is not isolated lets all of its own pass.
        """
        rules = self._pairs.get((source, target), [])
        if not rules and source == target and not is_isolated(source, self.firewall.zones[source]):
            return f"firewall.zones.{source}"
        for at, _ in rules:
            if listed := self._lists(at, packet):
                return f"firewall.forward[{at}].{listed}"
        return ""

    def _lists(self, at: int, packet: Packet) -> str:
        """The key below forward rule `at` that lists the packet; empty when none does."""
        key = (at, packet.protocol, packet.port)
        if key not in self._listed:
            self._listed[key] = self._rule_ports[at].key(packet.protocol, packet.port)
        return self._listed[key]

    def ports_of(self, section: Zone | ForwardRule) -> Iterator[Listed]:
        """All that a zone or a forward rule lists."""
        for at, ports in enumerate(section.tcp):
            yield f"tcp[{at}]", "tcp", ports.first, ports.last
        for at, ports in enumerate(section.udp):
            yield f"udp[{at}]", "udp", ports.first, ports.last
        for at, service in enumerate(section.services):
            for each in self._stack.ports_of(service):
                yield f"services[{at}]", each.protocol, each.ports.first, each.ports.last


def _is_needed(packet: Packet) -> bool:
    """Whether it is ICMP that is let in from everywhere."""
    kind, near = packet.icmp_type, packet.source in _LINK_LOCAL
    if kind in ICMP_ERRORS[packet.source.version]:
        return True
    if packet.source.version == 4:
        return False
    if kind in LISTENERS:
        return near
    on_link = packet.hop_limit == _LINK_HOP_LIMIT
    return on_link and (kind in NEIGHBOURS or (kind == ROUTER_ADVERTISEMENT and near))


class _Ports:
    """Which key of a zone or a forward rule lists a port, the first of the file if several do."""

    def __init__(self, section: Zone | ForwardRule, listed: Iterable[Listed]) -> None:
        self._everything = section.allow == "all"
        self._single: dict[tuple[Kind, int], tuple[int, str]] = {}
        self._ranges: list[tuple[int, Listed]] = []
        for at, (key, kind, first, last) in enumerate(listed):
            if first == last:
                self._single.setdefault((kind, first), (at, key))
            else:
                self._ranges.append((at, (key, kind, first, last)))

    def key(self, kind: Kind, port: int) -> str:
        """The key below the section; empty when none lists the port."""
        if self._everything:
            return "allow"
        at, key = self._single.get((kind, port), (-1, ""))
        for place, (name, protocol, first, last) in self._ranges:
            if key and place > at:
                break
            if protocol == kind and first <= port <= last:
                return name
        return key
