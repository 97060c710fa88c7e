"""The monitor against real faults, on a host with two real exit nodes, with a real client's packets counted.

One run of each; how long they take, and over how many runs, is what benchmarks/monitor --lab tells.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from monitor_bed import FIRST_ADDRESS, HOST, INTERNET, SECOND_ADDRESS, Bed, Client, Daemon

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def whole_bed() -> Iterator[Bed]:
    with Bed.up() as bed:
        yield bed


@pytest.fixture
def bed(whole_bed: Bed) -> Iterator[Bed]:
    """On exit-b, all well, with a monitor that remembers nothing."""
    whole_bed.host.path("/var/lib/tsstack/monitor/state.json").unlink(missing_ok=True)
    whole_bed.use("exit-b")
    yield whole_bed
    whole_bed.lab.heal()


@pytest.fixture
def client(bed: Bed) -> Iterator[Client]:
    with bed.client() as client:
        yield client


def settle(client: Client, by: str = FIRST_ADDRESS) -> None:
    """Traffic flows, and the monitor has seen enough to know what is normal."""
    assert client.await_flow(time.time(), within_s=30, by=by) is not None
    time.sleep(6)


def codes(daemon: Daemon) -> list[str]:
    return [event["code"] for event in daemon.events() if event["about"] == "exit-node"]


# Its strength, how quick a good connection is, and how long the host may take.
FAULTS = {
    "cut": (0, 1.0, 15.0),
    "uplink": (0, 1.0, 15.0),
    "kill": (0, 1.0, 15.0),
    "loss": (30, 1.0, 60.0),
    "delay": (250, 0.2, 20.0),
}


@pytest.mark.parametrize(("fault", "how"), FAULTS.items(), ids=FAULTS)
def test_pitfall_26_the_host_moves_off_a_bad_exit_node_proves_it_says_why_and_goes_home(
    bed: Bed, client: Client, fault: str, how: tuple[int, float, float]
) -> None:
    amount, limit_s, within_s = how
    with bed.monitor(restore_after="6s", max_latency="100ms") as daemon:
        settle(client)
        leaked = bed.leaked()
        bed.lab.fault(fault, "exit-b", amount=amount)
        at = time.time()
        assert client.await_flow(at, within_s=within_s, limit_s=limit_s, by=SECOND_ADDRESS) is not None, (
            daemon.lines
        )
        # tailscaled has moved the packets before it answers.
        state = daemon.await_state(lambda state: not state["exit"]["moving"], within_s=6)["exit"]
        assert (state["at"], state["actual"]) == ("client-1", "client-1")
        assert codes(daemon)[:2] == ["moved", "proven"]
        (moved,) = [event for event in daemon.events() if event["code"] == "moved"][:1]
        assert moved["text"].startswith("moves to client-1: exit-b ")
        assert moved["data"]["compared"][0]["causes"]
        bed.lab.heal()
        healed = time.time()
        assert client.await_flow(healed, within_s=90, by=FIRST_ADDRESS) is not None, daemon.lines
        assert "home" in codes(daemon)
        assert bed.leaked() == leaked


def test_root_without_any_power_is_enough_as_the_unit_has_it(bed: Bed, client: Client) -> None:
    """As under PrivateUsers= and an empty CapabilityBoundingSet=: tailscaled still takes it for root."""
    bed.host.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 0"])
    with bed.monitor(under=("unshare", "--user", "--map-root-user")) as daemon:
        settle(client)
        assert {path["level"] for path in daemon.state()["paths"] if path["kind"] == "target"} == {"good"}
        bed.lab.fault("cut", "exit-b")
        assert client.await_flow(time.time(), within_s=15, by=SECOND_ADDRESS) is not None, daemon.lines
        daemon.await_state(lambda state: state["exit"]["at"] == "client-1" and not state["exit"]["moving"])
        # Freeing flows alone needs more: said once, with the fix.
        (trouble,) = [each for each in daemon.state()["troubles"] if each["about"] == "conntrack"]
        assert "tsstack-flows.socket" in trouble["hint"]


def test_pitfall_30_block_is_really_blocked_and_ends_by_itself(bed: Bed, client: Client) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        settle(client)
        leaked = bed.leaked()
        for node in ("exit-b", "client-1"):
            bed.lab.fault("cut", node)
        daemon.await_state(lambda state: state["exit"]["blocked"])
        at = time.time()
        time.sleep(10)
        assert bed.host.api.prefs()["ExitNodeID"] != ""
        assert all(not attempt.by for attempt in client.attempts if attempt.begun > at)
        assert bed.leaked() == leaked
        bed.lab.heal()
        assert client.await_flow(time.time(), within_s=60) is not None
        daemon.await_state(lambda state: not state["exit"]["blocked"])
        assert bed.leaked() == leaked
    words = set(" ".join(daemon.lines).replace("[", " ").replace("]", " ").split())
    assert "blocked" in words
    # By the node in use, which answers again, or by a move to another that did so first.
    assert {"unblocked", "proven"} & words


def test_otherwise_direct_leaves_by_the_uplink_only_when_no_candidate_works(bed: Bed, client: Client) -> None:
    with bed.monitor(restore_after="6s", otherwise="direct") as daemon:
        settle(client)
        for node in ("exit-b", "client-1"):
            bed.lab.fault("cut", node)
        assert client.await_flow(time.time(), within_s=40, by="10.77.2.2") is not None, daemon.lines
        assert daemon.state()["exit"]["at"] == ""
        bed.lab.heal()
        assert client.await_flow(time.time(), within_s=60, by=FIRST_ADDRESS) is not None, daemon.lines


def test_a_choice_by_hand_stands_over_a_restart_until_auto(bed: Bed) -> None:
    host = bed.host
    with bed.monitor(restore_after="6s") as daemon:
        time.sleep(3)
        said = host.run(["tsstack", "exit-node", "use", "client-1"]).stdout
        assert "client-1 is used until" in said
        daemon.await_state(
            lambda state: state["exit"]["actual"] == "client-1" and not state["exit"]["moving"]
        )
        refused = host.run(["tsstack", "exit-node", "use", "nobody"], check=False)
        assert (refused.returncode, "does not offer an exit" in refused.stderr) == (4, True)
    assert daemon.process is None
    listed = host.run(["tsstack", "exit-node", "list"])
    assert "client-1" in listed.stdout and "no monitor listens" in listed.stderr
    with bed.monitor() as daemon:
        state = daemon.await_state(lambda state: state["exit"]["manual"] == "client-1")
        assert state["exit"]["at"] == "client-1"
        time.sleep(8)  # longer than restore_after: nobody goes home
        assert daemon.state()["exit"]["at"] == "client-1"
        nodes = json.loads(host.run(["tsstack", "exit-node", "list", "--json"]).stdout)["exit_nodes"]
        assert [(node["name"], node["in_use"], node["by_hand"]) for node in nodes] == [
            ("exit-b", False, False),
            ("client-1", True, True),
        ]
        assert nodes[0]["quality"]["windows"][0]["rtt_p50_s"] > 0
        host.run(["tsstack", "exit-node", "auto"])
        daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b", within_s=60)


def test_prefs_that_someone_else_changes_are_set_again_and_not_in_maintenance(bed: Bed) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        time.sleep(3)
        leaked = bed.leaked()
        bed.use("client-1")
        daemon.await_state(lambda _: "repaired" in codes(daemon))
        daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b")
        bed.use("")  # a leak, closed at once
        daemon.await_state(lambda _: codes(daemon).count("repaired") == 2, within_s=3)
        daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b", within_s=3)
        bed.host.run(["tsstack", "monitor", "maintenance", "on", "--for", "10s"])
        bed.use("client-1")
        time.sleep(5)
        assert bed.host.api.prefs()["ExitNodeID"] == bed.ids["client-1"]
        daemon.await_state(
            lambda state: state["exit"]["actual"] == "exit-b", within_s=20
        )  # it ended by itself
        assert not daemon.state()["exit"]["maintenance"]
        assert bed.leaked() - leaked < 50  # the client did not run; the daemon's own probes are bound


def test_a_tailscaled_that_restarts_or_hangs_is_waited_for(bed: Bed, client: Client) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        settle(client)
        pid = bed.host.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            daemon.await_state(lambda state: state["exit"]["actual"] is None, within_s=30)
            before = daemon.state()["probes_sent"]
            time.sleep(3)
            assert daemon.state()["probes_sent"] > before + 5  # probing goes on
            assert "tailscaled" in [trouble["about"] for trouble in daemon.state()["troubles"]]
        finally:
            os.kill(pid, signal.SIGCONT)
        daemon.await_state(lambda state: state["exit"]["actual"] is not None, within_s=30)
        bed.lab.fault("kill", HOST)
        daemon.await_state(lambda state: state["exit"]["actual"] is None)
        bed.lab.heal()
        daemon.await_state(lambda state: state["exit"]["actual"] in {"exit-b", "client-1"}, within_s=30)
        assert client.await_flow(time.time(), within_s=60) is not None
        about = [event for event in daemon.events() if event["about"] == "tailscaled"]
        # It may be told again in other words, when more is known; what begins ends once.
        turns = [over for over, _ in itertools.groupby(event["over"] for event in about)]
        assert turns == [False, True] * (len(turns) // 2)
        assert sum(event["over"] for event in about) == len(turns) // 2


# The kernel follows connections once a rule asks for their state.
FOLLOW = """table inet follow {
  chain out { type filter hook output priority 0; ct state new accept; }
  chain in { type filter hook input priority 0; ct state new accept; }
}
"""


def entries(bed: Bed) -> set[str]:
    """Where the host's connections lead that conntrack knows."""
    script = (
        "import json; from tsstack.monitor.conntrack import list_connections\n"
        "print(json.dumps([[c.original.destination, c.original.port] for c in list_connections()]))"
    )
    said = bed.host.run(
        [sys.executable, "-P", "-c", script], env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ).stdout
    return {f"{address}:{port}" for address, port in json.loads(said)}


