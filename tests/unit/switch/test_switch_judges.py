"""The ways in that a switch must keep: read from the live generation's file and from the new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import Host

from tsstack.model.facts import Facts
from tsstack.switch.generations import Manifest
from tsstack.switch.intent import Intent, load
from tsstack.switch.judges import Judges
from tsstack.switch.logins import parse_connection
from tsstack.switch.plan import PartPlan, Plan
from tsstack.switch.transaction import Wanted

PLAIN = "host: {name: one}\nfirewall: {zones: {dmz: {tcp: [80]}}}\n"
SOURCES = "{sources: [10.0.0.0/8], allow: all}"
FACTS = Facts(interfaces=("eth0", "lo"), default_interface="eth0")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr("tsstack.switch.sessions.sessions_at_stake", lambda **_: ())
    host = Host(tmp_path)
    host.store.prepare()
    return host


def judges(host: Host, live: str, text: str) -> Judges:
    with host.store.staged(Manifest(1, 0.0, "", ""), {}, live.encode()):
        pass
    host.store.point("current", 1)
    file = host.site.paths.state / "tsstack.yaml"
    file.write_text(text)
    loaded, findings = load(file, None)
    return Judges(host.site, file, FACTS, Intent(Wanted({}), findings, loaded))


@pytest.mark.parametrize(
    "zone",
    ["admin", '"adm\\x69n"', '"\\u0061dmin"', "ops: &a {preset: admin, sources: [10.0.0.0/8], allow: all}"],
)
def test_admins_of_the_live_file_are_found_however_it_spells_them(host: Host, zone: str) -> None:
    """YAML can write a letter by its number (YAML 1.2 section 5.7): no `admin` is in the text then."""
    text = zone if ":" in zone else f"{zone}: {SOURCES}"
    live = f"host: {{name: one}}\nfirewall:\n  zones:\n    {text}\n"
    ways = judges(host, live, PLAIN).ways
    assert [str(way.packet) for way in ways] == ["tcp/22 from 10.0.0.1 on eth0"]


def test_a_live_file_without_admins_is_not_even_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = judges(host, PLAIN.replace("80", "81"), PLAIN)

    def unread(*_: object) -> None:
        raise AssertionError("read for nothing")

    monkeypatch.setattr("tsstack.switch.judges.load", unread)
    assert asked.ways == []


def test_a_change_of_the_kernel_that_no_way_hangs_on_asks_nobody(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judges(host, PLAIN, PLAIN)

    def searched(**_: object) -> None:
        raise AssertionError("searched for nothing")

    monkeypatch.setattr("tsstack.switch.sessions.sessions_at_stake", searched)
    staged = tmp_path / "staged"
    (staged / "kernel").mkdir(parents=True)
    (staged / "kernel" / "sysctl.json").write_text('{"net.ipv4.tcp_fin_timeout": "17"}')
    (staged / "kernel" / "origins.json").write_text('{"net.ipv4.tcp_fin_timeout": "kernel.sysctl.x"}')
    asked.keep_ways_in(staged, Plan((PartPlan("kernel", ()),)))
    asked.keep_ways_in(staged, Plan((PartPlan("proxy", ()),)))
    assert asked.doubts == ()


def test_a_terminal_that_outlived_its_session_is_told_of(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = parse_connection("192.0.2.7 50000 192.0.2.1 22")
    monkeypatch.setattr("tsstack.switch.sessions.operator_sessions", lambda: (gone,))
    asked = judges(host, PLAIN, PLAIN)
    asked.keep_ways_in(tmp_path, Plan((PartPlan("firewall", ()),)))
    assert "opened from 192.0.2.7, by a session that is over" in asked.doubts[0]


@pytest.mark.parametrize("admins", [True, False])
def test_a_way_back_is_not_barred_by_others(
    host: Host, monkeypatch: pytest.MonkeyPatch, admins: bool
) -> None:
    """Who goes back from a console, locked out maybe, asks for nobody else's session."""
    mine = parse_connection("192.0.2.7 50000 192.0.2.1 22")
    assert mine is not None
    monkeypatch.undo()
    monkeypatch.setattr("tsstack.switch.sessions._ancestry", lambda _: [])
    monkeypatch.setattr("tsstack.switch.sessions.logins_at_stake", lambda: (mine._replace(live=True),))
    judge = Judges(host.site, host.site.paths.state / "none", FACTS, Intent(Wanted({})), admins=admins)
    assert bool(judge.sessions) is admins
