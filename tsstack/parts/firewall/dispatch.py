"""From an address and an interface to a zone's chain, in a number of steps that no zone adds to.

One end of a packet (its source with the interface it came in by, or its destination with the interface
it leaves by) belongs to the zone that `members` gives it. Here that becomes verdict maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
_ADDRESS = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


@dataclass(frozen=True)
class Members:
    """Who belongs where, with nothing overlapping."""

    ranges: tuple[AddressRange, ...]
    levels: tuple[InterfaceLevel, ...]

    @cached_property
    def written(self) -> dict[tuple[int, bool], list[tuple[str, str]]]:
        """The ranges as nft writes them, each with its zone, by (version, whether it is the tailnet's)."""
        sorts: dict[tuple[int, bool], list[tuple[str, str]]] = {}
        for each in self.ranges:
            sorts.setdefault((each.version, each.tailnet), []).append((str(each), each.zone))
        return sorts

    @cached_property
    def written_of(self) -> dict[tuple[int, bool], dict[str, list[tuple[int, str]]]]:
        """The same by zone, each range with its number among all of its sort."""
        return {sort: _by_zone(ranges) for sort, ranges in self.written.items()}

    @cached_property
    def patterns_of(self) -> tuple[dict[str, list[tuple[int, str]]], ...]:
        """For each level, the patterns by zone, each with its number in the level."""
        return tuple(_by_zone(level.zones.items()) for level in self.levels)

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


def _by_zone(owned: Iterable[tuple[str, str]]) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for number, (text, zone) in enumerate(owned):
        found.setdefault(zone, []).append((number, text))
    return found


def _listed(
    of_zone: Mapping[str, list[tuple[int, str]]], verdicts: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What belongs to the zones of `verdicts`, each with its zone's verdict, in the order of all."""
    numbered = ((*entry, verdict) for zone, verdict in verdicts.items() for entry in of_zone.get(zone, ()))
    return [(text, verdict) for _, text, verdict in sorted(numbered)]


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
    """Append the rules of `dispatch` to `chain`, with the sets and maps that they need."""
    _add_addresses(table, chain, members, dispatch)
    for rule, path in dispatch.between:
        chain.add(rule, path)
    _add_interfaces(table, chain, members, dispatch)


def _add_addresses(table: Table, chain: Chain, members: Members, dispatch: Dispatch) -> None:
    side, interface_field = _FIELDS[dispatch.end]
    for version, (family, kind) in _ADDRESS.items():
        for tailnet in (True, False):
            ranges = members.written.get((version, tailnet), [])
            suffix = f"tailnet{version}" if tailnet else f"ip{version}"
            # A tailnet address means its owner only on the tailnet's own interface.
            bound = f"{interface_field} {interface(TAILNET_INTERFACE)} " if tailnet else ""
            of_zone = members.written_of.get((version, tailnet), {})
            listed = [f"{text} : {verdict}" for text, verdict in _listed(of_zone, dispatch.verdicts)]
            if listed:
                name = table.collect(f"{dispatch.name}.{suffix}", f"{kind} : verdict", listed, interval=True)
                chain.add(f"{bound}{family} {side} vmap {name}", dispatch.path)
            if dispatch.other is not None and len(listed) < len(ranges):
                name = table.collect(f"zoned.{suffix}", kind, (text for text, _ in ranges), interval=True)
                chain.add(f"{bound}{family} {side} {name} {dispatch.other}", dispatch.path)


def _add_interfaces(table: Table, chain: Chain, members: Members, dispatch: Dispatch) -> None:
    _, interface_field = _FIELDS[dispatch.end]
    for at, level in enumerate(members.levels):
        suffix = f"wildcards{at}" if level.wildcard else "interfaces"
        owned = _listed(members.patterns_of[at], dispatch.verdicts)
        listed = [f"{interface(pattern)} : {verdict}" for pattern, verdict in owned]
        if listed:
            name = table.collect(
                f"{dispatch.name}.{suffix}", "ifname : verdict", listed, interval=level.wildcard
            )
            chain.add(f"{interface_field} vmap {name}", dispatch.path)
        if dispatch.other is not None and len(listed) < len(level.zones):
            name = table.collect(
                f"zoned.{suffix}", "ifname", map(interface, level.zones), interval=level.wildcard
            )
            chain.add(f"{interface_field} {name} {dispatch.other}", dispatch.path)
