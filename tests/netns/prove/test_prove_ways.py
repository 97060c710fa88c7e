"""Random hosts, files and sessions: what the guard asks about never makes a right file look wrong."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from prove_bed import FACTS, Limits, render, stack_of
from random_files import files

from tsstack.errors import ConfigError
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle, Packet
from tsstack.prove.proof import FILE, Experiment
from tsstack.switch.ways import ways_of_admins

pytestmark = pytest.mark.netns

EXAMPLES = int(os.environ.get("TSSTACK_PROVE_EXAMPLES", "12"))
LIMITS = Limits(arriving=300, passing=300)
USUAL = [ipaddress.ip_network(each) for each in ("203.0.113.0/24", "192.168.15.0/24", "2001:db8:7::/64")]


def sessions(draw: Any, stack: Stack) -> tuple[list[Packet], set[Address]]:
    """Connections to this host, and its addresses: routers have the first of a network, as ours here."""
    zones = stack.firewall.zones.values() if stack.firewall else ()
    networks: list[Network] = [*(net for zone in zones for net in zone.sources if net[0] != net[-1]), *USUAL]
    interfaces = [name for zone in zones for name in zone.interfaces if not name.endswith("*")]
    own: set[Address] = set()
    found = []
    for network in draw(st.lists(st.sampled_from(networks), min_size=1, max_size=3, unique=True)):
        own.add(network[1])
        other = draw(st.sampled_from([each for each in networks if each.version == network.version]))
        client = other[draw(st.integers(0, min(other.num_addresses - 1, 2000)))]
        interface = draw(st.sampled_from(["eth0", "tailscale0", *interfaces]))
        kind, port = draw(st.sampled_from([("tcp", 22), ("tcp", 2222), ("udp", 60001)]))
        found.append(Packet(client, interface, kind, port, network[1]))
    return [packet for packet in found if packet.source not in own], own


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(files(), st.data())
def test_the_ways_in_ruin_no_right_file(text: str, data: Any) -> None:
    try:
        stack = stack_of(text)
    except ConfigError:
        return
    packets, own = sessions(data.draw, stack)
    packets += [way.packet for way in ways_of_admins(None, stack, FACTS, [22])]
    oracle = Oracle(stack, FACTS)
    asked = [packet for packet in packets if oracle.judge(packet).accepted]
    note(f"{text}\nasked: {[str(each) for each in asked]}; own: {own}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, FILE)
        place.parent.mkdir()
        place.write_text(render(stack))
        with Experiment(stack, FACTS, Path(folder), limits=LIMITS, asked=asked) as experiment:
            proof = experiment.run()
    wrong = [(str(row.packet), row.expected.outcome, row.seen) for row in proof.mismatches]
    assert wrong == []
