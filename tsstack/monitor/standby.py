"""What is switched off while its side is dead, and on again after: advertised routes, first upstreams. Pure.

An advertised route is withdrawn while nothing on its LAN answers, so that another router can take it over. An
upstream gives way to its backup while it is dead. Both follow one rule: off on a dead verdict, on again after
`restore_after` of good health, which grows when it relapses. Poor is not dead: neither has a better path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tsstack.monitor.holddown import RELAPSED_HOLD_S, Record
from tsstack.monitor.reasons import Code, Reason
from tsstack.monitor.verdict import Verdict

Kind = Literal["route", "upstream"]


@dataclass(frozen=True, slots=True)
class Watched:
    """A route (by its prefix) or a service's first upstream (by the service), as it is seen now."""

    kind: Kind
    name: str
    verdict: Verdict
    """On the LAN side's targets, or on the first upstream."""
    backup: Verdict | None = None
    """On the backup of an upstream; a route needs none, others may offer it."""


@dataclass(frozen=True, slots=True)
class Switched:
    """One thing to switch: `on` restores the route, or the first upstream."""

    kind: Kind
    name: str
    on: bool

    @property
    def about(self) -> str:
        """What events of it are about: not the route's own path, whose level is another matter."""
        return f"{'offer' if self.kind == 'route' else self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class StandbyState:
    """What is off, by (kind, name), and what each did before."""

    off: frozenset[tuple[Kind, str]] = frozenset()
    records: Mapping[tuple[Kind, str], Record] = field(default_factory=dict)


def decide_standby(
    state: StandbyState,
    watched: tuple[Watched, ...],
    now_s: float,
    *,
    restore_after_s: float,
    act: Collection[Kind],
) -> tuple[StandbyState, tuple[Switched, ...], tuple[Reason, ...]]:
    """The next state, what to switch, and why. Of kinds that are not in `act` nothing is switched.

    What is no longer watched is forgotten: the file has dropped it, and a switch puts its default in force.
    """
    keys = {(each.kind, each.name) for each in watched}
    off = set(state.off & keys)
    records = {key: record for key, record in state.records.items() if key in keys}
    actions: list[Switched] = []
    reasons: list[Reason] = []
    for each in watched:
        key = (each.kind, each.name)
        record = records.get(key) or Record()
        turn_on = key in off and _healthy(each.verdict, record, restore_after_s, now_s)
        turn_off = key not in off and _gives_way(each)
        if each.kind not in act or not (turn_on or turn_off):
            continue
        records[key] = replace(record, home_s=now_s) if turn_on else record.fell(now_s)
        (off.discard if turn_on else off.add)(key)
        actions.append(Switched(each.kind, each.name, on=turn_on))
        compared = [each.verdict.compared(each.name)]
        if each.backup is not None:
            compared.append(each.backup.compared("backup"))
        reasons.append(Reason(_CODES[each.kind, turn_on], each.name, tuple(compared)))
    return StandbyState(frozenset(off), records), tuple(actions), tuple(reasons)


_CODES: dict[tuple[Kind, bool], Code] = {
    ("route", False): "withdrawn",
    ("route", True): "restored",
    ("upstream", False): "backup",
    ("upstream", True): "primary",
}


def _gives_way(each: Watched) -> bool:
    """Dead; and of an upstream, its backup is measured to work."""
    if each.verdict.level != "dead":
        return False
    if each.kind == "route":
        return True
    return each.backup is not None and each.backup.level == "good" and each.backup.fresh


def _healthy(verdict: Verdict, record: Record, restore_after_s: float, now_s: float) -> bool:
    return back_in_s(verdict, record, restore_after_s, now_s) == 0


def back_in_s(verdict: Verdict, record: Record, restore_after_s: float, now_s: float) -> float | None:
    """How long it must yet stay healthy to be switched on again, seconds; None while it is not healthy.

    The hold-down ends at ten minutes here: what is off while it is well serves nobody, as there may be no
    other that has its place.
    """
    if verdict.level != "good" or verdict.healthy_since_s is None:
        return None
    hold_s = min(record.hold_s(restore_after_s), max(restore_after_s, RELAPSED_HOLD_S))
    return max(0.0, hold_s - (now_s - verdict.healthy_since_s))
