"""How bad the way to a peer is, by what was measured. Pure. docs/benchmark.md has the limits for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tsstack.bench import mtu_search
from tsstack.bench.figures import Report
from tsstack.bench.grades import Change

Level = Literal["ok", "warning", "critical"]

LOSS_WARNING, LOSS_CRITICAL = 0.05, 0.5
"""Of the echoes without load: above the first (and more than one) calls break up, from the second on nothing
but retries gets through."""
BAD_GRADES = frozenset({"D", "F"})


@dataclass(frozen=True, slots=True)
class Fitness:
    """The level, and what it is for: a few words each, the worst first."""

    level: Level
    why: tuple[str, ...] = ()


def fitness(report: Report, changes: Sequence[Change]) -> Fitness:
    """What of a run a person should look at."""
    critical, warnings = [], []
    idle = report.idle
    if idle.loss >= LOSS_CRITICAL:
        critical.append(f"{idle.loss:.0%} lost")
    elif idle.lost > 1 and idle.loss > LOSS_WARNING:
        warnings.append(f"{idle.loss:.0%} lost")
    if report.way.relayed:
        warnings.append("relayed" if report.way.via == "relay" else "through a peer relay")
    if report.relays.udp is False:
        warnings.append("no UDP gets out")
    warnings += [
        f"grade {load.grade} {load.throughput.direction}" for load in report.loads if load.grade in BAD_GRADES
    ]
    if told_of_mtu(report):
        warnings.append("MTU too small")
    if any(change.worse for change in changes):
        warnings.append("worse than the last run")
    level: Level = "critical" if critical else "warning" if warnings else "ok"
    return Fitness(level, (*critical, *warnings))


def told_of_mtu(report: Report) -> str:
    """What the MTUs found mean for the tailnet; empty where there is nothing to say."""
    below = report.underlay.mtu if report.underlay else None
    if report.underlay and below and below.found_bytes and below.certain:
        family = 6 if ":" in report.underlay.address else 4
        if not mtu_search.fits_tailnet(below.found_bytes, family):
            needed = mtu_search.TAILNET_DEFAULT + mtu_search.WIREGUARD_OVERHEAD[family]
            return f"below {needed}: full packets of the tailnet are cut in two, or get lost"
    return ""
