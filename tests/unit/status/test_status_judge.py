"""What is worth a remark, how bad it is, and that each code is explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from status_bed import DAY_S, NOW, PREFS, TAILSCALED, a_path, a_state, a_status

import tsstack.status.gather
import tsstack.status.judge
from tsstack.cli.main import _VERBS
from tsstack.explain.status_pages import REMARKS
from tsstack.monitor.past import ABOUT
from tsstack.monitor.reasons import Cause, Compared, Reason
from tsstack.status.tailnet import exit_names, read_exit, read_peers


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
        ({"exit": {"level": "dead"}}, ("TS715", "critical")),
        ({"exit": {"using": "", "online": None}}, ("TS709", "warning")),
        ({"exit": {"using": "exit-b"}}, ("TS710", "warning")),
        ({"exit": {"manual": "exit-a"}}, ("TS711", "warning")),
        ({"exit": {"maintenance": True}}, ("TS712", "warning")),
        ({"firewall": {"loaded": False}}, ("TS731", "critical")),
        ({"firewall": {"loaded": False, "dormant": True, "changed": True}}, ("TS731", "critical")),
        ({"firewall": {"changed": True}}, ("TS732", "critical")),
        ({"firewall": {"fallback": True}}, ("TS733", "warning")),
        ({"firewall": {"changed": None}}, ("TS734", "warning")),
        ({"proxy": {"running": False, "error": "no"}}, ("TS725", "critical")),
        ({"proxy": {"orphans": 2}}, ("TS725", "critical")),
        ({"proxy": {"running": None, "orphans": 1}}, ("TS725", "critical")),
        ({"proxy": {"identity": False}}, ("TS720", "critical")),
        ({"proxy": {"current": False}}, ("TS726", "critical")),
        ({"proxy": {"error": "damaged"}}, ("TS724", "warning")),
        ({"generation": {"error": "its manifest is damaged"}}, ("TS754", "critical")),
        ({"monitor": {"running": False, "error": "no monitor runs", "state": None}}, ("TS741", "warning")),
        ({"monitor": {"state": a_state(a_path("target:icmp:1.1.1.1", "dead"))}}, ("TS742", "critical")),
        ({"monitor": {"state": a_state(a_path("exit:exit-a", "poor"))}}, ("TS743", "warning")),
        ({"monitor": {"state": a_state(a_path("service:wiki#0", "poor"))}}, ("TS743", "warning")),
        ({"monitor": {"state": a_state(a_path("exit:exit-a", "suspect"))}}, ("TS745", "warning")),
        (
            {"monitor": {"state": a_state(troubles=[{"about": "x", "message": "m", "hint": "h"}])}},
            ("TS744", "warning"),
        ),
        (
            {
                "generation": {
                    "pending": {"change": "c", "generation": 8, "phase": "unconfirmed", "left_s": 43.0}
                }
            },
            ("TS751", "warning"),
        ),
        (
            {
                "generation": {
                    "pending": {"change": "c", "generation": 8, "phase": "activating", "left_s": None}
                }
            },
            ("TS752", "warning"),
        ),
        (
            {"generation": {"pending": {"change": "", "generation": 0, "phase": "unknown", "left_s": None}}},
            ("TS752", "warning"),
        ),
        (
            {"generation": {"pending": {"change": "", "generation": 0, "phase": "damaged", "left_s": None}}},
            ("TS752", "warning"),
        ),
        ({"generation": {"boot": 6}}, ("TS753", "warning")),
        ({"generation": {"drift": ["ip_forward is 0, not 1"]}}, ("TS755", "warning")),
        ({"generation": {"drift": ["net.ipv4.ip_forward is 0, not 1"]}}, ("TS861", "critical")),
    ],
)
def test_each_thing_that_is_wrong_has_its_remark(change: dict[str, Any], expected: tuple[str, str]) -> None:
    status = a_status(**change)
    assert [(warning["code"], warning["level"]) for warning in status["warnings"]] == [expected]
    assert status["level"] == expected[1]


@pytest.mark.parametrize(
    ("left_s", "life_s", "level"),
    [
        (11 * DAY_S, 90 * DAY_S, "ok"),
        (9 * DAY_S, 90 * DAY_S, "warning"),
        (2 * DAY_S, 90 * DAY_S, "critical"),
        (-1, 90 * DAY_S, "critical"),
        (9 * DAY_S, None, "warning"),
        (2 * DAY_S, None, "critical"),
        (2 * DAY_S, 6 * DAY_S, "ok"),
        (1.4 * DAY_S, 6 * DAY_S, "warning"),
        (0.5 * DAY_S, 6 * DAY_S, "critical"),
        (0.3 * DAY_S, DAY_S, "ok"),
        (0.2 * DAY_S, DAY_S, "warning"),
    ],
)
def test_a_certificate_is_told_when_its_renewal_is_overdue(
    left_s: float, life_s: float | None, level: str
) -> None:
    certificate = {
        "names": ["a.test"],
        "kind": "local-ca",
        "expires": NOW + left_s,
        "life_s": life_s,
        "served": True,
        "error": "",
    }
    status = a_status(certificates=[certificate])
    assert status["level"] == level
    assert set(codes(status)) <= {"TS723"}


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("System DNS config not ideal. /etc/resolv.conf overwritten.", "tsstack doctor"),
        ("Tailscale can't reach the configured DNS servers.", "tsstack doctor"),
        ("no internet connection", "tailscale netcheck"),
    ],
)
def test_a_complaint_of_names_is_looked_at_by_who_looks_at_names(line: str, command: str) -> None:
    (remark,) = a_status(tailnet={"health": [line]})["warnings"]
    assert (remark["code"], remark["hint"].partition("    # ")[0]) == ("TS703", command)


def test_what_is_left_of_a_certificate_is_said_as_the_other_screens_say_it() -> None:
    certificate = {**a_status()["certificates"][0], "expires": NOW + 1.99 * DAY_S}
    (remark,) = a_status(certificates=[certificate])["warnings"]
    assert remark["message"] == "the certificate of wiki.kernelcore.tail.test expires in 48 h"


def test_a_certificate_that_was_renewed_and_not_loaded_is_told() -> None:
    certificate = {**a_status()["certificates"][0], "served": False}
    assert codes(a_status(certificates=[certificate])) == ["TS729"]


def test_a_certificate_that_is_not_there_is_critical_and_one_that_root_alone_reads_is_not() -> None:
    gone = {
        "names": ["a.test"], "kind": "files", "expires": None, "life_s": None, "served": None,
        "error": "it is not there",
    }  # fmt: skip
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


def test_where_no_monitor_runs_that_is_why_another_exit_node_is_in_use() -> None:
    gone = {"running": False, "error": "no monitor runs", "state": None}
    status = a_status(monitor=gone, exit={"using": "exit-b", "why": []})
    (told,) = (each["message"] for each in status["warnings"] if each["code"] == "TS710")
    assert told == "exit-b stands in for exit-a: no monitor runs"


def test_what_a_monitor_withdrew_that_is_gone_is_told_as_such() -> None:
    offers = [{"route": "10.0.0.0/8", "approved": True, "withdrawn": True}]
    gone = {"running": False, "error": "no monitor runs", "state": None}
    status = a_status(monitor=gone, tailnet={"offers": offers, "offers_exit": False})
    told = {each["code"]: each for each in status["warnings"]}
    assert set(told) == {"TS741", "TS713"}
    assert told["TS713"]["message"] == "10.0.0.0/8: withdrawn by the monitor, and no monitor runs"
    assert told["TS713"]["hint"].startswith("tsstack rollback --to 7")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (
            "no monitor runs",
            "systemctl start tsstack-monitor    # where there is no such unit: "
            "tsstack units install --monitor",
        ),
        ("the monitor does not answer", "systemctl restart tsstack-monitor"),
    ],
)
def test_a_monitor_that_hangs_is_no_monitor_that_is_missing(error: str, fix: str) -> None:
    status = a_status(monitor={"running": False, "wanted": True, "error": error, "state": None})
    assert [(each["code"], each["hint"]) for each in status["warnings"]] == [("TS741", fix)]


def test_a_monitor_that_refuses_to_answer_runs_and_is_not_restarted() -> None:
    status = a_status(monitor={"running": True, "error": "the monitor runs and refuses", "state": None})
    (remark,) = status["warnings"]
    assert remark["code"] == "TS741"
    assert "nothing fails over" not in remark["message"]
    assert "not known" in remark["message"]
    assert "systemctl" not in remark["hint"]


@pytest.mark.parametrize(
    "change",
    [
        {"firewall": {"loaded": False}},
        {"firewall": {"changed": True}},
        {"generation": {"drift": ["ip_forward is 0, not 1"]}},
        {"proxy": {"running": False, "error": "no"}},
    ],
)
@pytest.mark.parametrize(
    ("phase", "hint"), [("unconfirmed", "tsstack rollback    # "), ("activating", "tsstack recover")]
)
def test_while_a_switch_waits_nothing_is_gone_back_to_that_it_would_drop(
    change: dict[str, Any], phase: str, hint: str
) -> None:
    pending = {"change": "c7", "generation": 7, "phase": phase, "left_s": 42.0}
    more = {**change, "generation": {**change.get("generation", {}), "pending": pending}}
    told = [each for each in a_status(**more)["warnings"] if each["code"] not in {"TS751", "TS752"}]
    assert [each["hint"][: len(hint)] for each in told] == [hint]


def test_what_tailscaled_says_of_forwarding_is_told_once() -> None:
    said = "Subnet routing is enabled, but IP forwarding is disabled. Check that IP forwarding is enabled."
    off = {"drift": ["net.ipv4.ip_forward is 0, not 1"]}
    assert codes(a_status(tailnet={"health": [said]}, generation=off)) == ["TS861"]
    assert codes(a_status(tailnet={"health": [said]})) == ["TS703"], "nothing of ours tells it"
    assert sorted(codes(a_status(tailnet={"health": ["x"]}, generation=off))) == ["TS703", "TS861"]


def test_a_blocked_host_is_told_each_cause_once() -> None:
    dead = Compared("exit-a", "dead", causes=(Cause("failures", 5, 3),))
    other = Compared("exit-b", "dead", causes=(Cause("failures", 9, 3),))
    why = [str(Reason("blocked", "exit-b", (other, dead)))]
    candidates = [
        {"name": name, "offered": True, "level": "dead", "barred_s": 0.0} for name in ("exit-a", "exit-b")
    ]
    told = {"why": why, "candidates": candidates, "blocked": True}
    prefs = {**PREFS, "ExitNodeID": "n9"}
    exit_b = {"ID": "n9", "HostName": "exit-b", "Online": True, "ExitNodeOption": True}
    tailscaled = {**TAILSCALED, "Peer": {**TAILSCALED["Peer"], "d": exit_b}}
    causes = [{"text": "6 probes lost in a row (limit 3)"}]
    paths = [a_path("exit:exit-a", "dead", causes=causes)]
    way = read_exit(tailscaled, prefs, {"use": ["exit-a", "exit-b"]}, told, paths=paths)
    (remark,) = (each for each in a_status(exit=way)["warnings"] if each["code"] == "TS707")
    assert remark["message"] == (
        "no exit node works, and nothing may leave: exit-b stays set: "
        "exit-b 9 probes lost in a row (limit 3); exit-a 5 probes lost in a row (limit 3)"
    )
    barred = [{**each, "level": "good", "barred_s": 540.0} for each in candidates]
    way = read_exit(tailscaled, prefs, {"use": ["exit-a", "exit-b"]}, {**told, "candidates": barred})
    assert way["why"][0] == "exit-a is good and barred for 540 s more: it failed its proof"
    away = [{**each, "offered": False} for each in candidates]
    way = read_exit(tailscaled, prefs, {"use": ["exit-a", "exit-b"]}, {**told, "candidates": away})
    assert way["why"][0] == "exit-a offers no exit on this tailnet"


def test_a_dead_service_is_critical_and_told_once() -> None:
    dead = {
        "name": "wiki", "url": "https://wiki.test/", "level": "dead", "rtt_s": None, "error": "refused",
        "certificate_expires": None, "certificate_life_s": None, "dead_upstreams": 2, "unreached": "",
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


EXPIRED = {"state": "NeedsLogin", "key_expires": NOW - 1, "health": ["You are logged out."]}


def test_an_expired_key_is_one_remark_with_the_fix_that_works() -> None:
    trouble = {"about": "tailscaled", "message": "tailscaled is in the state NeedsLogin", "hint": "x"}
    status = a_status(tailnet={**EXPIRED, "id": "7"}, monitor={"state": a_state(troubles=[trouble])})
    assert codes(status) == ["TS706"]
    fix = status["warnings"][0]["hint"]
    assert fix.startswith("headscale nodes expire -i 7 --disable    # on http://hs.test:8080")
    hosted = a_status(tailnet={**EXPIRED, "control": "https://controlplane.tailscale.com"})
    assert hosted["warnings"][0]["hint"].startswith("tsstack switch    # ")


@pytest.mark.parametrize(
    ("daemon", "source", "code"),
    [
        ("NeedsLogin", "100.64.0.2", "TS716"),
        ("NeedsLogin", "192.0.2.7", "TS709"),
        ("Running", "100.64.0.2", ""),
    ],
)
def test_where_the_kernel_hands_all_to_a_tailscaled_that_is_down_nothing_leaves(
    daemon: str, source: str, code: str
) -> None:
    """After its key has expired tailscaled leaves its routes, and `tailscale down` takes them away."""
    said = {"BackendState": daemon, "TailscaleIPs": ["100.64.0.2"]}
    way = read_exit(said, {}, {"use": ["exit-a"]}, None, source=source)
    found = [each for each in codes(a_status(exit=way, tailnet={"state": daemon})) if each != "TS702"]
    assert found == ([code] if code else ["TS709"])


def test_forwarding_that_interfaces_alone_have_off_is_told_once() -> None:
    own = ["net.ipv4.conf.eth1/5.forwarding is 0, not 1"]
    said = "IP forwarding is disabled, subnet routing/exit nodes will not work."
    status = a_status(
        forwarding_off=["tailscale0", "eth1.5"], generation={"drift": own}, tailnet={"health": [said]}
    )
    (remark,) = status["warnings"]
    assert (remark["code"], remark["level"]) == ("TS861", "critical")
    assert remark["message"] == (
        "IPv4 forwarding is off on tailscale0, eth1.5 alone, and is needed for 192.168.15.0/24 and "
        "10.9.0.0/24 and the exit node"
    )
    assert remark["hint"] == (
        "sysctl -w net.ipv4.conf.tailscale0.forwarding=1 net.ipv4.conf.eth1/5.forwarding=1"
    )


PAST4 = {"version": 4, "interface": "eth0", "rule": None}
PAST6 = {"version": 6, "interface": "eth0", "rule": None}


@pytest.mark.parametrize(
    ("bypassed", "said", "fix"),
    [
        ([PAST4], "IPv4 leaves this host by eth0 (tailscaled's routes or rules are missing), and not by "
         "exit-a, which tailscaled says is in use", "systemctl restart tailscaled"),
        ([PAST4, PAST6], "IPv4 and IPv6 leave this host by eth0 (tailscaled's routes or rules are missing), "
         "and not by exit-a, which tailscaled says is in use", "systemctl restart tailscaled"),
        ([{**PAST4, "interface": "wg0", "rule": 5208}, PAST6], "IPv4 leaves this host by wg0 (rule 5208 "
         "stands before tailscaled's); IPv6 leaves this host by eth0 (tailscaled's routes or rules are "
         "missing), and not by exit-a, which tailscaled says is in use",
         "ip -4 rule show pref 5208; systemctl restart tailscaled"
         "    # who set it? ip -4 rule del pref 5208 takes it away"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [{}, {"blocked": True}, {"online": False}, {"level": "dead"}])
def test_what_leaves_past_the_exit_node_is_told_whatever_else_is_of_it(
    bypassed: list[dict[str, Any]], said: str, fix: str, more: dict[str, Any]
) -> None:
    """A blocked host that leaks is not blocked."""
    (remark,) = a_status(exit={"bypassed": bypassed, **more})["warnings"]
    assert remark == {
        "code": "TS718", "level": "critical", "about": "exit node", "message": said, "hint": fix,
    }  # fmt: skip


def test_what_the_monitor_finds_past_the_exit_node_is_not_told_twice() -> None:
    trouble = {"about": ABOUT, "message": "IPv4 leaves this host by eth0", "hint": "systemctl restart x"}
    state = a_state(troubles=[trouble])
    assert codes(a_status(exit={"bypassed": [PAST4]}, monitor={"state": state})) == ["TS718"]
    assert codes(a_status(monitor={"state": state})) == ["TS744"]


def test_the_link_of_the_only_uplink_is_told_whatever_tailscaled_still_believes() -> None:
    uplinks = [{"interface": "eth0", "up": False}]
    assert codes(a_status(uplinks=uplinks, tailnet={"online": True})) == ["TS714"]
    assert codes(a_status(uplinks=[], tailnet={"online": True})) == []
    assert codes(a_status(uplinks=[], tailnet={"online": False})) == ["TS714"]
    assert codes(a_status(uplinks=[*uplinks, {"interface": "eth1", "up": True}])) == []


@pytest.mark.parametrize(("since", "expected"), [(NOW - 3600, ["TS717"]), (NOW - 5, []), (None, ["TS717"])])
def test_a_control_server_that_is_away_is_told_but_not_while_tailscaled_starts(
    since: float | None, expected: list[str]
) -> None:
    assert codes(a_status(tailnet={"online": False, "since": since})) == expected


def test_where_the_tailnet_is_down_no_service_has_a_remark_of_its_own() -> None:
    lost = {**a_status()["services"][0], "level": "dead", "unreached": "tailscaled is Stopped"}
    assert codes(a_status(services=[lost], tailnet={"state": "Stopped"})) == ["TS702"]
    moved = {**lost, "unreached": "100.64.0.9 is no address of this host any more"}
    assert codes(a_status(services=[moved])) == ["TS728"]


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        ({"offered": False}, "exit-a offers no exit on this tailnet"),
        ({"level": "dead"}, "exit-a is dead: 9 probes lost"),
        ({"barred_s": 90.0}, "exit-a is good and barred for 90 s more: it failed its proof"),
        ({}, "exit-a is good again, and is gone back to when it was so for `restore_after`"),
    ],
)
def test_where_another_stands_in_it_is_said_why_the_first_does_not(
    candidate: dict[str, Any], why: str
) -> None:
    told = {
        "candidates": [{"name": "exit-a", "offered": True, "level": "good", "barred_s": 0.0, **candidate}],
        "why": ["stays with exit-b"],
    }
    daemon = {"BackendState": "Running", "Peer": {"k": {"ID": "n7", "DNSName": "exit-b.t.", "Online": True}}}
    path = a_path("exit:exit-a", causes=[{"text": "9 probes lost"}])
    way = read_exit(daemon, {"ExitNodeID": "n7"}, {"use": ["exit-a"]}, told, paths=[path])
    assert way["why"] == [why, "stays with exit-b"]


def test_drift_is_mended_by_the_live_generation_and_not_by_a_file_that_was_rolled_back() -> None:
    fixes = [a_status(generation={"drift": ["x"], "boot": boot})["warnings"][0]["hint"] for boot in (7, 6)]
    assert [fix.partition("    # ")[0] for fix in fixes] == ["tsstack rollback --to 7"] * 2
    assert [fix.endswith("for every boot too") for fix in fixes] == [False, True]


def test_every_fix_can_be_pasted() -> None:
    """A shell takes it: commands, with what is for people behind `#`."""
    status = a_status(
        tailnet={"exit_approved": False, "health": ["x"], "key_expires": NOW + DAY_S},
        exit={"blocked": True, "maintenance": True, "manual": "exit-a"},
        firewall={"changed": True, "fallback": True},
        generation={"drift": ["x"], "error": "its manifest is damaged", "boot": 6},
        services=[{**a_status()["services"][0], "level": "dead"}],
        proxy={"current": False},
    )
    commands = {"tailscale", "tsstack", "headscale", "nginx", "nginx-logs", "ts-quality"}
    for each in status["warnings"]:
        first = each["hint"].partition("    # ")[0]
        parts = [part.split() for part in first.split("; ")]
        assert {part[0] for part in parts} <= commands, each
        for program, *words in parts:
            verbs = _VERBS if program == "tsstack" else words
            assert words[:1] == [] or words[0] in verbs, each
        assert "`" not in each["hint"], each
        subprocess.run(["bash", "-n", "-c", each["hint"]], check=True)


def test_the_worst_comes_first() -> None:
    status = a_status(exit={"maintenance": True}, firewall={"loaded": False})
    assert [warning["level"] for warning in status["warnings"]] == ["critical", "warning"]


def test_causes_come_before_what_follows_from_them() -> None:
    """Of a flushed table only its policy is left, which drops what nginx and tailscaled are asked."""
    status = a_status(
        uplinks=[{"interface": "eth0", "up": False}],
        firewall={"changed": True},
        proxy={"running": False, "error": "nginx does not answer"},
        tailnet={"error": "tailscaled does not answer"},
    )
    assert codes(status) == ["TS714", "TS732", "TS701", "TS725"]


def test_a_host_that_wants_no_monitor_misses_none() -> None:
    assert codes(a_status(monitor={"running": False, "wanted": False, "error": "x", "state": None})) == []


def test_a_switch_of_forwarding_counts_where_something_of_it_is_offered() -> None:
    """On a host that offers IPv4 alone the other one is drift as any other."""
    drift = ["net.ipv4.ip_forward is 0, not 1", "net.ipv6.conf.all.forwarding is 0, not 1", "x is 1, not 2"]
    offers = [{"route": "192.168.15.0/24", "approved": True, "withdrawn": False}]
    status = a_status(tailnet={"offers": offers, "offers_exit": False}, generation={"drift": drift})
    off, rest = status["warnings"]
    assert off["message"] == "net.ipv4.ip_forward is 0, and this host has to forward for 192.168.15.0/24"
    assert off["hint"].startswith("tsstack rollback --to 7")
    assert rest["code"] == "TS755"
    assert rest["message"] == f"drift: {drift[1]}; {drift[2]}"


def test_every_code_that_is_said_is_explained_and_no_other() -> None:
    said = set()
    for module in (tsstack.status.judge, tsstack.status.gather):
        said |= set(re.findall(r'"(TS\d{3})"', Path(str(module.__file__)).read_text()))
    assert said == {*(remark.code for remark in REMARKS), "TS861"}  # that one is the doctor's


def test_an_exit_node_is_called_what_the_file_calls_it() -> None:
    """The host name, where the name in DNS is another: it is not somebody else who stands in."""
    peer = {"ID": "n7", "DNSName": "exit-paris.tail.test.", "HostName": "oracle-vm", "Online": True,
            "ExitNodeOption": True, "CurAddr": "192.0.2.1:1"}  # fmt: skip
    other = {**peer, "ID": "n5", "DNSName": "oracle-vm.tail.test.", "ExitNodeOption": False}
    told = {"BackendState": "Running", "Peer": {"o": other, "k": peer}}
    candidates = [{"name": "Oracle-VM", "offered": True, "level": "dead", "barred_s": 0.0}]
    wanted, state = {"use": ["Oracle-VM"]}, {"why": [], "candidates": candidates}
    way = read_exit(told, {"ExitNodeID": "n7"}, wanted, state)
    assert (way["using"], way["level"]) == ("Oracle-VM", "dead")
    assert codes(a_status(exit=dict(way))) == ["TS715"]
    found = {each["name"]: each for each in read_peers(told, [a_path("exit:oracle-vm")])}
    assert found["exit-paris"]["names"] == ["exit-paris", "oracle-vm"]
    assert (found["exit-paris"]["rtt_s"], found["oracle-vm"]["rtt_s"]) == (0.012, None)


def test_a_host_name_fills_gaps_and_takes_nobodys_name() -> None:
    exits = {"ExitNodeOption": True, "Online": True}
    peers = {
        "a": {**exits, "ID": "n1", "DNSName": "box-1.tail.test.", "HostName": "box"},
        "b": {**exits, "ID": "n2", "DNSName": "box.tail.test.", "HostName": "box"},
    }
    assert exit_names({"Peer": peers}) == {"n1": ["box-1"], "n2": ["box"]}


@pytest.mark.parametrize(("moving", "expected"), [(False, ["TS715"]), (True, [])])
def test_the_verdict_on_the_internet_through_the_node_is_the_monitors(
    moving: bool, expected: list[str]
) -> None:
    """Not while it moves: that is over in seconds. The name is the peer's, of which case says nothing."""
    peers = {"k": {"ID": "n1", "HostName": "Exit-A", "DNSName": "Exit-A.tail.test.", "Online": True}}
    candidates = [{"name": "exit-b", "level": "good"}, {"name": "exit-a", "level": "dead"}]
    told = {"candidates": candidates, "why": ["barred"], "moving": moving}
    way = read_exit(
        {"BackendState": "Running", "Peer": peers}, {"ExitNodeID": "n1"}, {"use": ["exit-a", "exit-b"]}, told
    )
    assert way["level"] == "dead"
    said = [warning["code"] for warning in a_status(exit=way)["warnings"] if warning["code"] > "TS706"]
    assert said == expected


@pytest.mark.parametrize("expires", [None, NOW + DAY_S])
def test_the_users_own_certificate_is_for_the_user_to_renew(expires: float | None) -> None:
    """`certificates renew` makes none of kind `files`: it loads what was put there."""
    own = {
        "names": ["a.test"], "kind": "files", "expires": expires, "life_s": 90 * DAY_S, "served": True,
        "error": "damaged",
    }  # fmt: skip
    (warning,) = a_status(certificates=[own])["warnings"]
    assert warning["hint"] == (
        "tsstack certificates renew    # once the renewed pair is where proxy.tls says: nobody else renews it"
    )
    (warning,) = a_status(certificates=[{**own, "kind": "local-ca"}])["warnings"]
    assert warning["hint"] == "tsstack certificates renew"
