"""Which event began what, what ended it, and what still stands."""

from __future__ import annotations

import pytest
from watched_links import NOON, path, state

from tsstack.monitor.episodes import Episodes, standing
from tsstack.monitor.snapshot import CandidateStatus, Event, ExitStatus, RouteStatus, Severity, Trouble

_USE = (CandidateStatus("exit-a", True, "good"), CandidateStatus("exit-b", True, "good"))


def event(
    at: float, code: str, severity: Severity = "info", about: str = "exit:a", *, over: bool = False, **data
) -> Event:
    return Event(NOON + at, code, severity, about, f"{about} {code}", data, over)


def outage(about: str = "exit:a", at: float = 0.0) -> list[Event]:
    return [
        event(at, "path-suspect", "warning", about),
        event(at + 3, "path-dead", "critical", about),
        event(at + 60, "path-poor", "info", about),
        event(at + 80, "path-good", "info", about, over=True),
    ]


def test_each_level_lasts_until_the_next_and_the_end_has_the_whole() -> None:
    told = Episodes(outage()).told
    assert [each.lasted_s for each in told] == [3, 57, 20, 80]
    assert not any(each.stands for each in told)
    assert told[-1].worst == "critical"


def test_what_is_not_over_stands() -> None:
    told = Episodes([*outage(), *outage("exit:b", 10)[:2]]).told
    assert [each.event.about for each in told if each.stands] == ["exit:b"]
    assert [each.lasted_s for each in told][-2:] == [3, None]


def test_news_that_lasts_not_is_left_alone() -> None:
    events = [
        event(0, "proven", about="exit-node"),
        event(1, "repaired", "warning", "exit-node"),
        event(2, "nothing-better", "warning", "exit-node"),
        event(3, "started", "warning", "file"),
        event(4, "trouble", "warning", "socket"),
    ]
    assert [(each.lasted_s, each.stands) for each in Episodes(events).told] == [(None, False)] * 5


def test_a_trouble_that_is_listed_stands_until_it_is_over() -> None:
    begins = event(0, "trouble", "warning", "ping", message="no right to ping")
    assert Episodes([begins]).told[0].stands
    ends = event(30, "trouble", "info", "ping", over=True)
    assert [each.lasted_s for each in Episodes([begins, ends]).told] == [30, 30]


@pytest.mark.parametrize(
    ("codes", "stands"),
    [
        (["moved", "proven"], "moved"),
        (["moved", "proven", "home!"], ""),
        (["blocked"], "blocked"),
        (["blocked", "unblocked!"], ""),
        (["blocked", "moved", "proven"], "moved"),
        (["blocked", "proven"], ""),
        (["moved", "manual"], ""),
        (["direct", "proven"], "direct"),
        (["fought", "repaired"], ""),
    ],
)
def test_the_exit_node_has_one_thing_that_stands(codes: list[str], stands: str) -> None:
    events = [
        event(
            number,
            code.rstrip("!"),
            "critical"
            if code in {"blocked", "direct", "fought"}
            else "warning"
            if code == "moved"
            else "info",
            "exit-node",
            over=code.endswith("!"),
        )
        for number, code in enumerate(codes)
    ]
    assert "".join(each.event.code for each in Episodes(events).told if each.stands) == stands


def test_a_monitor_that_starts_tells_all_anew_but_the_way_out() -> None:
    events = [
        *outage()[:2],
        event(10, "moved", "warning", "exit-node"),
        event(12, "withdrawn", "warning", "offer:10.0.0.0/8"),
        event(100, "started", about="monitor"),
    ]
    told = Episodes(events).told
    assert [each.event.code for each in told if each.stands] == ["moved", "withdrawn"]
    assert told[1].lasted_s == 97


