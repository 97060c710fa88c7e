"""Which exit node the host uses: one decision from state, facts and the time. Pure.

docs/decisions/0006-monitor-verdict.md gives the order of the rules. The functions below are in that order.
"""

from __future__ import annotations

from dataclasses import replace

from tsstack.monitor import candidates, moving, retry
from tsstack.monitor.choice import (
    DIRECT,
    PROOF_S,
    Action,
    Block,
    Candidate,
    Decision,
    Facts,
    FreeFlows,
    GoDirect,
    Move,
    Policy,
    Proof,
    State,
    UseExit,
)
from tsstack.monitor.holddown import recent_moves, without_bars
from tsstack.monitor.reasons import Cause, Code, Homeward, Reason
from tsstack.monitor.turn import Turn
from tsstack.monitor.verdict import Verdict

DRIFT_S = 2.0
"""Prefs that differ for so long were changed by someone else; before, the change may be our own."""
REPAIRS_MOST = 3
"""So many repairs in ten minutes; then someone else means it, and it is only reported."""
_ALIVE_S = 10.0  # of health of a node whose way out cannot be measured: then it is taken to work
_LOSSY_HOME = 0.1  # more than this lost in the last seconds: not home now
# A preferred node is probed fast for so long before the way may lead home: the slow pace sees no 20 % loss.
_PROBED_AHEAD_S = 60.0


def initial(policy: Policy, actual: str | None) -> State:
    """Where the first decision starts: with what is in use, if the file allows it."""
    if actual is not None and (actual in policy.use or (actual == DIRECT and policy.otherwise == "direct")):
        return State(at=actual)
    return State(at=policy.use[0])


def choose(policy: Policy, state: State, name: str | None) -> State:
    """The choice by hand: a node's name, DIRECT, or None for automatic again.

    Raises ValueError for DIRECT where the file says `otherwise: block`.
    """
    if name == DIRECT and policy.otherwise == "block":
        raise ValueError("the file says `otherwise: block`: no choice by hand may leave by the uplink")
    return replace(state, manual=name)


def maintain(state: State, on: bool) -> State:
    """Maintenance: while it is on nothing is changed, everything is reported."""
    return replace(state, maintenance=on)


def decide(policy: Policy, state: State, facts: Facts, now_s: float) -> Decision:
    """The next state, what to do, and why. The same arguments give the same answer."""
    if facts.actual == state.at and state.repairing is not None:
        state = replace(state, repairing=None)  # the next change is another one
    turn = Turn(policy, state, facts, now_s)
    decision = (
        _hands_off(turn)
        or _outdated(turn)
        or _drift(turn)
        or _open_move(turn)
        or _by_hand(turn)
        or _leave(turn)
        or _home(turn)
    )
    said = _said(state, decision)
    news = tuple(each for each in decision.reasons if (each.code, each.name) not in state.said)
    after = decision.state if decision.state.said == said else replace(decision.state, said=said)
    confirm = frozenset(each.name for each in facts.candidates if turn.level(each) == "suspect")
    return Decision(after, decision.actions, decision.reasons, news, _fast(turn, after), confirm)


def _said(state: State, decision: Decision) -> tuple[tuple[str, str], ...]:
    """What need not be told again. While tailscaled is only asked whether it hangs, what was told stands."""
    said = tuple((each.code, each.name) for each in decision.reasons)
    if {code for code, _ in said} != {"asks"}:
        return said
    return tuple(dict.fromkeys((*state.said, *said)))


def _hands_off(turn: Turn) -> Decision | None:
    """Nothing is decided without tailscaled, in maintenance, or with `failover: false`."""
    state, actual = turn.state, turn.facts.actual
    if actual is None:
        waits = replace(state, move=moving.begin_again(state.move, turn.now_s))
        return turn.stay("no-daemon", state=waits, detail=turn.facts.silent)
    if state.maintenance:
        waits = replace(state, move=moving.begin_again(state.move, turn.now_s), drift_since_s=None)
        return turn.stay("maintenance", state=waits)
    if turn.policy.failover:
        return None
    followed = replace(turn, state=replace(state, at=actual, move=None, blocked=False))
    better = candidates.better(followed)
    if better is not None:
        return followed.stay("report-only", against=[better.name])
    return followed.stay("stays")


