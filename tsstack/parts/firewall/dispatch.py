"""From an address and an interface to a zone's chain, in a number of steps that no zone adds to.

One end of a packet (its source with the interface it came in by, or its destination with the interface
it leaves by) belongs to the zone that `members` gives it. Here that becomes verdict maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            verdicts = dispatch.verdicts
            listed = [f"{text} : {verdicts[zone]}" for text, zone in ranges if zone in verdicts]
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
        listed = [
            f"{interface(pattern)} : {dispatch.verdicts[zone]}"
            for pattern, zone in level.zones.items()
            if zone in dispatch.verdicts
        ]
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
