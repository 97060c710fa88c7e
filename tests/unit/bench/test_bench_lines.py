"""How a benchmark looks."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from tsstack.bench.figures import (
    Host,
    Latency,
    Load,
    Mtu,
    Relays,
    Report,
    Throughput,
    Underlay,
    Way,
    latency,
)
from tsstack.bench.fitness import Fitness, fitness
from tsstack.bench.grades import changes
from tsstack.cli.benchmark_lines import bits, history_lines, milliseconds, report_lines
from tsstack.cli.glyphs import UNCUT, Terminal
from tsstack.status.words import SIGNS

PLAIN = Terminal(colour=False, unicode=True, width=80)


def steady(rtt_s: float, lost: int = 0) -> Latency:
    return latency([rtt_s] * (20 - lost) + [None] * lost, "icmp")


def a_report() -> Report:
    up = Throughput("up", "iperf3", 94.1e6, 58_800_000, 5.0, 31)
    down = Throughput("down", "iperf3", 431e6, 269_000_000, 5.0)
    return Report(
        at="2026-11-21T10:00:00.000Z",
        peer="exit-b",
        address="100.64.0.2",
        way=Way("direct", "10.77.3.2:41641", "", 0.012, 0.012, 0.012),
        idle=steady(0.0125, lost=1),
        loads=(
            Load(up, steady(0.0375), 0.025, "A"),
            Load(down, steady(0.260, lost=2), 0.2475, "D"),
        ),
        underlay=Underlay("10.77.3.2", "", steady(0.006), Mtu(1320, 1500), (up, down)),
        mtu=Mtu(1280, 1280),
        relays=Relays("fra", "nue", 0.0214, True, False),
        host=Host(
            kernel="6.6.44",
            troubles=("throughput collapses; tailscale/tailscale#13041",),
            offloads={"eth0": {"rx-gro": True, "tx-udp-segmentation": False}},
            udp_gro_warning="UDP GRO forwarding is suboptimally configured on eth0,\nsee there",
        ),
        notes=("the way was relay when the run began, and is direct now",),
    )


def test_the_whole_screen() -> None:
    before = a_report().as_json()
    before["loads"][1]["throughput"]["bits_s"] = 800e6
    found = changes(before, a_report().as_json())
    assert report_lines(a_report(), found, "2026-11-20T09:00:00.000Z", PLAIN, fitness(a_report(), found)) == [
        "▲ exit-b  100.64.0.2  warning: grade D down, MTU too small, worse than the last…",
        "way          direct, 10.77.3.2:41641",
        "latency      12.5 ms       p95 12.5 ms   lost 1 of 20   jitter 0.00 ms",
        "up           94.1 Mbit/s   grade A    +25.0 ms under load   31 sent again",
        "down         431 Mbit/s    grade D    +248 ms under load   lost 2 of 20",
        "             iperf3, 5 s each way",
        "underlay     10.77.3.2 6.00 ms: the tailnet takes 2.1 times that",
        "             up 94.1 Mbit/s: the tailnet has 100% of it",
        "             down 431 Mbit/s: the tailnet has 100% of it",
        "MTU          1280 on the tailnet (its default), 1320 on the underlay",
        "             below 1340: full packets of the tailnet are cut in two, or get lost",
        "relays       home fra 21.4 ms, the peer's nue",
        "eth0         on: GRO; off: UDP GSO",
        "kernel       6.6.44",
        "             throughput collapses; tailscale/tailscale#13041",
        "             UDP GRO forwarding is suboptimally configured on eth0, see there",
        "last run     2026-11-20 09:00 UTC",
        "             worse: throughput down 800 Mbit/s -> 431 Mbit/s, -46%",
        "note         the way was relay when the run began, and is direct now",
    ]


def test_a_relayed_way_without_load_or_underlay() -> None:
    report = dataclasses.replace(
        a_report(),
        way=Way("relay", "", "fra", 0.04),
        loads=(),
        underlay=None,
        mtu=Mtu(None, 1280, "echoes get no answer"),
        idle=latency([0.04], "TSMP"),
        relays=Relays("fra", "fra", None, False),
        notes=(),
    )
    lines = report_lines(report, (), "", PLAIN, fitness(report, ()))
    assert lines[:2] == [
        "▲ exit-b  100.64.0.2  warning: relayed, no UDP gets out",
        "way          relayed, fra",
    ]
    assert "MTU          not found on the tailnet: echoes get no answer" in lines
    assert "             no UDP gets out of this network: every way is relayed" in lines
    assert next(line for line in lines if line.startswith("latency")).endswith("by TSMP")
    assert not [line for line in lines if line.startswith(("up", "down", "underlay", "last run", "note"))]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, unicode: bool) -> None:
    shown = Terminal(colour=False, unicode=unicode, width=width)
    lines = report_lines(a_report(), (), "2026-11-20T09:00:00.000Z", shown, Fitness("ok"))
    lines += history_lines([a_report().as_json()], shown)
    assert max(map(len, lines)) <= max(width, 33)
    assert unicode or all(line.isascii() for line in lines)


def test_colour_changes_nothing_but_colour() -> None:
    colourful = Terminal(colour=True, unicode=True, width=60)
    plain = Terminal(colour=False, unicode=True, width=60)
    coloured = report_lines(a_report(), (), "", colourful, Fitness("ok"))
    assert [re.sub(r"\033\[[0-9;]*m", "", line).rstrip() for line in coloured] == report_lines(
        a_report(), (), "", plain, Fitness("ok")
    )


def test_words_of_others_cannot_act_on_the_terminal() -> None:
    report = dataclasses.replace(a_report(), peer="a\033[2Jb", notes=("iperf3: \033]0;x\007",))
    assert "\033" not in "".join(report_lines(report, (), "", PLAIN, Fitness("ok")))
    run = {**a_report().as_json(), "peer": "a\033[2Jb", "at": "\033[2J"}
    assert "\033" not in "".join(history_lines([run], PLAIN))


def test_the_history_shows_the_newest_first_and_damage_as_dashes() -> None:
    run = a_report().as_json()
    hurt = {"at": "2026-11-22T10:00:00.000Z", "peer": "nas", "way": 7, "idle": None, "loads": [7, {}]}
    assert history_lines([run, hurt], PLAIN)[1:] == [
        "2026-11-22 10:00 nas              -                    -           -           -",
        "2026-11-21 10:00 exit-b           direct         12.5 ms 94.1 Mbit/s  431 Mbit/s",
    ]


def test_figures_in_their_units() -> None:
    assert [milliseconds(each) for each in (None, 0.00042, 0.0123, 0.22, 2.5)] == [
        *("-", "0.42 ms", "12.3 ms", "220 ms", "2500 ms"),
    ]
    assert [bits(each) for each in (None, 0.0, 56e3, 9.4e6, 940e6, 2.35e9, 125e9)] == [
        *("-", "0 kbit/s", "56 kbit/s", "9.4 Mbit/s", "940 Mbit/s", "2.35 Gbit/s", "125 Gbit/s"),
    ]


@pytest.mark.parametrize(
    ("change", "level", "why"),
    [
        ({}, "ok", ()),
        ({"idle": steady(0.9, lost=1)}, "ok", ()),
        ({"idle": steady(0.9, lost=2)}, "warning", ("10% lost",)),
        ({"idle": steady(0.9, lost=11)}, "critical", ("55% lost",)),
        ({"relays": Relays("fra", "fra", 0.01, udp=False)}, "warning", ("no UDP gets out",)),
        ({"way": Way("relay", "", "fra", 0.04)}, "warning", ("relayed",)),
        ({"way": Way("peer-relay", "1.2.3.4:1", "", 0.04)}, "warning", ("through a peer relay",)),
    ],
)
def test_a_broken_way_is_not_green(change: dict[str, Any], level: str, why: tuple[str, ...]) -> None:
    sound = dataclasses.replace(a_report(), idle=steady(0.0125), loads=(), underlay=None)
    report = dataclasses.replace(sound, **change)
    assert fitness(report, ()) == Fitness(level, why)  # type: ignore[arg-type]
    head = report_lines(report, (), "", PLAIN, fitness(report, ()))[0]
    assert head == f"{SIGNS[level][0]} exit-b  100.64.0.2  {level}" + (f": {', '.join(why)}" if why else "")


@pytest.mark.parametrize(("letter", "level"), [("A+", "ok"), ("C", "ok"), ("D", "warning"), ("F", "warning")])
def test_a_bad_grade_is_a_warning_and_looks_like_one(letter: str, level: str) -> None:
    load = dataclasses.replace(a_report().loads[0], grade=letter)
    report = dataclasses.replace(a_report(), loads=(load,), underlay=None)
    found = fitness(report, ())
    assert (found.level, found.why) == (level, (f"grade {letter} up",) if level != "ok" else ())
    coloured = Terminal(colour=True, unicode=True, width=80)
    row = next(
        line for line in report_lines(report, (), "", coloured, found)[1:] if f"grade {letter}" in line
    )
    assert (f"\033[33mgrade {letter}" in row) == (level == "warning")


def test_an_mtu_that_is_a_guess_is_told_as_one() -> None:
    report = dataclasses.replace(
        a_report(), mtu=Mtu(1180, 1280, certain=False), underlay=None, loads=(), idle=steady(0.01)
    )
    lines = report_lines(report, (), "", PLAIN, fitness(report, ()))
    assert "MTU          1180 or more on the tailnet" in lines
    assert any("uncertain" in line for line in lines)
    assert fitness(report, ()).level == "ok"


def test_in_a_pipe_no_name_is_cut() -> None:
    run = {**a_report().as_json(), "peer": "a-long-name-of-a-peer-in-the-attic"}
    wide = Terminal(colour=False, unicode=True, width=UNCUT)
    assert "a-long-name-of-a-peer-in-the-attic direct" in history_lines([run], wide)[1]


def test_in_a_low_window_what_is_worse_stays() -> None:
    before = a_report().as_json()
    before["loads"][1]["throughput"]["bits_s"] = 800e6
    found = changes(before, a_report().as_json())
    judged = fitness(a_report(), found)
    lines = report_lines(a_report(), found, "2026-11-20T09:00:00.000Z", PLAIN, judged, limit=6)
    assert len(lines) == 6
    assert lines[0].startswith("▲ exit-b  100.64.0.2  warning: ")
    assert "             worse: throughput down 800 Mbit/s -> 431 Mbit/s, -46%" in lines