def _outdated(turn: Turn) -> Decision | None:
    """The file, read anew, no longer allows what is in use: the first candidate takes over."""
    state, policy = turn.state, turn.policy
    direct = policy.otherwise == "direct"
    if state.manual == DIRECT and not direct:
        turn = replace(turn, state=(state := replace(state, manual=None)))
    if state.manual is not None or state.at in policy.use or (state.at == DIRECT and direct):
        return None
    to = candidates.offered(turn) or policy.use[0]
    return _start(turn, to, "moved", back=to)


def _drift(turn: Turn) -> Decision | None:
    """Prefs that name another node than was decided."""
    state, actual, now_s = turn.state, turn.facts.actual, turn.now_s
    if actual == state.at:
        return None
    leak = actual == DIRECT and turn.policy.otherwise == "block"
    if state.move is not None and not leak:
        return None  # its proof will tell
    if state.manual is not None and state.manual != state.at:
        return None  # the choice by hand is about to be carried out
    since_s = now_s if state.drift_since_s is None else state.drift_since_s
    repairs = recent_moves(state.repairs, now_s)
    drifting = replace(state, drift_since_s=since_s, repairs=repairs)
    detail = f"they name {actual or 'no exit node'}"
    under_way = state.repairing
    code: Code | None = None
    if under_way is not None and under_way[0] == actual and now_s - under_way[1] < moving.AGAIN_S:
        code = "repaired"
    elif not turn.policy.repair_drift or (now_s - since_s < DRIFT_S and not leak):
        code = "drift"
    elif len(repairs) >= REPAIRS_MOST and not leak:
        code = "fought"
    if code is not None:
        return turn.stay(code, state=drifting, detail=detail)
    repairing = (str(actual), now_s)
    repaired = replace(drifting, drift_since_s=None, repairs=(*repairs, now_s), repairing=repairing)
    instead = _instead(turn)
    if instead is not None:
        detail += f", and {state.at} offers no exit"
        repaired = replace(repaired, at=instead, move=None)
    after = replace(turn, state=repaired)
    return after.stay("repaired", detail=detail, actions=(moving.set_again(repaired.at),))


def _instead(turn: Turn) -> str | None:
    """A node to set where what was decided offers no exit any more; None where it does, or nobody else."""
    at = turn.state.at
    gone = at != DIRECT and turn.facts.settled and not turn.candidate(at).offered
    return candidates.offered(turn) if gone else None


def _open_move(turn: Turn) -> Decision | None:
    """A move waits for its proof, has it, or goes on."""
    move = turn.state.move
    if move is None:
        return None
    if move.retry:
        return retry.go_on(turn, move)
    proof = moving.proof_of(turn, move)
    if proof is None and move.taken_s is None:
        return moving.prove(turn, move) if turn.facts.actual == move.to else _untaken(turn, move)
    return _taken(turn, move, proof)


def _taken(turn: Turn, move: Move, proof: Proof | None) -> Decision:
    """tailscaled uses the node: its proof came, failed, or is waited for."""
    state, actual = turn.state, turn.facts.actual
    if proof is not None and proof.unknown:
        return turn.stay("unproven", state=replace(state, move=None), detail=proof.detail)
    if proof is not None and proof.ok and actual == move.to:
        return _proven(turn, move)
    left_s = moving.left_s(turn, move)
    if not (proof is not None and not proof.ok) and left_s > 0:
        return turn.stay("waiting", wait_s=left_s)
    if actual != move.to:  # somebody else set another one meanwhile: that says nothing of the node
        detail = f"tailscaled uses {actual or 'no exit node'} by now"
        return turn.stay("unproven", state=replace(state, move=None), detail=detail)
    detail = proof.detail if proof is not None else f"no proof within {PROOF_S:.0f} s"
    return _once_it_answers(turn, _go_on(turn, move, detail))


