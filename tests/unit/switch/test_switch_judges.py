"""The ways in that a switch must keep: read from the live generation's file and from the new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import Host

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.parts.firewall.host import FILE, Firewall
from tsstack.switch.generations import Manifest
from tsstack.switch.intent import Intent, load
from tsstack.switch.judges import Judges
from tsstack.switch.logins import parse_connection
from tsstack.switch.plan import PartPlan, Plan
from tsstack.switch.transaction import Wanted
from tsstack.switch.ways import Route

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


def test_tunnels_that_cannot_be_read_are_told_of(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox without rtnetlink, a dump that was cut short: the rest is judged all the same."""

    def refused() -> None:
        raise OSError(1, "netlink refuses")

    monkeypatch.setattr("tsstack.switch.tunnels.read_tunnels", refused)
    admin = PLAIN.replace("dmz: {tcp: [80]}", f"admin: {SOURCES}")
    asked = judges(host, admin, admin)
    assert [str(way.packet) for way in asked.ways] == ["tcp/22 from 10.0.0.1 on eth0"]
    (doubt,) = asked.doubts
    assert doubt.startswith("guard: this host's tunnels cannot be told ([Errno 1] netlink refuses)")


OLD_TABLE = "the table of generation 1"


@pytest.mark.parametrize("loaded", [OLD_TABLE, "another generation's, or the fallback's", None])
def test_a_table_that_is_not_the_live_generations_shuts_nothing_by_its_file(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: str | None
) -> None:
    """A boot's stand-in lets in by SSH what the live file would not: that session is there to be cut."""
    mine = parse_connection("192.0.2.7 50000 192.0.2.1 22")
    assert mine is not None
    monkeypatch.setattr("tsstack.switch.sessions.sessions_at_stake", lambda **_: (mine,))
    monkeypatch.setattr("tsstack.switch.routes.route_to", lambda *_: Route("eth0", gateway=True))
    monkeypatch.setattr("tsstack.switch.tunnels.read_tunnels", dict)
    told = {"text": loaded, "file": loaded and "a digest", "fallback": None}
    monkeypatch.setattr(Firewall, "observe", lambda *_: told)
    host.site = replace(host.site, parts=(Firewall(),))
    asked = judges(host, PLAIN, PLAIN.replace("80", "81"))
    table = host.store.path(1) / FILE
    table.parent.mkdir(exist_ok=True)
    table.write_text(OLD_TABLE)
    plan = Plan((PartPlan("firewall", ()),))
    if loaded == OLD_TABLE:
        asked.keep_ways_in(tmp_path, plan)
        assert "the live rules refuse a new one already" in asked.doubts[0]
    else:
        with pytest.raises(CheckFailed, match="lock you out"):
            asked.keep_ways_in(tmp_path, plan)
