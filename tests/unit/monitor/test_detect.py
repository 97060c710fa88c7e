"""Detection of loss, silence and late answers: the rules, their adapting, and what must not alarm."""

from __future__ import annotations

import math
import random
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack.monitor.bursts import Bursts, silence_s, threshold
from tsstack.monitor.detect import LimitDetector, LossDetector, ShiftDetector


def state_of(detector: LossDetector) -> list[object]:
    """Everything that the detector remembers."""
    parts = [
        [getattr(part, name) for name in part.__slots__]
        for part in (detector.fast, detector.slow, detector.bursts)
    ]
    own = [getattr(detector, n) for n in detector.__slots__ if n not in {"fast", "slow", "bursts"}]
    return [*parts, own]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), max_size=60))
def test_answers_taken_in_at_once_are_exactly_those_one_by_one(runs: list[tuple[int, int]]) -> None:
    """What makes the long simulations true: they leap over answers with the real code."""
    leaping, stepping = LossDetector(0.5, 0.05), LossDetector(0.5, 0.05)
    at = 0
    for answers, losses in runs:
        if answers:
            leaping.answered_run(answers, (at + answers - 1) * 0.5)
        for each in range(at, at + answers):
            stepping.answered(each * 0.5)
        at += answers
        for each in range(at, at + losses):
            leaping.lost(each * 0.5)
            stepping.lost(each * 0.5)
        at += losses
        assert state_of(leaping) == state_of(stepping)


def feed(detector: LossDetector, outcomes: list[bool], *, from_s: float = 0.0, pace_s: float = 0.5) -> None:
    for at, answered in enumerate(outcomes):
        (detector.answered if answered else detector.lost)(from_s + at * pace_s)


def test_losses_known_late_do_not_break_a_streak_nor_make_one() -> None:
    detector = LossDetector(0.5, 0.05)
    feed(detector, [True] * 20)
    detector.answered(11.5)  # the probes of 10.0, 10.5 and 11.0 are known to be lost only now
    for sent_s in (10.0, 10.5, 11.0):
        detector.lost(sent_s)
    assert detector.streak == 0
    for sent_s in (12.0, 12.5, 13.0):
        detector.lost(sent_s)
    assert (detector.streak, detector.silence_s) == (3, 1.0)
    detector.answered(9.9)  # an answer to an older probe says nothing of now
    assert detector.streak == 3
    detector.answered(13.5)
    assert detector.streak == 0


def test_a_silence_is_measured_from_its_first_lost_probe_at_any_pace() -> None:
    detector = LossDetector(0.5, 0.05)
    feed(detector, [True] * 20)
    feed(detector, [False] * 11, from_s=10.0, pace_s=0.1)
    assert detector.silence_s == pytest.approx(1.0)
    # Ten losses within one second are evidence of one second, not of five.
    assert detector.fast.score == pytest.approx((1 + 10 / 5) * (1 << 20), rel=1e-4)


def bursty(mean_s: float, share: float, count: int, seed: int) -> list[bool]:
    """Outcomes of probes at 0.5 s over a link that is off in exponential bursts."""
    rng = random.Random(seed)  # noqa: S311
    outcomes = [True] * count
    at_s = 0.0
    while True:
        at_s += rng.expovariate(share / (1 - share) / mean_s)
        end_s = at_s + rng.expovariate(1 / mean_s)
        for probe in range(int(at_s / 0.5) + 1, int(end_s / 0.5) + 1):
            if probe >= count:
                return outcomes
            outcomes[probe] = False
        at_s = end_s
        if at_s / 0.5 >= count:
            return outcomes


@pytest.mark.parametrize("mean_s", [0.1, 0.3, 1.0, 2.0])
def test_the_length_of_bursts_is_learnt(mean_s: float) -> None:
    detector = LossDetector(0.5, 0.05)
    feed(detector, bursty(mean_s, 0.02, 60_000, 1))
    assert detector.bursts.follow == pytest.approx(exp(-0.5 / mean_s), rel=0.12, abs=0.05)  # bursts meet


def test_longer_bursts_make_it_wait_longer_within_bounds() -> None:
    waits, heights = [], []
    for mean_s in (0.05, 0.3, 1.0, 5.0):
        detector = LossDetector(0.5, 0.05)
        feed(detector, bursty(mean_s, 0.02, 60_000, 2))
        waits.append(detector.silence_limit_s)
        heights.append(detector.fast.height)
    assert waits == sorted(waits)
    assert heights == sorted(heights)
    assert waits[0] == 3.0
    assert waits[-1] == 15.0


