"""Three of one thing, ten of all, the rest summed up; recoveries of what was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tsstack.monitor.alert_gate import (
    ABOUT_EACH_S,
    ABOUT_MOST,
    EXIT_EACH_S,
    EXIT_MOST,
    HELD,
    SUMMARY_AFTER_S,
    TOTAL_EACH_S,
    TOTAL_MOST,
    WORSE_EACH_S,
    WORSE_MOST,
    Gate,
    still_open,
)
from tsstack.monitor.snapshot import EXIT_NODE, Event


def begins(
    about: str = "exit:a", code: str = "path-dead", severity: str = "critical", at: float = 0.0
) -> Event:
    return Event(at, code, severity, about, f"{about} is dead", {})  # type: ignore[arg-type]


def ends(about: str = "exit:a") -> Event:
    return Event(0.0, "path-good", "info", about, "is good again", {}, over=True)


def test_news_and_suspicion_alert_nobody() -> None:
    gate = Gate()
    assert not gate.offer(begins(severity="info", code="started"), 0)
    assert not gate.offer(begins(severity="warning", code="path-suspect"), 0)
    assert not gate.offer(ends(), 1), "nobody was told that it began"
    assert gate.summary(1e9) is None


def test_a_recovery_passes_once_and_only_after_its_beginning() -> None:
    gate = Gate()
    assert gate.offer(begins(), 0)
    assert not gate.offer(ends("exit:b"), 1)
    assert gate.offer(ends(), 1)
    assert not gate.offer(ends(), 2)


def test_a_flapping_link_makes_three_alerts_and_then_one_each_ten_minutes() -> None:
    gate = Gate()
    sent = []
    for minute in range(0, 120, 2):
        if gate.offer(begins(), minute * 60):
            sent.append(minute)
            assert gate.offer(ends(), minute * 60 + 60)
        else:
            assert not gate.offer(ends(), minute * 60 + 60)
    assert sent[:3] == [0, 2, 4]
    assert len(sent) <= ABOUT_MOST + 120 * 60 / ABOUT_EACH_S


def test_a_disaster_makes_ten_alerts_and_a_summary_that_names_the_rest() -> None:
    gate = Gate()
    passed = [number for number in range(50) if gate.offer(begins(f"target:{number}"), 0)]
    assert len(passed) == TOTAL_MOST
    gate.offer(ends("target:30"), 5)
    assert gate.summary(SUMMARY_AFTER_S - 1) is None
    summary = gate.summary(SUMMARY_AFTER_S + 1)
    assert summary is not None
    assert (summary.code, summary.severity, summary.about) == (HELD, "critical", "alerts")
    assert summary.text.startswith("40 more alerts were held back: target:10, target:10 is dead; target:11")
    assert summary.text.endswith("and 20 others")
    assert gate.summary(SUMMARY_AFTER_S + 2) is None
    assert "target:31" in still_open(summary)
    assert "target:30" not in still_open(summary)
    assert gate.offer(ends("target:31"), 700), "its beginning was told by the summary"
    assert not gate.offer(ends("target:30"), 700), "it was over when it was told"
    assert gate.held_total == 40


def exit_says(code: str, severity: str) -> Event:
    return begins(EXIT_NODE, code, severity)


def test_blocked_is_told_at_once_after_three_lesser_alerts_of_the_exit_node() -> None:
    gate = Gate()
    told = [
        gate.offer(exit_says(code, severity), number)
        for number, (code, severity) in enumerate(
            (
                *(("moved", "warning"), ("unproven", "warning"), ("returned", "warning")),
                *(("unproven", "warning"), ("blocked", "critical"), ("blocked", "critical")),
            )
        )
    ]
    assert told == [True, True, True, False, True, False]


def test_what_the_exit_node_does_is_told_though_all_behind_it_failed_first() -> None:
    gate = Gate()
    for number in range(50):
        gate.offer(begins(f"target:{number}"), 0)
    assert gate.offer(exit_says("moved", "warning"), 1)
    assert gate.offer(exit_says("unproven", "warning"), 2)
    assert gate.offer(exit_says("blocked", "critical"), 3)


def test_a_storm_does_not_keep_the_summary_back() -> None:
    gate, summaries = Gate(), []
    for second in range(0, 1300, 5):
        gate.offer(begins(f"target:{second}"), second)
        summaries.append(gate.summary(second))
    assert sum(each is not None for each in summaries) == 2


KINDS = ("warning", "critical", "over")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KINDS), st.floats(0, 300)), max_size=200))
def test_never_more_than_stated(steps: list[tuple[int, str, float]]) -> None:
    gate, now_s, begun, open_ = Gate(), 0.0, [], set()
    for number, kind, wait_s in steps:
        now_s += wait_s
        about = f"target:{number}" if number else EXIT_NODE
        if kind == "over":
            assert gate.offer(ends(about), now_s) == (about in open_)
            open_.discard(about)
        elif gate.offer(begins(about, severity=kind), now_s):
            begun.append((now_s, about))
            open_.add(about)
        summary = gate.summary(now_s)
        if summary is not None:
            begun.append((now_s, "alerts"))
            open_.update(still_open(summary))
    for start_s, _ in begun:
        hour = [each for each in begun if start_s <= each[0] < start_s + 3600]
        counted = [each for each in hour if each[1] != "alerts"]
        of_exit = EXIT_MOST + 3600 / EXIT_EACH_S
        assert len(counted) <= TOTAL_MOST + 3600 / TOTAL_EACH_S + of_exit
        assert len(hour) - len(counted) <= 1 + 3600 / SUMMARY_AFTER_S
        for about in {each[1] for each in counted}:
            most = ABOUT_MOST + WORSE_MOST + 3600 / ABOUT_EACH_S + 3600 / WORSE_EACH_S
            assert sum(each[1] == about for each in hour) <= most


def test_a_thousand_things_do_not_grow_it() -> None:
    gate = Gate()
    for number in range(5000):
        gate.offer(begins(f"target:{number}"), number)
    assert len(gate._abouts) <= 1000
    assert len(gate._held) <= 1000
    summary = gate.summary(1e6)
    assert summary is not None
    assert summary.text.startswith(f"{gate.held_total} more alerts")
