"""The whole of one question: a world, the packet, the kernel's decisions, the answer."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from tsstack.explain.answer import TAILSCALE_SSH, Answer, conclude, is_for_tailscaled
from tsstack.explain.decisions import Decision, tell
from tsstack.explain.kernel_copy import Copy
from tsstack.explain.places import Place, Places
from tsstack.explain.question import Question
from tsstack.explain.world import Land, Trace, World
from tsstack.model.facts import Facts
from tsstack.model.firewall import Firewall
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle, Packet
from tsstack.system.scratch import Scratch

# `ct status dnat` and `icmp type redirect` only look.
_ELSEWHERE = re.compile(
    r"\bdnat (?:ip6? )?(?:addr \S+ \S+ )?to\b|\btproxy (?:ip6? )?to\b"
    r"|(?<!type )\bredirect(?: (?:to|random)\b|$)"
)
# What iptables-nft loaded and nft cannot translate.
_XT_ELSEWHERE = re.compile(r'\bxt target "(?:DNAT|REDIRECT|TPROXY)"')
_QUOTED = re.compile(r'"[^"]*"')
_DNAT = re.compile(r"\bdnat (?:ip6? )?to (?:([0-9.]+)|\[?([0-9a-f:]*:[0-9a-f:]+)\]?)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Ground:
    """What an answer rests on beside the kernel: the file, this host, and where the file's keys stand."""

    stack: Stack
    facts: Facts
    places: Places | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A packet, what was decided on it and why. `expected`: the model's own verdict, empty if it has none."""

    question: Question
    decisions: tuple[tuple[Decision, Place | None], ...]
    answer: Answer
    place: Place | None
    expected: str
    firewall: Firewall
    """The zones that the packet's ends are told by."""
    sees_ours: bool
    """Whether tsstack's table stood in the ruleset."""
    foreign: tuple[str, ...]
    """The tables of others that are hooked in, as `family name`."""
    by_tailscaled: bool = False
    """Whether tailscaled's own SSH server takes it before any rule; the rest is what they would do."""
    ssh_place: Place | None = None
    """Where the file asks for that server."""

    @property
    def taken_by(self) -> Decision | None:
        """The rule of somebody else that sends the packet to another address or port, if one does (NAT)."""
        others = (each for each, _ in self.decisions if not each.ours and not each.target)
        return next((each for each in others if sends_elsewhere(each.rule)), None)

    @property
    def agrees(self) -> bool:
        """Whether the kernel did what the file says."""
        return self.expected in {"", self.answer.action}


def sends_elsewhere(rule: str) -> bool:
    """Whether a rule, as nft prints it, changes where a packet goes; what its comment says does not."""
    if _XT_ELSEWHERE.search(rule):
        return True
    return _ELSEWHERE.search(_QUOTED.sub("", rule).removesuffix("comment ").rstrip()) is not None


def explain_staged(world: World, question: Question, ground: Ground, table: str) -> Explanation:
    """Send the packet through the rendered `table` (nft text). Raises CheckFailed."""
    with Scratch() as folder:
        path = folder / "tsstack.nft"
        path.write_text(table)
        return _explain(ground, question, world.send(question, path))


def explain_live(world: World, question: Question, ground: Ground, copy: Copy, land: Land) -> Explanation:
    """Send the packet through a copy of the live ruleset. Raises CheckFailed."""
    return _explain(ground, question, world.send(question, copy, land))


def _explain(ground: Ground, question: Question, trace: Trace) -> Explanation:
    stack, facts, places = ground.stack, ground.facts, ground.places
    packet = _redirected(question.packet, trace)
    sent_elsewhere = packet != question.packet
    decisions = tell(stack, packet, trace.events, trace.listing)
    asked = question.packet.port if sent_elsewhere else 0
    answer = conclude(stack, packet, decisions, trace.outcome, asked=asked)
    by_tailscaled = is_for_tailscaled(stack, question.packet)
    if by_tailscaled:
        answer = replace(answer, fix=None, hint="")  # to open the port would change nothing

    def find(path: str) -> Place | None:
        return places.find(path) if places is not None else None

    return Explanation(
        question,
        tuple((each, find(each.path) if each.ours else None) for each in decisions),
        answer,
        find(answer.path),
        "" if sent_elsewhere else _expected(stack, facts, packet),
        stack.firewall or Firewall(),
        ("inet", "tsstack") in trace.listing.tables,
        tuple(
            sorted(
                f"{family} {table}"
                for family, table in trace.listing.tables
                if (family, table) != ("inet", "tsstack") and not table.startswith("tsstack-explain")
            )
        ),
        by_tailscaled,
        find(TAILSCALE_SSH) if by_tailscaled else None,
    )


def _expected(stack: Stack, facts: Facts, packet: Packet) -> str:
    """The model's verdict. It knows no conntrack: an ICMP error on its way through fits no connection."""
    if packet.outgoing and packet.icmp_type:
        return ""
    return Oracle(stack, facts).judge(packet).action


def _redirected(packet: Packet, trace: Trace) -> Packet:
    """The packet as it is once a rule has sent it elsewhere (DNAT): other destination, port and interface."""
    outgoing = next((event.outgoing for event in trace.events if event.outgoing), "")
    if not outgoing and packet.protocol in {"tcp", "udp"}:
        return replace(
            packet, port=next((each.port for each in trace.events[::-1] if each.port), packet.port)
        )
    if not outgoing or outgoing == packet.outgoing:
        return packet
    keys = ((event.family, event.table, event.chain, event.handle) for event in trace.events)
    rules = (trace.listing.rules[key].text for key in keys if key in trace.listing.rules)
    to = next((found for found in map(_DNAT.search, rules) if found), None)
    if to is None:
        return replace(packet, outgoing=outgoing)
    address = ipaddress.ip_address(to[1] or to[2])
    return replace(packet, outgoing=outgoing, destination=address, port=int(to[3] or packet.port))
