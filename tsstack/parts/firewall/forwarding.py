"""The chains for what passes through this host, and the masquerading behind it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tsstack.parts.firewall.dispatch import Dispatch, add_dispatch
from tsstack.parts.firewall.members import TAILNET_INTERFACE, open_ports
from tsstack.parts.firewall.rulebook import Rulebook, add_ports, collect_ports
from tsstack.parts.firewall.text import PROTOCOL_NUMBERS, Chain, interface

_TUN = interface(TAILNET_INTERFACE)
_EXIT_NODE, _ROUTES = "tailscale.advertise.exit_node", "tailscale.advertise.routes"


def add_forwarding(book: Rulebook, zone: str) -> None:
    """The chain `from.ZONE`: new connections through this host whose source belongs to the zone."""
    wanted = {rule.to_zone for rule in book.firewall.forward if rule.from_zone == zone}
    pairs = [name for name in book.firewall.zones if name in wanted] if wanted else []
    for target in pairs:
        _add_pair(book, zone, target)
    table = book.table
    chain = table.chain(f"from.{zone}")
    chain.add(f"ct state invalid {table.counter('invalid', 'always: invalid')} drop", "always: invalid")
    from_tailnet = not book.is_isolated(zone) and _may_hold_tailnet(book, zone)
    if from_tailnet:
        _add_routes(book, zone, chain)
    verdicts = {target: f"goto pair.{zone}.{target}" for target in pairs}
    if zone not in verdicts and not book.is_isolated(zone):
        verdicts[zone] = "accept"
    if book.accepts_by_default(zone):
        verdicts |= {
            name: f"goto {_refusal(book, zone, name)}"
            for name in book.firewall.zones
            if book.is_isolated(name) and name not in verdicts
        }
    between: tuple[tuple[str, str], ...] = ()
    if from_tailnet and book.advertise.exit_node and book.uplink:
        between = (
            (
                f"iifname {_TUN} oifname {interface(book.uplink)} "
                f"{table.counter(f'{zone}.exit', _EXIT_NODE)} accept",
                _EXIT_NODE,
            ),
        )
    if verdicts or between or book.opens(zone):
        add_dispatch(
            table,
            chain,
            book.members,
            Dispatch(
                name=f"to.{zone}",
                end="destination",
                verdicts=verdicts,
                other=f"goto refuse.{zone}",
                between=between,
                path="firewall.forward",
            ),
        )
    _add_published(book, zone, chain)
    chain.add(f"goto refuse.{zone}", "firewall.forward")


def _rules(book: Rulebook, source: str, target: str) -> list[int]:
    return [
        at
        for at, rule in enumerate(book.firewall.forward)
        if (rule.from_zone, rule.to_zone) == (source, target)
    ]


def _may_hold_tailnet(book: Rulebook, zone: str) -> bool:
    """Whether a packet that came in by tailscale0 can belong to the zone."""
    if book.firewall.zones[zone].sources:
        return True
    return book.members.owner_of_tailnet_interface == zone


def _add_pair(book: Rulebook, source: str, target: str) -> None:
    """The chain of one pair of zones: what its forward rules list, and nothing else."""
    chain = book.table.chain(f"pair.{source}.{target}")
    for at in _rules(book, source, target):
        _add_listed(
            book, chain, at, f"{book.table.counter(f'forward.{at}', f'firewall.forward[{at}]')} accept"
        )
    chain.add(f"goto {_refusal(book, source, target)}", "firewall.forward")


def _refusal(book: Rulebook, source: str, target: str) -> str:
    """The chain for what no rule lists: the source's, unless that accepts and the target is isolated."""
    shut = book.accepts_by_default(source) and book.is_isolated(target)
    return f"refuse.{target if shut else source}"


def _add_listed(book: Rulebook, chain: Chain, at: int, verdict: str) -> None:
    rule = book.firewall.forward[at]
    path = f"firewall.forward[{at}]"
    if rule.allow == "all":
        chain.add(verdict, f"{path}.allow")
    else:
        ports = open_ports(book.stack, rule, path)
        add_ports(chain, book.table, f"forward.{at}", ports, verdict=lambda _: verdict, path=path)