def test_pitfall_10_flows_of_the_node_that_was_left_are_freed_and_no_others(bed: Bed) -> None:
    host = bed.host
    # The kernel follows connections once a rule asks for their state.
    host.run(["nft", "-f", "-"], stdin=FOLLOW)
    peer = bed.lab.node("client-1").tailnet_addresses()[0]
    talk = (
        "import socket, time\n"
        "def say(*to): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', to)\n"
        f"say('{peer}', 9999), say('{INTERNET}', 4444)\n"
        "time.sleep(60)\n"
    )
    process = host.popen([sys.executable, "-c", talk])
    try:
        with bed.monitor(restore_after="6s") as daemon:
            time.sleep(2)
            before = entries(bed)
            assert {f"{INTERNET}:4444", f"{peer}:9999"} <= before
            host.run(["tsstack", "exit-node", "use", "client-1"])
            daemon.await_state(
                lambda state: state["exit"]["actual"] == "client-1" and not state["exit"]["moving"]
            )
            after = entries(bed)
            assert f"{INTERNET}:4444" not in after
            assert f"{peer}:9999" in after
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        host.run(["nft", "delete", "table", "inet", "follow"])


def test_a_reload_keeps_what_was_measured_and_a_bad_file_changes_nothing(bed: Bed) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        time.sleep(4)
        sent = {path["key"]: path["windows"][1]["sent"] for path in daemon.state()["paths"]}
        bed.write_file(restore_after="7s", extra="  max_loss: 9%\n")
        os.kill(daemon.process.pid, signal.SIGHUP)
        time.sleep(2)
        state = daemon.state()
        assert all(path["windows"][1]["sent"] >= sent[path["key"]] > 0 for path in state["paths"])
        assert "reloaded" in [event["code"] for event in daemon.events()]
        good = daemon.state()["paths"]
        bed.write_file(extra="  max_los: 9%\n")
        refused = bed.host.run(["tsstack", "monitor", "reload"], check=False)
        assert refused.returncode == 4
        assert "/etc/tsstack/tsstack.yaml:11:3: error" in refused.stderr, refused.stderr
        assert [path["key"] for path in daemon.state()["paths"]] == [path["key"] for path in good]
        (trouble,) = daemon.state()["troubles"]
        assert "max_los" in trouble["message"] and "old one stays" in trouble["hint"]
        bed.write_file(restore_after="6s")
        bed.host.run(["tsstack", "monitor", "reload"])
        assert daemon.state()["troubles"] == []


