"""One decision's arguments, and what is read from them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tsstack.monitor.choice import DIRECT, Action, Candidate, Decision, Facts, Policy, State
from tsstack.monitor.reasons import Code, Compared, Homeward, Reason
from tsstack.monitor.verdict import RANK, Level, Verdict

_STALE_S = 2.0  # an egress answer so much newer than the peer's shows that the way works


@dataclass(frozen=True, slots=True)
class Turn:
    """The arguments of one decision, and what is read from them."""

    policy: Policy
    state: State
    facts: Facts
    now_s: float

    def candidate(self, name: str) -> Candidate:
        """As it is seen now; one that is not seen is unknown and offers nothing."""
        for each in self.facts.candidates:
            if each.name == name:
                return each
        return Candidate(name, Verdict(name, "unknown"), offered=False)

    def others(self) -> list[Candidate]:
        """The file's candidates but for the one in use, in order, that offer themselves."""
        named = (self.candidate(name) for name in self.policy.use if name != self.state.at)
        return [each for each in named if each.offered]

    def judged(self, each: Candidate) -> Verdict:
        """The verdict that counts: the worse of the way to the node and the way through it.

        Answers through a node prove the way to it, so a peer that does not answer pings is not dead then.
        """
        egress = each.egress
        if egress is None or egress.level == "unknown":
            return each.peer
        if each.peer.level == "unknown":
            return egress
        if egress.level == "good" and each.peer.level in {"dead", "suspect"} and _newer(egress, each.peer):
            return egress
        return each.peer if RANK[each.peer.level] <= RANK[egress.level] else egress

    def level(self, each: Candidate) -> Level:
        """The level that counts."""
        return self.judged(each).level

    def current(self) -> Verdict:
        """The verdict on what is in use."""
        if self.state.at == DIRECT:
            return self.facts.direct or Verdict(DIRECT, "unknown")
        return self.judged(self.candidate(self.state.at))

    def compared(self, *names: str) -> tuple[Compared, ...]:
        """The path in use and some others, with their figures."""
        shown = [self.current().compared(self.state.at or "direct")]
        for name in names:
            if name == self.state.at:
                continue
            verdict = self.facts.direct if name == DIRECT else self.judged(self.candidate(name))
            if verdict is not None:
                shown.append(verdict.compared(name or "direct"))
        return tuple(shown)

    def reason(
        self,
        code: Code,
        name: str,
        *,
        against: Iterable[str] = (),
        wait_s: float | None = None,
        detail: str = "",
    ) -> Reason:
        """A reason with the figures of the path in use and of those it was held against."""
        return Reason(code, name, self.compared(*against), wait_s, detail)

    def stay(
        self,
        code: Code,
        *,
        state: State | None = None,
        against: Iterable[str] = (),
        wait_s: float | None = None,
        detail: str = "",
        home: Homeward | None = None,
        actions: tuple[Action, ...] = (),
    ) -> Decision:
        """No move."""
        reason = self.reason(code, self.state.at, against=against, wait_s=wait_s, detail=detail)
        if home is not None:
            reason = replace(reason, home=home)
        return Decision(state or self.state, actions, (reason,))


def _newer(egress: Verdict, peer: Verdict) -> bool:
    if egress.last_answer_s is None:
        return False
    return peer.last_answer_s is None or egress.last_answer_s > peer.last_answer_s + _STALE_S
