"""The guard against random files: no admin of a network that this host is on loses the way in unsaid, and a
file that changes nothing closes nothing.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.model.facts import Facts
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.prove.expected import Oracle, Packet
from tsstack.switch.ways import closed_ways, is_admin, ways_of_admins

FACTS = Facts(interfaces=("eth0", "eth1", "lo", "tailscale0"), default_interface="eth0")
LINKS = {ipaddress.ip_network("192.168.15.0/24"): "eth0", ipaddress.ip_network("10.9.0.0/24"): "eth1"}
BEHIND = [*LINKS.items(), (ipaddress.ip_network("0.0.0.0/0"), "eth0")]
OWN = {ipaddress.ip_address("192.168.15.1"), ipaddress.ip_address("10.9.0.1")}
SOURCES = (
    *("192.168.15.0/24", "192.168.15.0/25", "192.168.15.128/25", "192.168.15.7/32", "192.168.15.53/32"),
    *("10.9.0.0/24", "10.9.0.64/26", "10.9.0.5/32", "100.64.0.10/32", "198.51.100.0/24", "0.0.0.0/0"),
)
HOLDS = ({"allow": "all"}, {"services": ["ssh"]}, {"services": ["ssh"]}, {"tcp": [80]}, {})


@st.composite
def zone(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = dict(draw(st.sampled_from(HOLDS)))
    interfaces = draw(st.lists(st.sampled_from(["eth0", "eth1", "tailscale0"]), max_size=2, unique=True))
    sources = draw(st.lists(st.sampled_from(SOURCES), max_size=3, unique=True))
    return {
        **made,
        **({"interfaces": interfaces} if interfaces else {}),
        **({"sources": sources} if sources else {}),
    }


ZONES = st.fixed_dictionaries({"admin": zone()}, optional={name: zone() for name in ("cam", "dmz", "world")})


@st.composite
def change(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file, and what follows it: mostly one zone is another."""
    before = draw(ZONES)
    if draw(st.booleans()):
        return before, draw(ZONES)
    return before, {**before, draw(st.sampled_from(["admin", "cam", "dmz", "kiosk"])): draw(zone())}


def stack(zones: dict[str, Any]) -> Stack:
    return stack_of(f"firewall: {json.dumps({'zones': zones})}\n")


def hosts() -> Iterator[tuple[Address, str]]:
    """One of each part of each link's network that some source may tell from others."""
    edges = {int(each[at]) + at % 2 for each in map(ipaddress.ip_network, SOURCES) for at in (0, -1)}
    for network, link in LINKS.items():
        starts = {int(network[0]), *(edge for edge in edges if int(network[0]) <= edge <= int(network[-1]))}
        for start in sorted(starts):
            near = (ipaddress.ip_address(start + at) for at in range(3))
            found = (each for each in near if each not in OWN and each not in {network[0], network[-1]})
            yield from ((each, link) for each in list(found)[:1] if each in network)


HOSTS = tuple(hosts())


def is_admins(oracle: Oracle, source: Address, link: str) -> bool:
    name = oracle.members.zone(source, link)
    return bool(name) and is_admin(name, oracle.firewall.zones[name])


def lost(before: Stack, after: Stack) -> set[str]:
    """The links by which an admin came in, or would by the new file, and comes no more, by the model."""
    now, then = Oracle(before, FACTS), Oracle(after, FACTS)
    return {
        link
        for source, link in HOSTS
        if is_admins(now, source, link) or is_admins(then, source, link)
        if now.judge(Packet(source, link, "tcp", 22)).accepted
        and not then.judge(Packet(source, link, "tcp", 22)).accepted
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(change())
def test_no_admin_of_a_link_loses_the_way_in_unsaid(change: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = map(stack, change)
    ways = ways_of_admins(before, after, FACTS, [22], own=OWN, behind=BEHIND)
    said = {each.way.packet.interface for each in closed_ways(after, FACTS, ways)}
    assert lost(before, after) <= said


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ZONES)
def test_the_same_file_closes_nothing(zones: dict[str, Any]) -> None:
    same = stack(zones)
    ways = ways_of_admins(same, same, FACTS, [22], own=OWN, behind=BEHIND)
    assert list(closed_ways(same, FACTS, ways)) == []
