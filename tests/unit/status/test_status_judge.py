"""What is worth a remark, how bad it is, and that each code is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from status_bed import DAY_S, NOW, a_path, a_state, a_status

import tsstack.status.gather
import tsstack.status.judge
from tsstack.explain.status_pages import REMARKS
from tsstack.status.tailnet import read_exit, read_peers


def codes(status: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in status["warnings"]]


def test_where_all_is_well_nothing_is_said() -> None:
    status = a_status()
    assert codes(status) == []
    assert status["level"] == "ok"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tailnet": {"error": "tailscaled does not answer"}}, ("TS701", "critical")),
        ({"tailnet": {"state": "NeedsLogin"}}, ("TS702", "critical")),
        ({"tailnet": {"health": ["no internet"]}}, ("TS703", "warning")),
        (
            {"tailnet": {"offers": [{"route": "10.0.0.0/8", "approved": False, "withdrawn": False}]}},
            ("TS704", "warning"),
        ),
        ({"tailnet": {"exit_approved": False}}, ("TS705", "warning")),
        ({"tailnet": {"key_expires": NOW + 9 * DAY_S}}, ("TS706", "warning")),
        ({"tailnet": {"key_expires": NOW - 1}}, ("TS706", "critical")),
        ({"exit": {"blocked": True}}, ("TS707", "critical")),
        ({"exit": {"online": False}}, ("TS708", "critical")),
        ({"exit": {"using": "", "online": None}}, ("TS709", "warning")),
        ({"exit": {"using": "exit-b"}}, ("TS710", "warning")),
        ({"exit": {"manual": "exit-a"}}, ("TS711", "warning")),
        ({"exit": {"maintenance": True}}, ("TS712", "warning")),
        ({"firewall": {"loaded": False}}, ("TS731", "critical")),
        ({"firewall": {"changed": True}}, ("TS732", "critical")),
        ({"proxy": {"running": False, "error": "no"}}, ("TS725", "critical")),
        ({"proxy": {"current": False}}, ("TS726", "warning")),
        ({"proxy": {"error": "damaged"}}, ("TS724", "warning")),
        ({"generation": {"error": "its manifest is damaged"}}, ("TS754", "critical")),
        ({"monitor": {"running": False, "error": "no monitor runs", "state": None}}, ("TS741", "warning")),
        ({"monitor": {"state": a_state(a_path("target:icmp:1.1.1.1", "dead"))}}, ("TS742", "critical")),
        ({"monitor": {"state": a_state(a_path("exit:exit-a", "poor"))}}, ("TS743", "warning")),
        (
            {"monitor": {"state": a_state(troubles=[{"about": "x", "message": "m", "hint": "h"}])}},
            ("TS744", "warning"),
        ),
        (
            {"generation": {"pending": {"generation": 8, "phase": "unconfirmed", "left_s": 43.0}}},
            ("TS751", "warning"),
        ),
        (
            {"generation": {"pending": {"generation": 8, "phase": "activating", "left_s": None}}},
            ("TS752", "warning"),
        ),
        (
            {"generation": {"pending": {"generation": 0, "phase": "unknown", "left_s": None}}},
            ("TS752", "warning"),
        ),
        ({"generation": {"boot": 6}}, ("TS753", "warning")),
        ({"generation": {"drift": ["ip_forward is 0, not 1"]}}, ("TS755", "warning")),
    ],
)
def test_each_thing_that_is_wrong_has_its_remark(change: dict[str, Any], expected: tuple[str, str]) -> None:
    status = a_status(**change)
    assert [(warning["code"], warning["level"]) for warning in status["warnings"]] == [expected]
    assert status["level"] == expected[1]


@pytest.mark.parametrize(
    ("left_s", "level"),
    [(11 * DAY_S, "ok"), (9 * DAY_S, "warning"), (2 * DAY_S, "critical"), (-1, "critical")],
)
def test_a_certificate_is_told_when_its_renewal_is_overdue(left_s: float, level: str) -> None:
    certificate = {"names": ["a.test"], "kind": "local-ca", "expires": NOW + left_s, "error": ""}
    status = a_status(certificates=[certificate])
    assert status["level"] == level
    assert set(codes(status)) <= {"TS723"}


def test_a_certificate_that_is_not_there_is_critical_and_one_that_root_alone_reads_is_not() -> None:
    gone = {"names": ["a.test"], "kind": "files", "expires": None, "error": "it is not there"}
    assert codes(a_status(certificates=[gone])) == ["TS722"]
    assert codes(a_status(certificates=[{**gone, "error": "reading it needs root"}])) == []


@pytest.mark.parametrize(
    ("level", "back_in_s", "message", "hint"),
    [
        ("dead", None, "nothing behind it answers", "ts-quality 10.0.0.0/8"),
        ("unknown", None, "nothing behind it answers", "ts-quality 10.0.0.0/8"),
        ("good", 540.0, "it is well, and offered again in 9 min", "tsstack monitor offer 10.0.0.0/8"),
        ("good", 42.4, "it is well, and offered again in 42 s", "tsstack monitor offer 10.0.0.0/8"),
    ],
)
def test_a_withdrawn_route_is_no_green_screen(
    level: str, back_in_s: float | None, message: str, hint: str
) -> None:
    """Nobody reaches what is behind it, whoever took it back."""
    route = {"network": "10.0.0.0/8", "level": level, "withdrawn": True, "back_in_s": back_in_s}
    status = a_status(monitor={"state": {**a_state(), "routes": [route]}})
    assert codes(status) == ["TS713"]
    assert message in status["warnings"][0]["message"]
    assert status["warnings"][0]["hint"] == hint
    assert status["level"] == "warning"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("no monitor runs", "tsstack units install --monitor"),
        ("the monitor does not answer", "systemctl restart tsstack-monitor"),
    ],
)
def test_a_monitor_that_hangs_is_no_monitor_that_is_missing(error: str, fix: str) -> None:
    status = a_status(monitor={"running": False, "wanted": True, "error": error, "state": None})
    assert [(each["code"], each["hint"]) for each in status["warnings"]] == [("TS741", fix)]


def test_a_dead_service_is_critical_and_told_once() -> None:
    dead = {
        "name": "wiki", "url": "https://wiki.test/", "level": "dead", "rtt_s": None, "error": "refused",
        "certificate_expires": None, "dead_upstreams": 2,
    }  # fmt: skip
    status = a_status(services=[dead], monitor={"state": a_state(a_path("service:wiki#0", "dead"))})
    assert codes(status) == ["TS721"]
    assert "refused" in status["warnings"][0]["message"]


def test_a_dead_upstream_of_a_service_that_others_serve_is_a_warning() -> None:
    status = a_status()
    status = a_status(services=[{**status["services"][0], "dead_upstreams": 1}])
    assert codes(status) == ["TS727"]
    assert status["warnings"][0]["level"] == "warning"


def test_beside_a_dead_nginx_no_service_has_a_remark_of_its_own() -> None:
    dead = {**a_status()["services"][0], "level": "dead", "rtt_s": None, "error": "nginx does not answer"}
    proxy = {
        "enabled": True,
        "running": False,
        "current": None,
        "error": "nginx does not answer on 127.0.0.1:1",
    }
    assert codes(a_status(services=[dead, {**dead, "name": "shop"}], proxy=proxy)) == ["TS725"]


@pytest.mark.parametrize(
    ("daemon", "known", "using", "why"),
    [
        ({"BackendState": "Running"}, True, "exit-a", []),
        ({"BackendState": "Stopped"}, True, "", ["tailscaled is Stopped"]),
        ({}, True, "", ["tailscaled does not run"]),
        ({}, False, "", ["tailscaled does not answer"]),
    ],
)
def test_the_way_out_is_that_of_the_packets_and_not_of_the_prefs(
    daemon: dict[str, Any], known: bool, using: str, why: list[str]
) -> None:
    """`tailscale down` leaves ExitNodeID in the prefs while all traffic leaves by the uplink."""
    peers = {"k": {"ID": "n7", "DNSName": "exit-a.tail.test.", "Online": True, "CurAddr": "192.0.2.1:1"}}
    prefs = {"ExitNodeID": "n7"}
    way = read_exit({**daemon, "Peer": peers}, prefs, {"use": ["exit-a"]}, None, known=known)
    assert (way["known"], way["using"], way["why"]) == (known, using, why)
    (peer,) = read_peers({**daemon, "Peer": peers}, ())
    assert (peer["online"], peer["way"]) == ((True, "direct") if using else (False, "idle"))
    wanted = [] if using or not known else ["TS709"]
    told = [code for code in codes(a_status(exit=way)) if code.startswith("TS70")]
    assert told == wanted


def test_the_worst_comes_first() -> None:
    status = a_status(exit={"maintenance": True}, firewall={"loaded": False})
    assert [warning["level"] for warning in status["warnings"]] == ["critical", "warning"]


def test_a_host_that_wants_no_monitor_misses_none() -> None:
    assert codes(a_status(monitor={"running": False, "wanted": False, "error": "x", "state": None})) == []


def test_every_code_that_is_said_is_explained_and_no_other() -> None:
    said = set()
    for module in (tsstack.status.judge, tsstack.status.gather):
        said |= set(re.findall(r'"(TS\d{3})"', Path(str(module.__file__)).read_text()))
    assert said == {remark.code for remark in REMARKS}
