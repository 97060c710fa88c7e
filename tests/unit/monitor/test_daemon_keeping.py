"""What outlives the daemon, what a switch leaves for it, and what systemd hears."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tsstack.errors import ConfigError, LockedError
from tsstack.monitor import reading
from tsstack.monitor.choice import DIRECT, Candidate, Facts, Policy, ProveEgress, State
from tsstack.monitor.generation import is_switching, live_generation, live_source
from tsstack.monitor.helm import Helm
from tsstack.monitor.holddown import Record
from tsstack.monitor.kept import Kept
from tsstack.monitor.life import one_instance
from tsstack.monitor.notify import Notify
from tsstack.monitor.reading import read_apart, read_settings
from tsstack.monitor.settings import Settings, default_interface
from tsstack.monitor.snapshot import RouteStatus
from tsstack.monitor.verdict import Verdict
from tsstack.monitor.withdrawal import Withdrawal

USE = "tailscale: {login_server: http://10.0.0.1, exit_node: {use: [a, b], otherwise: %s}}\n"


def write(tmp_path: Path, text: str, host: str = "host: {name: h, tailnet: t.test, uplink: eth0}\n") -> Path:
    file = tmp_path / "tsstack.yaml"
    file.write_text(host + text)
    return file


def read(tmp_path: Path, text: str) -> Settings:
    return read_settings(write(tmp_path, text))


def test_targets_are_bound_to_the_way_out_and_nearby_ones_are_not(tmp_path: Path) -> None:
    given = read(tmp_path, USE % "block" + "monitor: {targets: [{icmp: 192.0.2.1}, {icmp: 192.168.1.1}]}\n")
    ways = {probe.path.key: probe.path.interface for probe in given.probes("a")}
    assert ways["target:icmp:192.0.2.1"] == "tailscale0"
    assert ways["target:icmp:192.168.1.1"] == ""
    assert given.witnesses("a") == ("target:icmp:192.0.2.1",)
    assert not given.default_targets


def test_a_file_without_a_target_beyond_its_own_networks_gets_ours(tmp_path: Path) -> None:
    given = read(tmp_path, USE % "block" + "monitor: {targets: [{icmp: 192.168.1.1}]}\n")
    assert given.default_targets
    assert given.witnesses("a") == ("target:icmp:1.1.1.1", "target:icmp:9.9.9.9", "target:tcp:1.1.1.1:443")
    without_exit = read(tmp_path, "monitor: {interval: 1s}\n")
    assert not without_exit.default_targets
    assert (without_exit.probes(DIRECT), without_exit.policy) == ((), None)


@pytest.mark.parametrize("at", ["a", DIRECT])
@pytest.mark.parametrize("nearby", ["{dns: example.org}", '{https: "https://nas.lan/"}', "{tcp: 'nas:22'}"])
def test_what_a_cache_or_a_neighbour_may_answer_speaks_for_no_way_out(
    tmp_path: Path, nearby: str, at: str
) -> None:
    """A stub resolver answers while the exit node has no internet."""
    host = "host: {name: h, tailnet: t.test}\n"
    file = write(tmp_path, USE % "direct" + f"monitor: {{targets: [{{icmp: 192.0.2.1}}, {nearby}]}}\n", host)
    given = replace(read_settings(file), uplink="")
    assert given.witnesses(at) == ("target:icmp:192.0.2.1",)
    assert [each.path.key for each in given.judging(at)] == ["target:icmp:192.0.2.1"]
    assert [
        each.path.interface for each in given.probes("a") if each.path.source == "monitor.targets[1]"
    ] == [""]
    alone = read(tmp_path, USE % "block" + f"monitor: {{targets: [{nearby}]}}\n")
    assert alone.default_targets and "target:icmp:1.1.1.1" in alone.witnesses("a")


def test_pages_are_asked_at_the_quick_pace_only_when_nothing_lighter_is_there(tmp_path: Path) -> None:
    targets = '{https: "https://example.org/"}, {icmp: 192.0.2.1}'
    given = read(tmp_path, USE % "block" + f"monitor: {{targets: [{targets}]}}\n")
    assert given.witnesses("a") == ("target:icmp:192.0.2.1",)
    given = read(tmp_path, USE % "block" + 'monitor: {targets: [{https: "https://example.org/"}]}\n')
    assert given.witnesses("a") == ("target:https:https://example.org/",)


def test_pitfall_30_the_bare_uplink_is_probed_only_where_the_file_allows_to_use_it(tmp_path: Path) -> None:
    target = "monitor: {targets: [{icmp: 192.0.2.1}]}\n"
    blocked = read(tmp_path, USE % "block" + target)
    assert {probe.path.interface for probe in blocked.probes("a")} <= {"", "tailscale0"}
    direct = read(tmp_path, USE % "direct" + target)
    (beside,) = [probe for probe in direct.probes("a") if probe.path.key.startswith("direct:")]
    assert (beside.path.key, beside.path.interface) == ("direct:icmp:192.0.2.1", "eth0")
    (there,) = [probe for probe in direct.probes(DIRECT) if probe.host == "192.0.2.1"]
    assert (there.path.key, there.path.interface) == ("target:icmp:192.0.2.1", "eth0")


def test_a_faulty_file_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, "monitor: {intervall: 1s}\n")
    (finding,) = refused.value.findings
    assert (finding.line, finding.path) == (2, "monitor.intervall")


def test_the_uplink_is_that_of_the_default_route_and_never_the_tunnel(tmp_path: Path) -> None:
    route, route6 = tmp_path / "route", tmp_path / "ipv6_route"
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    row = "%s\t00000000\t0\t3\t0\t0\t%s\t00000000\t0\t0\t0\n"
    route.write_text(head + row % ("wlan0", 600) + row % ("eth0", 100))
    assert default_interface(route, route6) == "eth0"
    route.write_text(head)
    zero = "0" * 32
    tail = f"{zero} 00 {zero} 00 {zero} %s 1 0 00000001 %s\n"
    route6.write_text(
        tail % ("00000001", "tailscale0") + tail % ("00000400", "eth7") + tail % ("ffffffff", "lo")
    )
    assert default_interface(route, route6) == "eth7"
    assert default_interface(tmp_path / "none", tmp_path / "none") == ""


def keep(path: Path, state: State | None, until: float | None = None) -> None:
    kept = Kept(path)
    kept.keep(
        failover=state,
        standby={"off": [], "records": []},
        learnt={},
        maintenance=until is not None,
        maintenance_until=until,
    )
    kept.close()


def test_a_choice_by_hand_and_the_hold_downs_outlive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "monitor" / "state.json"
    state = State("b", manual="b", maintenance=True, records={"a": Record(fell_s=50.0, relapses=2)}, number=7)
    keep(path, state, until=123.0)
    kept = Kept(path)
    assert kept.failover(100.0) == state
    assert (kept.maintenance(), kept.maintenance_until()) == (True, 123.0)
    assert path.stat().st_mode & 0o777 == 0o600
    # A daemon that ends before tailscaled has answered keeps what was kept.
    kept.keep(failover=None, standby={"off": [], "records": []}, learnt={}, maintenance_until=None)
    kept.close()
    assert Kept(path).failover(100.0) == state


def test_after_a_reboot_the_choice_holds_and_times_of_the_other_boot_do_not(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    keep(path, State("b", manual="b", moves=(40.0,), records={"a": Record(fell_s=50.0, relapses=2)}))
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "boot": "another"}))
    found = Kept(path).failover(100.0)
    assert found == State("b", manual="b", moves=(), records={"a": Record(relapses=2)})


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"version": 9}', '{"version": 1, "failover": {"at": 1}}']
)
def test_damage_costs_the_memory_and_never_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    kept = Kept(path)
    assert kept.failover(1.0) is None
    keep(path, State("a"))
    assert Kept(path).failover(1.0) == State("a")


def test_a_disk_that_takes_nothing_is_said_and_over_when_it_does_again(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("in the way")
    kept = Kept(folder / "state.json")
    kept.keep(failover=State("a"), standby={}, learnt={}, maintenance_until=None)
    kept._pool.submit(lambda: None).result()
    (trouble,) = kept.troubles()
    assert "cannot be written" in trouble.message and "would not survive" in trouble.hint
    folder.unlink()
    kept.retry()
    kept._pool.submit(lambda: None).result()
    assert kept.troubles() == ()
    assert '"at": "a"' in kept.path.read_text()
    kept.path.unlink()
    kept.retry()  # all is written
    kept.close()
    assert not kept.path.exists()


POLICY = Policy(("a", "b"))


def begun(saved: State | None, actual: str, policy: Policy = POLICY) -> State:
    helm = Helm(policy)
    helm.begin(saved, actual)
    assert helm.state is not None
    return helm.state


def test_where_the_host_stands_is_told_by_tailscaled_the_rest_by_memory() -> None:
    saved = State("a", blocked=True, manual="b", records={"a": Record(relapses=3)})
    assert begun(saved, "b") == State("b", manual="b", records={"a": Record(relapses=3)})
    assert begun(saved, "a").blocked
    assert begun(None, "b").at == "b"
    assert begun(None, "stranger").at == "a"
    assert begun(State("a", manual="c"), "a").manual is None  # the file no longer names it
    assert begun(State(DIRECT, manual=DIRECT), DIRECT).at == "a"  # block: never left on the uplink


def test_what_a_switch_has_set_is_where_the_host_is() -> None:
    helm = Helm(POLICY)
    helm.begin(None, "a")
    helm.adopt(Policy(("c", "d")), "d")
    assert helm.state is not None and helm.state.at == "d"
    helm.adopt(Policy(("d", "c")), "c")  # both are allowed: where it stands is no business of a reload
    assert helm.state.at == "d"


def test_only_what_the_file_names_can_be_chosen_by_hand() -> None:
    helm = Helm(POLICY)
    with pytest.raises(ValueError, match="not answered"):
        helm.choose("a")
    helm.begin(None, "a")
    with pytest.raises(ValueError, match=r"z is not among .*a, b"):
        helm.choose("z")
    with pytest.raises(ValueError, match="otherwise: block"):
        helm.choose(DIRECT)
    helm.choose("b")
    assert helm.state is not None and helm.state.manual == "b"


def test_a_move_that_was_slept_through_is_proven_anew() -> None:
    helm = Helm(POLICY)
    helm.begin(None, "b")
    helm.choose("a")
    seen = Facts((Candidate("a", Verdict("a", "good")), Candidate("b", Verdict("b", "good"))), "b")
    helm.turn(seen, 100.0)
    there = replace(seen, actual="a")
    first, slept = helm.turn(there, 101.0), helm.turn(there, 160.0)
    assert first is not None and first.actions == (ProveEgress("a", 1, 106.0),)
    assert slept is not None and slept.actions == (ProveEgress("a", 1, 165.0),)
    waits = helm.turn(there, 160.5)
    assert waits is not None and (waits.actions, waits.reasons[0].code) == ((), "waiting")


def routes(tmp_path: Path) -> Withdrawal:
    text = (
        "tailscale: {login_server: http://10.0.0.1, advertise: {routes: [192.168.15.0/24, 10.1.0.0/16]}}\n"
        "monitor: {targets: [{icmp: 192.168.15.9}]}\n"
    )
    return Withdrawal(read(tmp_path, text))


def test_a_route_goes_while_its_lan_is_dead_and_comes_back_and_others_are_never_touched(
    tmp_path: Path,
) -> None:
    watched = routes(tmp_path)
    strange = ("0.0.0.0/0", "172.30.0.0/16", "192.168.15.0/24")
    good = Verdict("r", "good", healthy_since_s=0.0)

    def turn(verdict: Verdict, now_s: float) -> None:
        judged = {"route:192.168.15.0/24": verdict}
        watched.turn(
            lambda key: judged.get(key, Verdict(key, "unknown")), now_s, restore_after_s=10, act=True
        )

    turn(good, 1.0)
    assert watched.wanted(strange) is None
    turn(Verdict("r", "dead"), 2.0)
    assert watched.wanted(strange) == ("0.0.0.0/0", "172.30.0.0/16")
    # A switch that has offered it again meanwhile is followed by the same.
    assert watched.wanted(("192.168.15.0/24",)) == ()
    assert watched.wanted(("172.30.0.0/16",)) is None
    saved = json.loads(json.dumps(watched.export()))
    again = routes(tmp_path)
    again.restore(saved, 3.0)
    assert again.state == watched.state
    turn(Verdict("r", "good", healthy_since_s=5.0), 16.0)
    assert watched.wanted(("172.30.0.0/16",)) == ("172.30.0.0/16", "192.168.15.0/24")
    assert watched.wanted(("172.30.0.0/16",)) == ("172.30.0.0/16", "192.168.15.0/24")  # until it is so
    assert watched.wanted(("172.30.0.0/16", "192.168.15.0/24")) is None
    assert watched.wanted(()) is None  # who takes it back after that means it


LAN = "192.168.15.0/24"


def turned(watched: Withdrawal, verdict: Verdict, now_s: float, *, restore_after_s: float = 10.0) -> None:
    judged = {f"route:{LAN}": verdict}
    watched.turn(
        lambda key: judged.get(key, Verdict(key, "unknown")), now_s, restore_after_s=restore_after_s, act=True
    )


def test_a_route_is_neither_taken_back_nor_offered_while_tailscaled_is_silent(tmp_path: Path) -> None:
    """Nothing could be done, and it would be told as done. What is due is done when it is heard again."""
    watched = routes(tmp_path)

    def told(verdict: Verdict, now_s: float, *, heard: bool) -> list[str]:
        judged = {f"route:{LAN}": verdict}
        _, reasons = watched.turn(
            lambda key: judged.get(key, Verdict(key, "unknown")),
            now_s,
            restore_after_s=10,
            act=True,
            heard=heard,
        )
        return [reason.code for reason in reasons]

    assert told(Verdict("r", "dead"), 1.0, heard=False) == []
    assert told(Verdict("r", "dead"), 2.0, heard=True) == ["withdrawn"]
    well = Verdict("r", "good", healthy_since_s=3.0)
    assert told(well, 20.0, heard=False) == []
    assert watched.wanted(()) is None
    assert told(well, 21.0, heard=True) == ["restored"]
    assert watched.wanted(()) == (LAN,)


def shown(
    watched: Withdrawal, verdict: Verdict, now_s: float, *, restore_after_s: float = 10.0
) -> RouteStatus:
    return watched.statuses(lambda _: verdict, now_s, restore_after_s=restore_after_s)[0]


def test_what_somebody_offered_while_no_monitor_ran_stays_offered_unless_its_side_is_dead(
    tmp_path: Path,
) -> None:
    before = routes(tmp_path)
    turned(before, Verdict("r", "dead"), 2.0)
    saved = json.loads(json.dumps(before.export()))
    kept, dead = routes(tmp_path), routes(tmp_path)
    kept.restore(saved, 3.0)
    assert kept.wanted(()) is None, "nobody offered it: it stays withdrawn"
    kept.restore(saved, 3.0)
    turned(kept, Verdict("r", "unknown"), 4.0)
    assert kept.wanted((LAN,)) is None
    assert not kept.statuses(lambda _: Verdict("r", "good"), 4.0, restore_after_s=10)[0].withdrawn
    dead.restore(saved, 3.0)
    assert dead.wanted((LAN,)) is None
    turned(dead, Verdict("r", "dead"), 5.0)
    assert dead.wanted((LAN,)) == ()


@pytest.mark.parametrize(
    "monitor", ["{targets: [{icmp: 192.0.2.1}]}", "{targets: [{icmp: 192.168.15.9}], failover: false}"]
)
def test_a_withdrawn_route_that_the_new_file_gives_no_way_back_to_is_given_back(
    tmp_path: Path, monitor: str
) -> None:
    """The only named host of the LAN was retired: the subnet stayed off the tailnet for good."""
    watched = routes(tmp_path)
    turned(watched, Verdict("r", "dead"), 2.0)
    text = (
        f"tailscale: {{login_server: http://10.0.0.1, advertise: {{routes: [{LAN}]}}}}\nmonitor: {monitor}\n"
    )
    watched.update(read(tmp_path, text))

    def told(*, act: bool, heard: bool = True) -> list[tuple[str, str]]:
        now = Verdict("r", "dead" if "15.9" in monitor else "unknown")
        _, reasons = watched.turn(lambda _: now, 3.0, restore_after_s=10, act=act, heard=heard)
        return [(each.code, each.name) for each in reasons]

    assert told(act=False) == told(act=True, heard=False) == []  # maintenance; a tailscaled that is silent
    assert told(act=True) == [("restored", LAN)]
    assert watched.wanted(()) == (LAN,)
    assert told(act=True) == [] and watched.wanted((LAN,)) is None
    assert watched.export() == {"off": [], "records": []}


def test_a_withdrawn_route_is_offered_by_hand_at_once(tmp_path: Path) -> None:
    watched = routes(tmp_path)
    assert not watched.offer(LAN)
    turned(watched, Verdict("r", "dead"), 2.0)
    assert watched.wanted((LAN,)) == ()
    assert watched.offer(LAN)
    assert watched.wanted(()) == (LAN,)
    assert watched.state.records == {}, "its relapses are forgotten"


def test_how_long_a_route_is_held_back_is_told_and_is_ten_minutes_at_most(tmp_path: Path) -> None:
    watched = routes(tmp_path)
    assert shown(watched, Verdict("r", "good", healthy_since_s=0.0), 1.0) == RouteStatus(LAN, "good", False)
    now_s = 0.0
    for _ in range(5):  # it relapses within the hour, again and again
        turned(watched, Verdict("r", "dead"), now_s + 1)
        assert shown(watched, Verdict("r", "dead"), now_s + 2) == RouteStatus(LAN, "dead", True)
        well = Verdict("r", "good", healthy_since_s=now_s + 10)
        left_s = shown(watched, well, now_s + 14).back_in_s
        assert left_s == (6.0 if not now_s else 596.0)
        turned(watched, well, now_s + 10 + 600)
        assert not shown(watched, well, now_s + 611).withdrawn
        now_s += 700
    turned(watched, Verdict("r", "dead"), now_s)
    assert (
        shown(watched, Verdict("r", "good", healthy_since_s=now_s), now_s, restore_after_s=900).back_in_s
        == 900
    )


def test_a_route_that_the_file_names_no_longer_is_not_offered_again(tmp_path: Path) -> None:
    watched = routes(tmp_path)
    for verdict, now_s in (
        (Verdict("r", "dead"), 1.0),
        (Verdict("r", "good", healthy_since_s=2.0), 20.0),
    ):
        judged = {"route:192.168.15.0/24": verdict}
        watched.turn(
            lambda key, judged=judged: judged.get(key, Verdict(key, "unknown")),  # type: ignore[misc]
            now_s,
            restore_after_s=10,
            act=True,
        )
    assert watched.wanted(()) == ("192.168.15.0/24",)
    watched.update(read(tmp_path, "tailscale: {advertise: {routes: [10.1.0.0/16]}}\n"))
    assert watched.wanted(()) is None


def test_after_a_reboot_a_route_is_held_by_no_time_of_the_other_boot(tmp_path: Path) -> None:
    key = ("route", "192.168.15.0/24")
    saved = {"off": [[*key]], "records": [[*key, asdict(Record(fell_s=5000.0, home_s=4000.0, relapses=2))]]}
    same, other = routes(tmp_path), routes(tmp_path)
    same.restore(saved, 6000.0)
    other.restore(saved, 100.0)
    assert same.state.records[key] == Record(fell_s=5000.0, home_s=4000.0, relapses=2)  # type: ignore[index]
    assert other.state.records[key] == Record(relapses=2)  # type: ignore[index]
    assert other.state.off == same.state.off


def test_a_switch_at_work_is_seen_and_a_dead_one_is_not(tmp_path: Path) -> None:
    record = tmp_path / "pending.json"
    assert not is_switching(tmp_path)
    record.write_text('{"phase": "activating"}')
    assert is_switching(tmp_path)
    os.utime(record, (time.time() - 3600, time.time() - 3600))
    assert not is_switching(tmp_path)
    record.write_text('{"phase": "unconfirmed"}')
    assert not is_switching(tmp_path)
    record.write_text("{")
    assert not is_switching(tmp_path)


def test_the_live_generation_and_the_file_it_was_made_from(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    assert (live_generation(tmp_path), live_source(tmp_path)) == ("", None)
    folder = tmp_path / "generations" / "3"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"source": str(file)}))
    (folder / "source.yaml").write_bytes(b"of then")
    (tmp_path / "current").symlink_to("generations/3")
    assert (live_generation(tmp_path), live_source(tmp_path)) == ("generations/3", (file, b"of then"))


def test_a_generation_is_read_as_if_it_were_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "monitor: {interval: 7s}\n")
    then = b"host: {name: h, tailnet: t.test}\nmonitor: {interval: 9s}\n"
    assert read_settings(file, then).limits.interval_s == 9
    assert read_settings(file).limits.interval_s == 7


def test_it_is_read_apart_as_it_is_read_here(tmp_path: Path) -> None:
    text = (
        "tailscale: {login_server: http://10.0.0.1, exit_node: {use: [a], otherwise: direct},"
        " advertise: {routes: [192.168.15.0/24]}}\n"
        "proxy: {names: path, tls: off, services: {w: {upstream: [8000, '10.9.8.7:80 backup']}}}\n"
        "monitor: {alerts: ['ntfy://x/y', {command: [/bin/true, '{text}']}], metrics: '127.0.0.1:9464'}\n"
    )
    file = write(tmp_path, text)
    settings = read_settings(file)
    assert read_apart(file) == settings
    assert len(settings.alerts) == 2 and len(settings.standbys) == 1 and settings.default_targets
    then = b"host: {name: h, tailnet: t.test}\nmonitor: {interval: 9s}\n"
    assert read_apart(file, then).limits.interval_s == 9
    file.write_text("host: {nam: h}\nmonitor: {interval: no}\n")
    with pytest.raises(ConfigError) as here:
        read_settings(file)
    with pytest.raises(ConfigError) as apart:
        read_apart(file)
    assert apart.value.findings == here.value.findings != ()
    assert (apart.value.message, apart.value.hint) == (here.value.message, here.value.hint)


def test_the_daemon_itself_loads_no_model(tmp_path: Path) -> None:
    """It is as large as all of the watching."""
    file = write(tmp_path, "monitor: {targets: [{icmp: 127.0.0.1}]}\n")
    code = (
        "import sys, pathlib, tsstack.monitor.life as life\n"
        "assert len(life.read_apart(pathlib.Path(sys.argv[1])).planned) == 1\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('pydantic', 'ruamel')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_one_monitor_at_a_time_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "monitor" / "lock"
    with one_instance(lock), pytest.raises(LockedError, match=f"pid {os.getpid()}"), one_instance(lock):
        pass
    with one_instance(lock):
        pass


def heard(listener: socket.socket) -> list[str]:
    listener.setblocking(False)
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_ready_watchdog_reload_and_end(tmp_path: Path, abstract: bool) -> None:
    name = f"@tsstack-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        notify = Notify({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        assert notify.watchdog_s == 30
        notify.ready("all\nwell")
        notify.alive()
        notify.reloading()
        notify.stopping()
        ready, alive, reloading, stopping = heard(listener)
    assert ready == "READY=1\nSTATUS=all well"
    assert (alive, stopping) == ("WATCHDOG=1", "STOPPING=1")
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    notify.alive()  # a manager that went away is no reason to fail
    assert Notify({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}).watchdog_s == 0
    Notify({}).ready("nobody listens")


def test_our_default_targets_are_valid() -> None:
    from tsstack.model.sections import Monitor

    assert len(Monitor.model_validate({"targets": list(reading.DEFAULT_TARGETS)}).targets) == 3


def test_an_upstream_that_gives_way_to_its_backup_is_told_and_told_when_it_is_back(tmp_path: Path) -> None:
    text = (
        "tailscale: {login_server: http://10.0.0.1}\n"
        "proxy:\n  names: path\n  tls: off\n  services:\n"
        '    wiki: {upstream: [8000, "10.9.8.7:8000 backup"]}\n'
        "    lone: {upstream: 9000}\n"
        "firewall: {zones: {internal: {interfaces: [tailscale0], tcp: [80]}}}\n"
    )
    watched = Withdrawal(read(tmp_path, text))
    levels = {
        "service:wiki#0": Verdict("", "dead"),
        "service:wiki#1": Verdict("", "good", fresh=True),
        "service:lone#0": Verdict("", "dead"),
    }

    def turn(now_s: float, *, act: bool = True) -> list[tuple[str, str]]:
        _, reasons = watched.turn(lambda key: levels[key], now_s, restore_after_s=10, act=act)
        return [(reason.code, reason.name) for reason in reasons]

    assert turn(1.0, act=False) == []
    assert turn(1.0) == [("backup", "wiki")]
    assert watched.wanted(("10.1.0.0/16",)) is None  # nginx changes over by itself
    levels["service:wiki#0"] = Verdict("", "good", healthy_since_s=2.0)
    assert turn(5.0) == []
    assert turn(13.0) == [("primary", "wiki")]
