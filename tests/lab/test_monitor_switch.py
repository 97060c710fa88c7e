"""`tsstack switch` beside a monitor that runs: neither fights the other. Routes go and come back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from monitor_bed import Bed, Daemon

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
FILE = "/etc/tsstack/tsstack.yaml"
ROUTE = "192.168.77.0/24"
LAN_HOST = "192.168.77.9"


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Bed.up() as bed:
        bed.use("exit-b")
        yield bed


def write(bed: Bed, *, use: str = "[exit-b, client-1]", more: str = "", monitor: str = "") -> None:
    bed.host.write(
        FILE,
        "host: {name: laptop, tailnet: tail.test, uplink: eth0}\n"
        "tailscale:\n"
        "  login_server: http://10.77.0.1:8080\n"
        "  accept_routes: true\n"
        f"  exit_node: {{use: {use}, allow_lan_access: true}}\n{more}"
        "monitor:\n"
        "  interval: 2s\n"
        "  restore_after: 2m\n"
        f"  targets: [{{icmp: 203.0.113.1}}{monitor}]\n",
    )


def switch(bed: Bed, *words: str) -> dict[str, Any]:
    command = ["tsstack", "--json", *(words or ("switch", "--no-prove"))]
    said = bed.host.run(command, timeout_s=120, env={"PYTHONPATH": str(ROOT)}).stdout
    done: dict[str, Any] = json.loads(said)
    return done


def since(daemon: Daemon, at: float) -> list[str]:
    return [event["code"] for event in daemon.events() if event["at"] >= at]


@pytest.fixture
def daemon(bed: Bed) -> Iterator[Daemon]:
    write(bed)
    with bed.monitor() as daemon:
        yield daemon


def test_a_host_that_is_brought_back_to_nothing_is_left_so(bed: Bed, daemon: Daemon) -> None:
    """Its file is still there: a monitor that goes by that alone would set the exit node again."""
    switch(bed)
    daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b")
    switch(bed, "rollback", "--to", "0")
    state = daemon.await_state(lambda state: any(e["about"] == "generation" for e in state["troubles"]))
    before = bed.host.api.prefs()["ExitNodeID"]
    bed.use("client-1")  # by hand, as an admin without tsstack would
    bed.lab.fault("cut", "client-1")
    time.sleep(8)
    assert bed.host.api.prefs()["ExitNodeID"] == bed.ids["client-1"], daemon.lines
    bed.lab.heal()
    bed.use("exit-b")
    switch(bed)
    state = daemon.await_state(lambda state: not any(e["about"] == "generation" for e in state["troubles"]))
    assert state["exit"]["actual"] == "exit-b"
    assert before == bed.ids["exit-b"], "what it was before the first switch"


def test_what_goes_past_the_exit_node_is_the_monitors_trouble_and_a_switch_warns_of_it(
    bed: Bed, daemon: Daemon
) -> None:
    """Its probes are bound to the tunnel, and a switch that changes nothing would call all well."""

    def troubled(state: dict[str, Any]) -> bool:
        return any(each["about"] == "past the exit node" for each in state["troubles"])

    told = switch(bed)
    assert not [line for line in told["warnings"] if "TS718" in line]
    daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b")
    bed.host.run(["ip", "route", "flush", "table", "52"])
    daemon.await_state(troubled, within_s=40)
    (warning,) = [line for line in switch(bed)["warnings"] if "TS718" in line]
    assert warning.startswith("IPv4 leaves this host by eth0")
    bed.host.stop_daemon()
    bed.host.start_daemon()
    bed.host.await_tailnet()
    daemon.await_state(lambda state: state["exit"]["actual"] == "exit-b" and not troubled(state))
    time.sleep(2)
    assert not [line for line in switch(bed)["warnings"] if "TS718" in line]
    daemon.await_state(lambda state: not troubled(state))


def test_a_switch_leaves_the_node_that_the_monitor_moved_to_and_the_monitor_takes_up_its_file(
    bed: Bed, daemon: Daemon
) -> None:
    switch(bed)
    bed.lab.fault("cut", "exit-b")
    daemon.await_state(lambda state: state["exit"]["actual"] == "client-1" and not state["exit"]["moving"])
    assert switch(bed)["changed"] is False
    bed.lab.heal()
    # Another list that allows what is in use: nothing moves.
    at = time.time()
    write(bed, use="[client-1, exit-b]")
    switch(bed)
    daemon.await_state(
        lambda state: [each["name"] for each in state["exit"]["candidates"]] == ["client-1", "exit-b"]
    )
    assert bed.host.api.prefs()["ExitNodeID"] == bed.ids["client-1"]
    # A list without it: the switch moves, and the monitor does not move back.
    write(bed, use="[exit-b]")
    switch(bed)
    daemon.await_state(lambda state: [each["name"] for each in state["exit"]["candidates"]] == ["exit-b"])
    time.sleep(4)
    assert bed.host.api.prefs()["ExitNodeID"] == bed.ids["exit-b"]
    # And back by a rollback, though the file still says otherwise.
    switch(bed, "rollback")
    daemon.await_state(
        lambda state: [each["name"] for each in state["exit"]["candidates"]] == ["client-1", "exit-b"]
    )
    time.sleep(4)
    assert not {"drift", "repaired", "fought", "moved"} & set(since(daemon, at)), daemon.lines
    told = [each["text"] for each in daemon.events() if each["at"] >= at and each["code"] == "reloaded"]
    assert sum(text.startswith("watches ") for text in told) == 3
    assert "differs from the live generation" in told[-1], "the file that was rolled back is still there"


def test_a_file_without_an_exit_node_ends_the_steering_and_not_the_watching(bed: Bed, daemon: Daemon) -> None:
    switch(bed)
    at = time.time()
    bed.host.write(
        FILE,
        "host: {name: laptop, tailnet: tail.test, uplink: eth0}\n"
        "tailscale: {login_server: http://10.77.0.1:8080, accept_routes: true}\n"
        "monitor: {interval: 2s, targets: [{icmp: 203.0.113.1}]}\n",
    )
    switch(bed)
    daemon.await_state(lambda state: state["exit"] is None)
    time.sleep(4)
    assert bed.host.api.prefs()["ExitNodeID"] == ""  # the old file's `block` is not held against the switch
    assert not {"drift", "repaired"} & set(since(daemon, at)), daemon.lines
    daemon.await_state(lambda state: state["paths"][0]["level"] == "good")
    write(bed)
    switch(bed)
    daemon.await_state(lambda state: state["exit"] and state["exit"]["actual"] == "exit-b")


def advertised(bed: Bed) -> set[str]:
    return set(bed.host.api.prefs()["AdvertiseRoutes"] or ())


def test_a_route_is_withdrawn_while_its_lan_is_dead_and_others_are_left_alone(
    bed: Bed, daemon: Daemon
) -> None:
    world = bed.lab.node("world")
    world.run(["ip", "addr", "replace", f"{LAN_HOST}/32", "dev", "lo"])
    bed.host.run(["ip", "route", "replace", ROUTE, "via", "10.77.2.1"])
    bed.host.run(["ip", "rule", "add", "to", ROUTE, "lookup", "main", "pref", "5000"])
    more = f"  advertise: {{routes: [{ROUTE}, 192.168.78.0/24]}}\n"
    write(bed, more=more, monitor=f", {{icmp: {LAN_HOST}}}")
    text = bed.host.path(FILE).read_text().replace("restore_after: 2m", "restore_after: 4s")
    bed.host.write(FILE, text)
    switch(bed)
    both = {ROUTE, "192.168.78.0/24"}
    daemon.await_state(lambda state: [each["level"] for each in state["routes"]][:1] == ["good"], within_s=60)
    assert advertised(bed) == both
    world.run(["ip", "addr", "del", f"{LAN_HOST}/32", "dev", "lo"])
    state = daemon.await_state(lambda state: state["routes"][0]["withdrawn"], within_s=60)
    assert (state["routes"][0]["network"], state["routes"][1]["withdrawn"]) == (ROUTE, False)
    time.sleep(1)
    assert advertised(bed) == {"192.168.78.0/24"}
    assert switch(bed)["changed"] is False  # what the monitor keeps back is no drift
    # Somebody else's route is never touched.
    bed.host.api.patch_prefs({"AdvertiseRoutes": ["172.30.0.0/16", "192.168.78.0/24"]})
    world.run(["ip", "addr", "replace", f"{LAN_HOST}/32", "dev", "lo"])
    daemon.await_state(lambda state: not state["routes"][0]["withdrawn"], within_s=60)
    time.sleep(2)
    assert advertised(bed) == {*both, "172.30.0.0/16"}
    codes = [event["code"] for event in daemon.events() if event["about"] == f"offer:{ROUTE}"]
    assert [code for code in codes if code in {"withdrawn", "restored"}] == ["withdrawn", "restored"]
