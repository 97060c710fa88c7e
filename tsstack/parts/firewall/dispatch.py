"""From an address and an interface to a zone's chain.

One end of a packet (its source with the interface it came in by, or its destination with the interface
it leaves by) belongs to the zone that `members` gives it. Here that becomes a set per zone and a rule per
set, in groups where there are many.

A verdict map would take one rule. But a packet that is on its way through a table at the moment when it is
replaced finds every map of that table empty: their elements are inactive in the new generation already
(nf_tables_api.c: nft_map_deactivate(), nft_genmask_cur()), so it would pass for one of no zone. The
elements of plain sets stay. docs/decisions/0011-no-verdict-maps.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from tsstack.parts.firewall.members import (
    TAILNET_INTERFACE,
    AddressRange,
    InterfaceLevel,
)
from tsstack.parts.firewall.text import Chain, Table, interface

End = Literal["source", "destination"]

_FIELDS: dict[End, tuple[str, str]] = {"source": ("saddr", "iifname"), "destination": ("daddr", "oifname")}
# Up to so many zones are asked one after the other.
_FLAT = 8
_ADDRESS = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


@dataclass(frozen=True)
class Members:
    """Who belongs where, with nothing overlapping."""

    ranges: tuple[AddressRange, ...]
    levels: tuple[InterfaceLevel, ...]

    @cached_property
    def ranges_of(self) -> dict[tuple[int, bool], dict[str, list[str]]]:
        """The ranges by zone as nft writes them, by (version, whether they are the tailnet's)."""
        found: dict[tuple[int, bool], dict[str, list[str]]] = {}
        for each in self.ranges:
            sort = found.setdefault((each.version, each.tailnet), {})
            sort.setdefault(each.zone, []).append(str(each))
        return found

    @cached_property
    def patterns_of(self) -> tuple[dict[str, list[str]], ...]:
        """For each level, the patterns by zone as nft writes them."""
        found: list[dict[str, list[str]]] = []
        for level in self.levels:
            found.append({})
            for pattern, zone in level.zones.items():
                found[-1].setdefault(zone, []).append(interface(pattern))
        return tuple(found)

    @cached_property
    def owner_of_tailnet_interface(self) -> str | None:
        """The zone of what comes in by tailscale0 from no zone's network."""
        for level in self.levels:
            for pattern, owner in level.zones.items():
                if pattern == TAILNET_INTERFACE or (
                    level.wildcard and TAILNET_INTERFACE.startswith(pattern[:-1])
                ):
                    return owner
        return None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How one chain sorts one end of its packets.

    `verdicts` says what happens with the zones that are named there. A packet whose end belongs to any
    other zone gets `other` (None: there is no such zone to tell apart, or it may fall through). A packet
    that belongs to no zone falls through, past `between`, which are (rule, path) pairs asked after the
    addresses and before the interfaces.
    """

    name: str
    end: End
    verdicts: Mapping[str, str]
    other: str | None = None
    between: Sequence[tuple[str, str]] = field(default=())
    path: str = "firewall.zones"


def add_dispatch(table: Table, chain: Chain, members: Members, dispatch: Dispatch) -> None:
    """Append the rules of `dispatch` to `chain`, with the sets that they need."""
    _add_addresses(table, chain, members, dispatch)
    for rule, path in dispatch.between:
        chain.add(rule, path)
    _add_interfaces(table, chain, members, dispatch)


def _add_addresses(table: Table, chain: Chain, members: Members, dispatch: Dispatch) -> None:
    side, interface_field = _FIELDS[dispatch.end]
    for version, (family, kind) in _ADDRESS.items():
        for tailnet in (True, False):
            of_zone = members.ranges_of.get((version, tailnet), {})
            # A tailnet address means its owner only on the tailnet's own interface.
            bound = f"{interface_field} {interface(TAILNET_INTERFACE)} " if tailnet else ""
            matched = f"{bound}{family} {side}"
            _add_sort(
                table,
                chain,
                dispatch,
                _Sort(f"tailnet{version}" if tailnet else f"ip{version}", matched, kind, True, of_zone),
            )


def _add_interfaces(table: Table, chain: Chain, members: Members, dispatch: Dispatch) -> None:
    for at, level in enumerate(members.levels):
        name = f"wildcards{at}" if level.wildcard else "interfaces"
        of_zone = members.patterns_of[at]
        _add_sort(
            table, chain, dispatch, _Sort(name, _FIELDS[dispatch.end][1], "ifname", level.wildcard, of_zone)
        )


@dataclass(frozen=True, slots=True)
class _Sort:
    """What is looked up in one go: `elements_of` has the zones' elements, no two of which overlap."""

    name: str
    field: str
    kind: str
    interval: bool
    elements_of: Mapping[str, Sequence[str]]

    def collect(self, table: Table, prefix: str, zones: Collection[str]) -> str:
        """The set of what belongs to any of `zones`; that of one zone is shared by all who ask for it."""
        owner = f"members.{next(iter(zones))}" if len(zones) == 1 else prefix
        elements = (each for zone in zones for each in self.elements_of[zone])
        return table.collect(f"{owner}.{self.name}", self.kind, elements, interval=self.interval)


def _add_sort(table: Table, chain: Chain, dispatch: Dispatch, sort: _Sort) -> None:
    named = [zone for zone in dispatch.verdicts if zone in sort.elements_of]
    for at, group in enumerate(_groups(named)):
        within = chain
        if len(named) > _FLAT:
            within, new = table.chain_once(f"{dispatch.name}.{sort.name}.{at}")
            union = sort.collect(table, within.name, group)
            # `goto`, as every rule within: whatever chain they lead to, nothing comes back here from it. What
            # is of the group is of exactly one zone of it.
            chain.add(f"{sort.field} {union} goto {within.name}", dispatch.path)
            if not new:
                continue
        for zone in group:
            one = sort.collect(table, "", [zone])
            within.add(f"{sort.field} {one} {dispatch.verdicts[zone]}", dispatch.path)
    if dispatch.other is not None and len(named) < len(sort.elements_of):
        all_zones = sort.collect(table, "zoned", sort.elements_of)
        chain.add(f"{sort.field} {all_zones} {dispatch.other}", dispatch.path)


def _groups(zones: list[str]) -> Iterator[list[str]]:
    """The zones in groups of about as many as there are groups; in one while they are few."""
    size = max(_FLAT, math.isqrt(max(len(zones) - 1, 0)) + 1)
    for at in range(0, len(zones), size):
        yield zones[at : at + size]
