"""Firewalls of others, which have the last word: a drop anywhere is final (nft(8)). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.doctor.finding import Finding, listed
from tsstack.doctor.remarks import LEVELS
from tsstack.status.severity import OTHERS_DROP_OURS, OTHERS_MAY_DROP

if TYPE_CHECKING:
    from tsstack.doctor.passing import MayDrop
    from tsstack.explain.others import Asking, Hit
    from tsstack.parts.firewall.foreign import ForeignDrop

_OURS, _MAYBE = LEVELS[OTHERS_DROP_OURS], LEVELS[OTHERS_MAY_DROP]


@dataclass(frozen=True, slots=True)
class Others:
    """What was found of them. `asked` is None where packets could not be sent, and `fault` says why."""

    tables: tuple[str, ...] = ()
    """Those that may drop something, or send it elsewhere."""
    asked: Asking | None = None
    fault: str = ""
    drops: tuple[ForeignDrop, ...] = ()
    """Chains that end in a drop: those that stand on the way through this host; where no packet could be sent
    those on the way to it too.
    """
    may: tuple[MayDrop, ...] = ()
    """Chains with a rule that may drop what passes through it, or what it answers."""


def check_foreign(others: Others | None) -> Iterator[Finding]:
    """None: nobody asked, since tsstack has no table here or this is not root."""
    if others is None:
        return
    yield from map(_ends_in_a_drop, others.drops)
    for each in others.may:
        chain = f"{each.family} {each.table} {each.chain}"
        yield Finding("TS864", _MAYBE, f"{each.family} {each.table}", str(each), f"nft -a list chain {chain}")
    if not others.tables:
        yield Finding("TS864", "ok", "others", "no other table drops or redirects anything on its way in")
        return
    if others.asked is None:
        yield from _untried(others)
        return
    yield from _hit(others.asked.hits)
    for sentence in others.asked.astray:
        fix = "nft list ruleset; ip route"
        yield Finding("TS864", _MAYBE, "others", f"what the zones open did not arrive: {sentence}", fix)
    if not others.asked.hits and not others.asked.astray:
        yield Finding("TS864", "ok", "others", all_pass(others.tables, others.asked))


def all_pass(tables: Sequence[str], asked: Asking) -> str:
    """What was tried, in words, where nothing is dropped."""
    names = listed(tables, 3)
    left = f", {asked.left} more were not" if asked.left else ""
    return (
        f"{names} may drop or redirect something; {asked.packets} packets that the zones open were tried, "
        f"all pass{left}"
    )


def _untried(others: Others) -> Iterator[Finding]:
    names = listed(others.tables, 3)
    words = f"{names} may drop or redirect what the zones open; that was not tried: {others.fault}"
    yield Finding("TS864", _MAYBE, "others", words, "nft list ruleset")


def _ends_in_a_drop(drop: ForeignDrop) -> Finding:
    chain = f"{drop.family} {drop.table} {drop.chain}"
    fix = f"nft -a list chain {chain}"
    if drop.is_docker:
        fix = f"nft list chain {chain}; iptables -I DOCKER-USER -i tailscale0 -j ACCEPT"
    return Finding("TS864", _MAYBE, f"{drop.family} {drop.table}", str(drop), fix)


def _hit(hits: tuple[Hit, ...]) -> Iterator[Finding]:
    for chain, taken in dict.fromkeys((each.chain, each.taken) for each in hits):
        there = [each for each in hits if (each.chain, each.taken) == (chain, taken)]
        services = listed(dict.fromkeys(f"{each.service} on {each.interface}" for each in there), 4)
        what = "sends elsewhere what the file serves" if taken else "drops what the zones open"
        words = f"it {what}: {services}; {there[0]}"
        # Which rule has to go only its owner knows: a container that publishes the port, for one.
        fix = f"nft -a list chain {chain}" if taken else accepting(there)
        yield Finding("TS864", _OURS, chain.rpartition(" ")[0], words, fix)


def accepting(hits: list[Hit]) -> str:
    """The commands that would let them pass, in each chain that drops them."""
    rules: dict[tuple[str, str, str], list[str]] = {}
    for hit in hits:
        protocol, _, port = hit.service.partition("/")
        ports = rules.setdefault((hit.chain, hit.interface, protocol), [])
        if port not in ports:
            ports.append(port)
    return "; ".join(
        f"nft insert rule {chain} iifname {interface} {_matching(protocol, ports)} accept"
        for (chain, interface, protocol), ports in rules.items()
    )


def _matching(protocol: str, ports: list[str]) -> str:
    if protocol in {"tcp", "udp"}:
        return f"{protocol} dport '{{ {', '.join(ports)} }}'"
    return "meta l4proto '{ icmp, ipv6-icmp }'"
