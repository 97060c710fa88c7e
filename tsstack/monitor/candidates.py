"""Which candidate may be moved to: measured, now, and better than what it is held against. Pure."""

from __future__ import annotations

from tsstack.monitor.choice import DIRECT, Candidate
from tsstack.monitor.reasons import Cause
from tsstack.monitor.turn import Turn
from tsstack.monitor.verdict import Verdict


def better(
    turn: Turn,
    *,
    dead: bool | None = None,
    than: tuple[Cause, ...] | None = None,
    but: tuple[str, ...] = (),
) -> Candidate | None:
    """The first candidate that is measured, now, to be better than the path in use; None if there is none.

    `dead` says that nothing passes where we are; by default the verdict on the path in use says it. `than`
    gives what another path is poor in, to be better than that instead.
    """
    current = turn.current()
    causes = than if than is not None else () if current.is_back else current.causes
    if dead is None:
        if current.level not in {"poor", "dead"}:
            return None
        dead = current.level == "dead"
    ready = [
        each for each in turn.others()
        if each.name not in but
        and turn.judged(each).fresh
        and not turn.state.record(each.name).barred_s(turn.now_s)
        and not turn.state.record(each.name).spent(turn.now_s, turn.state.moves)
    ]  # fmt: skip
    for each in ready:
        verdict = turn.judged(each)
        if verdict.level == "good" and (dead or _gains(verdict, causes)):
            return each
    if dead:
        for each in ready:
            if turn.level(each) == "poor":
                return each
    return None


def offered(turn: Turn) -> str | None:
    """The other candidate that is measured to be the best, or the first that offers itself."""
    target = better(turn, dead=True)
    return target.name if target else next((each.name for each in turn.others()), None)


def still_works(turn: Turn, name: str, *, passed: bool = False) -> bool:
    """Whether a way that was left may be taken again: it is measured, and not dead.

    `passed`: something passed there when it was left. Then a few lost probes do not speak against it.
    """
    if name == DIRECT:
        direct = turn.facts.direct
        return turn.policy.otherwise == "direct" and direct is not None and direct.is_usable
    candidate, verdict = turn.candidate(name), turn.judged(turn.candidate(name))
    if not candidate.offered or turn.state.record(name).barred_s(turn.now_s):
        return False
    return verdict.is_usable or (passed and verdict.heard and verdict.level in {"good", "poor", "suspect"})


def _gains(target: Verdict, causes: tuple[Cause, ...]) -> bool:
    """Whether a good path is better in what the poor one is poor in, by a margin that is worth a move."""
    for cause in causes:
        if cause.rule == "loss" and target.loss is not None and target.loss <= cause.seen / 2:
            return True
        if cause.rule == "latency" and target.rtt_s is not None and target.rtt_s <= 0.8 * cause.seen:
            return True
    return False
