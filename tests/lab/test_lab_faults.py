"""Each fault is measured while it is in force, and measured gone after healing."""

from __future__ import annotations

import re
import time

import pytest

from tsstack.errors import UsageError
from tsstack.lab.lab import Lab

pytestmark = pytest.mark.lab

WORLD, WORLD6, HEADSCALE = "203.0.113.1", "2001:db8:77::1", "10.77.0.1"


def lost_percent(lab: Lab, target: str, *, count: int = 10, node: str = "exit-b") -> float:
    words = ["ping", "-n", "-i", "0.02", "-c", str(count), "-W", "0.3", target]
    said = lab.node(node).run(words, check=False).stdout
    match = re.search(r"([\d.]+)% packet loss", said)
    assert match, said
    return float(match[1])


def median_ms(lab: Lab, target: str, *, node: str = "exit-b") -> float:
    said = lab.node(node).run(["ping", "-n", "-i", "0.05", "-c", "7", target]).stdout
    times = sorted(float(ms) for ms in re.findall(r"time=([\d.]+) ms", said))
    return times[len(times) // 2]


def own_ruleset(lab: Lab) -> str:
    return lab.node("exit-b").run(["nft", "list", "tables"]).stdout


def carrier(lab: Lab) -> str:
    return lab.node("exit-b").run(["cat", "/sys/class/net/eth0/carrier"]).stdout.strip()


def assert_whole(lab: Lab) -> None:
    assert lab.status().faults == ()
    for target in (WORLD, WORLD6, HEADSCALE):
        assert lost_percent(lab, target) == 0
    assert carrier(lab) == "1"


def test_cut_passes_nothing_and_leaves_the_node_alone(lab: Lab) -> None:
    before = own_ruleset(lab)
    assert lab.fault("cut") == "exit-b"
    for target in (WORLD, WORLD6, HEADSCALE):
        assert lost_percent(lab, target) == 100
    assert lost_percent(lab, "10.77.3.2", node="laptop") == 100
    assert carrier(lab) == "1"
    assert own_ruleset(lab) == before
    assert lost_percent(lab, WORLD, node="laptop") == 0
    assert [(fault.name, fault.target) for fault in lab.status().faults] == [("cut", "exit-b")]
    assert [fault.name for fault in lab.heal("exit-b")] == ["cut"]
    assert_whole(lab)


def test_unplug_takes_the_carrier(lab: Lab) -> None:
    lab.fault("unplug", "exit-b")
    assert carrier(lab) == "0"
    lab.heal()
    assert_whole(lab)


def test_uplink_dies_while_headscale_and_peers_stay(lab: Lab) -> None:
    lab.fault("uplink", "exit-b")
    assert lost_percent(lab, WORLD) == lost_percent(lab, WORLD6) == 100
    assert lost_percent(lab, HEADSCALE) == lost_percent(lab, "10.77.2.2") == 0
    assert lab.node("exit-b").api.status()["Self"]["Online"]
    lab.heal()
    assert_whole(lab)


def test_loss_is_about_what_was_asked(lab: Lab) -> None:
    lab.fault("loss", "exit-b")
    # 30 % of 150: six standard deviations are 22 points.
    assert 8 <= lost_percent(lab, WORLD, count=150) <= 52
    lab.fault("loss", "exit-b", amount=100)
    assert lost_percent(lab, WORLD) == 100
    assert len(lab.status().faults) == 1
    lab.heal()
    assert_whole(lab)


@pytest.mark.parametrize("target", [WORLD, WORLD6, "10.77.2.2"])
def test_delay_adds_eighty_milliseconds(lab: Lab, target: str) -> None:
    before = median_ms(lab, target)
    lab.fault("delay", "exit-b")
    assert 78 <= median_ms(lab, target) - before <= 100
    assert median_ms(lab, WORLD, node="laptop") < 20
    lab.heal()
    assert median_ms(lab, target) < 20
    assert_whole(lab)


def test_delay_can_be_changed_and_carries_bulk(lab: Lab) -> None:
    lab.fault("delay", "exit-b")
    lab.fault("delay", "exit-b", amount=20)
    assert 18 <= median_ms(lab, WORLD) <= 40
    said = lab.node("exit-b").run(["ping", "-n", "-s", "1400", "-M", "do", "-c", "2", "-i", "0.1", WORLD])
    assert " 0% packet loss" in said.stdout
    lab.heal()
    assert_whole(lab)


def test_two_faults_heal_one_by_one(lab: Lab) -> None:
    lab.fault("uplink", "laptop")
    lab.fault("cut", "exit-b")
    lab.heal("exit-b")
    assert lost_percent(lab, WORLD) == 0
    assert lost_percent(lab, WORLD, node="laptop") == 100
    lab.heal()
    assert lost_percent(lab, WORLD, node="laptop") == 0


@pytest.mark.parametrize("name", ["kill", "stop"])
def test_daemon_dies_and_comes_back_as_the_same_node(lab: Lab, name: str) -> None:
    exit_b = lab.node("exit-b")
    was = exit_b.daemon_pid()
    addresses = exit_b.tailnet_addresses()
    lab.fault(name, "exit-b")
    assert exit_b.daemon_pid() == 0
    assert not next(node for node in lab.status().nodes if node.name == "exit-b").running
    assert ("tailscale0" in exit_b.run(["ls", "/sys/class/net"]).stdout) is False
    lab.fault("start", "exit-b")
    assert lab.status().faults == ()
    assert exit_b.daemon_pid() not in {0, was}
    assert exit_b.tailnet_addresses() == addresses


def test_headscale_restarts(lab: Lab) -> None:
    was = lab.node("hs").daemon_pid()
    lab.fault("restart-headscale")
    assert lab.node("hs").daemon_pid() not in {0, was}
    deadline = time.monotonic() + 30
    while not lab.node("laptop").api.status(peers=False)["Self"]["Online"]:
        assert time.monotonic() < deadline, "laptop does not find Headscale again"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("name", "target", "amount", "words"),
    [
        ("earthquake", "", 0, "no such fault"),
        ("cut", "nobody", 0, "no node"),
        ("cut", "lan", 0, "no link to world"),
        ("kill", "guest", 0, "runs no daemon"),
        ("loss", "exit-b", 101, "1 to 100 percent"),
        ("delay", "exit-b", -5, "1 to 10000 ms"),
        ("cut", "exit-b", 5, "no amount"),
        ("restart-headscale", "laptop", 0, "no node but hs"),
    ],
)
def test_impossible_faults_are_refused_and_not_remembered(
    lab: Lab, name: str, target: str, amount: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        lab.fault(name, target, amount=amount)
    assert lab.status().faults == ()
