"""The verdict on one path: which evidence leads to which level, what recovery takes, what is none."""

from __future__ import annotations

from copy import deepcopy

import pytest

from tsstack.model.sections import Monitor
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits, best

TIMEOUT_S = 1.0


class Probed:
    """A judge fed at a pace; outcomes are None for a loss, else seconds."""

    def __init__(self, limits: Limits | None = None, *, pace_s: float = 0.5) -> None:
        self.judge = Judge("exit:exit-a", limits or Limits())
        self.judge.pace_s = self.pace_s = pace_s
        self.now_s = 1000.0

    def feed(self, *outcomes: float | None) -> Probed:
        for rtt_s in outcomes:
            self.judge.observe(Sample("exit:exit-a", "icmp", self.now_s, rtt_s))
            self.now_s += self.pace_s
        return self

    @property
    def level(self) -> str:
        return self.judge.verdict(self.now_s).level

    def text(self) -> str:
        return "; ".join(map(str, self.judge.verdict(self.now_s).causes))


GOOD = [0.02] * 60


def test_a_path_is_unknown_until_it_was_measured_and_when_it_no_longer_is() -> None:
    path = Probed()
    assert path.level == "unknown"
    assert path.feed(0.02, 0.02).level == "unknown"
    assert path.feed(0.02).level == "good"
    path.now_s += 30
    assert path.level == "unknown"


def test_the_users_failures_in_a_row_are_honoured_at_once_and_dead_once_no_burst_explains_them() -> None:
    path = Probed().feed(*GOOD, None, None)
    assert path.level == "good"
    assert path.feed(None).level == "suspect"
    assert path.text() == "3 probes lost in a row (limit 3)"
    started_s = path.now_s - 1.5
    while path.feed(None).level == "suspect":
        pass
    assert path.level == "dead"
    # With the timeout of a second and the phase of the pace this is within 6.5 s.
    assert 3.0 <= path.now_s - path.pace_s - started_s <= 5.0
    assert "no answer for" in path.text()


def test_one_answer_ends_a_suspicion() -> None:
    path = Probed().feed(*GOOD, None, None, None)
    assert path.level == "suspect"
    assert path.feed(0.02).level == "good"


@pytest.mark.parametrize("failures", [1, 2, 5, 20])
def test_any_number_of_failures_makes_it_suspect_exactly_then(failures: int) -> None:
    path = Probed(Limits(failures=failures)).feed(*GOOD)
    for _ in range(failures - 1):
        assert not path.feed(None).judge._suspect
    assert path.feed(None).judge._suspect
    path.feed(*[None] * 30)
    assert path.level == "dead"


def test_at_thirty_seconds_a_probe_failures_in_a_row_are_dead_at_once() -> None:
    path = Probed(pace_s=30.0).feed(*[0.02] * 5, None, None)
    assert path.level == "good"
    assert path.feed(None).level == "dead"


def test_heavy_loss_is_poor_with_its_numbers() -> None:
    path = Probed().feed(*GOOD)
    for _ in range(30):
        path.feed(0.02, None, 0.02)
        if path.level == "poor":
            break
    assert path.level == "poor"
    assert path.text().startswith("lost 3")
    assert path.text().endswith("(limit 5 %)")


def test_latency_above_the_limit_is_poor_within_ten_seconds() -> None:
    path = Probed().feed(*GOOD, *[0.35] * 9)
    assert path.level == "good"
    assert path.feed(0.35).level == "poor"
    assert "350 ms" in path.text()
    assert "limit 200 ms" in path.text()
    path.feed(*[0.02] * 60)
    assert path.level == "good"


def test_a_path_that_answers_again_is_poor_until_it_recovered_and_healthy_from_its_first_answer() -> None:
    path = Probed().feed(*GOOD, *[None] * 60)
    assert path.level == "dead"
    back_s = path.now_s
    path.feed(0.02)
    assert path.level == "poor"
    assert path.text().startswith("answers again")
    path.feed(*GOOD)
    verdict = path.judge.verdict(path.now_s)
    assert (verdict.level, verdict.healthy_since_s) == ("good", back_s)


def test_a_lossy_recovery_is_no_recovery() -> None:
    path = Probed().feed(*GOOD, *[None] * 60, *[0.02, 0.02, None] * 60)
    assert path.level == "poor"


@pytest.mark.parametrize("gap_s", [20.0, 3600.0])
def test_a_time_without_probes_is_not_a_loss(gap_s: float) -> None:
    path = Probed().feed(*GOOD, None, None)
    path.now_s += gap_s
    path.feed(None)
    assert path.level in {"good", "unknown"}
    path.feed(*[0.02] * 5)
    assert path.level == "good"


def test_a_clock_that_starts_anew_is_survived() -> None:
    path = Probed().feed(*GOOD, *[None] * 30)
    path.now_s = 5.0
    path.feed(*GOOD)
    assert path.level == "good"
    assert path.feed(*[None] * 12).level == "dead"


def test_a_dead_path_is_dead_from_the_start() -> None:
    assert Probed().feed(*[None] * 12).level == "dead"


def test_outages_do_not_make_the_next_one_seen_later() -> None:
    path = Probed()
    waits = []
    for _ in range(30):
        path.feed(*[0.02] * 200)
        began_s = path.now_s
        while path.feed(None).level != "dead":
            pass
        waits.append(path.now_s - began_s)
        path.feed(*[None] * 40)
    assert max(waits) <= waits[0]


def test_a_step_is_told_and_changes_no_level() -> None:
    path = Probed().feed(*GOOD, *[0.05] * 40)
    assert path.level == "good"
    shifted = path.judge.shifted(path.now_s)
    assert shifted is not None
    assert str(shifted) == "went from 20 ms to 50 ms" or shifted.limit < shifted.seen


