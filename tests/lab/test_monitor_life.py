"""The monitor beside its moves: a choice by hand, drift, restarts, reloads, what it tells and frees."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from failover_bed import codes, settle
from monitor_bed import HOST, INTERNET, SECOND_ADDRESS, Bed, Client

pytestmark = pytest.mark.lab


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


def test_prefs_that_someone_else_changes_are_set_again_and_not_in_maintenance(
    bed: Bed, client: Client
) -> None:
    with bed.monitor(restore_after="6s") as daemon:
        settle(client)
        leaked = bed.leaked()
        bed.use("client-1")
        daemon.await_state(lambda _: "repaired" in codes(daemon))
        daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b")
        bed.use("")  # a leak, closed at once
        daemon.await_state(lambda _: codes(daemon).count("repaired") == 2, within_s=3)
        daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b", within_s=3)
        closed = bed.leaked()
        assert closed - leaked < 20, "ten connections a second, of some six packets each"
        bed.host.run(["tsstack", "monitor", "maintenance", "on", "--for", "10s"])
        bed.use("client-1")
        time.sleep(5)
        assert bed.host.api.prefs()["ExitNodeID"] == bed.ids["client-1"]
        bed.use("")
        time.sleep(2)
        assert bed.leaked() - closed > 20, "what nobody closes is seen here"
        daemon.await_state(
            lambda state: state["exit"]["actual"] == "exit-b", within_s=20
        )  # it ended by itself
        assert not daemon.state()["exit"]["maintenance"]


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


def test_a_tailscaled_that_restarts_far_from_its_control_server_pages_nobody(
    bed: Bed, client: Client
) -> None:
    """It runs for a second before it knows its peers, and a handshake that is lost takes five more."""
    with bed.monitor() as daemon:
        settle(client)
        bed.lab.fault("delay", HOST, amount=300)
        try:
            began = time.time()
            for number in range(1, 5):
                bed.lab.fault("stop", HOST)
                bed.lab.fault("start", HOST)
                daemon.await_state(lambda _, number=number: codes(daemon).count("no-daemon") == number)
                daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b", within_s=30)
                time.sleep(5)
            since = [event for event in daemon.events() if event["at"] >= began]
            assert [event for event in since if event["severity"] == "critical"] == []
            assert not {"moved", "blocked"} & {event["code"] for event in since}
        finally:
            bed.lab.heal()


# The kernel follows connections once a rule asks for their state.
FOLLOW = """table inet follow {
  chain out { type filter hook output priority 0; ct state new accept; }
  chain in { type filter hook input priority 0; ct state new accept; }
}
"""


def entries(bed: Bed) -> set[str]:
    """Where the host's connections lead that conntrack knows."""
    script = (
        "import json; from tsstack.system.conntrack import list_connections\n"
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
        assert re.search(r'^tsstack_exit_node\w*\{[^}]*"client-1"[^}]*\} 1', metrics, re.MULTILINE), metrics
        status = host.run(["tsstack", "monitor", "status"]).stdout
        assert status.startswith("exit node: client-1") and "exit:exit-b" in status
    # Another run, and nobody at all, still know what happened.
    said = host.run(["tsstack", "monitor", "events"]).stdout
    assert "moves to client-1" in said and "the monitor ends" in said
    with bed.monitor(restore_after="6s"):
        assert "moves to client-1" in host.run(["tsstack", "monitor", "events", "-n", "1000"]).stdout
