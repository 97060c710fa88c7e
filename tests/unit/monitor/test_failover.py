"""The failover's rules one by one, with verdicts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tsstack.monitor import choice, failover, moving
from tsstack.monitor.choice import (
    Block,
    Candidate,
    Facts,
    FreeFlows,
    GoDirect,
    Policy,
    Proof,
    ProveEgress,
    UseExit,
)
from tsstack.monitor.helm import Helm
from tsstack.monitor.holddown import Record
from tsstack.monitor.reasons import Cause
from tsstack.monitor.sample import Sample
from tsstack.monitor.standby import StandbyState, Switched, Watched, decide_standby
from tsstack.monitor.verdict import Judge, Limits, Verdict

POLICY = Policy(("exit-a", "exit-b", "exit-c"))
NOW_S = 10_000.0


def good(since_s: float = 0.0, **changes: object) -> Verdict:
    plain = Verdict("p", "good", (), since_s, NOW_S - 0.5, True, 0.004, 0.02)
    return replace(plain, **changes)  # type: ignore[arg-type]


DEAD = Verdict("p", "dead", (Cause("silence", 4.0, 3.6, 4.0),), None, NOW_S - 5, False, 1.0, None)
LOSSY = Verdict("p", "poor", (Cause("loss", 0.31, 0.05, 20.0),), None, NOW_S - 0.5, True, 0.3, 0.02)
LATE = Verdict("p", "poor", (Cause("latency", 0.25, 0.2, 6.0),), None, NOW_S - 0.5, True, 0.0, 0.25)
AGAIN = Verdict("p", "poor", (Cause("recovering", 3.0, 0),), None, NOW_S - 0.5, True, 0.0, 0.02)
UNKNOWN = Verdict("p", "unknown")


def facts(
    a: Verdict, b: Verdict = UNKNOWN, c: Verdict = UNKNOWN, actual: str | None = "exit-a", **more: object
) -> Facts:
    candidates = tuple(
        Candidate(f"exit-{name}", verdict) for name, verdict in zip("abc", (a, b, c), strict=True)
    )
    return Facts(candidates, actual, **more)  # type: ignore[arg-type]


START = choice.State(at="exit-a")


def test_a_lossy_node_is_left_for_the_next_that_is_measured_better_and_the_reason_has_the_numbers() -> None:
    decision = failover.decide(POLICY, START, facts(LOSSY, good()), NOW_S)
    assert decision.actions == (UseExit("exit-b", 1), FreeFlows("exit-a"))
    (reason,) = decision.news
    assert str(reason) == (
        "moves to exit-b: exit-a lost 31 % over 20 s (limit 5 %); exit-b lost 0.4 %, 20 ms"
    )


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (LOSSY, good(fresh=False)),
        (LOSSY, good(loss=0.2)),
        (replace(LOSSY, is_back=True), good()),
        (LATE, good(rtt_s=0.24)),
        (LOSSY, AGAIN),
        (LOSSY, UNKNOWN),
        (AGAIN, good()),
        (DEAD, DEAD),
        (DEAD, UNKNOWN),
        (UNKNOWN, good()),
        (replace(DEAD, level="suspect"), good()),
    ],
)
def test_pitfall_27_nothing_is_left_for_what_is_not_measured_to_be_better(
    here: Verdict, there: Verdict
) -> None:
    decision = failover.decide(POLICY, START, facts(here, there, DEAD), NOW_S)
    assert not [each for each in decision.actions if isinstance(each, UseExit | GoDirect)]


def test_a_dead_node_is_left_even_for_one_that_only_answers() -> None:
    decision = failover.decide(POLICY, START, facts(DEAD, AGAIN), NOW_S)
    assert decision.actions[0] == UseExit("exit-b", 1)
    decision = failover.decide(POLICY, START, facts(DEAD, AGAIN, good()), NOW_S)
    assert decision.actions[0] == UseExit("exit-c", 1)


def test_pitfall_26_a_node_without_uplink_is_left_though_it_answers() -> None:
    seen = facts(good(), good())
    seen = replace(seen, candidates=(Candidate("exit-a", good(), egress=DEAD), *seen.candidates[1:]))
    assert failover.decide(POLICY, START, seen, NOW_S).actions[0] == UseExit("exit-b", 1)


def test_a_node_that_passes_traffic_is_not_dead_because_it_answers_no_ping() -> None:
    seen = facts(DEAD, good())
    seen = replace(seen, candidates=(Candidate("exit-a", DEAD, egress=good()), *seen.candidates[1:]))
    assert failover.decide(POLICY, START, seen, NOW_S).actions == ()


def moved() -> choice.State:
    return failover.decide(POLICY, START, facts(DEAD, good(), good()), NOW_S).state


def taken(after_s: float = 0.0) -> choice.State:
    seen = facts(DEAD, good(), good(), actual="exit-b")
    return failover.decide(POLICY, moved(), seen, NOW_S + after_s).state


def test_a_move_is_not_followed_by_another_until_its_proof() -> None:
    decision = failover.decide(POLICY, taken(), facts(DEAD, DEAD, good(), actual="exit-b"), NOW_S + 1)
    assert decision.actions == ()
    assert decision.reasons[0].code == "waiting"


def test_the_time_of_a_proof_begins_when_tailscaled_has_taken_the_node() -> None:
    """On a slow host the request alone takes seconds."""
    before = facts(DEAD, good(), good())
    waits = failover.decide(POLICY, moved(), before, NOW_S + choice.TAKE_S - 1)
    assert waits.reasons[0].code == "waiting"
    at_s = NOW_S + choice.TAKE_S - 0.5
    seen = replace(before, actual="exit-b")
    taken = failover.decide(POLICY, waits.state, seen, at_s)
    assert taken.actions == (ProveEgress("exit-b", 1, at_s + choice.PROOF_S),)
    late = failover.decide(POLICY, taken.state, seen, at_s + choice.PROOF_S - 0.1)
    assert (late.actions, late.reasons[0].code) == ((), "waiting")  # asked for once
    proven = failover.decide(POLICY, late.state, replace(seen, proof=Proof(1, ok=True)), at_s + 4)
    assert proven.reasons[0].code == "proven"


def test_a_node_that_tailscaled_never_takes_is_given_up() -> None:
    decision = failover.decide(POLICY, moved(), facts(DEAD, good(), good()), NOW_S + choice.TAKE_S)
    assert decision.actions[0] == UseExit("exit-c", 2)
    assert decision.reasons[0].detail == "tailscaled did not take exit-b"

    assert not decision.state.record("exit-b").barred_s(NOW_S + choice.TAKE_S)  # that was not its fault


def steps(state: choice.State, seen: Facts, *at: float, policy: Policy = POLICY) -> list[choice.Decision]:
    made = []
    for now_s in at:
        made.append(failover.decide(policy, state, seen, now_s))
        state = made[-1].state
    return made


AGAIN_B = (UseExit("exit-b", 0), FreeFlows("exit-a"))


def test_a_request_that_was_lost_with_tailscaled_is_made_again() -> None:
    dead = facts(DEAD, good())
    silent = failover.decide(POLICY, moved(), replace(dead, actual=None), NOW_S + 1)
    asked, waits, again = steps(silent.state, dead, NOW_S + 9, NOW_S + 12, NOW_S + 13)
    assert (asked.actions, waits.actions, again.actions) == (AGAIN_B, (), AGAIN_B)
    # A daemon that was only slow: at the usual distance.
    waits, again = steps(moved(), dead, NOW_S + 3, NOW_S + 4)
    assert (waits.actions, again.actions) == ((), AGAIN_B)


@pytest.mark.parametrize("otherwise", ["block", "direct"])
def test_nothing_is_given_up_for_a_request_that_tailscaled_does_not_take(otherwise: str) -> None:
    policy = replace(POLICY, otherwise=otherwise)  # type: ignore[arg-type]
    dead = facts(DEAD, good(), direct=good())
    late, later = steps(moved(), dead, NOW_S + choice.TAKE_S, NOW_S + choice.TAKE_S + 5, policy=policy)
    assert (late.state.blocked, late.state.at, late.actions) == (False, "exit-b", AGAIN_B)
    assert str(late.news[0]).startswith("exit-b does not reach the internet (tailscaled")
    assert (later.actions, later.news) == (AGAIN_B, ())
    back, _ = steps(later.state, facts(good(), good()), NOW_S + 21, NOW_S + 22, policy=policy)
    assert back.actions[0] == UseExit("exit-a", 2)  # which tailscaled never left
    nobody = failover.decide(POLICY, later.state, facts(DEAD, DEAD, DEAD), NOW_S + 21)
    assert (nobody.state.at, nobody.state.blocked) == ("exit-a", True)
    by_hand = failover.choose(POLICY, later.state, "exit-c")
    assert failover.decide(POLICY, by_hand, dead, NOW_S + 21).actions[0] == UseExit("exit-c", 2)


def test_who_sets_another_node_while_a_move_is_open_says_nothing_against_its_node() -> None:
    maintained = failover.maintain(taken(1), True)
    other = facts(DEAD, good(), actual="exit-z", proof=Proof(1, ok=False, detail="no target was asked"))
    during = failover.decide(POLICY, maintained, other, NOW_S + 60)
    after = failover.decide(POLICY, failover.maintain(during.state, False), other, NOW_S + 61)
    failed = failover.decide(POLICY, taken(1), other, NOW_S + 2)
    for decision in (during, after, failed):
        assert not decision.state.record("exit-b").barred_s(NOW_S + 61)
    assert "uses exit-z by now" in str(failed.reasons[0])


def test_a_proof_is_asked_for_again_after_tailscaled_was_silent() -> None:
    silent = failover.decide(POLICY, taken(), facts(DEAD, good(), good(), actual=None), NOW_S + 3)
    again = failover.decide(POLICY, silent.state, facts(DEAD, good(), good(), actual="exit-b"), NOW_S + 60)
    assert again.actions == (ProveEgress("exit-b", 1, NOW_S + 60 + choice.PROOF_S),)


@pytest.mark.parametrize("proof", [Proof(1, ok=False, detail="no target answered"), None])
def test_a_failed_or_missing_proof_goes_on_to_the_next(proof: Proof | None) -> None:
    seen = facts(DEAD, good(), good(), actual="exit-b", proof=proof)
    decision = failover.decide(POLICY, taken(), seen, NOW_S + (1 if proof else choice.PROOF_S))
    assert decision.actions[0] == UseExit("exit-c", 2)
    assert [each.code for each in decision.reasons] == ["unproven", "moved"]
    assert decision.state.record("exit-b").barred_s(NOW_S + 10) > 0


NO = Proof(1, ok=False, detail="no target answered")


def test_a_failed_homecoming_leads_back_to_what_was_in_use_and_well() -> None:
    """It led to the next node first, which nobody had tried."""
    away = choice.State(at="exit-b", records={"exit-a": Record(fell_s=NOW_S - 500)})
    well = facts(good(NOW_S - 300), good(), good(), actual="exit-b")
    home = failover.decide(POLICY, away, well, NOW_S)
    assert home.actions[0] == UseExit("exit-a", 1)
    seen = replace(well, actual="exit-a")
    asked = failover.decide(POLICY, home.state, seen, NOW_S + 0.5)
    back = failover.decide(POLICY, asked.state, replace(seen, proof=NO), NOW_S + 5)
    assert back.actions[0] == UseExit("exit-b", 2)
    assert [each.code for each in back.reasons] == ["unproven", "returned"]
    # It may have failed meanwhile: then there is nothing to go back to.
    gone = failover.decide(POLICY, asked.state, facts(good(), DEAD, good(), "exit-a", proof=NO), NOW_S + 5)
    assert gone.actions[0] == UseExit("exit-c", 2)


@pytest.mark.parametrize(
    ("here", "third", "to"),
    [
        (LOSSY, replace(LOSSY, loss=0.6), "exit-a"),
        (LOSSY, good(loss=0.2), "exit-a"),
        (LOSSY, good(), "exit-c"),
        (LATE, good(rtt_s=0.24), "exit-a"),
        (LATE, good(), "exit-c"),
    ],
)
def test_a_poor_way_is_better_than_what_is_not_measured_to_be_better_than_it(
    here: Verdict, third: Verdict, to: str
) -> None:
    left = failover.decide(POLICY, START, facts(here, good(), third), NOW_S)
    assert left.actions[0] == UseExit("exit-b", 1)
    seen = facts(here, good(), third, actual="exit-b")
    asked = failover.decide(POLICY, left.state, seen, NOW_S + 0.5)
    on = failover.decide(POLICY, asked.state, replace(seen, proof=NO), NOW_S + 5)
    assert on.actions[0] == UseExit(to, 2)


def test_a_proof_through_another_node_proves_nothing() -> None:
    seen = facts(DEAD, good(), good(), actual="exit-a", proof=Proof(1, ok=True))
    assert failover.decide(POLICY, moved(), seen, NOW_S + 1).reasons[0].code == "waiting"


def test_the_proof_of_an_older_move_does_not_count() -> None:
    state = replace(moved(), move=replace(moved().move, number=7))  # type: ignore[type-var]
    seen = facts(DEAD, good(), good(), actual="exit-b", proof=Proof(1, ok=True))
    assert failover.decide(POLICY, state, seen, NOW_S + 1).reasons[0].code == "waiting"


def test_when_nothing_works_block_keeps_the_node_and_says_so_once() -> None:
    decision = failover.decide(POLICY, START, facts(DEAD, DEAD, DEAD), NOW_S)
    assert decision.actions == (Block("exit-a"),)
    again = failover.decide(POLICY, decision.state, facts(DEAD, DEAD, DEAD), NOW_S + 1)
    assert (again.actions, again.news, again.state.blocked) == ((), (), True)
    through = (Candidate("exit-a", AGAIN, good()), *facts(DEAD, DEAD, DEAD).candidates[1:])
    back = failover.decide(POLICY, again.state, Facts(through, "exit-a"), NOW_S + 2)
    assert (back.actions, back.state.blocked) == ((), False)


@pytest.mark.parametrize("egress", [None, UNKNOWN])
def test_a_node_that_answers_does_not_work_again_before_something_was_asked_through_it(
    egress: Verdict | None,
) -> None:
    """After a restart and after a hang of tailscaled "works again" was told, and the bars were dropped."""
    barred = {"exit-b": Record().failed(NOW_S - 10)}
    state = replace(START, blocked=True, records=barred)

    def seen(since_s: float, through: Verdict | None) -> Facts:
        others = facts(DEAD, good(), DEAD).candidates[1:]
        return Facts((Candidate("exit-a", good(since_s), through), *others), "exit-a")

    early = failover.decide(POLICY, state, seen(NOW_S - 2, egress), NOW_S)
    assert (early.state.blocked, early.state.records, early.actions) == (True, barred, ())
    for late in (seen(NOW_S - 2, good(NOW_S - 2)), seen(NOW_S - 15, egress)):  # what cannot be asked
        assert not failover.decide(POLICY, state, late, NOW_S).state.blocked
    assert failover.decide(POLICY, state, seen(NOW_S - 15, DEAD), NOW_S).state.blocked


def test_pitfall_30_direct_is_taken_only_where_the_file_says_so_and_it_is_measured() -> None:
    direct = replace(POLICY, otherwise="direct")
    everything_dead = facts(DEAD, DEAD, DEAD, direct=good())
    assert failover.decide(direct, START, everything_dead, NOW_S).actions[0] == GoDirect(1)
    for path in (None, DEAD, UNKNOWN, good(fresh=False)):
        seen = replace(everything_dead, direct=path)
        assert failover.decide(direct, START, seen, NOW_S).actions == ()
    assert failover.decide(POLICY, START, everything_dead, NOW_S).actions == (Block("exit-a"),)
    with pytest.raises(ValueError, match="otherwise: block"):
        failover.choose(POLICY, START, choice.DIRECT)


def test_home_is_reached_after_restore_after_of_health() -> None:
    away = choice.State(at="exit-b")
    held = failover.decide(POLICY, away, facts(good(NOW_S - 119), good(), actual="exit-b"), NOW_S)
    assert (held.actions, held.reasons[0].code) == ((), "held")
    home = failover.decide(POLICY, away, facts(good(NOW_S - 120), good(), actual="exit-b"), NOW_S)
    assert home.actions[0] == UseExit("exit-a", 1)
    below = failover.decide(POLICY, START, facts(good(), good(), good()), NOW_S)
    assert below.actions == ()


def test_a_relapse_makes_home_wait_ten_minutes_then_twenty_at_most_eighty() -> None:
    record, holds = Record(), []
    for at in range(6):
        record = record.proved(at * 1000.0, home=True).fell(at * 1000.0 + 60)
        holds.append(record.hold_s(120.0))
    assert holds == [600.0, 1200.0, 2400.0, 4800.0, 4800.0, 4800.0]
    calm = replace(record, home_s=10_000.0).fell(10_000.0 + 7200)
    assert calm.hold_s(120.0) < 4800.0


def test_a_choice_by_hand_stands_until_auto() -> None:
    chosen = failover.choose(POLICY, START, "exit-c")
    decision = failover.decide(POLICY, chosen, facts(good(), good(), DEAD), NOW_S)
    assert decision.actions[0] == UseExit("exit-c", 1)
    seen = facts(good(), good(), DEAD, actual="exit-c", proof=Proof(1, ok=False))
    failed = failover.decide(POLICY, decision.state, seen, NOW_S + 1)
    stays = failover.decide(POLICY, failed.state, seen, NOW_S + 2)
    assert (failed.actions, stays.actions, stays.reasons[0].code) == ((), (), "manual")
    auto = failover.choose(POLICY, stays.state, None)
    assert failover.decide(POLICY, auto, replace(seen, proof=None), NOW_S + 3).actions[0] == UseExit(
        "exit-a", 2
    )


def test_maintenance_and_failover_false_change_nothing_and_say_what_they_see() -> None:
    seen = facts(DEAD, good())
    assert failover.decide(POLICY, failover.maintain(START, True), seen, NOW_S).actions == ()
    report = failover.decide(replace(POLICY, failover=False), START, seen, NOW_S)
    assert (report.actions, report.reasons[0].code) == ((), "report-only")
    assert failover.decide(POLICY, START, replace(seen, actual=None), NOW_S).reasons[0].code == "no-daemon"


def test_drift_is_repaired_a_leak_at_once_and_a_fight_is_ended() -> None:
    leak = failover.decide(POLICY, START, facts(good(), good(), actual=""), NOW_S)
    assert leak.actions == (UseExit("exit-a", 0),)
    state, now_s, repaired = START, NOW_S, 0
    for _ in range(100):
        decision = failover.decide(POLICY, state, facts(good(), good(), actual="exit-b"), now_s)
        repaired += bool(decision.actions)
        state, now_s = decision.state, now_s + 1
    assert repaired == failover.REPAIRS_MOST
    assert decision.reasons[0].code == "fought"
    report = replace(POLICY, repair_drift=False)
    assert failover.decide(report, START, facts(good(), good(), actual=""), NOW_S + 60).actions == ()


def test_a_change_is_repaired_once_and_leaves_the_budget_to_the_next() -> None:
    state, now_s, actions = START, NOW_S, []
    for _ in range(5):
        decision = failover.decide(POLICY, state, facts(good(), good(), actual=""), now_s)
        actions += decision.actions
        state, now_s = decision.state, now_s + 0.05
    assert actions == [UseExit("exit-a", 0)] and len(state.repairs) == 1
    other = facts(good(), good(), actual="auto:any")
    for _ in range(30):
        decision = failover.decide(POLICY, state, other, now_s)
        actions += decision.actions
        state, now_s = decision.state, now_s + 0.1
    assert len(actions) == 2 and decision.reasons[0].code == "repaired"
    state = failover.decide(POLICY, state, facts(good(), good()), now_s).state
    leak = failover.decide(POLICY, state, facts(good(), good(), actual=""), now_s)
    assert leak.actions and len(leak.state.repairs) == 3  # the next change is another one, at once
    state = failover.decide(POLICY, leak.state, facts(good(), good()), now_s).state
    assert failover.decide(POLICY, state, facts(good(), good(), actual=""), now_s + 0.1).actions
    late = failover.decide(POLICY, leak.state, facts(good(), good(), actual=""), now_s + moving.AGAIN_S)
    assert late.actions  # a leak that its repair did not close


def test_nothing_is_done_or_told_against_a_way_before_tailscaled_has_answered() -> None:
    every = facts(DEAD, DEAD, DEAD, answers=False)
    decision = failover.decide(POLICY, START, every, NOW_S)
    assert (decision.actions, decision.reasons[0].code, decision.state.blocked) == ((), "asks", False)
    decision = failover.decide(POLICY, START, facts(DEAD, good(), answers=False), NOW_S)
    assert (decision.actions, decision.state.at) == ((), "exit-a")
    failed = facts(DEAD, good(), good(), actual="exit-b", proof=Proof(1, ok=False), answers=False)
    decision = failover.decide(POLICY, moved(), failed, NOW_S + 1)
    assert (decision.actions, decision.reasons[0].code) == ((), "asks")
    assert decision.state.move == moved().move and not decision.state.record("exit-b").barred_s(NOW_S + 1)


@pytest.mark.parametrize("otherwise", ["block", "direct"])
def test_nobody_is_gone_before_tailscaled_has_told_its_peers_for_a_moment(otherwise: str) -> None:
    """Just after its start it names nobody: that is no reason to block, to move, or to page people."""
    policy = replace(POLICY, otherwise=otherwise)  # type: ignore[arg-type]
    nobody = tuple(Candidate(f"exit-{name}", UNKNOWN, offered=False) for name in "abc")
    early = Facts(nobody, "exit-a", direct=good(), settled=False)
    decision = failover.decide(policy, START, early, NOW_S)
    assert (decision.actions, decision.state.blocked) == ((), False)
    assert [each.code for each in decision.reasons] == ["settling"]
    some = replace(early, candidates=(nobody[0], Candidate("exit-b", good()), nobody[2]))
    assert failover.decide(policy, START, some, NOW_S).actions == ()
    # What it says then is believed: a node that is gone is left, and nothing may leave when all are.
    assert failover.decide(policy, START, replace(some, settled=True), NOW_S).actions[0] == UseExit(
        "exit-b", 1
    )
    gone = failover.decide(POLICY, START, replace(early, settled=True), NOW_S)
    assert gone.actions == (Block("exit-a"),)


def test_a_leak_is_closed_though_tailscaled_has_just_begun_to_tell_its_peers() -> None:
    nobody = tuple(Candidate(f"exit-{name}", UNKNOWN, offered=False) for name in "abc")
    decision = failover.decide(POLICY, START, Facts(nobody, "", settled=False), NOW_S)
    assert decision.actions == (UseExit("exit-a", 0),)


def gone(name: str, seen: Facts) -> Facts:
    named = (replace(each, offered=each.name != name) for each in seen.candidates)
    return replace(seen, candidates=tuple(named))


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, repair_drift=True, otherwise="direct")])
def test_a_leak_is_closed_by_another_node_where_the_decided_one_is_gone(policy: Policy) -> None:
    """Without an id nothing can be set, and that was tried again and again while all left by the uplink."""
    leak = gone("exit-a", facts(UNKNOWN, UNKNOWN, good(), actual=""))
    decision = steps(START, leak, NOW_S, NOW_S + failover.DRIFT_S, policy=policy)[-1]
    decision = steps(START, leak, NOW_S)[-1] if policy is POLICY else decision
    assert decision.actions == (UseExit("exit-c", 0),)  # measured to work
    assert (decision.state.at, decision.state.move) == ("exit-c", None)
    assert "exit-a offers no exit" in str(decision.reasons[0])
    nothing_measured = gone("exit-a", facts(UNKNOWN, UNKNOWN, actual=""))
    assert failover.decide(POLICY, START, nothing_measured, NOW_S).actions == (UseExit("exit-b", 0),)
    unsettled = replace(leak, settled=False)
    assert failover.decide(POLICY, START, unsettled, NOW_S).actions == (UseExit("exit-a", 0),)


def test_a_leak_while_a_move_to_a_node_that_is_gone_is_open() -> None:
    """The file became `block` while the host left by the uplink, and the first node exists no more."""
    leak = gone("exit-a", facts(UNKNOWN, UNKNOWN, actual=""))
    first = failover.decide(POLICY, choice.State(at=""), leak, NOW_S)
    assert first.actions[0] == UseExit("exit-b", 1)
    opened = choice.State(at="exit-a", move=choice.Move(1, "exit-a", "exit-a", NOW_S), number=1)
    assert failover.decide(POLICY, opened, leak, NOW_S).actions == (UseExit("exit-b", 0),)


def test_a_file_that_no_longer_names_what_is_in_use_is_followed() -> None:
    state = choice.State(at="exit-z")
    decision = failover.decide(POLICY, state, facts(DEAD, good(), actual="exit-z"), NOW_S)
    assert decision.actions[0] == UseExit("exit-b", 1)
    direct = choice.State(at="", manual="")
    assert failover.decide(POLICY, direct, facts(good(), good(), actual=""), NOW_S).actions[0] == UseExit(
        "exit-a", 1
    )


def test_what_is_remembered_survives_a_restart_and_rubbish_is_refused() -> None:
    state = replace(moved(), records={"exit-b": Record(fell_s=1.0, relapses=2)}, manual="exit-b")
    kept = choice.state_from_json(state.as_json(), NOW_S)
    assert (kept.at, kept.manual, kept.records, kept.moves) == ("exit-b", "exit-b", state.records, (NOW_S,))
    rebooted = choice.state_from_json(state.as_json(), 0.5)
    assert (rebooted.moves, rebooted.record("exit-b")) == ((), Record(relapses=2))
    for saved in ({}, {**state.as_json(), "records": {"x": {"y": 1}}}, {**state.as_json(), "moves": ["?"]}):
        with pytest.raises(ValueError, match="cannot be read"):
            choice.state_from_json(saved, NOW_S)


def test_the_path_in_use_and_the_next_candidate_are_probed_fast_and_all_when_it_fails() -> None:
    calm = failover.decide(POLICY, START, facts(good(), good(), good()), NOW_S)
    assert calm.fast == {"exit-a", "exit-b"}
    suspect = replace(DEAD, level="suspect")
    failing = failover.decide(POLICY, START, facts(suspect, good(), good()), NOW_S)
    assert failing.fast == {"exit-a", "exit-b", "exit-c"}
    assert failing.confirm == {"exit-a"}


def switched(state: StandbyState, *watched: Watched, now_s: float = NOW_S, act: bool = True):
    return decide_standby(
        state, watched, now_s, restore_after_s=120.0, act=("route", "upstream") if act else ()
    )


def test_a_route_is_withdrawn_while_its_lan_is_dead_and_restored_after() -> None:
    route = Watched("route", "192.168.15.0/24", DEAD)
    state, actions, (reason,) = switched(StandbyState(), route)
    assert actions == (Switched("route", "192.168.15.0/24", on=False),)
    assert str(reason).startswith("192.168.15.0/24 is withdrawn")
    for verdict in (DEAD, UNKNOWN, LOSSY, good(NOW_S - 60)):
        assert switched(state, replace(route, verdict=verdict))[1] == ()
    _, actions, _ = switched(state, replace(route, verdict=good(NOW_S - 130)))
    assert actions == (Switched("route", "192.168.15.0/24", on=True),)
    for verdict in (UNKNOWN, LOSSY, good()):
        assert switched(StandbyState(), replace(route, verdict=verdict))[1] == ()
    assert switched(StandbyState(), route, act=False)[1] == ()


def test_an_upstream_gives_way_only_to_a_backup_that_works() -> None:
    for backup, count in ((None, 0), (DEAD, 0), (UNKNOWN, 0), (good(fresh=False), 0), (good(), 1)):
        assert len(switched(StandbyState(), Watched("upstream", "wiki", DEAD, backup))[1]) == count


@pytest.mark.parametrize("pace_s", [1.0, 5.0, 30.0])
def test_a_backup_is_measured_at_whatever_pace_the_file_gives(pace_s: float) -> None:
    """Three answers within ten seconds were asked for, which no service has at the pace of 30 s."""
    limits = Limits(interval_s=pace_s)
    first, backup = (Judge(f"service:wiki#{number}", limits, unit_s=pace_s) for number in (0, 1))
    state, told = StandbyState(), []
    for number in range(40):
        at_s = NOW_S + number * pace_s
        first.observe(Sample(first.path, "tcp", at_s, 0.001 if number < 20 else None))
        backup.observe(Sample(backup.path, "tcp", at_s, 0.001))
        now_s = at_s + pace_s / 2
        watched = Watched("upstream", "wiki", first.verdict(now_s), backup.verdict(now_s))
        state, _, reasons = switched(state, watched, now_s=now_s)
        told += [each.code for each in reasons]
    assert told == ["backup"]


def test_trials_while_nothing_passes_are_no_moves_that_are_counted() -> None:
    """They made 105 in an hour, and the shipped alert for flapping fire."""
    helm = Helm(replace(POLICY, use=("exit-a", "exit-b")))
    helm.begin(None, "exit-a")
    actual, due_s, trials, numbers = "exit-a", None, 0, set[int]()
    for half in range(2 * 3600):
        now_s = NOW_S + half / 2
        nodes = [replace(good(), last_answer_s=now_s), replace(DEAD, last_answer_s=now_s - 60)]
        seen = tuple(
            Candidate(name, nodes[0], nodes[1] if name == actual and not helm.state.move else None)
            for name in helm.policy.use
        )
        decision = helm.turn(Facts(seen, actual), now_s)
        assert decision is not None and helm.state is not None
        for each in decision.actions:
            if isinstance(each, UseExit):
                actual = each.node
            elif isinstance(each, ProveEgress):
                due_s, number = now_s + 5, each.move
        trials += helm.state.move is not None and helm.state.move.retry and helm.state.number not in numbers
        numbers.add(helm.state.number)
        if due_s is not None and now_s >= due_s:
            helm.proof, due_s = Proof(number, ok=False), None
    assert trials > 50
    assert 1 <= helm.moves <= 10 and helm.status(now_s).moves == helm.moves


def test_home_is_not_gone_to_on_old_figures() -> None:
    away = choice.State(at="exit-b")
    seen = facts(good(NOW_S - 500, fresh=False), good(), actual="exit-b")
    decision = failover.decide(POLICY, away, seen, NOW_S)
    assert decision.actions == ()
    assert "exit-a" in decision.fast


def test_what_failed_its_proof_does_not_count_as_working() -> None:
    barred = {name: Record().failed(NOW_S - 10) for name in ("exit-b", "exit-c")}
    state = replace(START, records=barred)
    decision = failover.decide(POLICY, state, facts(DEAD, good(), good()), NOW_S)
    assert decision.actions == (Block("exit-a"),)


def all_barred(**more: object) -> choice.State:
    barred = {name: Record().failed(NOW_S - ago_s) for name, ago_s in (("exit-b", 40), ("exit-c", 60))}
    return replace(START, records=barred, **more)


def test_while_nothing_passes_barred_nodes_are_tried_again_and_nobody_is_told_before_one_works() -> None:
    dead = facts(DEAD, good(), good())
    block, trial = steps(all_barred(), dead, NOW_S, NOW_S + 1)
    assert block.actions == (Block("exit-a"),)
    assert trial.actions == (UseExit("exit-c", 1),)  # the longest ago; no connection is freed for a trial
    assert (trial.state.blocked, trial.state.moves, trial.news) == (True, (), ())
    there = replace(dead, actual="exit-c")
    (proving,) = steps(trial.state, there, NOW_S + 2)
    assert proving.actions == (ProveEgress("exit-c", 1, NOW_S + 2 + choice.PROOF_S),) and not proving.news
    works = failover.decide(POLICY, proving.state, replace(there, proof=Proof(1, ok=True)), NOW_S + 3)
    assert works.actions == (FreeFlows("exit-a"),)
    assert [each.code for each in works.news] == ["unblocked", "proven"]
    assert (works.state.at, works.state.blocked, works.state.move) == ("exit-c", False, None)
    assert works.state.moves == (NOW_S + 3,) and not works.state.record("exit-b").barred_s(NOW_S + 3)


def test_a_trial_that_fails_goes_back_quietly_and_the_next_one_is_another_node() -> None:
    dead = facts(DEAD, good(), good())
    trial = steps(all_barred(), dead, NOW_S, NOW_S + 1)[-1]
    there = replace(dead, actual="exit-c")
    proving = failover.decide(POLICY, trial.state, there, NOW_S + 2)
    failed = failover.decide(POLICY, proving.state, replace(there, proof=Proof(1, ok=False)), NOW_S + 6)
    assert (failed.actions, failed.news, failed.state.at) == ((UseExit("exit-a", 0),), (), "exit-a")
    barred_s = all_barred().record("exit-c").barred_s(NOW_S)
    assert failed.state.record("exit-c").barred_s(NOW_S) == barred_s  # its bar does not grow
    waits, again = steps(failed.state, replace(there, proof=Proof(1, ok=False)), NOW_S + 7, NOW_S + 10)
    assert (waits.actions, again.actions, again.news) == ((), (UseExit("exit-a", 0),), ())
    home, soon, other = steps(again.state, dead, NOW_S + 11, NOW_S + 35, NOW_S + 37)
    assert (home.state.move, home.news, soon.actions) == (None, (), ())
    assert other.actions == (UseExit("exit-b", 2),)
    returned = failover.decide(POLICY, home.state, facts(good(), good(), good()), NOW_S + 12)
    assert (returned.reasons[0].code, returned.actions) == ("unblocked", ())


@pytest.mark.parametrize("otherwise", ["block", "direct"])
def test_what_was_told_is_not_told_again_after_a_trial_has_waited_for_tailscaled(otherwise: str) -> None:
    """A critical event each 35 s for a whole outage."""
    policy = replace(POLICY, otherwise=otherwise)  # type: ignore[arg-type]
    dead = facts(DEAD, good(), good(), direct=DEAD)
    told = failover.decide(policy, all_barred(said=(("other", ""),)), dead, NOW_S - 20)
    assert [each.code for each in told.news] == ["blocked" if otherwise == "block" else "nothing-better"]
    hangs = replace(dead, answers=False)
    asks, still = steps(told.state, hangs, NOW_S + 10, NOW_S + 10.5, policy=policy)
    trial = failover.decide(policy, still.state, dead, NOW_S + 11)
    assert [each.code for each in (*asks.reasons, *still.reasons)] == ["asks", "asks"]
    assert (asks.actions, still.actions, still.news) == ((), (), ())
    assert (trial.actions, trial.news) == ((UseExit("exit-c", 1),), ())


def test_what_is_another_after_tailscaled_was_asked_is_told() -> None:
    told = failover.decide(POLICY, START, facts(DEAD, DEAD, DEAD), NOW_S)
    works = facts(good(), good(), good())
    answers = (Candidate("exit-a", good(), good()), *works.candidates[1:])
    unblocked = failover.decide(POLICY, told.state, replace(works, candidates=answers), NOW_S + 60)
    asks = failover.decide(POLICY, unblocked.state, facts(DEAD, DEAD, DEAD, answers=False), NOW_S + 120)
    assert asks.reasons[0].code == "asks"
    again = failover.decide(POLICY, asks.state, facts(DEAD, DEAD, DEAD), NOW_S + 121)
    assert [each.code for each in again.news] == ["blocked"]


def test_a_trial_waits_for_its_time_and_never_takes_the_place_of_a_way_that_works() -> None:
    direct = replace(POLICY, otherwise="direct")
    dead = facts(DEAD, good(), good(), direct=good())
    assert failover.decide(direct, all_barred(), dead, NOW_S).actions[0] == GoDirect(1)
    at_uplink = replace(dead, actual="")
    assert failover.decide(direct, all_barred(at=""), at_uplink, NOW_S).actions == ()
    no_uplink = replace(at_uplink, direct=DEAD)
    assert failover.decide(direct, all_barred(at=""), no_uplink, NOW_S).actions == (UseExit("exit-c", 1),)
    silent = facts(DEAD, DEAD, DEAD)
    assert steps(all_barred(), silent, NOW_S, NOW_S + 60)[-1].actions == ()


@pytest.mark.parametrize(
    ("back", "changed"),
    [("", POLICY), ("exit-a", replace(POLICY, use=("exit-b", "exit-c")))],
)
def test_a_trial_does_not_go_back_to_what_the_file_allows_no_more(back: str, changed: Policy) -> None:
    """`otherwise` became `block` during a trial from the uplink: the exit node was unset in the end."""
    before = replace(POLICY, otherwise="direct")
    dead = facts(DEAD, good(), good(), direct=DEAD, actual=back)
    trial = failover.decide(before, all_barred(at=back), dead, NOW_S)
    assert trial.actions == (UseExit("exit-c", 1),)
    there = replace(dead, actual="exit-c")
    proving = failover.decide(changed, trial.state, there, NOW_S + 1)
    no = replace(there, proof=Proof(1, ok=False))
    for decision in steps(proving.state, no, NOW_S + 5, NOW_S + 5.5, NOW_S + 30, policy=changed):
        assert not [each for each in decision.actions if getattr(each, "node", "exit-c") == back]
        assert not any(isinstance(each, GoDirect) for each in decision.actions)
    assert decision.state.at == "exit-c"


def test_a_leak_is_closed_while_a_move_is_open() -> None:
    decision = failover.decide(POLICY, moved(), facts(DEAD, good(), good(), actual=""), NOW_S + 1)
    assert decision.actions == (UseExit("exit-b", 0),)
    assert decision.state.move is not None


@pytest.mark.parametrize(
    ("home", "said"),
    [
        (
            DEAD,
            "stays with exit-b: exit-a is dead, no answer for 4.0 s (its bursts last up to 3.6 s), "
            "and must be well for 120 s before the way leads back",
        ),
        (
            AGAIN,
            "stays with exit-b: exit-a is poor, answers again for 3 s, "
            "and must be well for 117 s more of 120 s",
        ),
        (
            UNKNOWN,
            "stays with exit-b: exit-a is unknown, and must be well for 120 s before the way leads back",
        ),
        (
            good(NOW_S - 25),
            "stays with exit-b, the hold-down runs: exit-a is good, lost 0.4 %, 20 ms, "
            "and must be well for 95 s more of 120 s",
        ),
        (
            good(NOW_S - 500, loss=0.15),
            "stays with exit-b, the hold-down runs: exit-a is good, lost 15 %, 20 ms, "
            "and is gone back to once it answers and loses little",
        ),
    ],
)
def test_a_stay_away_says_how_home_does_and_what_is_missing_for_the_return(home: Verdict, said: str) -> None:
    away = choice.State(at="exit-b")
    (reason,) = failover.decide(POLICY, away, facts(home, good(), actual="exit-b"), NOW_S).reasons
    assert str(reason) == said


def test_a_stay_away_says_that_home_relapsed_is_barred_or_gone_and_who_is_next() -> None:
    relapsed = Record(relapses=2, barred_until_s=NOW_S + 300, bars=1)
    away = choice.State(at="exit-c", records={"exit-a": relapsed})
    seen = facts(DEAD, good(NOW_S - 30), good(), actual="exit-c")
    (reason,) = failover.decide(POLICY, away, seen, NOW_S).reasons
    assert str(reason) == (
        "stays with exit-c, the hold-down runs (exit-b is next, 90 s more): exit-a is dead, no answer for "
        "4.0 s (its bursts last up to 3.6 s), and must be well for 1200 s before the way leads back; "
        "its proof failed, 300 s more"
    )
    gone = replace(seen, candidates=(Candidate("exit-a", DEAD, offered=False), *seen.candidates[1:]))
    (reason,) = failover.decide(POLICY, away, gone, NOW_S).reasons
    assert "exit-a offers no exit, and must be well for 1200 s" in str(reason)


def test_home_is_not_gone_to_while_it_loses() -> None:
    away = choice.State(at="exit-b")
    for home in (good(NOW_S - 500, loss=0.15), good(NOW_S - 500, is_steady=False)):
        seen = facts(home, good(), actual="exit-b")
        assert failover.decide(POLICY, away, seen, NOW_S).actions == ()


@pytest.mark.parametrize("pace_s", [0.5, 1.0, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_ping_does_not_spoil_the_way_back_at_any_pace(pace_s: float, lost: int) -> None:
    """The host went on to a third node that lost 30 %, and stayed there for ten minutes."""
    limits = Limits(probe_s=pace_s)
    judges = {name: Judge(name, limits) for name in POLICY.use}
    for number in range(600):
        for name, judge in judges.items():
            is_lost = not number % 3 if name == "exit-c" else name == "exit-b" and number >= 600 - lost
            sent_s = NOW_S + (number - 600) * pace_s
            judge.observe(Sample(name, "tsmp", sent_s, None if is_lost else 0.02))
    home = choice.State(
        at="exit-a", number=1, moves=(NOW_S - 5,),
        move=choice.Move(1, "exit-a", "exit-b", NOW_S - 5, left="exit-b", taken_s=NOW_S - 5, poor=()),
    )  # fmt: skip
    seen = facts(*(each.verdict(NOW_S) for each in judges.values()), proof=NO)
    assert seen.candidates[2].peer.level == "poor"
    assert failover.decide(POLICY, home, seen, NOW_S).actions[0] == UseExit("exit-b", 2)


def test_a_way_where_nothing_passed_is_gone_back_to_only_once_it_is_measured_to_work() -> None:
    """One answer of a node that was left because it was dead."""
    judge, failed = Judge("exit-a", Limits()), replace(taken(), records={})
    for number in range(60):
        is_lost = 40 <= number < 55 or number > 55
        judge.observe(Sample("exit-a", "tsmp", NOW_S - 30 + number / 2, None if is_lost else 0.02))
    once = judge.verdict(NOW_S)
    assert once.level == "poor" and not once.fresh
    seen = facts(once, DEAD, DEAD, actual="exit-b", proof=NO)
    decision = failover.decide(POLICY, failed, seen, NOW_S)
    assert (decision.actions, decision.reasons[-1].code) == ((), "nothing-better")
