"""What has to change: the wanted values against a snapshot. Decisions only, no effects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tsstack.errors import CheckFailed
from tsstack.parts.kernel import desired
from tsstack.parts.kernel.links import UDP_GRO, LinkState, is_same, smallest_burst_bytes
from tsstack.parts.kernel.record import Record, Spec, from_json

if TYPE_CHECKING:
    from tsstack.parts.part import Tree

DIRECTIONS = ("egress", "ingress")


class Wanted(NamedTuple):
    """The three files of a generation, parsed."""

    sysctl: dict[str, str]
    origins: dict[str, str]
    links: dict[str, dict[str, Any]]

    def limits(self, interface: str) -> dict[str, Spec]:
        """The wanted limits of `interface` by direction."""
        entry = self.links.get(interface, {})
        return {direction: entry[direction] for direction in DIRECTIONS if direction in entry}


class Live(NamedTuple):
    """The host as `observe` saw it; `as_json` is the snapshot."""

    sysctl: dict[str, str | None]
    """None where there is no such parameter."""
    fixed: tuple[str, ...]
    """Parameters that cannot be written here."""
    links: dict[str, LinkState]
    features: dict[str, dict[str, str]]
    record: Record
    orphans: tuple[str, ...] = ()
    """Devices of ours whose interface is gone."""

    def as_json(self) -> dict[str, Any]:
        return {
            "sysctl": dict(self.sysctl),
            "fixed": list(self.fixed),
            "links": {name: state.as_json() for name, state in self.links.items()},
            "features": self.features,
            "record": self.record.as_json(),
            "orphans": list(self.orphans),
        }


class Step(NamedTuple):
    """One value to change: from `before` (None: there is none) to `after` (None: ours goes away)."""

    kind: str
    """`sysctl`, `limit`, `feature` or `orphan`."""
    subject: str
    """The parameter, or the interface."""
    key: str = ""
    """The direction of a limit, or the ethtool feature."""
    before: Any = None
    after: Any = None
    leaving: bool = False
    """Whether the file no longer asks for it, and the original comes back."""


def parse(tree: Tree) -> Wanted:
    """A generation's files as values; all empty for a tree without this part."""

    def load(name: str) -> Any:
        return json.loads(tree.get(f"{desired.FOLDER}/{name}.json", "{}"))

    return Wanted(load("sysctl"), load("origins"), load("links"))


def live_from_snapshot(snapshot: Mapping[str, Any]) -> Live:
    """The inverse of `Live.as_json`. Raises CheckFailed for something else."""
    try:
        return Live(
            dict(snapshot["sysctl"]),
            tuple(snapshot["fixed"]),
            {name: LinkState(**state) for name, state in snapshot["links"].items()},
            {name: dict(found) for name, found in snapshot["features"].items()},
            from_json(snapshot["record"]),
            tuple(snapshot.get("orphans", ())),
        )
    except (KeyError, TypeError) as error:
        raise CheckFailed(f"the snapshot of the kernel is damaged: {error}") from error


def steps(wanted: Wanted, live: Live) -> tuple[Step, ...]:
    """Everything that differs, in the order in which it is to be changed. What is so already is not in it."""
    orphans = [Step("orphan", name, before="left over", leaving=True) for name in live.orphans]
    return (
        *_sysctl_steps(wanted, live),
        *_limit_steps(wanted, live),
        *_feature_steps(wanted, live),
        *orphans,
    )


def effective_limit(spec: Spec, mtu: int, *, smallest: int) -> Spec:
    """A default burst grows with the interface's packets; one that the user wrote stays."""
    if not spec.get("burst_is_default") or mtu == 0:
        return spec
    return {**spec, "burst_bytes": max(spec["burst_bytes"], smallest)}


