"""The wheel: few wakeups, an even spread, nothing lost and no bursts."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from tsstack.monitor.probes.wheel import SLOT_S, Wheel


def drive(wheel: Wheel[int], *, start_s: float, end_s: float) -> tuple[list[tuple[float, int]], int]:
    """What was due when, and how often one had to wake."""
    happened, wakeups, now_s = [], 0, start_s
    while (next_s := wheel.next_s()) is not None and next_s < end_s:
        now_s = max(now_s, next_s)
        happened += [(now_s, item) for item in wheel.due(now_s)]
        wakeups += 1
    return happened, wakeups


def test_a_thousand_probes_a_second_need_ten_wakeups_of_equal_size() -> None:
    wheel: Wheel[int] = Wheel(100.0)
    for item in range(1000):
        wheel.add(item, 1.0, 100.0)
    happened, wakeups = drive(wheel, start_s=100.0, end_s=110.0)
    assert wakeups <= 10 * 10 + 1
    assert 9800 <= len(happened) <= 10_100
    sizes = Counter(round(at_s, 3) for at_s, _ in happened if at_s >= 101.0)
    assert max(sizes.values()) <= 105
    assert min(sizes.values()) >= 95


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 333])
@pytest.mark.parametrize("pace_s", [0.5, 1.0, 30.0])
def test_each_comes_at_its_pace_and_within_one_of_adding(count: int, pace_s: float) -> None:
    wheel: Wheel[int] = Wheel(5.0)
    for item in range(count):
        wheel.add(item, pace_s, 5.0)
    happened, _ = drive(wheel, start_s=5.0, end_s=5.0 + 20 * pace_s)
    for item in range(count):
        times = [at_s for at_s, each in happened if each == item]
        assert times[0] <= 5.0 + pace_s + SLOT_S
        assert 18 <= len(times) <= 21
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert all(abs(gap - pace_s) <= SLOT_S + 1e-6 for gap in gaps)


def test_those_that_stay_keep_their_turns_when_others_come_and_go() -> None:
    random.seed(7)
    wheel: Wheel[int] = Wheel(0.0)
    turns = {item: wheel.add(item, 1.0, 0.0) for item in range(100)}
    before, _ = drive(wheel, start_s=0.0, end_s=3.0)
    for item in range(50, 100):
        wheel.remove(turns[item])
    for item in range(1000, 1050):
        wheel.add(item, 1.0, 3.0)
    assert len(wheel) == 100
    after, _ = drive(wheel, start_s=3.0, end_s=6.0)
    for item in range(50):
        first = [at_s for at_s, each in before if each == item]
        second = [at_s for at_s, each in after if each == item]
        assert abs(second[0] - first[-1] - 1.0) <= SLOT_S + 1e-6
    assert not [item for _, item in after if 50 <= item < 100]
    wheel.remove(turns[99])  # twice is harmless
    assert len(wheel) == 100


def test_a_promoted_one_comes_within_its_quick_pace_and_a_demoted_one_is_not_lost() -> None:
    wheel: Wheel[str] = Wheel(0.0)
    turn = wheel.add("exit", 30.0, 0.0)
    wheel.set_pace(turn, 0.5, 1.0)
    happened, _ = drive(wheel, start_s=1.0, end_s=4.0)  # type: ignore[arg-type]
    assert happened[0][0] <= 1.6
    assert len(happened) in {5, 6}
    wheel.set_pace(turn, 30.0, 4.0)
    happened, _ = drive(wheel, start_s=4.0, end_s=70.0)  # type: ignore[arg-type]
    assert 2 <= len(happened) <= 4
    assert len(wheel) == 1


def test_a_short_delay_costs_no_turn() -> None:
    wheel: Wheel[int] = Wheel(0.0)
    for item in range(100):
        wheel.add(item, 1.0, 0.0)
    drive(wheel, start_s=0.0, end_s=2.0)
    assert len(wheel.due(2.25)) in range(20, 36)


def test_after_a_long_stall_nothing_bursts_and_all_come_back() -> None:
    wheel: Wheel[int] = Wheel(0.0)
    for item in range(1000):
        wheel.add(item, 30.0 if item % 2 else 0.5, 0.0)
    drive(wheel, start_s=0.0, end_s=60.0)
    assert len(wheel.due(3600.0)) <= 120  # the slots just now, not an hour's worth
    happened, _ = drive(wheel, start_s=3600.0, end_s=3632.0)
    assert {item for _, item in happened} == set(range(1000))
    sizes = Counter(round(at_s, 3) for at_s, _ in happened)
    assert max(sizes.values()) <= 250


def test_an_empty_wheel_wants_no_wakeup() -> None:
    wheel: Wheel[int] = Wheel(0.0)
    assert wheel.next_s() is None
    turn = wheel.add(1, 1.0, 0.0)
    assert wheel.next_s() is not None
    wheel.remove(turn)
    assert wheel.next_s() is None
    assert wheel.due(10.0) == []


def test_a_pace_shorter_than_the_delay_does_not_double_up() -> None:
    wheel: Wheel[int] = Wheel(0.0, slot_s=0.05)
    wheel.add(1, 0.05, 0.0)
    drive(wheel, start_s=0.0, end_s=1.0)
    assert len(wheel.due(1.12)) <= 1
