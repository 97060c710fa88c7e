"""The live generation: whole, not between two, and the host is as it says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.doctor.finding import Finding, listed
from tsstack.status.fixes import reapply

if TYPE_CHECKING:
    from tsstack.status.shape import Pending

_SHOWN = 4
_LOOKS = {"proxy": "nginx-test", "dns": "resolvectl status", "tailscale": "tailscale status"}
"""What shows more of what a part remarks, by the part's name."""


@dataclass(frozen=True, slots=True)
class GenerationFacts:
    """What is live, and how the host differs from it."""

    live: int
    boot: int = 0
    boot_fault: str = ""
    """Why the next boot's is not whole; empty: it is."""
    kept: tuple[int, ...] = ()
    abandoned: int | None = None
    """The target of a switch whose command is dead; None: there is no such thing."""
    drift: tuple[tuple[str, str], ...] = ()
    """(part, what would be changed to make the host as the generation says)."""
    remarks: tuple[tuple[str, str], ...] = ()
    """(part, what it warns of)."""
    notes: tuple[tuple[str, str], ...] = ()
    """(part, what this kernel has not and the file can do without)."""
    compared: bool = True
    """Whether the host was compared with it; only root can."""
    fault: str = ""
    """Why the host cannot be compared with it."""
    hint: str = ""
    refusals: tuple[tuple[str, str, str], ...] = ()
    """(part, why its engine refuses what is live, hint); empty where that was not asked."""


def check_generation(
    facts: GenerationFacts,
    *,
    told: Sequence[str] = (),
    dead: Sequence[str] = (),
    exit_is_told: bool = False,
    silent: bool = False,
    pending: Pending | None = None,
    parameters: Sequence[str] = (),
) -> Iterator[Finding]:
    """`told`: parts whose drift another finding tells; `dead`: services of which one tells that already.

    `parameters`: keys, those of the kernel among them, whose drift another finding tells.

    `silent`: one tells that tailscaled does not answer, which keeps the host from being compared too.
    With `exit_is_told` one tells that the exit node is another, or none: that is the monitor's, and a
    switch would undo it. `pending`: a switch that is not over, which is ended before anything is mended.
    """
    if facts.abandoned is not None:
        words = f"the switch to generation {facts.abandoned} was cut off half-way"
        yield Finding("TS835", "error", "switch", words, "tsstack recover")
    if facts.boot_fault:
        words = f"what the next boot wants is not whole: {facts.boot_fault}"
        lost = facts.live == facts.boot and pending is None
        fix = facts.hint if lost else reapply(facts.live, facts.boot, pending)
        yield Finding("TS836", "error", "boot", words, fix)
    if not facts.live:
        words = "none yet: `tsstack switch` makes the first"
        if facts.kept:
            words = (
                f"0 is live, the host without tsstack; {len(facts.kept)} are kept, "
                f"the newest is {max(facts.kept)}"
            )
        yield Finding("TS831", "ok", "generation", words)
        return
    if not facts.compared:
        yield Finding("TS831", "ok", "generation", f"{facts.live} is live")
    elif not facts.drift and not facts.fault:
        yield Finding("TS831", "ok", "generation", f"{facts.live} is live and the host is as it says")
    if silent and "tailscaled" in facts.fault:
        words = f"{facts.live} is live; the host is compared with it once tailscaled answers"
        yield Finding("TS831", "ok", "generation", words)
    elif facts.fault and facts.fault != facts.boot_fault:
        yield Finding("TS833", "error", "host", facts.fault, facts.hint)
    yield from _drift(facts, told, exit_is_told, pending, parameters)
    for part, line in facts.remarks:
        if line.startswith(tuple(f"{name}: nothing answers" for name in dead)):
            continue
        yield Finding("TS832", "warning", part, line, _LOOKS.get(part, ""))
    for part, line in facts.notes:
        yield Finding("TS832", "ok", part, line)
    for part, words, hint in facts.refusals:
        evidence = f"refuses what is live, so a boot or a rollback would fail: {words}"
        yield Finding("TS834", "error", part, evidence, hint)


def _drift(
    facts: GenerationFacts,
    told: Sequence[str],
    exit_is_told: bool,
    pending: Pending | None,
    parameters: Sequence[str],
) -> Iterator[Finding]:
    """One finding for each part that differs."""
    for part in dict.fromkeys(part for part, _ in facts.drift):
        if part in told:
            continue
        lines = [
            line
            for each, line in facts.drift
            if each == part
            and not (exit_is_told and "tailscale.exit_node.use" in line)
            and not any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", line) for name in parameters)
        ]
        if not lines:
            continue
        words = f"the host differs from generation {facts.live}: {listed(lines, _SHOWN)}"
        yield Finding("TS831", "warning", part, words, reapply(facts.live, facts.boot, pending))