def test_there_is_one_monitor_and_it_ends_as_it_should(bed: Bed) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        second = bed.host.run(["tsstack", "monitor"], check=False)
        assert (second.returncode, "runs on this host already" in second.stderr) == (4, True)
        assert daemon.state()
        actual = bed.host.api.prefs()["ExitNodeID"]
        assert daemon.stop() == 0
        assert bed.host.api.prefs()["ExitNodeID"] == actual
        assert not bed.host.path("/run/tsstack/monitor.sock").exists()
        daemon.start()
        daemon.stop(signal.SIGKILL)
        daemon.start()  # what a killed one leaves stands in nobody's way
        assert daemon.state()["exit"]["at"] == "exit-b"


def test_what_a_person_must_mend_is_said_once_and_everything_else_goes_on(bed: Bed, client: Client) -> None:
    bed.write_file(restore_after="6s")
    path = bed.host.path("/etc/tsstack/tsstack.yaml")
    text = path.read_text().replace("use: [exit-b, client-1]", "use: [exit-b, ghost, client-1]")
    path.write_text(text.replace("targets: [", 'targets: [{tcp: "nowhere.invalid:80"}, '))
    with bed.monitor() as daemon:
        settle(client)
        state = daemon.await_state(lambda state: len(state["troubles"]) == 2, within_s=40)
        said = {trouble["about"]: trouble for trouble in state["troubles"]}
        assert said.keys() == {"exit:ghost", "target:tcp:nowhere.invalid:80"}
        assert "offers no exit" in said["exit:ghost"]["message"]
        assert "does not resolve" in said["target:tcp:nowhere.invalid:80"]["message"]
        bed.lab.fault("cut", "exit-b")  # past the one that is not there
        assert client.await_flow(time.time(), within_s=20, by=SECOND_ADDRESS) is not None, daemon.lines
        told = [event["about"] for event in daemon.events() if event["code"] == "trouble"]
        assert sorted(told) == sorted(said)
        bed.write_file(restore_after="6s")
        bed.host.run(["tsstack", "monitor", "reload"])
        daemon.await_state(lambda state: state["troubles"] == [])
        over = [event["about"] for event in daemon.events() if event["code"] == "trouble" and event["over"]]
        assert sorted(over) == sorted(said)


