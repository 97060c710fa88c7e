"""Who belongs to a zone, and which ports it opens, as ranges that do not overlap.

nft refuses overlapping intervals in one set or map (nft(8), SETS: "conflicting intervals"), so what may
overlap in the file is resolved here: the longer prefix wins, the literal name before the wildcard, the
first entry of the file before a later one.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tsstack.model.firewall import Firewall, ForwardRule, Zone
from tsstack.model.names import PortRange, span
from tsstack.model.stack import Stack

TAILNET_INTERFACE = "tailscale0"
"""The interface that tailscaled makes; `--tun` with another name is not supported."""

TAILNET = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))
"""Where the tailnet's addresses lie (tailscale, net/tsaddr: CGNATRange, TailscaleULARange)."""

NOT_TAILNET = ipaddress.ip_network("100.115.92.0/23")
"""The part of 100.64.0.0/10 that ChromeOS uses for its containers; tailscaled never drops it (ts-input)."""

_BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from `first` to `last`, both within, that belong to `zone`."""

    version: int
    first: int
    last: int
    zone: str
    tailnet: bool
    """Whether they lie in the tailnet's range, so that they count only on tailscale0."""

    def __str__(self) -> str:
        """As nft writes it: an address, a prefix, or `first-last`."""
        size = self.last - self.first + 1
        first = _address(self.version, self.first)
        if size == 1:
            return first
        if size & (size - 1) == 0 and self.first % size == 0:
            return f"{first}/{_BITS[self.version] - size.bit_length() + 1}"
        return f"{first}-{_address(self.version, self.last)}"


def _address(version: int, number: int) -> str:
    if version == 4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return str(ipaddress.IPv6Address(number))


@dataclass(frozen=True, slots=True)
class OpenPorts:
    """Ports from `first` to `last` of one protocol and the key path that opens them."""

    first: int
    last: int
    path: str

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class InterfaceLevel:
    """Interface names or wildcards of which no two overlap, each with its zone."""

    zones: Mapping[str, str]
    wildcard: bool


def is_isolated(name: str, zone: Zone) -> bool:
    """Whether the zone is of the preset `isolated`: by its `preset`, or by its own name without one."""
    return (zone.preset or name) == "isolated"


def address_ranges(firewall: Firewall) -> tuple[AddressRange, ...]:
    """All source networks of all zones as disjoint ranges; the longest prefix owns an address.

    Of two zones with the very same network the first of the file has it. Ranges are cut at the borders
    of the tailnet's own ranges and neighbours of one zone are merged.
    """
    ranges: list[AddressRange] = []
    owned: dict[int, list[tuple[int, int, int, str]]] = {4: [], 6: []}
    for position, (name, zone) in enumerate(firewall.zones.items()):
        for network in zone.sources:
            first, last = span(network)
            owned[network.version].append((first, -last, position, name))
    for version, tailnet in zip((4, 6), TAILNET, strict=True):
        low_end, high_end = span(tailnet)
        widest_first = ((first, -end, name) for first, end, _, name in sorted(owned[version]))
        for first, last, name in _merged(_disjoint(widest_first)):
            for low, high, inside in (
                (first, min(last, low_end - 1), False),
                (max(first, low_end), min(last, high_end), True),
                (max(first, high_end + 1), last, False),
            ):
                if low <= high:
                    ranges.append(AddressRange(version, low, high, name, inside))
    return tuple(ranges)


def _disjoint(owned: Iterable[tuple[int, int, str]]) -> Iterable[tuple[int, int, str]]:
    """Nested or separate ranges, sorted by start and then widest first, as disjoint ones."""
    outer: list[tuple[int, int, str]] = []
    cursor = 0
    for first, last, zone in owned:
        while outer and outer[-1][1] < first:
            _, end, owner = outer.pop()
            if cursor <= end:
                yield cursor, end, owner
                cursor = end + 1
        if outer and outer[-1][:2] == (first, last):
            continue
        if outer and cursor < first:
            yield cursor, first - 1, outer[-1][2]
        outer.append((first, last, zone))
        cursor = first
    while outer:
        _, end, owner = outer.pop()
        if cursor <= end:
            yield cursor, end, owner
            cursor = end + 1


def _merged(ranges: Iterable[tuple[int, int, str]]) -> Iterable[tuple[int, int, str]]:
    pending: tuple[int, int, str] | None = None
    for first, last, zone in ranges:
        if pending is not None and pending[1] + 1 == first and pending[2] == zone:
            pending = (pending[0], last, zone)
            continue
        if pending is not None:
            yield pending
        pending = (first, last, zone)
    if pending is not None:
        yield pending


def interface_levels(firewall: Firewall) -> tuple[InterfaceLevel, ...]:
    """The interfaces of all zones, in the order in which they are asked.

    First the literal names, then the wildcards; a wildcard within another (`veth1*` in `veth*`) stands a
    level before it. nft 1.0.6 refuses both kinds, or nested wildcards, in one set.
    """
    literal: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for name, zone in firewall.zones.items():
        for pattern in zone.interfaces:
            if pattern.endswith("*"):
                prefixes.setdefault(pattern[:-1], name)
            else:
                literal.setdefault(pattern, name)
    depths: dict[int, dict[str, str]] = {}
    for prefix, name in prefixes.items():
        outer = sum(1 for other in prefixes if other != prefix and prefix.startswith(other))
        depths.setdefault(outer, {})[f"{prefix}*"] = name
    levels = [InterfaceLevel(literal, wildcard=False)] if literal else []
    levels += [InterfaceLevel(depths[depth], wildcard=True) for depth in sorted(depths, reverse=True)]
    return tuple(levels)


def open_ports(
    stack: Stack, rule: Zone | ForwardRule, path: str
) -> tuple[tuple[OpenPorts, ...], tuple[OpenPorts, ...]]:
    """What a zone or a forward rule lists, as (tcp, udp); `path` is its key path.

    Raises KeyError for a service that nobody knows (lint refuses such a file).
    """
    listed: dict[str, list[tuple[PortRange, str]]] = {"tcp": [], "udp": []}
    listed["tcp"] += [(ports, f"{path}.tcp[{at}]") for at, ports in enumerate(rule.tcp)]
    listed["udp"] += [(ports, f"{path}.udp[{at}]") for at, ports in enumerate(rule.udp)]
    for at, service in enumerate(rule.services):
        for port in stack.ports_of(service):
            listed[port.protocol].append((port.ports, f"{path}.services[{at}]"))
    return disjoint_ports(listed["tcp"]), disjoint_ports(listed["udp"])


def disjoint_ports(listed: Iterable[tuple[PortRange, str]]) -> tuple[OpenPorts, ...]:
    """Ports without overlap, in order; a port that is listed twice keeps the first entry's path."""
    taken: list[OpenPorts] = []
    # What is taken so far, as runs with gaps between them. An entry that meets some makes one of them all, so
    # that none is gone over twice.
    starts: list[int] = []
    ends: list[int] = []
    for ports, path in listed:
        first, low, high = ports.first, bisect_left(ends, ports.first), bisect_right(starts, ports.last)
        for start, end in zip(starts[low:high], ends[low:high], strict=True):
            if first < start:
                taken.append(OpenPorts(first, start - 1, path))
            first = end + 1
        if first <= ports.last:
            taken.append(OpenPorts(first, ports.last, path))
        starts[low:high] = [min([*starts[low:high][:1], ports.first])]
        ends[low:high] = [max([*ends[low:high][-1:], ports.last])]
    return tuple(sorted(taken, key=lambda each: each.first))
