"""What the status says of the zones is what the kernel has counted, rule by rule, against real packets."""

from __future__ import annotations

import pytest
from firewall_world import World, within

from tsstack.parts.firewall.counters import read_counters
from tsstack.status.firewall import read_firewall
from tsstack.status.shape import Firewall

pytestmark = pytest.mark.netns

FILE = """
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80], udp: [53]}
    internal: {interfaces: [tailscale0]}
    lan: {interfaces: [lan0]}
  forward: [{from: internal, to: lan, tcp: [445]}]
"""


def look(world: World) -> Firewall:
    generation = world.stage(FILE)
    return within(world.host, lambda: read_firewall(str(generation), str(world.facts.paths.run)))


def test_each_rule_counts_its_own_packets(world: World) -> None:
    world.load(FILE)
    for port in (80, 80, 81):
        world.tcp("wan", "192.0.2.1", port)
        world.forget()
    world.udp("wan", "2001:db8:1::1", 53)
    world.ping("wan", "192.0.2.1")
    world.tcp("tail", "192.168.15.2", 445, "100.64.0.7")
    world.tcp("bare", "172.18.0.1", 22)
    found = look(world)
    assert (found["loaded"], found["changed"], found["error"]) == (True, False, "")
    zones = {zone["name"]: zone for zone in found["zones"]}
    rules = {rule["name"]: rule for zone in found["zones"] for rule in zone["rules"]}
    assert {name: rules[name]["packets"] for name in ("dmz.tcp", "dmz.udp", "dmz.ping", "forward.0")} == {
        "dmz.tcp": 2,
        "dmz.udp": 1,
        "dmz.ping": 1,
        "forward.0": 1,
    }
    assert rules["forward.0"]["path"] == "firewall.forward[0]"
    assert "forward.0" in {rule["name"] for rule in zones["internal"]["rules"]}
    dmz = zones["dmz"]
    assert dmz["accepted"] is not None
    assert dmz["accepted"]["packets"] == 4
    assert dmz["accepted"]["bytes"] >= 4 * 28
    # A SYN that nobody answers may be sent again within the time that the test waits.
    assert dmz["refused"] is not None
    assert dmz["refused"]["packets"] >= 1
    assert zones["internal"]["forwarded"] == {"packets": 1, "bytes": rules["forward.0"]["bytes"]}
    assert found["dropped"]["unzoned"]["packets"] >= 1


def test_the_kernel_and_nft_count_alike(world: World) -> None:
    world.load(FILE)
    world.tcp("wan", "192.0.2.1", 80)
    read = within(world.host, read_counters)
    assert read is not None
    assert {name: packets for name, (packets, _) in read.items()} == {
        name: world.counter(name) for name in read
    }


def test_a_table_that_is_switched_off_counts_as_none(world: World) -> None:
    world.load(FILE)
    world.at_host("nft", "add table inet tsstack { flags dormant; }")
    found = look(world)
    assert (found["loaded"], found["dormant"], found["changed"]) == (False, True, True)
    (world.facts.paths.run / "firewall.json").unlink()
    assert look(world)["dormant"] is True, "whether or not something was noted of it"
    world.load(FILE)
    found = look(world)
    assert (found["loaded"], found["dormant"], found["changed"]) == (True, False, False)


def test_a_rule_more_is_a_change_and_a_flushed_ruleset_is_no_table(world: World) -> None:
    world.load(FILE)
    world.at_host("nft", "insert", "rule", "inet", "tsstack", "input", "tcp", "dport", "23", "accept")
    assert look(world)["changed"] is True
    world.at_host("nft", "delete", "table", "inet", "tsstack")
    found = look(world)
    assert (found["loaded"], found["changed"]) == (False, None)
    assert all(zone["accepted"] is None for zone in found["zones"])


def test_who_may_not_read_the_packet_filter_is_told_so(world: World) -> None:
    import os

    world.load(FILE)
    generation = world.stage(FILE)

    def as_nobody() -> str:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            os.write(writing, read_firewall(str(generation), "/nonexistent")["error"].encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with os.fdopen(reading) as said:
            return said.read()

    for folder in (generation, *generation.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    assert within(world.host, as_nobody) == "reading the packet filter needs root"