def test_alerts_metrics_and_history_hear_of_a_move(bed: Bed, client: Client) -> None:
    host = bed.host
    more = '  alerts: [{command: [/bin/sh, -c, "cat >> /run/alerts.txt"]}]\n  metrics: 127.0.0.1:9464\n'
    with bed.monitor(restore_after="6s", extra=more) as daemon:
        settle(client)
        assert json.loads(host.run(["tsstack", "--json", "monitor", "test-alert"]).stdout)["sent"][0]["ok"]
        bed.lab.fault("cut", "exit-b")
        assert client.await_flow(time.time(), within_s=15, by=SECOND_ADDRESS) is not None, daemon.lines
        deadline_s = time.monotonic() + 20
        while "moves to client-1" not in (told := host.path("/run/alerts.txt").read_text()):
            assert time.monotonic() < deadline_s, told
            time.sleep(0.2)
        time.sleep(11)  # a snapshot later
        metrics = host.run(["curl", "-sS", "http://127.0.0.1:9464/metrics"]).stdout
        assert 'node="client-1"' in metrics or "client-1" in metrics, metrics
        status = host.run(["tsstack", "monitor", "status"]).stdout
        assert status.startswith("exit node: client-1") and "exit:exit-b" in status
    # Another run, and nobody at all, still know what happened.
    said = host.run(["tsstack", "monitor", "events"]).stdout
    assert "moves to client-1" in said and "the monitor ends" in said
    with bed.monitor(restore_after="6s"):
        assert "moves to client-1" in host.run(["tsstack", "monitor", "events", "-n", "1000"]).stdout