def _sysctl_steps(wanted: Wanted, live: Live) -> list[Step]:
    found = []
    before = live.record.sysctl
    goals = desired.targets(wanted.sysctl, wanted.origins, live.sysctl, before)
    leaving = desired.forwarded_families(
        name for name, value in before.items() if name not in wanted.sysctl and live.sysctl.get(name) != value
    )
    # Where forwarding is switched, the kernel then sets others by itself: those are all written after it,
    # also what is as it should be by now.
    switched = leaving | desired.forwarded_families(
        name for name, goal in goals.items() if not same_value(live.sysctl.get(name), goal)
    )
    for name, goal in goals.items():
        now = live.sysctl.get(name)
        if same_value(now, goal) and not _follows_any(name, switched):
            continue
        if now is None and (desired.is_optional(wanted.origins, name)):
            continue
        if name in live.fixed or live.record.skipped.get(name) == goal:
            continue
        found.append(Step("sysctl", name, before=now, after=goal))
    staying = desired.forwarded_families(wanted.sysctl)
    back = []
    for name in sorted(before, key=restore_order):
        now = live.sysctl.get(name)
        if now is None or name in wanted.sysctl or _follows_any(name, staying):
            continue
        if now != before[name] or _follows_any(name, leaving):
            back.append(Step("sysctl", name, before=now, after=before[name], leaving=True))
    first = [step for step in back if step.subject in {desired.IP_FORWARD, desired.IPV6_FORWARD}]
    return [*first, *found, *(step for step in back if step not in first)]


def _follows_any(name: str, families: Iterable[str]) -> bool:
    return any(desired.follows_forwarding(name, family) for family in families)


def _limit_steps(wanted: Wanted, live: Live) -> list[Step]:
    found = []
    for interface in sorted({*wanted.links, *live.record.links}):
        state = live.links.get(interface, LinkState())
        limits = wanted.limits(interface)
        ours = live.record.links.get(interface, {})
        for direction in DIRECTIONS:
            now: Spec | None = getattr(state, direction)
            goal = limits.get(direction)
            if goal is not None:
                goal = effective_limit(goal, state.mtu, smallest=smallest_burst_bytes(state.mtu))
                if not is_same(now, goal):
                    found.append(Step("limit", interface, direction, now, goal))
            elif now is not None or direction in ours:
                found.append(Step("limit", interface, direction, now, None, leaving=True))
    return found


def _feature_steps(wanted: Wanted, live: Live) -> list[Step]:
    found = []
    for interface, entry in wanted.links.items():
        if "udp_gro" not in entry:
            continue
        now = live.features.get(interface, {})
        if supports_udp_gro(now):
            found += [
                Step("feature", interface, name, now[name], value)
                for name, value in UDP_GRO.items()
                if name in now and now[name] not in {value, "fixed"}
            ]
    for interface, originals in live.record.features.items():
        if "udp_gro" not in wanted.links.get(interface, {}):
            now = live.features.get(interface, {})
            found += [
                Step("feature", interface, name, now[name], value, leaving=True)
                for name, value in originals.items()
                if name in now and now[name] not in {value, "fixed"}
            ]
    return found


def supports_udp_gro(features: Mapping[str, str]) -> bool:
    """Whether a device lets UDP GRO forwarding be switched on (since Linux 6.2 for most)."""
    return features.get("rx-udp-gro-forwarding", "fixed") != "fixed"


def restore_order(name: str) -> tuple[int, str]:
    """Forwarding first, for it resets parameters of interfaces; accept_ra after it, for it guards routes."""
    if name in {desired.IP_FORWARD, desired.IPV6_FORWARD}:
        return 0, name
    return (2, name) if desired.is_router_advertisement(name) else (1, name)


def same_value(live: str | None, goal: str) -> bool:
    """Whether the kernel's spelling of a value means what was asked for: `0x10` is 16, tabs are spaces."""
    if live is None:
        return False
    now, wished = live.split(), goal.split()
    return now == wished or (len(now) == len(wished) and _numbers(now) == _numbers(wished) is not None)


def _numbers(words: list[str]) -> list[int] | None:
    try:
        return [int(word, 0) for word in words]
    except ValueError:
        return None