def test_the_monitor_knows_better_than_the_log() -> None:
    told = Episodes([*outage()[:2], *outage("exit:b", 5)[:2]]).told
    now = state(
        path("exit:a"), path("exit:b", "poor", since=NOON + 60), path("service:x#0", "dead", None)
    ).as_json()
    stands = standing(told, now)
    assert [(each.event.about, each.worst) for each in stands] == [
        ("service:x#0", "critical"),
        ("exit:b", "warning"),
    ]


def test_a_dead_upstream_of_a_service_that_another_one_serves_is_a_warning() -> None:
    paths = (path("service:wiki#0", "dead"), path("service:wiki#1"), path("service:wikis#0", "dead"))
    stands = standing((), state(*paths).as_json())
    assert {each.event.about: each.worst for each in stands} == {
        "service:wiki#0": "warning", "service:wikis#0": "critical",
    }  # fmt: skip


def test_without_a_monitor_the_log_is_all_there_is() -> None:
    events = [*outage()[:2], *outage("exit:b", 5)[:3], *outage("exit:c", 9)]
    stands = standing(Episodes(events).told, None)
    assert [(each.event.about, each.worst) for each in stands] == [
        ("exit:a", "critical"),
        ("exit:b", "warning"),
    ]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (ExitStatus("exit-a", "exit-a", _USE), []),
        (ExitStatus("exit-b", "exit-b", _USE), [("moved", "warning")]),
        (ExitStatus("exit-b", "exit-b", _USE, manual="exit-b"), []),
        (ExitStatus("exit-a", "exit-a", _USE, blocked=True), [("blocked", "critical")]),
        (ExitStatus("", "", _USE), [("direct", "critical")]),
        (ExitStatus("exit-a", "exit-b", _USE), [("drift", "warning")]),
        (ExitStatus("exit-a", None, _USE), []),
        (ExitStatus("exit-a", "exit-b", _USE, moving=True), []),
    ],
)
def test_the_way_out_as_the_state_shows_it(way: ExitStatus, expected: list[tuple[str, str]]) -> None:
    stands = standing([], state(exit_status=way).as_json())
    assert [(each.event.code, each.worst) for each in stands] == expected


def test_a_beginning_is_found_again_in_the_log() -> None:
    moved = event(-600, "moved", "warning", "exit-node")
    way = ExitStatus("exit-b", "exit-b", _USE)
    (stands,) = standing(Episodes([moved]).told, state(exit_status=way).as_json())
    assert stands.event is moved
    fought = event(-600, "fought", "critical", "exit-node")
    (stands,) = standing(
        Episodes([fought]).told, state(exit_status=ExitStatus("exit-a", "x", _USE)).as_json()
    )
    assert (stands.event, stands.worst) == (fought, "critical")


def test_routes_troubles_and_upstreams() -> None:
    backup = event(0, "backup", "warning", "upstream:wiki")
    now = state(
        routes=(RouteStatus("10.0.0.0/8", "dead", True), RouteStatus("10.1.0.0/16", "good", False)),
        troubles=(Trouble("ping", "no right"),),
    ).as_json()
    assert {each.event.about for each in standing(Episodes([backup]).told, now)} == {
        "offer:10.0.0.0/8",
        "ping",
        "upstream:wiki",
    }


def test_that_the_side_of_a_route_is_dead_does_not_end_its_withdrawal() -> None:
    events = [
        event(0, "withdrawn", "warning", "offer:10.0.0.0/8"),
        event(0, "path-dead", "critical", "route:10.0.0.0/8"),
        event(60, "path-good", "info", "route:10.0.0.0/8", over=True),
    ]
    told = Episodes(events).told
    assert [each.event.code for each in told if each.stands] == ["withdrawn"]
    told = Episodes([*events, event(120, "restored", "info", "offer:10.0.0.0/8", over=True)]).told
    assert [each.lasted_s for each in told[:2]] == [120, 60]


def test_what_ended_without_a_word_is_unmarked() -> None:
    episodes = Episodes(outage()[:2])
    episodes.keep(set())
    assert not any(each.stands for each in episodes.told)
    assert episodes.add(outage()[3]).lasted_s is None
