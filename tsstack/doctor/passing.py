"""Rules of others that may drop what passes through this host, or what it answers. Pure.

No packet is sent for these: what passes goes to networks that are not here to be tried. Each base chain is
read in order. A rule counts whose conditions do not keep it from what the file routes, forwards or opens, as
far as no rule above accepts that; that it drops some of it is likely, and not proven. Left out is

- what programs put there for their own bridges, and lists of banned addresses;
- what drops packets that nobody needs (`ct state invalid`, odd TCP flags, broadcasts), or too many of them;
- a rule that names a few ports or one small protocol (`tcp dport 25 drop` on an exit node): somebody wants
  that. Where the file itself lists such a port, in a zone or a forward rule, it is told all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.doctor.conditions import Share, most, share
from tsstack.doctor.flows import Flow, Ways, flows_of
from tsstack.doctor.rules import Arm, read_rule
from tsstack.explain.owners import owner_of
from tsstack.prove.expected import TAILNET_INTERFACE

if TYPE_CHECKING:
    from tsstack.explain.tracing import Listing

_At = tuple[str, str, str]
# Programs whose own chains guard their own bridges or addresses by default.
_BY_DEFAULT = frozenset({"tailscaled", "Docker", "libvirt", "Kubernetes", "Podman"})
_OF_ADMIN = "DOCKER-USER"
# tailscaled's, which stands first and accepts what comes from the tailnet and what goes there.
_OF_TAILNET = "ts-forward"
_DEPTH = 16
_MOST_FLOWS = 400
"""Of more (many zones that list many ports) so many are looked at: each rule is held against each."""
_VERSIONS = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_NAMES = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class MayDrop:
    """A base chain of another owner with a rule that may drop what passes, or what this host answers."""

    family: str
    table: str
    chain: str
    """Where the rule stands."""
    hook: str
    rule: str
    more: int = 0
    """How many more of that chain."""

    def __str__(self) -> str:
        what = "what goes through this host" if self.hook == "forward" else "what this host answers"
        more = (
            f", and {self.more} more rules" if self.more > 1 else ", and one more rule" if self.more else ""
        )
        where = f"table {self.family} {self.table}, chain {self.chain} ({self.hook})"
        return f"{where} may drop {what}, which was not tried: `{self.rule}`{more}"


def may_drop(listing: Listing, ways: Ways) -> Iterator[MayDrop]:
    """Each chain of the listing (tables of others alone) with such a rule."""
    chains: dict[_At, list[str]] = {}
    for (family, table, chain, _), rule in listing.rules.items():
        chains.setdefault((family, table, chain), []).append(rule.text)
    patterns = _patterns(listing)
    for at, base in listing.hooks.items():
        # A nat chain sees the first packets of connections alone, and their answers are none.
        if base.hook not in {"forward", "output"} or base.type == "nat":
            continue
        versions = _VERSIONS.get(at[0], ())
        flows = [each for each in flows_of(ways, base.hook, patterns) if each.version in versions]
        step = -(-len(flows) // _MOST_FLOWS) or 1
        flows = flows[:: step + (step % 3 == 0)]  # three of each pair of ends stand together
        walk = _Walk(listing, chains)
        walk.chain(at, set(flows), 0)
        for (family, table, chain), rules in walk.found.items():
            yield MayDrop(family, table, chain, base.hook, rules[0], len(rules) - 1)


def _patterns(listing: Listing) -> Iterator[str]:
    """The names of interfaces that stand in rules, among others."""
    yield TAILNET_INTERFACE
    for rule in listing.rules.values():
        yield from _NAMES.findall(rule.text)
    for elements in (*listing.elements.values(), *listing.verdicts.values()):
        for key, _ in elements:
            yield from (each.strip('"') for each in key.split(" . ") if not each[:1].isdigit())


class _Walk:
    """Through one base chain and those that it jumps to."""

    def __init__(self, listing: Listing, chains: dict[_At, list[str]]) -> None:
        self._listing, self._chains = listing, chains
        self._read: dict[tuple[str, str, str], tuple[Arm, ...]] = {}
        self._takes: dict[tuple[int, int, str], bool] = {}
        self.found: dict[_At, list[str]] = {}

    def chain(self, at: _At, flows: set[Flow], depth: int) -> set[Flow]:
        """The flows that come back from it: neither accepted nor gone for good."""
        texts = self._chains.get(at, ())
        if at[2] == _OF_TAILNET and any(text.endswith(" accept") for text in texts):
            return {each for each in flows if not _is_of_tailnet(each)}
        if depth > _DEPTH or (owner_of(*at) in _BY_DEFAULT and at[2] != _OF_ADMIN):
            return flows
        here, back = set(flows), set[Flow]()
        kinds = {(each.version, each.protocol): each for each in flows}.values()
        for text in texts:
            if not here:
                break
            settled = set[Flow]()
            for arm in self._arms(at, text):
                if not any(self._may_take(arm, each) for each in kinds):
                    continue
                taken = {each: _share(arm, each) for each in here - settled if self._may_take(arm, each)}
                taken = {each: much for each, much in taken.items() if much >= Share.SOME}
                certain = {each for each, much in taken.items() if much is Share.ALL}
                settled |= certain
                if arm.verdict in {"jump", "goto"} and taken:
                    rest = self.chain((at[0], at[1], arm.target), set(taken), depth + 1)
                    here -= certain - rest
                    certain &= rest
                if arm.verdict in {"return", "goto"}:
                    back |= certain
                    here -= certain
                elif arm.verdict in {"accept", "drop"}:
                    here -= certain
                if arm.verdict == "drop" and taken and text not in self.found.setdefault(at, []):
                    self.found[at].append(text)
        return here | back

    def _may_take(self, arm: Arm, flow: Flow) -> bool:
        """Quickly, since most rules are lists of addresses, or of the other IP version or protocol."""
        known = (id(arm), flow.version, flow.protocol)  # `_read` keeps the arm
        if known not in self._takes:
            least = min((most(each, flow) for each in arm.matches), default=Share.ALL)
            self._takes[known] = least >= Share.SOME
        return self._takes[known]

    def _arms(self, at: _At, text: str) -> tuple[Arm, ...]:
        family, table, _ = at
        known = (family, table, text)
        if known not in self._read:
            self._read[known] = read_rule(text, lambda name: self._elements(family, table, name))
        return self._read[known]

    def _elements(self, family: str, table: str, name: str) -> tuple[tuple[str, str], ...] | None:
        known = (family, table, name)
        return self._listing.verdicts.get(known) or self._listing.elements.get(known)


def _share(arm: Arm, flow: Flow) -> Share:
    least = Share.ALL
    for each in arm.matches:
        least = min(least, share(each, flow))
        if least < Share.SOME:  # the most by far
            break
    return least


def _is_of_tailnet(flow: Flow) -> bool:
    return TAILNET_INTERFACE in {flow.source.interface, flow.target.interface}
