"""What a benchmark's figures mean: quantiles, grades, changes, kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.bench.figures import latency
from tsstack.bench.grades import added_s, changes, grade, predecessor
from tsstack.bench.kernels import troubles, version_of

IDLE = latency([0.010, 0.011, 0.012], "icmp")


def test_quantiles_are_values_that_were_seen() -> None:
    found = latency([0.004, None, 0.001, 0.003, 0.002, None], "icmp")
    assert (found.sent, found.lost, found.least_s, found.p50_s, found.p95_s) == (6, 2, 0.001, 0.002, 0.004)
    assert latency([0.001 * each for each in range(1, 101)], "icmp").p95_s == pytest.approx(0.095)


def test_nothing_that_answers_has_no_figures() -> None:
    found = latency([None, None], "icmp")
    assert (found.p50_s, found.p95_s, found.jitter_s, found.loss) == (None, None, None, 1.0)
    assert latency([], "icmp").loss == 0.0


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=60))
def test_quantiles_keep_their_order(rtts_s: list[float | None]) -> None:
    found = latency(rtts_s, "icmp")
    if found.p50_s is not None and found.p95_s is not None and found.least_s is not None:
        assert found.least_s <= found.p50_s <= found.p95_s <= 10


@pytest.mark.parametrize(
    ("loaded_ms", "letter"),
    [
        (11, "A+"),
        (15.9, "A+"),
        (16.1, "A"),
        (40, "A"),
        (42, "B"),
        (100, "C"),
        (300, "D"),
        (500, "F"),
        (5, "A+"),
    ],
)
def test_the_grade_is_what_the_queues_add(loaded_ms: float, letter: str) -> None:
    assert grade(IDLE, latency([loaded_ms / 1000] * 9, "icmp")) == letter


def test_a_way_that_loses_a_fifth_under_load_fails_however_quick_the_rest_is() -> None:
    assert grade(IDLE, latency([0.011] * 7 + [None] * 3, "icmp")) == "F"
    assert grade(IDLE, latency([None] * 5, "icmp")) == "F"


def test_no_latency_gets_no_grade() -> None:
    assert grade(IDLE, None) == "" == grade(latency([None], "icmp"), IDLE)
    assert added_s(IDLE, None) is None
    assert added_s(IDLE, latency([0.001], "icmp")) == 0.0


def a_run(**other: Any) -> dict[str, Any]:
    load = {"latency": None, "added_s": 0.010, "grade": "A"}
    run = {
        "peer": "nas",
        "at": "2026-11-20T10:00:00.000Z",
        "way": {"via": "direct"},
        "idle": {"p50_s": 0.010, "sent": 20, "lost": 0},
        "loads": [
            {**load, "throughput": {"direction": "up", "engine": "own", "bits_s": 400e6}},
            {**load, "throughput": {"direction": "down", "engine": "own", "bits_s": 800e6}},
        ],
        "mtu": {"found_bytes": 1280},
        "underlay": {"mtu": {"found_bytes": 1500}},
    }
    return {**copy.deepcopy(run), **other}


def worse(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    return {change.what for change in changes(before, now) if change.worse}


def test_a_run_is_no_worse_than_itself() -> None:
    found = changes(a_run(), a_run())
    assert {each.what for each in found} == {
        *("latency", "throughput up", "throughput down", "added under load up", "added under load down"),
        *("MTU", "MTU below the tailnet", "loss", "way"),
    }
    assert not any(each.worse for each in found)


def test_a_run_with_load_is_compared_with_one_that_had_some() -> None:
    loaded, quick = a_run(at="1"), a_run(at="2", loads=[])
    assert predecessor([loaded, quick], a_run()) is loaded
    assert predecessor([loaded, quick], a_run(loads=[])) is quick
    assert predecessor([quick], a_run()) is None
    assert predecessor([quick, loaded], a_run(loads=[])) is quick
    assert predecessor([loaded], a_run(loads=[])) is None
    assert predecessor([], a_run()) is None


def test_each_figure_that_got_worse_is_told_and_no_other() -> None:
    slower = a_run()
    slower["loads"][0]["throughput"]["bits_s"] = 290e6
    slower["loads"][1]["added_s"] = 0.031
    assert worse(a_run(), slower) == {"throughput up", "added under load down"}
    assert worse(slower, a_run()) == set()
    assert worse(a_run(), a_run(idle={"p50_s": 0.016, "sent": 20, "lost": 1})) == {"latency", "loss"}
    assert worse(a_run(), a_run(way={"via": "relay"})) == {"way"}
    assert worse(a_run(), a_run(mtu={"found_bytes": 1279})) == {"MTU"}
    assert worse(a_run(), a_run(underlay={"mtu": {"found_bytes": 1400}})) == {"MTU below the tailnet"}


def test_what_two_runs_differ_by_anyway_is_not_worse() -> None:
    other = a_run(idle={"p50_s": 0.0149, "sent": 50, "lost": 1})
    other["loads"][0]["throughput"]["bits_s"] = 301e6
    other["loads"][1]["added_s"] = 0.029
    assert worse(a_run(), other) == set()
    # A LAN's latency doubles by itself.
    quick, slow = a_run(idle={"p50_s": 0.0002}), a_run(idle={"p50_s": 0.0005})
    assert worse(quick, slow) == set()


def test_throughput_of_another_engine_is_not_compared() -> None:
    other = a_run()
    for load in other["loads"]:
        load["throughput"].update(engine="iperf3", bits_s=1e6)
    assert not {each.what for each in changes(a_run(), other)} & {"throughput up", "throughput down"}


@pytest.mark.parametrize("damage", [None, 7, "text", [], {}, [7], {"p50_s": "x"}, {"p50_s": True}, [{}]])
@pytest.mark.parametrize("key", ["idle", "loads", "mtu", "underlay", "way"])
def test_a_damaged_last_run_is_compared_as_far_as_it_goes(key: str, damage: Any) -> None:
    assert worse(a_run(**{key: damage}), a_run()) == set()


def test_versions_of_kernels_and_daemons() -> None:
    assert version_of("6.1.0-28-amd64") == (6, 1, 0)
    assert version_of("1.102.3-ERR-BuildInfo") == (1, 102, 3)
    assert version_of("7.0-rc1") == (7, 0, 0)
    assert version_of("unknown") is None


@pytest.mark.parametrize(
    ("release", "daemon", "links", "source"),
    [
        ("6.1.0-28-amd64", "1.102.3", (), "kb/1320"),
        ("6.6.44", "1.102.3", (), "#13041"),
        ("6.8.4", "1.102.3", ("bridge", "vxlan"), "wireguard-go"),
        ("7.1.4-arch1", "1.98.0", (), "#19777"),
    ],
)
def test_known_trouble_is_told_with_its_source(
    release: str, daemon: str, links: tuple[str, ...], source: str
) -> None:
    (found,) = troubles(release, daemon, links)
    assert source in found


@pytest.mark.parametrize(
    ("release", "daemon", "links"),
    [
        ("6.2.0", "1.98.0", ()),
        ("6.6.45", "1.98.0", ()),
        ("6.8.4", "1.98.0", ("bridge",)),
        ("6.8.5", "1.98.0", ("vxlan",)),
        ("7.1.4", "1.100.0", ()),
        ("7.1.5", "1.98.0", ()),
        ("no version", "", ()),
    ],
)
def test_other_kernels_are_left_in_peace(release: str, daemon: str, links: tuple[str, ...]) -> None:
    assert troubles(release, daemon, links) == ()


def test_an_mtu_that_is_uncertain_is_compared_with_nothing() -> None:
    guessed = a_run(mtu={"found_bytes": 1279, "certain": False})
    assert worse(a_run(), guessed) == set()
    assert worse(guessed, a_run()) == set()
    assert worse(a_run(), a_run(mtu={"found_bytes": 1279, "certain": True})) == {"MTU"}