def _untaken(turn: Turn, move: Move) -> Decision | None:
    """tailscaled does not use the node yet: it is asked again, and after a while for another one.

    That says nothing against the node, so it is not barred.
    """
    state, left_s = turn.state, moving.left_s(turn, move)
    again, actions = moving.asked_again(turn, move)
    waits = replace(state, move=again)
    if left_s > 0:
        return turn.stay("waiting", state=waits, wait_s=left_s, actions=actions)
    if state.manual not in {None, move.to}:
        return None  # that choice is made instead
    detail = f"tailscaled did not take {move.to or 'no exit node'}"
    failed = turn.reason("unproven", move.to, detail=detail)
    other = None
    if state.manual is None:
        other = _other_way(replace(turn, state=replace(state, at=move.left, move=None)), move, failed)
    if other is not None:
        return _once_it_answers(turn, other)
    return Decision(waits, actions, (failed,))


def _other_way(turn: Turn, move: Move, failed: Reason) -> Decision | None:
    """What is done instead of a move that failed; None while nothing is better than to try on."""
    tried = (*move.tried, move.to)
    stands = move.back not in tried and candidates.still_works(turn, move.back, passed=move.poor is not None)
    than = move.poor if stands else None  # what passed there is worth more than what nobody has tried
    target = candidates.better(turn, dead=than is None, than=than, but=(*tried, move.back))
    to = target.name if target is not None else move.back if stands else None
    if to is not None:
        code: Code = "returned" if target is None else "moved"
        return _start(turn, to, code, back=move.back, poor=move.poor, tried=tried, first=failed)
    if candidates.still_works(turn, move.to):
        return None
    decision = _otherwise(turn)
    return replace(decision, reasons=(failed, *decision.reasons))


def _proven(turn: Turn, move: Move) -> Decision:
    state, use = turn.state, turn.policy.use
    home = move.to in use and (move.back not in use or use.index(move.to) < use.index(move.back))
    records = {**state.records}
    if move.to != DIRECT:
        records[move.to] = state.record(move.to).proved(turn.now_s, home=home)
    settled = replace(state, move=None, blocked=False, records=records)
    return turn.stay("proven", state=settled)


def _go_on(turn: Turn, move: Move, detail: str) -> Decision:
    """The proof failed: the next candidate, or back, or `otherwise`."""
    state = turn.state
    records = {**state.records}
    if move.to != DIRECT:
        records[move.to] = state.record(move.to).failed(turn.now_s)
    failed = turn.reason("unproven", move.to, detail=detail)
    turn = replace(turn, state=replace(state, move=None, records=records))
    other = None if state.manual is not None else _other_way(turn, move, failed)
    return other or Decision(turn.state, (), (failed,))


def _by_hand(turn: Turn) -> Decision | None:
    """A choice by hand stands, good or bad."""
    state, manual = turn.state, turn.state.manual
    if manual is None:
        return None
    if manual != state.at:
        return _start(turn, manual, "manual", back=manual)
    return turn.stay("manual", state=replace(state, blocked=False))


def _leave(turn: Turn) -> Decision | None:
    """The path in use is bad: a better one, if one is measured."""
    decision = _left(turn)
    return None if decision is None else _once_it_answers(turn, decision)


def _once_it_answers(turn: Turn, decision: Decision) -> Decision:
    """What is done or told because a way fails waits until tailscaled is known to work, and to know."""
    said = {(each.code, each.name) for each in decision.reasons}
    if not (decision.actions or said - {*turn.state.said}):
        return decision
    if not turn.facts.settled:
        return turn.stay("settling")
    return decision if turn.facts.answers else turn.stay("asks")


