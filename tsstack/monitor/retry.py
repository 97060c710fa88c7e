"""While nothing passes, nodes that failed their proof are tried again in spite of their bar. Pure.

Where nothing passes a trial harms nobody. It is no move to people: nothing is told and no budget is used
before its proof, no connection is freed, and the host goes back where it was, whose own return it waits for.
"""

from __future__ import annotations

from dataclasses import replace

from tsstack.monitor.choice import DIRECT, Action, Decision, FreeFlows, Move, State, UseExit
from tsstack.monitor.holddown import recent_moves, without_bars
from tsstack.monitor.moving import asked_again, left_s, proof_of, prove
from tsstack.monitor.reasons import Code
from tsstack.monitor.turn import Turn

RETRY_S = 30.0
"""Between two trials."""


def tried_again(turn: Turn) -> Decision | None:
    """The barred node whose failure is the longest ago, if one is measured to answer and it is time."""
    state, now_s = turn.state, turn.now_s
    barred = [
        each for each in turn.others()
        if state.record(each.name).barred_s(now_s) and turn.judged(each).is_usable
    ]  # fmt: skip
    failed_s = max((each.fell_s or 0.0 for each in state.records.values()), default=0.0)
    if not barred or now_s - failed_s < RETRY_S:
        return None
    to = min(barred, key=lambda each: state.record(each.name).fell_s or 0.0).name
    number = state.number + 1
    move = Move(number, to, state.at, now_s, left=state.at, sent_s=now_s, retry=True)
    trial = replace(state, at=to, move=move, number=number)
    return _still(turn, move, trial, actions=(UseExit(to, number),))


def go_on(turn: Turn, move: Move) -> Decision:
    """A trial waits for its proof, has it, or goes back."""
    proof, actual, state = proof_of(turn, move), turn.facts.actual, turn.state
    late = left_s(turn, move) <= 0
    if move.to == move.back:
        return _going_back(turn, move, late=late)
    if proof is None and move.taken_s is None and actual == move.to:
        asked = prove(turn, move)
        return _still(turn, move, asked.state, actions=asked.actions)
    if proof is not None and proof.ok and actual == move.to:
        return _proven(turn, move)
    if proof is None and not late:
        again, actions = asked_again(turn, move) if move.taken_s is None else (move, ())
        return _still(turn, move, replace(state, move=again), actions=actions)
    # Only when it was tried is noted: the bar that it has is its own.
    records = {**state.records, move.to: replace(state.record(move.to), fell_s=turn.now_s)}
    if not _may_go_back(turn, move):  # the file was read anew meanwhile
        return replace(turn, state=replace(state, move=None, records=records)).stay("nothing-better")
    back = replace(move, to=move.back, started_s=turn.now_s, taken_s=None, sent_s=None)
    back, actions = asked_again(turn, back)
    return _still(turn, move, replace(state, at=move.back, move=back, records=records), actions=actions)


def _may_go_back(turn: Turn, move: Move) -> bool:
    if move.back == DIRECT:
        return turn.policy.otherwise == "direct"
    return move.back in turn.policy.use


def _going_back(turn: Turn, move: Move, *, late: bool) -> Decision:
    actual = turn.facts.actual
    if actual == move.to:
        return _still(turn, move, replace(turn.state, move=None))
    if late and actual in turn.policy.use:
        return _still(turn, move, replace(turn.state, move=None, at=str(actual)))
    again, actions = asked_again(turn, move)
    return _still(turn, move, replace(turn.state, move=again), actions=actions)


def _proven(turn: Turn, move: Move) -> Decision:
    state = turn.state
    records = without_bars(state.records)
    records[move.to] = state.record(move.to).proved(turn.now_s, home=move.to == turn.policy.use[0])
    moves = (*recent_moves(state.moves, turn.now_s), turn.now_s)
    settled = replace(state, move=None, blocked=False, records=records, moves=moves)
    reasons = (
        turn.reason("unblocked" if state.blocked else "moved", move.to),
        turn.reason("proven", move.to),
    )
    return Decision(settled, (FreeFlows(move.back),), reasons)


def _still(turn: Turn, move: Move, after: State, *, actions: tuple[Action, ...] = ()) -> Decision:
    """To people things stand as before."""
    here = replace(turn, state=replace(turn.state, at=move.back))
    names = [each.name for each in here.others()]
    against = names if turn.policy.otherwise == "block" else [*names, DIRECT]
    code: Code = "blocked" if turn.state.blocked else "nothing-better"
    detail = f"{move.to} is tried again" if move.to != move.back else ""
    return here.stay(code, state=after, against=against, detail=detail, actions=actions)