def test_fresh_asks_for_the_last_probe_and_three_answers_of_late() -> None:
    path = Probed().feed(*GOOD)
    assert path.judge.verdict(path.now_s).fresh
    path.feed(None)
    assert not path.judge.verdict(path.now_s).fresh
    slow = Probed(pace_s=30.0).feed(*GOOD)
    assert not slow.judge.verdict(slow.now_s).fresh
    usual = Probed(Limits(probe_s=5.0), pace_s=5.0).feed(*GOOD)  # the file asks for no more
    assert usual.judge.verdict(usual.now_s).fresh


def test_what_was_learnt_is_given_on_and_rubbish_is_refused() -> None:
    path, fresh = Probed().feed(*GOOD), Probed()
    fresh.judge.restore(path.judge.export())
    with pytest.raises(ValueError, match="cannot be read"):
        fresh.judge.restore({"bursts": 3})


def test_the_limits_are_those_of_the_file() -> None:
    monitor = Monitor.model_validate({"max_loss": "5%", "max_latency": "200ms", "failures": 3})
    assert Limits.of(monitor) == Limits()


def test_a_way_is_as_good_as_its_best_target() -> None:
    good, dead = Probed().feed(*GOOD), Probed().feed(*[None] * 12)
    found = best([dead.judge.verdict(dead.now_s), good.judge.verdict(good.now_s)])
    assert found is not None
    assert found.level == "good"
    assert best([]) is None


def test_a_single_loss_after_its_return_does_not_set_its_health_back() -> None:
    path = Probed().feed(*GOOD, *[None] * 60)
    back_s = path.now_s
    path.feed(*[0.02] * 10, None, *GOOD, *GOOD)
    verdict = path.judge.verdict(path.now_s)
    assert (verdict.level, verdict.healthy_since_s) == ("good", back_s)


def test_a_loss_of_before_its_return_that_is_known_after_it_is_not_held_against_it() -> None:
    """It is known a second late, and another one twelve seconds later set its health back."""
    path = Probed().feed(*GOOD, *[None] * 60)
    back_s = path.now_s
    path.feed(0.02)
    path.judge.observe(Sample("exit:exit-a", "icmp", back_s - 0.5, None))
    path.feed(*[0.02] * 22, None, *GOOD, *GOOD)
    verdict = path.judge.verdict(path.now_s)
    assert (verdict.level, verdict.healthy_since_s) == ("good", back_s)


def test_its_health_is_set_back_only_by_more_than_the_limit_of_the_newest_forty() -> None:
    """One was lost at its return; two more, 27 and 44 probes later, and the way home came 12 s late."""
    path = Probed().feed(*GOOD, *[None] * 60)
    back_s = path.now_s
    path.feed(*[0.02] * 3, None, *[0.02] * 26, None, *[0.02] * 16, None)
    assert path.level == "poor"
    lossy = deepcopy(path).feed(0.02, None)
    well_s = lossy.now_s
    for each, since_s in ((path, back_s), (lossy, well_s)):
        verdict = each.feed(*GOOD, *GOOD).judge.verdict(each.now_s)
        assert (verdict.level, verdict.healthy_since_s) == ("good", since_s)


def test_a_good_time_of_a_few_slow_answers_ends_with_what_the_quick_pace_loses() -> None:
    """Four answers at 30 s made it good, ten seconds that lost a third no alarm, and the host went there."""
    path = Probed().feed(*GOOD, *[None] * 60)
    path.pace_s = path.judge.pace_s = 30.0
    back_s = path.now_s
    path.feed(*[0.02] * 4)
    path.pace_s = path.judge.pace_s = 0.5
    path.feed(0.02, None, *[0.02] * 9, None)
    verdict = path.judge.verdict(path.now_s)
    assert (verdict.level, verdict.healthy_since_s) == ("good", back_s)
    path.feed(0.02, 0.02, None)
    well_s = path.now_s
    path.feed(*GOOD)
    verdict = path.judge.verdict(path.now_s)
    assert (verdict.level, verdict.healthy_since_s) == ("good", well_s)


def test_what_a_slow_pace_lost_counts_after_some_quick_answers() -> None:
    """Two of four lost at 30 s, one of fifteen at 0.5 s: the last ten seconds alone look well."""
    path = Probed(pace_s=30.0).feed(*[0.02] * 5, 0.02, None, None, 0.02)
    path.pace_s = path.judge.pace_s = 0.5
    verdict = path.feed(*[0.02] * 4, None, *[0.02] * 10).judge.verdict(path.now_s)
    assert (verdict.level, verdict.fresh, verdict.is_steady) == ("good", True, False)
    assert round(verdict.loss or 0.0, 2) == 0.07
    assert path.feed(*GOOD).judge.verdict(path.now_s).is_steady


@pytest.mark.parametrize("pace_s", [0.5, 5.0, 30.0])
def test_a_poor_path_is_back_while_it_answers_but_for_one_and_not_once_it_loses_again(pace_s: float) -> None:
    """One lost probe woke the sum of what was lost long before, and the host left a link that was well."""
    path = Probed(Limits(probe_s=pace_s), pace_s=pace_s).feed(*GOOD, *[0.02, None] * 100)
    assert (path.level, path.judge.verdict(path.now_s).is_back) == ("poor", False)
    path.feed(*[0.02] * 24)
    assert (path.level, path.judge.verdict(path.now_s).is_back) == ("poor", True)
    assert path.feed(None).judge.verdict(path.now_s).is_back
    path.feed(0.02, None, 0.02, None)
    assert (path.level, path.judge.verdict(path.now_s).is_back) == ("poor", False)