def test_the_bounds_hold_against_a_plain_simulation() -> None:
    """Lundberg's bound on a small scale: about one climb over the height in the time that it is made for."""
    bursts = Bursts(0.5)
    follow, start = 0.3, 0.02
    bursts.restore({"starts": 1e6, "follows": 1e6 * follow / (1 - follow), "answers": 1e6 / start})
    height = threshold(bursts, 0.5, neutral=0.09, excused=0.5)
    rng = random.Random(3)  # noqa: S311
    score, highest, losing = 0.0, [0.0], False
    for _ in range(400_000):
        losing = rng.random() < (follow if losing else start)
        score = score + 1 if losing else max(0.0, score - 0.09 / 0.91)
        if score == 0.0 and highest[-1]:
            highest.append(0.0)
        highest[-1] = max(highest[-1], score)
    highest.sort()
    tenth, hundredth = highest[-len(highest) // 10], highest[-len(highest) // 100]
    per_factor_ten = hundredth - tenth
    climbs = len(highest) * (120 * 86400 * 2 / 400_000)
    assert height == pytest.approx(tenth + per_factor_ten * (math.log10(climbs) - 1), rel=0.25)
    assert silence_s(bursts, 0.5) == pytest.approx(
        0.5 * math.log(0.02 / 1.02 * 120 * 86400 * 2) / -math.log(follow), rel=0.05
    )


def test_an_outage_is_not_learnt_as_the_links_nature() -> None:
    detector = LossDetector(0.5, 0.05)
    before = (detector.silence_limit_s, detector.fast.height)
    for outage in range(50):
        feed(detector, [True] * 600, from_s=outage * 1000.0)
        feed(detector, [False] * 8, from_s=outage * 1000.0 + 300.0)
        detector.outage()
        feed(detector, [False] * 92, from_s=outage * 1000.0 + 304.0)
        detector.answered(outage * 1000.0 + 350.0)
        detector.clear()
        detector.learning = True
    assert detector.silence_limit_s <= before[0]
    assert detector.fast.height <= before[1] + 0.5


def test_lasting_loss_above_the_limit_is_never_excused() -> None:
    detector = LossDetector(0.5, 0.05)
    rng = random.Random(4)  # noqa: S311
    feed(detector, [rng.random() > 0.15 for _ in range(60_000)])
    assert detector.slow.alarm
    assert detector.fast.height < 15


def test_a_silence_that_just_ended_by_itself_raises_the_wait_for_a_day() -> None:
    detector = LossDetector(0.5, 0.05)
    before_s = detector.silence_limit_s
    feed(detector, [True] * 20 + [False] * 8 + [True])
    assert detector.silence_limit_s >= 3.5 * 1.25
    assert before_s < detector.silence_limit_s < 1.5 * before_s
    for at in range(300):
        detector.answered_run(200, 400_000.0 + at * 100)
        detector.lost(400_000.0 + at * 100 + 50)
    assert detector.silence_limit_s < before_s


def test_what_was_learnt_survives_a_restart_and_rubbish_is_refused() -> None:
    detector, fresh = LossDetector(0.5, 0.05), LossDetector(0.5, 0.05)
    feed(detector, bursty(1.0, 0.02, 60_000, 5))
    fresh.restore(detector.export())
    detector.restore(detector.export())
    assert fresh.fast.height == pytest.approx(detector.fast.height)
    for saved in (
        {},
        {"starts": -1, "follows": 0, "answers": 0},
        {"starts": "x", "follows": 0, "answers": 0},
    ):
        with pytest.raises(ValueError, match="cannot be read"):
            fresh.restore(saved)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be read"):
        fresh.restore({"starts": float("nan"), "follows": 0.0, "answers": 0.0})


def test_late_answers_alarm_when_the_median_is_late() -> None:
    detector = LimitDetector(0.2)
    for at in range(200):
        detector.answered(at * 0.5, 5.0 if at % 3 == 0 else 0.02)  # a third is very late: the median is not
        assert not detector.alarm
    for at in range(200, 220):
        detector.answered(at * 0.5, 0.35)
    assert detector.alarm
    for at in range(220, 235):
        detector.answered(at * 0.5, 0.19)  # just below the limit is worth half
    assert detector.alarm
    for at in range(235, 238):
        detector.answered(at * 0.5, 0.1)
    assert not detector.alarm


def test_a_link_that_is_always_just_below_the_limit_recovers_from_one_spike() -> None:
    """It was poor for ever after."""
    detector = LimitDetector(0.2)
    for at in range(24):
        detector.answered(at * 0.5, 0.26)
    assert detector.alarm
    for at in range(24, 44):
        detector.answered(at * 0.5, 0.197)
    assert not detector.alarm
    # A median that swings around the limit does not.
    for at in range(24):
        detector.answered(at * 0.5, 0.26)
    for at in range(24, 600):
        detector.answered(at * 0.5, 0.203 if at % 2 else 0.197)
        assert detector.alarm


def test_a_step_is_seen_and_single_late_answers_are_not() -> None:
    rng = random.Random(6)  # noqa: S311
    detector = ShiftDetector()
    for at in range(20_000):
        rtt_s = 0.02 + abs(rng.gauss(0, 0.002)) + (1.0 if at % 40 == 0 else 0.0)
        assert not detector.answered(at * 0.5, rtt_s)
    seen = [at for at in range(40) if detector.answered(10_000 + at * 0.5, 0.05 + abs(rng.gauss(0, 0.002)))]
    assert seen
    assert seen[0] <= 8
    assert detector.shifted_from_s == pytest.approx(0.022, abs=0.004)


def test_a_quiet_night_does_not_make_the_day_look_calm() -> None:
    busy, dozing = LossDetector(0.5, 0.05), LossDetector(0.5, 0.05)
    outcomes = bursty(0.3, 0.03, 60_000, 7)
    feed(busy, outcomes)
    for day in range(6):
        feed(dozing, outcomes[day * 10_000 : day * 10_000 + 10_000], from_s=day * 86400.0)
        dozing.answered_run(160_000, (day + 1) * 86400.0 - 1)
    assert dozing.fast.height == pytest.approx(busy.fast.height, rel=0.1)
