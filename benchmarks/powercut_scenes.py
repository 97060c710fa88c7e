"""The cuts: what the machine is doing, when its power goes, and what it may be afterwards."""

from __future__ import annotations

import contextlib
import queue
import random
import time
from dataclasses import dataclass, field
from typing import Any

from powercut_host import FILES, Host, Verdict, step_of
from vm_machine import Job, Silent

KINDS = ("switch", "switch --confirm", "rollback", "confirm", "boot", "rollback of what waits")
_AFTER_STEP_S = 1.0
"""A cut that is aimed comes within so long after its step has begun: emulation is slow."""
_STEP_LIMIT_S = 900.0


@dataclass
class Cut:
    """One cut and what came of it."""

    number: int
    kind: str
    start: str = ""
    moment: str = ""
    """When the power went, in words."""
    state: str = ""
    """`old`, `new` or `torn`."""
    faults: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    knocks: int = 0
    """Packets at closed ports during the boot that was judged; none was answered unless a fault says so."""
    not_made_first: str = ""
    """Why the first try did not come to the cut."""
    spared_us: int = 0
    """How long before the first link the firewall stood."""

    def take(self, verdict: Verdict) -> None:
        self.faults = verdict.faults
        self.state = "torn" if verdict.faults else "old" if verdict.name == self.start else "new"
        self.knocks = int(verdict.flood.get("sent", 0))
        if verdict.seen.get("links_us"):
            stood_us = int(verdict.seen["early"]["ExecMainExitTimestampMonotonic"])
            self.spared_us = min(verdict.seen["links_us"]) - stood_us


class NotMade(Exception):
    """What a cut was to interrupt did not come so far; the power may still be on."""


def make_cut(host: Host, number: int, seed: int) -> tuple[Cut, Verdict]:
    """The cut of that number: always the same kind and the same draw of moments for the same seed.

    Raises NotMade, which says nothing of the host: with too much load its switch may run out of time.
    """
    chance = random.Random(f"{seed}:{number}")  # noqa: S311  no secret
    kind = KINDS[(number + seed) % len(KINDS)]
    cut = Cut(number, kind, chance.choice(("first", "second")) if kind != "rollback" else "second")
    began_s = time.monotonic()
    try:
        host.resume(cut.start)
        allowed = _SCENES[kind](host, cut, chance)
    except (AssertionError, OSError, Silent) as error:
        raise NotMade(f"{kind}: {type(error).__name__}: {error}") from error
    try:
        host.boot()
        verdict = host.judge(allowed)
    except Silent as error:
        verdict = Verdict(faults=[str(error)])
    cut.take(verdict)
    host.cut()
    cut.duration_s = time.monotonic() - began_s
    return cut, verdict


def _switch(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    job = host.machine.verb("-c", FILES[host.other], "switch", "--no-prove")
    return _cut_within(host, cut, job, chance)


def _rollback(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    number = host.generation_of("first")
    job = host.machine.verb("rollback", "--to", str(number))
    return _cut_within(host, cut, job, chance)


def _switch_confirm(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    """Whether it had finished or not: nobody has confirmed it, so the boot undoes it."""
    job = host.machine.verb("-c", FILES[host.other], "switch", "--no-prove", "--confirm", "3600s")
    _cut_within(host, cut, job, chance)
    return {host.name}


def _confirm(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    _make_unconfirmed(host)
    job = host.machine.verb("confirm", "--same-session")
    wait_s = chance.uniform(0, 0.05 * host.durations_s["switch"])
    time.sleep(wait_s)
    return _cut_now(host, cut, job, f"{wait_s:.2f} s after its beginning")


def _rollback_of_what_waits(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    """Ended or not: what waited is undone, by it or by the boot."""
    _make_unconfirmed(host)
    job = host.machine.verb("rollback")
    wait_s = chance.uniform(0, host.durations_s["switch"])
    time.sleep(wait_s)
    _cut_now(host, cut, job, f"{wait_s:.2f} s after its beginning")
    return {host.name}


def _boot(host: Host, cut: Cut, chance: random.Random) -> set[str]:
    """The boot is cut: one that has nothing to do, one that has to undo, and one after a cut switch."""
    allowed = {host.name}
    before = chance.choice(("nothing", "an unconfirmed switch", "a cut switch"))
    if before == "an unconfirmed switch":
        _make_unconfirmed(host)
    elif before == "a cut switch":
        job = host.machine.verb("-c", FILES[host.other], "switch", "--no-prove")
        at = chance.choice([step for step in host.steps if step.startswith(("activate", "verify"))] or [""])
        allowed = _cut_after_step(host, cut, job, at, chance.uniform(0, _AFTER_STEP_S))
    host.cut()
    host.power_on()
    began_s = time.monotonic()
    if chance.random() < 0.5:
        wait_s = chance.uniform(0, 1.1 * host.durations_s["boot"])
        said = f"{wait_s:.2f} s after power-on"
    else:
        # The later half, where the boot generation comes up: the agent is there early.
        with contextlib.suppress(Exception):
            host.machine.await_agent()
        wait_s = chance.uniform(0, host.durations_s["boot"])
        said = f"{time.monotonic() - began_s:.1f} + {wait_s:.2f} s after power-on"
    time.sleep(wait_s)
    host.cut()
    cut.moment = f"{said}, after {cut.moment or before}"
    return allowed


_SCENES = {
    "switch": _switch,
    "switch --confirm": _switch_confirm,
    "rollback": _rollback,
    "confirm": _confirm,
    "boot": _boot,
    "rollback of what waits": _rollback_of_what_waits,
}


def _make_unconfirmed(host: Host) -> None:
    done = host.machine.verb("-c", FILES[host.other], "switch", "--no-prove", "--confirm", "3600s").wait()
    assert done.code == 0, done.lines


def _cut_within(host: Host, cut: Cut, job: Job, chance: random.Random) -> set[str]:
    """Cut the power while the job runs: uniformly, or right after one of its steps began."""
    if chance.random() < 0.6:
        return _cut_after_step(host, cut, job, chance.choice(host.steps), chance.uniform(0, _AFTER_STEP_S))
    wait_s = chance.uniform(0, 1.1 * host.durations_s["switch"])
    time.sleep(wait_s)
    return _cut_now(host, cut, job, f"{wait_s:.2f} s after its beginning")


def _cut_after_step(host: Host, cut: Cut, job: Job, step: str, wait_s: float) -> set[str]:
    until = time.monotonic() + _STEP_LIMIT_S
    while time.monotonic() < until:
        with contextlib.suppress(queue.Empty):
            line = job.news.get(timeout=1.0)
            if line is None or step_of(line) == step:
                break
    time.sleep(wait_s)
    return _cut_now(host, cut, job, f"{wait_s:.2f} s after {step!r}")


def _cut_now(host: Host, cut: Cut, job: Job, moment: str) -> set[str]:
    """Cut; what had said that it was done must have lasted."""
    done: dict[str, Any] = dict(job.answer)
    host.cut()
    last = next((step for line in reversed(job.lines) if (step := step_of(line))), "nothing")
    cut.moment = f"{moment} ({'it had ended' if done else f'in {last!r}'})"
    if done and done["code"] != 0:
        cut.moment += f" with {done['code']}"
        return {host.name}
    return {host.other} if done else {host.name, host.other}
