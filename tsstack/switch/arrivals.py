"""By which interface the packets of a session come, where its answers leave by another. Pure.

The kernel knows where answers go, and keeps no note of where a connection's packets came in. Mostly that is
the same link. A session to an address of another interface may come by that one: routing is then lopsided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from tsstack.model.facts import Facts
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle, is_tailnet
from tsstack.switch.ways import Way


def with_other_arrivals(
    ways: Iterable[Way],
    holders: Mapping[Address, Collection[str]],
    is_strict: Callable[[str], bool],
    live: Callable[[], Stack | None],
    facts: Facts,
) -> list[Way]:
    """The ways of sessions, each by every interface that its packets may come by.

    `holders` are the interfaces of this host's addresses; `is_strict` says of one whether it drops what is
    answered by another (rp_filter). What the `live` rules let in by one of both alone comes by that one.
    """
    found: list[Way] = []
    for way in ways:
        other = _other(way, holders, is_strict)
        if other:
            found += _by_both(way, replace(way, packet=replace(way.packet, interface=other)), live(), facts)
        else:
            found.append(way)
    return found


def with_shut(ways: Iterable[Way], live: Callable[[], Stack | None], facts: Facts) -> list[Way]:
    """The ways, and of each session's whether the live rules refuse it, without those of somebody else's.

    Such a session lives on, or is only said to be there (anybody may call a program mosh-server): what is
    shut already no switch can cut. Of the operator's own a word is due all the same.
    """
    asked = list(ways)
    if not any(way.session for way in asked):
        return asked
    stack = live()
    if stack is None:
        return asked
    oracle, found = Oracle(stack, facts), []
    for way in asked:
        session = way.session
        if session is None or session.by_tailscaled or oracle.judge(way.packet).accepted:
            found.append(way)
        elif not session.live:
            found.append(replace(way, shut=True))
    return found


def _by_both(way: Way, elsewhere: Way, live: Stack | None, facts: Facts) -> list[Way]:
    """Both, as far as the live rules have let them in; which of two it is nobody knows."""
    if live is not None:
        oracle = Oracle(live, facts)
        here, there = (oracle.judge(each.packet).accepted for each in (way, elsewhere))
        if here != there:
            return [way] if here else [elsewhere]
    return [way, replace(elsewhere, doubtful=True)]


def _other(way: Way, holders: Mapping[Address, Collection[str]], is_strict: Callable[[str], bool]) -> str:
    """The interface of the address that the session came to, if its packets may come by that one."""
    packet, session = way.packet, way.session
    if session is None or session.zone or session.by_tailscaled or packet.destination is None:
        return ""
    # Who has an address of the tailnet comes by the tailnet, to whatever address of ours.
    if packet.interface == "lo" or is_tailnet(packet.source):
        return ""
    known = holders.get(packet.destination, ())
    if packet.interface in known or "lo" in known:
        return ""
    other = next(iter(known), "")
    return "" if packet.source.version == 4 and other and is_strict(other) else other