def _left(turn: Turn) -> Decision | None:
    state, current = turn.state, turn.current()
    if state.blocked and _works_again(turn):
        works = replace(state, blocked=False, records=without_bars(state.records))
        return turn.stay("unblocked", state=works)
    if state.at != DIRECT and not turn.candidate(state.at).offered:
        current = Verdict(state.at, "dead")
    if current.level not in {"poor", "dead"} and not state.blocked:
        return None
    if state.at == DIRECT and turn.policy.otherwise == "direct" and current.level != "dead":
        return None  # coming back from the uplink is the way home
    dead = state.blocked or current.level == "dead"
    target = candidates.better(turn, dead=dead)
    if target is not None:
        records = {**state.records}
        if state.at != DIRECT and not state.blocked:
            records[state.at] = state.record(state.at).fell(turn.now_s)
        left = replace(turn, state=replace(state, records=records))
        poor = None if dead else current.causes
        return _start(left, target.name, "moved", back=state.at, poor=poor)
    if not dead:
        return turn.stay("nothing-better", against=[each.name for each in turn.others()])
    return _otherwise(turn)


def _works_again(turn: Turn) -> bool:
    """Whether what is in use while blocked answers again; after a failed proof its egress must.

    Just after a start, or a silence of tailscaled, nothing was asked through the node yet: that is awaited.
    """
    here = turn.candidate(turn.state.at)
    barred = turn.state.record(here.name).barred_s(turn.now_s)
    if here.egress is not None and here.egress.level != "unknown":
        return (here.egress.level if barred else turn.level(here)) in {"good", "poor"}
    if here.egress is not None and turn.now_s < (here.egress.known_by_s or 0.0):
        return False
    since_s = here.peer.healthy_since_s
    return not barred and since_s is not None and turn.now_s - since_s >= _ALIVE_S


def _otherwise(turn: Turn) -> Decision:
    """The path in use is dead and no candidate may be moved to."""
    state, policy, others = turn.state, turn.policy, turn.others()
    names = [each.name for each in others]
    waits = [
        each for each in others
        if turn.level(each) != "dead" and not state.record(each.name).barred_s(turn.now_s)
    ]  # fmt: skip
    if (state.blocked or policy.otherwise == "direct") and not _direct_works(turn):
        trial = retry.tried_again(turn)
        if trial is not None:
            return trial
    if waits or state.at == DIRECT:
        held = [each for each in waits if state.record(each.name).spent(turn.now_s, state.moves)]
        return turn.stay("held" if held else "nothing-better", against=names)
    if policy.otherwise == "direct":
        if _direct_works(turn):
            return _start(turn, DIRECT, "direct", back=state.at)
        return turn.stay("nothing-better", against=[*names, DIRECT])
    actions: tuple[Action, ...] = () if state.blocked else (Block(state.at),)
    return turn.stay("blocked", state=replace(state, blocked=True), against=names, actions=actions)


def _direct_works(turn: Turn) -> bool:
    direct = turn.facts.direct
    allowed = turn.policy.otherwise == "direct"
    return allowed and direct is not None and direct.level == "good" and direct.fresh


def _home(turn: Turn) -> Decision:
    """All is well here: the way leads home to a preferred node that was good for its hold-down."""
    state = turn.state
    settled = turn
    if state.drift_since_s is not None:
        settled = replace(turn, state=replace(state, drift_since_s=None))
    waits: list[tuple[float, str]] = []
    for each in _preferred(turn):
        left_s = _until_home_s(turn, each)
        if left_s is None:
            continue
        verdict = turn.judged(each)
        if left_s <= 0 and verdict.fresh and verdict.is_steady and (verdict.loss or 0.0) <= _LOSSY_HOME:
            poor = None if state.at == DIRECT else ()  # the uplink is no place to prefer to a node
            return _start(settled, each.name, "home", back=state.at, poor=poor)
        waits.append((max(left_s, 0.0), each.name))
    first = turn.policy.use[0]
    home = _homeward(turn, turn.candidate(first)) if state.at != first else None
    if waits:
        (left_s, name) = min(waits)
        detail = "" if name == first else f"{name} is next, {left_s:.0f} s more"
        return settled.stay("held", against=[name], wait_s=left_s, detail=detail, home=home)
    if turn.current().level == "suspect":
        return settled.stay("stays", detail="it may be failing, this is being confirmed", home=home)
    return settled.stay("stays", home=home)