def _add_routes(book: Rulebook, zone: str, chain: Chain) -> None:
    """From the tailnet to the networks that this host routes to, containers behind DNAT among them."""
    for version, family, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
        routes = _collapsed(str(route) for route in book.advertise.routes if route.version == version)
        if routes:
            name = book.table.collect(f"routes.ip{version}", kind, routes, interval=True)
            counter = book.table.counter(f"{zone}.routes", _ROUTES)
            chain.add(f"iifname {_TUN} {family} daddr {name} {counter} accept", _ROUTES)


def _collapsed(routes: Iterable[str]) -> list[str]:
    """Networks without overlap, all of one family."""
    networks = [ipaddress.ip_network(route) for route in routes]
    return [str(network) for network in ipaddress.collapse_addresses(networks)]  # type: ignore[type-var]  # one family


def _add_published(book: Rulebook, zone: str, chain: Chain) -> None:
    """A container's published port, DNATed before we see it: the zone must open the port that was asked."""
    path = f"firewall.zones.{zone}"

    def verdict() -> str:
        return f"{book.table.counter(f'{zone}.published', path)} accept"

    if book.firewall.zones[zone].allow == "all":
        chain.add(f"ct status dnat {verdict()}", f"{path}.allow")
        return
    for protocol, ports in zip(("tcp", "udp"), book.ports[zone], strict=True):
        if ports:
            reference = collect_ports(book.table, f"open.{zone}.{protocol}", ports)
            # ct's ports have no fixed length for nft, so they cannot be a part of a concatenation.
            number = PROTOCOL_NUMBERS[protocol]
            chain.add(
                f"ct status dnat meta l4proto {number} ct original proto-dst {reference} {verdict()}", path
            )


def add_masquerade(book: Rulebook) -> None:
    """The nat chain, if anything is to be hidden behind this host's address.

    Matching the incoming interface in postrouting needs Linux 5.7 (commit 28f8bfd1ac94).
    """
    tailscale = book.stack.tailscale
    by_hand = (
        tailscale is not None
        and tailscale.netfilter != "on"
        and tailscale.advertise.snat
        and book.stack.routes_for_tailnet
    )
    hidden = [at for at, rule in enumerate(book.firewall.forward) if rule.masquerade]
    if not by_hand and not hidden:
        return
    sources = list(dict.fromkeys(book.firewall.forward[at].from_zone for at in hidden))
    for source in sources:
        _add_hidden(book, source, [at for at in hidden if book.firewall.forward[at].from_zone == source])
    if sources:
        chain = book.table.chain("hidden.sources")
        verdicts = {source: f"goto hide.{source}" for source in sources}
        add_dispatch(
            book.table,
            chain,
            book.members,
            Dispatch("hidden.sources", "source", verdicts, other="return", path="firewall.forward"),
        )
    chain = book.table.chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;")
    if by_hand:
        chain.add(f"iifname {_TUN} oifname != {_TUN} masquerade", "tailscale.advertise.snat")
    if sources:
        # Not for connections that begin here: they have no incoming interface.
        chain.add("iif != 0 goto hidden.sources", "firewall.forward")


def _add_hidden(book: Rulebook, source: str, rules: list[int]) -> None:
    forward = book.firewall.forward
    targets = list(dict.fromkeys(forward[at].to_zone for at in rules))
    for target in targets:
        chain = book.table.chain(f"hide.{source}.{target}")
        for at in rules:
            if forward[at].to_zone == target:
                _add_listed(book, chain, at, "masquerade")
    verdicts = {target: f"goto hide.{source}.{target}" for target in targets}
    add_dispatch(
        book.table,
        book.table.chain(f"hide.{source}"),
        book.members,
        Dispatch(f"hide.{source}", "destination", verdicts, other="return", path="firewall.forward"),
    )
