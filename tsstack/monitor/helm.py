"""Steering by `decide`: it is asked, its state is kept, and what it wants is handed on. No effects."""

from __future__ import annotations

from dataclasses import replace

from tsstack.monitor.choice import (
    DIRECT,
    Candidate,
    Decision,
    Facts,
    Policy,
    Proof,
    State,
)
from tsstack.monitor.failover import choose, decide, initial, maintain
from tsstack.monitor.moving import begin_again
from tsstack.monitor.reasons import Reason
from tsstack.monitor.snapshot import CandidateStatus, ExitStatus
from tsstack.monitor.verdict import RANK, Level, Verdict

_STOOD_STILL_S = 3.0  # between two turns: asleep, stopped, or a switch was at work


class Helm:
    """The failover's memory, and the latest decision. Times: CLOCK_BOOTTIME, seconds."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state: State | None = None
        """None until tailscaled has said what is in use."""
        self.proof: Proof | None = None
        self.moves = 0
        """Since the daemon started."""
        self.reasons: tuple[Reason, ...] = ()
        self._facts = Facts((), None)
        self._turned_s: float | None = None

    def begin(self, saved: State | None, actual: str) -> None:
        """Take up the wheel: what is in use stays, unless the file forbids it.

        Of what an earlier run kept, the choice by hand and the hold-downs hold; where the host stands is
        told by tailscaled, as it may have been moved while nobody watched.
        """
        state = initial(self.policy, actual)
        if saved is not None:
            at = state.at
            manual = saved.manual if self._may_choose(saved.manual) else None
            state = replace(saved, at=at, manual=manual, blocked=saved.blocked and at == saved.at, move=None)
        self.state = state

    def adopt(self, policy: Policy, actual: str | None) -> None:
        """The file was read anew: what a switch has just set and the file allows is where the host is."""
        self.policy = policy
        if self.state is None:
            return
        state = self.state
        if not self._may_choose(state.manual):
            state = replace(state, manual=None)
        allowed = actual in policy.use or (actual == DIRECT and policy.otherwise == "direct")
        if actual is not None and allowed and state.manual is None and state.at not in policy.use:
            state = replace(state, at=actual, move=None, blocked=False, drift_since_s=None)
        records = {name: each for name, each in state.records.items() if name in policy.use}
        self.state = replace(state, records=records)

    def choose(self, name: str | None) -> None:
        """The choice by hand; None: automatic again. Raises ValueError for what the file does not allow."""
        if self.state is None:
            raise ValueError("tailscaled has not answered yet")
        if name not in {None, DIRECT} and name not in self.policy.use:
            raise ValueError(
                f"{name} is not among tailscale.exit_node.use of the file: {', '.join(self.policy.use)}"
            )
        self.state = choose(self.policy, self.state, name)

    def maintain(self, on: bool) -> None:
        """Maintenance on or off; nothing to do before `begin`."""
        if self.state is not None and self.state.maintenance != on:
            self.state = maintain(self.state, on)

    def turn(self, facts: Facts, now_s: float, *, hands_off: bool = False) -> Decision | None:
        """Decide. `hands_off`: tailscaled refuses us, so nothing is repaired. None before `begin`."""
        self._facts = facts
        if self.state is None:
            return None
        if self._turned_s is not None and now_s - self._turned_s > _STOOD_STILL_S and self.state.move:
            self.state, self.proof = replace(self.state, move=begin_again(self.state.move, now_s)), None
        self._turned_s = now_s
        policy = replace(self.policy, repair_drift=False) if hands_off else self.policy
        decision = decide(policy, self.state, replace(facts, proof=self.proof), now_s)
        self.moves += decision.state.moves != self.state.moves  # a trial while nothing passes is none
        self.state, self.reasons = decision.state, decision.reasons
        if decision.state.move is None:
            self.proof = None
        return decision

    def status(self, now_s: float) -> ExitStatus:
        """Where the host is, and why."""
        state = self.state or State(at=self._facts.actual or self.policy.use[0])
        return ExitStatus(
            at=state.at,
            actual=self._facts.actual,
            candidates=tuple(
                CandidateStatus(
                    each.name, each.offered, level_of(each), state.record(each.name).barred_s(now_s)
                )
                for each in self._facts.candidates
            ),
            blocked=state.blocked,
            manual=state.manual,
            maintenance=state.maintenance,
            moving=state.move is not None,
            why=tuple(str(reason) for reason in self.reasons),
            moves=self.moves,
        )

    def _may_choose(self, name: str | None) -> bool:
        if name == DIRECT:
            return self.policy.otherwise == "direct"
        return name is None or name in self.policy.use


def level_of(candidate: Candidate) -> Level:
    """The worse of the way to a node and the way through it, for people."""
    peer, egress = candidate.peer.level, (candidate.egress or Verdict("", "unknown")).level
    if egress == "unknown":
        return peer
    if peer == "unknown":
        return egress
    return min(peer, egress, key=RANK.__getitem__)
