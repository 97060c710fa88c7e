"""Would the one who runs this switch, or any admin, lose the way in?

The ways in: the sessions in use, each with the address of ours that it came to (the tailnet's, maybe), and
every admin source that can come in now. Each is asked as a new connection: of the model, of tailscaled's
new settings and of the kernel's new parameters. One that would be refused, or whose answers would be lost,
stops the switch before anything is touched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET_INTERFACE, Packet, is_tailnet
from tsstack.switch import routes
from tsstack.switch.lockout import PAST_IT
from tsstack.switch.sessions import operator_sessions
from tsstack.switch.ways import Closed, Route, Session, Way, closed_ways

if TYPE_CHECKING:
    from tsstack.parts.part import Snapshot, Tree
    from tsstack.parts.tailscale.ways_in import Arrival
    from tsstack.switch.ground import Planned

__all__ = [
    "OWN",
    "PAST_IT",
    "Session",
    "check_kernel",
    "check_tailscale",
    "check_ways",
    "operator_sessions",
    "ways_of_sessions",
]

OWN = "your own session"
LIVE = "a session that is open on this host"
_MOST_ROUTES = 500
_MOST_NAMED = 5

RouteTo = Callable[..., Route | None]


def ways_of_sessions(
    sessions: tuple[Session, ...], route_to: RouteTo | None = None, *, past_it: str = PAST_IT
) -> list[Way]:
    """The same connections, opened anew, by the interface that answers to the client leave by.

    Raises CheckFailed when there is no route back to a client.
    """
    ask = route_to or routes.route_to
    found = []
    for session in sessions:
        route = _route_back(session, ask)
        if route is not None:
            packet = Packet(session.client, route.interface, session.protocol, session.port, session.server)
            found.append(Way(packet, LIVE if session.live else OWN, session, route))
        elif not session.live:
            raise CheckFailed(
                f"there is no route back to {session.client}, where you connect from", hint=past_it
            )
    return found


def _route_back(session: Session, ask: RouteTo) -> Route | None:
    if session.zone:
        # RFC 4007: a link-local address means nothing without its link, and never leaves it.
        return Route(routes.interface_of(session.zone))
    return ask(session.client, session.server)


def with_routes(ways: Iterable[Way], route_to: RouteTo | None = None) -> list[Way]:
    """The ways with their way back, asked where it is not known; past some hundreds it stays unknown.

    Those of networks behind an interface, of whom nobody says that they are admins', are asked last.
    """
    ask, found = route_to or routes.route_to, list(ways)
    unknown = [at for at, way in enumerate(found) if way.route is None and not way.somebody]
    unknown.sort(key=lambda at: found[at].network is not None)
    for at in unknown[:_MOST_ROUTES]:
        found[at] = replace(found[at], route=ask(found[at].packet.source))
    return found


def check_ways(stack: Stack, facts: Facts, ways: Sequence[Way], past_it: str = PAST_IT) -> list[str]:
    """Raise CheckFailed when one of the ways in would be closed after the switch, with its packet.

    Returns what may close one, a sentence each.
    """
    unread = (_unread(way) for way in ways if way.carrier and way.carrier.unread and not way.shut)
    doubts = list(dict.fromkeys(unread))
    for closed in closed_ways(stack, facts, ways):
        packet, route = closed.way.packet, closed.way.route
        if closed.way.shut:
            doubts.append(
                f"{packet}, {closed.way.whose}: the live rules refuse a new one already, and so does "
                f"{closed.path} then, in {_zone(closed)}: once it ends you do not come in again"
            )
            continue
        carrier = closed.way.carrier
        if closed.way.kept is not None:
            if closed.way.kept:  # else nobody can be there
                doubts.append(_narrowed(closed, closed.way.kept))
            continue
        if not (closed.way.doubtful or closed.in_part or (carrier and carrier.answered)):
            _refuse(closed, stack, past_it)
        if closed.way.session is None or closed.in_part or carrier:
            doubts.append(
                f"{packet}, {closed.way.whose}, falls into {_zone(closed)} and {closed.path} refuses it "
                f"(this may {whom(closed.way)})"
            )
            continue
        by = f"answers leave by {route.interface}, but " if route else ""
        doubts.append(
            f"{packet}, {closed.way.whose}: {by}its packets may come by {packet.interface}, whose address "
            f"they are for: there it falls into {_zone(closed)} and {closed.path} refuses it "
            f"(this may {whom(closed.way)})"
        )
    return doubts


def _narrowed(closed: Closed, kept: Sequence[Network]) -> str:
    packet = closed.way.packet
    named = ", ".join(map(str, kept[:_MOST_NAMED])) + (", .." if len(kept) > _MOST_NAMED else "")
    return (
        f"by {packet.interface} who is not in {named} no longer comes in: {packet}, {closed.way.whose}, "
        f"falls into {_zone(closed)} and {closed.path} refuses it. No route of now leads to others there, "
        f"but routes do not tell of who comes by another router (this may {whom(closed.way)})"
    )


def _unread(way: Way) -> str:
    packet, tunnel = way.packet, way.carrier.tunnel if way.carrier else ""
    asked = f": {packet.service} there is refused" if packet.port else " and was not asked about"
    return f"{tunnel} is a tunnel: what carries it comes by {packet.interface}{asked} (this may {whom(way)})"


def _refuse(closed: Closed, stack: Stack, past_it: str) -> NoReturn:
    packet = closed.way.packet
    what = f"this switch would {whom(closed.way)}: {packet}, {closed.way.whose}"
    if packet.interface not in {"lo", TAILNET_INTERFACE} and is_tailnet(packet.source):
        raise CheckFailed(
            f"{what}, has an address of the tailnet's ranges, which the firewall lets in by "
            f"{TAILNET_INTERFACE} alone; this one comes by {packet.interface}",
            hint=f"come in by the tailnet or from another address, or {past_it}",
        )
    session = closed.way.session
    # Of somebody else's only they know whether the address is right: it is no one's to let in.
    asked_for = closed.way.network or ipaddress.ip_network(packet.source)
    zones = stack.firewall.zones if stack.firewall else {}
    if (session and session.live) or closed.way.somebody:
        more = ""
    elif any(asked_for in zone.sources for zone in zones.values()):
        more = f"take a part of {asked_for} away in a switch of its own, "
    else:
        more = f"add {asked_for} to a zone with `allow: all`, "
    # What is no TCP and no UDP no zone can list.
    opened = "" if packet.protocol == "other" else f"open {packet.service} there, "
    raise CheckFailed(
        f"{what}, falls into {_zone(closed)} and {closed.path} refuses it", hint=f"{opened}{more}or {past_it}"
    )


def _zone(closed: Closed) -> str:
    return f"zone {closed.zone}" if closed.zone else "no zone"


def check_tailscale(
    tree: Tree, snapshot: Snapshot, ways: Sequence[Way], facts: Facts, past_it: str = PAST_IT
) -> list[str]:
    """Raise CheckFailed when tailscaled's new settings would cut one of the ways in.

    Returns what may cut one, a sentence each.
    """
    from tsstack.parts.tailscale.ways_in import WaysIn

    judge = WaysIn(tree, snapshot)
    if judge.accepts_routes_anew:
        judge = WaysIn(tree, snapshot, _routes_of_peers(facts))
    doubts: dict[str, None] = {}
    for way in _certainly_there(with_routes(ways)):
        reason = judge.judge(_arrival(way))
        if reason is None:
            continue
        text, carrier = reason.text, way.carrier
        if carrier:
            text = text.replace(str(way.packet.source), f"what carries {carrier.tunnel}")
        if _is_behind_router(way):
            text = text.replace(str(way.packet.source), way.whose)
        if reason.certain and not (_is_possible(way) or (carrier and carrier.roams)):
            raise CheckFailed(
                f"this switch would {whom(way)}: {way.packet}, {way.whose}: {text}",
                hint=f"or {past_it}",
            )
        doubts[f"{text} (this may {whom(way)})"] = None
    return list(doubts)


def check_kernel(planned: Planned, ways: Sequence[Way], facts: Facts, past_it: str = PAST_IT) -> list[str]:
    """Raise CheckFailed when new kernel parameters or limits would cut one of the ways in.

    Returns what may cut one, a sentence each.
    """
    from tsstack.switch.ground import look_around
    from tsstack.switch.kernel_ways import Change, Path

    change = Change(look_around(facts, planned.live), planned.values, planned.limits)
    paths: dict[Path, Way] = {}
    # Of many ways by one path the first is told: one that is only possible must hide none that is in use.
    for way in sorted(_certainly_there(with_routes(ways)), key=_is_possible):
        packet, route = way.packet, way.route or Route(way.packet.interface)
        path = Path(
            packet.interface if way.somebody else route.interface,
            packet.source.version,
            route.gateway,
            route.learnt,
            packet.destination,
            packet.protocol,
        )
        paths.setdefault(path, way)
    doubts: dict[str, None] = {}
    for path, way in paths.items():
        for cut in change.judge(path):
            told = f"{_key_of(cut.name, planned.origins)}: {cut.value}: {cut.why}"
            told = f"{told}, which {way.carrier.tunnel} goes by" if way.carrier else told
            if cut.certain and not _is_possible(way):
                raise CheckFailed(
                    f"this switch would {whom(way)}: {way.packet}, {way.whose}: {told}", hint=f"or {past_it}"
                )
            doubts[f"{told} (this may {whom(way)})"] = None
    return list(doubts)


def _certainly_there(ways: Iterable[Way]) -> Iterable[Way]:
    """Of admins of whom it is not known whether there are any, the rules alone are asked."""
    return (way for way in ways if not (way.somebody and way.doubtful))


def _is_behind_router(way: Way) -> bool:
    """Whether a route says that somebody is there, and not who: it may be one's servers alone."""
    return way.network is not None and (way.route is None or way.route.gateway)


