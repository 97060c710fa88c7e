"""Whether other owners' tables let pass what our zones open: asked with packets, in a copy of the live rules.

That a table drops something says nothing of what it does to us: only a packet tells, since `accept` ends one
base chain and a drop anywhere is final (nft(8), VERDICT STATEMENTS). Nor does it that a table sends something
elsewhere: a zone may open a port for a container that publishes it. What the file itself serves is another
matter.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest

from tsstack.errors import CheckFailed, UsageError
from tsstack.explain.decisions import Decision
from tsstack.explain.kernel_copy import read_ruleset
from tsstack.explain.packet import Explanation, Ground, explain_live
from tsstack.explain.question import Asked, Question, Surroundings, resolve
from tsstack.explain.services import parse_service
from tsstack.explain.surroundings import look_around, read_land
from tsstack.explain.world import World
from tsstack.model.facts import Facts
from tsstack.model.firewall import Zone
from tsstack.model.stack import Stack
from tsstack.parts.firewall.members import open_ports
from tsstack.parts.proxy.plan import Listener
from tsstack.prove.expected import Packet

_MOST = 36
LONGEST_S = 4.0
"""Each packet has a world of its own, with a copy of all tables in it: large sets take long."""
# RFC 5737 and RFC 3849: nobody's, as a packet from the internet.
_STRANGER = {4: "203.0.113.77", 6: "2001:db8::77"}


@dataclass(frozen=True, slots=True)
class Hit:
    """A packet that our table accepts and another one does not."""

    service: str
    """`tcp/443`."""
    zone: str
    """Empty: it is tailscaled's own port, which no zone has to open."""
    source: str
    interface: str
    decision: Decision
    taken: bool = False
    """It is not dropped: it is sent elsewhere, and what the file serves there does not get it."""

    @property
    def chain(self) -> str:
        """As nft names it: `ip filter INPUT`."""
        return f"{self.decision.family} {self.decision.table} {self.decision.chain}"

    def __str__(self) -> str:
        whose = f"zone {self.zone}" if self.zone else "tailscaled's own port"
        by = f"`{self.decision.rule}`" if self.decision.rule else "its policy"
        where = f"table {self.decision.family} {self.decision.table}, chain {self.decision.chain}"
        packet = f"{self.service} from {self.source} on {self.interface} ({whose})"
        if self.taken:
            return f"{packet} is sent elsewhere by {where}: {by}; what listens here for it does not get it"
        return f"{packet} is dropped by {where}: {by}"


@dataclass(frozen=True, slots=True)
class Asking:
    """How many packets were sent, and which of them others refuse."""

    packets: int
    hits: tuple[Hit, ...] = ()
    astray: tuple[str, ...] = ()
    """Packets that did not arrive though no other owner's rule dropped them, a sentence each."""
    left: int = 0
    """How many more the zones open, which were not tried."""


def ask_others(
    stack: Stack, facts: Facts, served: Collection[Listener] = (), *, longest_s: float = LONGEST_S
) -> Asking:
    """Send what the zones open through a copy of all tables; three dozen packets at most, of each zone some.

    `served` are the sockets that the file itself serves: what is for them must not go elsewhere. No packet is
    begun after `longest_s`. Raises CheckFailed where nothing can be tried.
    """
    until_s = time.monotonic() + longest_s
    own = facts.tailscale.addresses if facts.tailscale else ()
    around = look_around(stack.host.uplink or facts.default_interface, facts.paths.tailscale_socket, own)
    land = read_land(around)
    copy, ground = read_ruleset(), Ground(stack, facts)
    wanted = list(_wanted(stack, facts, around, served))
    asked = [each for zone, one in wanted[:_MOST] for each in _question(stack, around, zone, one)]
    if not asked:
        raise CheckFailed("no packet of the zones can be made here: none of their interfaces is there")
    hits: list[Hit] = []
    astray: list[str] = []
    sent = 0
    for zone, question in asked:
        if sent and time.monotonic() > until_s:
            break
        with World() as world:
            found = _judged(zone, explain_live(world, question, ground, copy, land), served)
        sent += 1
        if isinstance(found, Hit):
            hits.append(found)
        elif found:
            astray.append(found)
    return Asking(sent, tuple(hits), tuple(astray), len(asked) - sent + len(wanted[_MOST:]))