def _homeward(turn: Turn, first: Candidate) -> Homeward:
    """What is still missing for the way back to the file's first candidate."""
    record = turn.state.record(first.name)
    verdict = turn.judged(first)
    hold_s = record.hold_s(turn.policy.restore_after_s)
    left_s = _until_home_s(turn, first)
    for cause in verdict.causes:
        if cause.rule == "recovering" and left_s is None:
            left_s = hold_s - cause.seen  # it counts from the first answer
    if left_s is not None:
        left_s = max(left_s, 0.0) if first.offered else None
    barred_s = record.barred_s(turn.now_s)
    return Homeward(verdict.compared(first.name), first.offered, hold_s, left_s, barred_s)


def _preferred(turn: Turn) -> list[Candidate]:
    """The candidates that the file prefers to what is in use, in order."""
    use, at = turn.policy.use, turn.state.at
    before = use[: use.index(at)] if at in use else use
    return [each for each in turn.others() if each.name in before]


def _until_home_s(turn: Turn, each: Candidate) -> float | None:
    """How long until the way may lead home to a node, seconds; None while it is not good."""
    verdict = turn.judged(each)
    record = turn.state.record(each.name)
    if verdict.level != "good" or verdict.healthy_since_s is None:
        return None
    since_s = max(verdict.healthy_since_s, record.fell_s or verdict.healthy_since_s)
    held_s = since_s + record.hold_s(turn.policy.restore_after_s) - turn.now_s
    return max(held_s, record.barred_s(turn.now_s))


def _start(
    turn: Turn,
    to: str,
    code: Code,
    *,
    back: str,
    poor: tuple[Cause, ...] | None = None,
    tried: tuple[str, ...] = (),
    first: Reason | None = None,
) -> Decision:
    """Move; the proof is asked for once tailscaled has taken the node."""
    state, now_s = turn.state, turn.now_s
    number = state.number + 1
    moved = replace(
        state,
        at=to,
        blocked=False,
        move=Move(number, to, back, now_s, tried, left=state.at, sent_s=now_s, poor=poor),
        number=number,
        moves=(*recent_moves(state.moves, now_s), now_s),
        drift_since_s=None,
    )
    reason = turn.reason(code, to, against=[to])
    use: Action = GoDirect(number) if to == DIRECT else UseExit(to, number)
    actions = (use, FreeFlows(state.at))
    return Decision(moved, actions, (reason,) if first is None else (first, reason))


def _fast(turn: Turn, state: State) -> frozenset[str]:
    """What is probed at the quick pace: the path in use, the next candidate, the way home when it is near.

    All of them while the path in use is not good: a choice needs fresh figures.
    """
    after = turn if state is turn.state else Turn(turn.policy, state, turn.facts, turn.now_s)
    others = after.others()
    if state.blocked or state.move is not None or after.current().level not in {"good", "unknown"}:
        return frozenset({state.at, *(each.name for each in others)} - {DIRECT})
    able = [each for each in others if after.level(each) != "dead"] or others
    near = []
    for each in _preferred(after):
        left_s = _until_home_s(after, each)
        if left_s is not None and left_s <= _PROBED_AHEAD_S:
            near.append(each.name)
    return frozenset({state.at, *(each.name for each in able[:1]), *near} - {DIRECT})