def _is_possible(way: Way) -> bool:
    return way.doubtful or _is_behind_router(way)


def _key_of(name: str, origins: Mapping[str, str]) -> str:
    """What of the file sets a parameter; one that it no longer names goes back to what it was."""
    if name.startswith("bandwidth."):
        return name
    origin = origins.get(name)
    if origin is None:
        return f"{name}, which the file no longer names"
    return origin if origin.startswith("kernel.sysctl.") else f"{origin} ({name})"


def _arrival(way: Way) -> Arrival:
    from tsstack.parts.tailscale.ways_in import Arrival

    packet, session = way.packet, way.session
    # An admin's network may lie behind another subnet router, though its zone is asked by the uplink.
    by_tailnet = way.route is not None and not way.somebody and way.route.interface == TAILNET_INTERFACE
    return Arrival(
        packet.source,
        TAILNET_INTERFACE if by_tailnet else packet.interface,
        packet.port,
        packet.destination,
        on_link=None if way.route is None else not way.route.gateway,
        in_use=session is not None,
        by_tailscaled=session is not None and session.by_tailscaled,
    )


def _routes_of_peers(facts: Facts) -> list[str]:
    """What the peers on the tailnet route for others; nothing where tailscaled does not say."""
    from tsstack.system.localapi import LocalApi, LocalApiError

    try:
        peers = LocalApi(facts.paths.tailscale_socket, timeout_s=5.0).status().get("Peer") or {}
    except LocalApiError as error:
        raise CheckFailed(f"whether you keep your way in cannot be told: {error.message}") from error
    routes_of = (peer.get("PrimaryRoutes") or () for peer in peers.values())
    return [str(route) for each in routes_of for route in each if not str(route).endswith("/0")]


def whom(way: Way) -> str:
    """What it means that the way is cut, for people."""
    if way.session is None:
        return "lock out an admin"
    return "cut somebody off" if way.session.live else "lock you out"