def _judged(zone: str, explained: Explanation, served: Collection[Listener]) -> Hit | str:
    """Who refuses it or takes it away, or in words why it did not arrive otherwise; empty: it passes."""
    answer, packet = explained.answer, explained.question.packet
    if (by := explained.taken_by) and (not zone or _is_served(packet, served)):
        return Hit(packet.service, zone, str(packet.source), packet.interface, by, taken=True)
    if answer.verdict == "accepted":
        return ""
    refused_here = answer.decision is None or answer.decision.ours
    if by and refused_here:
        where = f"table {by.family} {by.table}, chain {by.chain}: `{by.rule}`"
        whose = f"zone {zone}" if zone else "tailscaled"
        return f"{packet} ({whose}) is sent elsewhere by {where}, and {answer.verdict} there"
    if answer.decision is None or refused_here:
        return f"{packet} ({f'zone {zone}' if zone else 'tailscaled'}): {answer.verdict}: {answer.reason}"
    return Hit(packet.service, zone, str(packet.source), packet.interface, answer.decision)


def _is_served(packet: Packet, served: Collection[Listener]) -> bool:
    """Whether the file itself serves what the packet asks for."""
    every = "::" if packet.source.version == 6 else "0.0.0.0"  # noqa: S104  (compared, not bound)
    return any(
        each.service == packet.service and each.address in {every, str(packet.destination)} for each in served
    )


def _wanted(
    stack: Stack, facts: Facts, around: Surroundings, served: Collection[Listener]
) -> Iterator[tuple[str, Asked]]:
    """(zone, packet), each one that our own table accepts: tailscaled's own, then of each zone in turn."""
    if facts.tailscale is not None and around.uplink:
        port = parse_service(f"udp/{facts.tailscale.port}", stack)
        for version, source in _STRANGER.items():
            if any(each.version == version for each, _ in around.addresses.get(around.uplink, ())):
                yield "", Asked(source, port, around.uplink)
    zones = (stack.firewall.zones if stack.firewall else {}).items()
    of_each = [list(_of_zone(stack, name, zone, served)) for name, zone in zones if _is_here(zone, around)]
    for turn in zip_longest(*of_each):
        yield from filter(None, turn)


def _of_zone(
    stack: Stack, name: str, zone: Zone, served: Collection[Listener]
) -> Iterator[tuple[str, Asked]]:
    services = [parse_service(each, stack) for each in _opened(stack, name, zone, served)]
    for number, service in enumerate(services):
        yield name, Asked(name, service)
        if not number:
            yield name, Asked(name, service, version=6)
    # Tables of others are often of one IP version alone.
    for service in services[1:]:
        yield name, Asked(name, service, version=6)


def _question(stack: Stack, around: Surroundings, zone: str, asked: Asked) -> Iterator[tuple[str, Question]]:
    try:
        yield zone, resolve(asked, stack, around)
    except (UsageError, CheckFailed):
        return  # nobody of that zone can send such a packet here: no IPv6, no address to send it to


def _is_here(zone: Zone, around: Surroundings) -> bool:
    """Whether an interface of the zone is here now; sources alone may come by any."""
    names = around.interfaces
    return not zone.interfaces or any(fnmatchcase(name, each) for each in zone.interfaces for name in names)


def _opened(stack: Stack, name: str, zone: Zone, served: Collection[Listener]) -> Iterator[str]:
    """What it opens to this host: what the file serves there, and a port of each range."""
    own = dict.fromkeys((each.protocol, each.port) for each in served)
    if zone.allow == "all":
        yield from dict.fromkeys(["tcp/22", *(f"{protocol}/{port}" for protocol, port in own)])
        return
    listed = zip(("tcp", "udp"), open_ports(stack, zone, f"firewall.zones.{name}"), strict=True)
    found = (
        [
            f"{protocol}/{port}"
            for span in spans
            for port in [each for kind, each in own if kind == protocol and span.first <= each <= span.last]
            or [span.first]
        ]
        for protocol, spans in listed
    )
    ports = [each for pair in zip_longest(*found) for each in pair if each]
    yield from ports or (["icmp"] if zone.ping else [])
