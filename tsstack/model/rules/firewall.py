"""Zones against each other, and against the services they name."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from tsstack.model import lint_codes as codes
from tsstack.model.firewall import Zone
from tsstack.model.keypath import KeyPath
from tsstack.model.names import Network, span
from tsstack.model.rules.view import (
    CGNAT,
    TAILSCALE_INTERFACE,
    ULA,
    Remark,
    View,
    in_tailnet,
    matches,
    opens,
    rule,
    within,
)
from tsstack.model.services import WELL_KNOWN
from tsstack.model.words import nearest

_EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def _zone(name: str, *below: str | int) -> KeyPath:
    return ("firewall", "zones", name, *below)


@rule("firewall")
def zone_without_members(view: View) -> Iterator[Remark]:
    for name, zone in view.zones.items():
        if not zone.interfaces and not zone.sources:
            message = "no packet can reach this zone: it has neither interfaces nor sources"
            yield Remark(codes.EMPTY_ZONE, _zone(name), message, "add interfaces: [..] or sources: [..]")


@rule("firewall")
def members_of_two_zones(view: View) -> Iterator[Remark]:
    interfaces: dict[str, str] = {}
    sources: dict[Network, str] = {}
    for name, zone in view.zones.items():
        for index, pattern in enumerate(zone.interfaces):
            other = interfaces.setdefault(pattern, name)
            if other != name:
                message = f"{pattern} belongs to the zone {other} already"
                yield Remark(codes.INTERFACE_TWICE, _zone(name, "interfaces", index), message, rests_on=())
        for index, source in enumerate(zone.sources):
            other = sources.setdefault(source, name)
            if other != name:
                message = f"{source} belongs to the zone {other} already"
                yield Remark(codes.SOURCE_TWICE, _zone(name, "sources", index), message, rests_on=())


@rule("firewall")
def shadowed_zone(view: View) -> Iterator[Remark]:
    """A zone is empty in effect when more exact entries of other zones take all that it lists."""
    cover = _Cover(view.zones)
    for name, zone in view.zones.items():
        if not zone.interfaces and not zone.sources:
            continue
        by_sources = all(cover.takes_inside(source, name) for source in zone.sources)
        by_interfaces = not zone.interfaces or (cover.everything and cover.takes_everything(name))
        if by_sources and by_interfaces:
            message = "no packet can reach this zone: more exact entries of other zones take all of it"
            yield Remark(codes.SHADOWED_ZONE, _zone(name), message)


_Span = tuple[int, int, str]
"""First address, last address, and the zone that owns the network: the first of the file to list it."""


class _Cover:
    """Which networks the zones take from each other.

    Networks lie within each other or apart. Sorted by their first address, the wider first, those inside
    a network follow it; so ten thousand sources cost their sorting and one step each.
    """

    def __init__(self, zones: dict[str, Zone]) -> None:
        owners: dict[int, dict[tuple[int, int], str]] = {4: {}, 6: {}}
        for name, zone in zones.items():
            for source in zone.sources:
                owners[source.version].setdefault(span(source), name)
        self.spans: dict[int, list[_Span]] = {}
        self.places: dict[int, dict[tuple[int, int], int]] = {}
        for version, owned in owners.items():
            ordered = sorted(owned, key=lambda ends: (ends[0], -ends[1]))
            self.spans[version] = [(*ends, owned[ends]) for ends in ordered]
            self.places[version] = {ends: place for place, ends in enumerate(ordered)}
        # Rarely so; it spares asking for every zone of interfaces.
        self.everything = self.takes_everything(None)

    def takes_inside(self, network: Network, zone: str) -> bool:
        """Whether zones other than `zone` take all of a listed network by longer prefixes."""
        ends = span(network)
        version = network.version
        return _covers(self.spans[version], self.places[version][ends] + 1, ends, zone)

    def takes_everything(self, zone: str | None) -> bool:
        """Whether the sources of zones other than `zone` take every address there is."""
        return all(_covers(self.spans[net.version], 0, span(net), zone) for net in _EVERYTHING)


def _covers(spans: list[_Span], start: int, ends: tuple[int, int], zone: str | None) -> bool:
    """Whether the networks from `start` on that others than `zone` own cover all from end to end."""
    uncovered, end = ends
    for place in range(start, len(spans)):
        first, last, owner = spans[place]
        if uncovered > end or first > end:
            break
        if owner == zone:
            continue
        if first > uncovered:
            return False
        uncovered = max(uncovered, last + 1)
    return uncovered > end


@rule("firewall", "host")
def wide_open_zone(view: View) -> Iterator[Remark]:
    for name, zone in view.zones.items():
        if zone.allow != "all":
            continue
        admin = name == "admin" or zone.preset == "admin"
        for key, index, entry in _members(zone):
            path = _zone(name, key, index)
            if _takes_whole_tailnet(entry):
                if admin:
                    hint = "list the operators' own machines: sources: [100.64.0.10/32]"
                    message = f"{entry} takes every node of the tailnet into the admin zone"
                    yield Remark(
                        codes.ADMIN_SWALLOWS_TAILNET, path, message, hint, rests_on=(_zone(name, "preset"),)
                    )
                else:
                    message = f"{entry} opens every port to every node of the tailnet"
                    hint = "list ports or services instead"
                    grounds = (_zone(name, "preset"),)
                    yield Remark(codes.TAILNET_WIDE_OPEN, path, message, hint, rests_on=grounds)
            if entry in _EVERYTHING or (
                isinstance(entry, str) and any(matches(entry, uplink) for uplink in view.uplinks)
            ):
                message = f"{entry} opens every port of this host towards the internet"
                yield Remark(codes.EXPOSED, path, message, "list ports or services instead", rests_on=())


def _members(zone: Zone) -> Iterator[tuple[str, int, str | Network]]:
    yield from (("interfaces", index, pattern) for index, pattern in enumerate(zone.interfaces))
    yield from (("sources", index, source) for index, source in enumerate(zone.sources))


def _takes_whole_tailnet(entry: str | Network) -> bool:
    if isinstance(entry, str):
        return matches(entry, TAILSCALE_INTERFACE)
    return within(CGNAT, entry) or within(ULA, entry)


@rule("firewall")
def unknown_names(view: View) -> Iterator[Remark]:
    known = view.known_services
    lists = [(_zone(name, "services"), zone.services) for name, zone in view.zones.items()]
    forward = view.stack.firewall.forward if view.stack.firewall else ()
    for index, passing in enumerate(forward):
        lists.append((("firewall", "forward", index, "services"), passing.services))
        for key, zone in (("from", passing.from_zone), ("to", passing.to_zone)):
            if zone not in view.zones:
                hint = nearest(zone, view.zones) or f"zones: {', '.join(view.zones) or 'none'}"
                place: KeyPath = ("firewall", "forward", index, key)
                message = f"there is no zone {zone}"
                grounds = (_zone(zone),)
                yield Remark(codes.UNKNOWN_ZONE, place, message, hint, value=True, rests_on=grounds)
    for path, names in lists:
        for index, name in enumerate(names):
            if name not in known:
                hint = nearest(name, known) or "declare it: firewall.services: {" + name + ": [tcp/PORT]}"
                message = f"no ports are known for {name}"
                declared: KeyPath = ("firewall", "services", name)
                yield Remark(codes.UNKNOWN_SERVICE, (*path, index), message, hint, rests_on=(declared,))


@rule("firewall")
def hidden_services(view: View) -> Iterator[Remark]:
    own = view.stack.firewall.services if view.stack.firewall else {}
    for name, ports in own.items():
        if name in WELL_KNOWN and set(ports) != set(WELL_KNOWN[name]):
            usual = ", ".join(map(str, WELL_KNOWN[name]))
            message = f"{name} is usually {usual}; here it is {', '.join(map(str, ports))}"
            path = ("firewall", "services", name)
            yield Remark(codes.SERVICE_SHADOWS, path, message, rests_on=(path,))


@rule("firewall", "tailscale")
def way_in(view: View) -> Iterator[Remark]:
    firewall = view.stack.firewall
    if firewall is None or not firewall.enabled or firewall.default_policy == "accept":
        return
    if view.stack.tailscale and view.stack.tailscale.ssh:
        return
    reachable = [zone for zone in view.zones.values() if zone.interfaces or zone.sources]
    if not any(opens(view, zone, "tcp", 22) for zone in reachable):
        message = "no zone opens SSH: new sessions may be locked out"
        hint = "add ssh to the services of the zone that you come from"
        yield Remark(codes.NO_WAY_IN, ("firewall",), message, hint)


@rule("firewall")
def policy_accept(view: View) -> Iterator[Remark]:
    firewall = view.stack.firewall
    if firewall and firewall.enabled and firewall.default_policy == "accept":
        path = ("firewall", "default_policy")
        message = "what no zone opens is open all the same"
        yield Remark(codes.POLICY_ACCEPT, path, message, "drop or reject", rests_on=())


@rule("firewall")
def bound_to_tailscale(view: View) -> Iterator[Remark]:
    for name, zone in view.zones.items():
        bound = [str(source) for source in zone.sources if in_tailnet(source)]
        if bound:
            shown = ", ".join(bound[:3]) + (f" and {len(bound) - 3} more" if len(bound) > 3 else "")
            message = f"{shown}: believed on tailscale0 only"
            yield Remark(codes.BOUND_TO_TAILSCALE, _zone(name, "sources"), message)


@rule("firewall")
def rules_without_effect(view: View) -> Iterator[Remark]:
    forward = view.stack.firewall.forward if view.stack.firewall else ()
    for index, passing in enumerate(forward):
        if not (passing.services or passing.tcp or passing.udp or passing.allow):
            hint = "add services: [..], tcp: [..] or allow: all"
            path = ("firewall", "forward", index)
            yield Remark(codes.FORWARD_NOTHING, path, "the rule lets nothing pass", hint, rests_on=(path,))
    for name, zone in view.zones.items():
        for key in ("tcp", "udp", "services"):
            if zone.allow == "all" and getattr(zone, key) and view.writes(*_zone(name, key)):
                message = f"{key} means nothing beside allow: all"
                yield Remark(codes.LISTS_BESIDE_ALL, _zone(name, key), message, rests_on=())
