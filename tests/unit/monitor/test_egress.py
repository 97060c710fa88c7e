"""Who is asked whether a way out works, and whose word counts, at every pace and count of failures."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tsstack.monitor.choice import Candidate, Facts, Policy, State
from tsstack.monitor.egress import Egress
from tsstack.monitor.failover import decide
from tsstack.monitor.holddown import Record
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Level, Limits

WITNESS, PAGE = "target:t", "target:p"
Outcome = Callable[[str, float], bool | None]
"""Whether a target that is asked then answers; None: it cannot be measured."""


def course(limits: Limits, outcome: Outcome, until_s: float, *pages: str) -> list[tuple[float, Level]]:
    """The level of the way at each turn of the monitor, from the begin of a stay. One turn for each outcome:
    first it is decided by the verdict, then the paces are set.
    """
    ways = Egress(limits)
    pages = pages or (PAGE,)
    targets = (WITNESS, *pages)
    ways.update((WITNESS,), targets, limits, 0.0)
    ways.use("a", 0.0)
    due = {each: 0.01 * number for number, each in enumerate(targets)}
    known: list[tuple[float, int, Sample]] = []
    number = itertools.count()
    seen: list[tuple[float, Level]] = []
    everybody = False
    while True:
        key = min(due, key=lambda each: due[each])
        if known and known[0][0] <= due[key]:
            now_s, _, sample = known.pop(0)
            ways.observe(sample)
            verdict = ways.verdict("a", now_s)
            seen.append((now_s, verdict.level if verdict else "unknown"))
            everybody = ways.call("a", now_s)
            for each in pages:
                if everybody or each in ways.asked:
                    due[each] = min(due[each], now_s + limits.probe_s)
            continue
        now_s = due[key]
        if now_s > until_s:
            return seen
        answers = outcome(key, now_s)
        if answers is not None:
            sample = Sample(key, "icmp", now_s, 0.02 if answers else None, "" if answers else "timeout")
            known.append((now_s + (0.02 if answers else 1.0), next(number), sample))
            known.sort()
        elif not known:
            everybody = ways.call("a", now_s)
        quick = everybody or key in ways.asked
        due[key] = now_s + (limits.probe_s if quick else limits.interval_s)


def levels(seen: list[tuple[float, Level]], since_s: float = 0.0) -> set[Level]:
    return {level for at_s, level in seen if at_s >= since_s}


def died_s(seen: list[tuple[float, Level]], since_s: float) -> float:
    """How long until the way was dead, for good."""
    alive = [at_s for at_s, level in seen if level != "dead"]
    assert seen[-1][1] == "dead"
    return alive[-1] - since_s


every_pace = pytest.mark.parametrize("probe_s", [0.2, 0.5, 1.0, 1.6, 2.0, 5.0, 10.0, 60.0])
every_count = pytest.mark.parametrize("failures", [1, 3, 9, 1000])


@every_count
@every_pace
def test_a_witness_that_falls_silent_beside_a_page_that_answers_is_no_dead_way(
    probe_s: float, failures: int
) -> None:
    """From `probe: 1.6s` or nine failures on nothing is suspect before it is dead: nobody was asked."""
    limits = Limits(probe_s=probe_s, failures=failures)
    silent_s = 60 * probe_s
    seen = course(limits, lambda key, at_s: key != WITNESS or at_s < silent_s, 120 * probe_s)
    assert levels(seen, 10 * probe_s) <= {"good", "suspect"} and seen[-1][1] == "good"
    # Nor from the begin of a stay on.
    assert "dead" not in levels(course(limits, lambda key, at_s: key != WITNESS, 120 * probe_s))


@every_count
@every_pace
def test_a_way_that_dies_is_dead_about_as_soon_as_by_its_witness_alone(probe_s: float, failures: int) -> None:
    limits = Limits(probe_s=probe_s, failures=failures)
    cut_s = 60 * probe_s
    alone = course(limits, lambda key, at_s: None if key == PAGE else at_s < cut_s, 200 * probe_s + 60)
    both = course(limits, lambda key, at_s: at_s < cut_s, 200 * probe_s + 60)
    plain = Judge("t", limits)
    at_s = 0.0
    while plain.level(at_s) != "dead":
        plain.observe(Sample("t", "icmp", at_s, 0.02 if at_s < cut_s else None))
        at_s += probe_s
    plain_s = at_s - probe_s - cut_s + 1.0
    assert died_s(alone, cut_s) <= plain_s + probe_s / 4 + 1.5
    assert died_s(both, cut_s) <= plain_s + probe_s / 4 + 1.5


@every_pace
@pytest.mark.parametrize("pages", [1, 5])
def test_a_burst_of_those_that_stand_in_is_judged_as_one_of_a_witness_is(probe_s: float, pages: int) -> None:
    """Three lost probes of the page were enough to call the way dead."""
    limits = Limits(probe_s=probe_s)
    names = tuple(f"target:{number}" for number in range(pages))
    burst_s = 100 * probe_s
    lost_s = max(2.6, 1.5 * probe_s) if probe_s < 3 else 1.5 * probe_s

    def outcome(key: str, at_s: float) -> bool:
        return not burst_s <= at_s < burst_s + lost_s if key != WITNESS else at_s < 60 * probe_s

    seen = course(limits, outcome, 200 * probe_s, *names)
    assert levels(seen, 10 * probe_s) <= {"good", "suspect"} and seen[-1][1] == "good"


@every_pace
def test_those_that_stand_in_fail_and_another_page_shows_that_the_way_works(probe_s: float) -> None:
    names = tuple(f"target:{number}" for number in range(5))

    def outcome(key: str, at_s: float) -> bool:
        if key in names[:3]:  # they stand in: of one operator
            return at_s < 120 * probe_s
        return key != WITNESS or at_s < 60 * probe_s

    seen = course(Limits(probe_s=probe_s), outcome, 240 * probe_s, *names)
    assert levels(seen, 10 * probe_s) <= {"good", "suspect"} and seen[-1][1] == "good"


@every_pace
def test_where_no_witness_can_be_measured_the_others_tell_of_the_way(probe_s: float) -> None:
    """A name that leads to the own network, no right to ping: the egress was never judged."""
    limits, cut_s = Limits(probe_s=probe_s), 100 * probe_s
    seen = course(limits, lambda key, at_s: None if key == WITNESS else at_s < cut_s, 200 * probe_s)
    assert levels([each for each in seen if each[0] < cut_s], 10 * probe_s) == {"good"}
    assert seen[-1][1] == "dead"
    never = course(limits, lambda key, at_s: None if key == WITNESS else False, 200 * probe_s)
    assert never[-1][1] == "dead"


@every_pace
def test_a_page_that_refuses_speaks_for_no_witness_that_has_just_begun_to_answer(probe_s: float) -> None:
    seen = course(Limits(probe_s=probe_s), lambda key, at_s: key == WITNESS, 100 * probe_s)
    assert "dead" not in levels(seen) and seen[-1][1] == "good"


def test_while_tailscaled_is_silent_nobody_else_is_called() -> None:
    ways = Egress(Limits())
    ways.update((WITNESS,), (WITNESS, PAGE), Limits(), 0.0)
    ways.use("a", 0.0)
    for number in range(20):
        ways.observe(Sample(WITNESS, "icmp", number * 0.5, 0.02))
    assert not ways.call("a", 10.0)
    ways.use(None, 10.0)
    assert not ways.call("a", 60.0)
    ways.use("a", 61.0)
    assert ways.call("a", 61.0)


@pytest.mark.parametrize("first_s", [0.25, 0.99])
@every_pace
def test_a_blocked_host_does_not_work_again_before_its_targets_could_tell(
    probe_s: float, first_s: float
) -> None:
    """After a restart at `probe: 5s` it did for a while, its bars were dropped, and it moved."""
    limits, policy = Limits(probe_s=probe_s), Policy(("a", "b"))
    peer = Judge("exit:a", limits)
    ways = Egress(limits)
    ways.update((WITNESS,), (WITNESS,), limits, 0.0)
    ways.use("a", 1000.0)
    barred = {"b": Record(fell_s=900.0, bars=1, barred_until_s=9000.0)}
    state = State("a", blocked=True, records=barred)
    told: set[str] = set()
    for step in range(20):
        at_s = 1000.0 + step * probe_s
        peer.observe(Sample("exit:a", "tsmp", at_s, 0.02))
        if step:  # its outcome is known late
            ways.observe(Sample(WITNESS, "icmp", at_s + (first_s - 1) * probe_s, None, "timeout"))
        found = Candidate("a", peer.verdict(at_s), ways.verdict("a", at_s))
        decision = decide(policy, state, Facts((found,), "a"), at_s)
        state = decision.state
        told |= {each.code for each in decision.news}
    assert told == {"blocked"} and state.blocked


def test_a_new_stay_is_no_evidence_that_a_blocked_host_works_again() -> None:
    """A trial that failed led back to where the node itself was well for hours."""
    limits = Limits()
    ways = Egress(limits)
    ways.update((WITNESS,), (WITNESS,), limits, 0.0)
    peer = Judge("exit:a", limits)
    for step in range(400):
        peer.observe(Sample("exit:a", "tsmp", step * 0.5, 0.02))
    for node, at_s in (("a", 0.0), ("b", 190.0), ("a", 199.0)):
        ways.use(node, at_s)
    found = Candidate("a", peer.verdict(200.0), ways.verdict("a", 200.0))
    blocked = State("a", blocked=True)
    assert decide(Policy(("a", "b")), blocked, Facts((found,), "a"), 200.0).state.blocked


def test_another_target_is_no_evidence_that_a_blocked_host_works_again() -> None:
    """Who is blocked edits `targets` to find out why; the new one was not asked yet."""
    limits = Limits()
    ways = Egress(limits)
    ways.update((WITNESS,), (WITNESS,), limits, 0.0)
    peer = Judge("exit:a", limits)
    ways.use("a", 0.0)
    for step in range(400):
        peer.observe(Sample("exit:a", "tsmp", step * 0.5, 0.02))
        ways.observe(Sample(WITNESS, "icmp", step * 0.5, None, "timeout"))
    ways.update((PAGE,), (PAGE,), limits, 200.0)
    found = Candidate("a", peer.verdict(200.5), ways.verdict("a", 200.5))
    blocked = State("a", blocked=True)
    assert decide(Policy(("a", "b")), blocked, Facts((found,), "a"), 200.5).state.blocked
