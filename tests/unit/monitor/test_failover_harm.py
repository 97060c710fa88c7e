"""Seeded fault schedules do no harm, and the checker that says so would see each rule broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tsstack.monitor import candidates, choice, failover, holddown, retry
from tsstack.monitor.choice import Action, Block, GoDirect, UseExit
from tsstack.monitor.egress import Egress
from tsstack.monitor.turn import Turn

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
import monitor_harm as harm
from monitor_harm_world import Done, Fault, Trace


def of_kind(kind: str, count: int) -> range:
    first = harm.KINDS.index(kind)
    return range(first, first + count * len(harm.KINDS), len(harm.KINDS))


@pytest.mark.parametrize("kind", harm.KINDS)
def test_no_schedule_is_harmed(kind: str) -> None:
    assert [fault for seed in of_kind(kind, 2) for fault in harm.judge(seed)[0]] == []


@pytest.mark.parametrize("seed", [138, 674, 3333, 4762, 6477, 7451, 7627, 8467, 8472, 8902])
def test_what_was_harmed_once_stays_well(seed: int) -> None:
    assert harm.judge(seed)[0] == []


def caught(kind: str, count: int = 4, decide: Callable[..., choice.Decision] = failover.decide) -> str:
    return "; ".join(fault for seed in of_kind(kind, count) for fault in harm.judge(seed, decide)[0])


def test_a_move_to_what_is_not_measured_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(turn: Turn, *, dead: bool | None = None, than: object = None, but: tuple[str, ...] = ()):
        if dead is None and turn.current().level not in {"poor", "dead"}:
            return None
        return next((each for each in turn.others() if each.name not in but), None)

    monkeypatch.setattr(candidates, "better", first)
    assert "not measured" in caught("own")


def test_a_move_without_need_is_caught() -> None:
    def restless(policy: choice.Policy, state: choice.State, facts: choice.Facts, now_s: float):
        decision = failover.decide(policy, state, facts, now_s)
        if int(now_s) == 300 and state.move is None:
            turn = Turn(policy, state, facts, now_s)
            other = next(each.name for each in facts.candidates if each.name != state.at)
            return failover._start(turn, other, "moved", back=state.at)
        return decision

    assert "measured to be better" in caught("flap", decide=restless)


def test_flapping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holddown.Record, "hold_s", lambda self, restore_after_s: 0.0)
    assert "three moves within" in caught("flap")


def test_never_going_home_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_until_home_s", lambda turn, each: None)
    assert "not at home" in caught("cut")


def test_staying_on_a_dead_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_leave", lambda turn: None)
    assert "still on" in caught("cut", 6)


def altered(change: Callable[[Action], Action]) -> Callable[..., choice.Decision]:
    def decide(*arguments: object) -> choice.Decision:
        decision = failover.decide(*arguments)  # type: ignore[arg-type]
        return replace(decision, actions=tuple(map(change, decision.actions)))

    return decide


def test_a_leak_is_caught() -> None:
    leaking = altered(lambda each: GoDirect(1) if isinstance(each, Block) else each)
    assert "went direct although the file says block" in caught("own", 4, leaking)


def test_prefs_that_are_not_repaired_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_drift", lambda turn: None)
    assert "left by the uplink" in caught("drift", 6)


def test_a_choice_by_hand_that_is_overruled_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_by_hand", lambda turn: None)
    monkeypatch.setattr(failover, "_hands_off", lambda turn: None)
    found = caught("hands", 12)
    assert "chosen by hand" in found or "during maintenance" in found


def test_a_second_move_while_one_is_open_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(turn: Turn) -> choice.Decision | None:
        move = turn.state.move
        if move is None:
            return None
        return failover._start(turn, move.back, "moved", back=move.to)

    monkeypatch.setattr(failover, "_open_move", hasty)
    assert "while a move was open" in caught("cut")


def test_a_move_for_one_silent_target_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Egress, "verdict", Egress._witnessed)
    assert "only a target is silent" in caught("mute")


def test_going_on_to_the_untried_after_a_failed_proof_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    better = candidates.better

    def whatever_answers(turn: Turn, *, dead: object = None, than: object = None, but: tuple[str, ...] = ()):
        return better(turn, dead=True if than is not None else dead, but=but)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates, "better", whatever_answers)
    assert "after a failed proof, though" in caught("homeless", 9)


@pytest.mark.parametrize(
    ("answered_s", "is_proven", "told"),
    [(97.0, False, ""), (92.0, False, "not measured"), (97.0, True, "not measured")],
)
def test_a_move_that_failed_is_undone_where_something_passed_of_late(
    answered_s: float, is_proven: bool, told: str
) -> None:
    """Half of the probes are lost where the host came from, and all where it is."""
    there, back = Done(94.0, "use", "b", "a"), Done(100.0, "use", "a", "b")
    sent = ((90.0 + number / 2, 91.0 + number / 2) for number in range(18))
    probes = {"a": [(at_s, by_s, 0.02 if at_s == answered_s else None) for at_s, by_s in sent]}
    trace = Trace([there, back], [(0.0, "a")], [(100.0, "b", is_proven)], probes)
    checker = harm.Checker(replace(harm.schedule(0), nodes=("a", "b"), faults=()), trace)
    checker._move(back)
    assert told in "".join(checker.faults) and bool(told) == bool(checker.faults)


@pytest.mark.parametrize(("back_s", "told"), [(3.0, False), (10.0, True)])
def test_a_way_home_that_fails_is_no_stay_away_from_what_works(back_s: float, told: bool) -> None:
    faults = (Fault("uplink", "a", 60.0, 500.0), Fault("uplink", "b", 60.0, 100.0))
    plan = replace(harm.schedule(0), kind="outage", otherwise="block", nodes=("a", "b"), faults=faults)
    due_s = 100.0 + 30 * 2 + 40
    for found_s in (110.0, due_s - 12):
        trace = Trace(actual=[(0.0, "a"), (found_s, "b"), (due_s - 3, "a"), (due_s + back_s, "b")])
        checker = harm.Checker(plan, trace)
        checker._given_up()
        assert bool(checker.faults) == told


def test_a_blocked_host_that_does_not_find_what_is_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "tried_again", lambda turn: None)
    assert "works since" in caught("outage", 6)


def test_the_world_makes_the_moves_that_it_is_asked_for() -> None:
    moves = [harm.judge(seed)[1] for seed in of_kind("cut", 3)]
    assert all(moves)
    assert isinstance(UseExit("x", 1), UseExit)
