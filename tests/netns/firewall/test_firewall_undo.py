"""What bringing an older table back does to the connections of the one that is undone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from firewall_stack import stack_of
from firewall_world import World, within

from tsstack.parts.firewall.host import PART

pytestmark = pytest.mark.netns

RULES = "firewall: {zones: {dmz: {interfaces: [eth0], tcp: [80]}}}"
OPENED = RULES.replace("[80]", "[80, 8080]")


@pytest.fixture(autouse=True)
def empty(world: World) -> Iterator[None]:
    world.at_host("nft", "flush", "ruleset")
    yield
    world.at_host("nft", "flush", "ruleset")


def observe(world: World) -> dict:
    tree = PART.desired(stack_of(RULES), world.facts)
    return within(world.host, lambda: PART.observe(tree, world.facts))


def restore(world: World, snapshot: dict) -> None:
    within(world.host, lambda: PART.restore(snapshot, world.facts))


class Conversation:
    """A connection from outside to a port of the host."""

    def __init__(self, world: World, port: int) -> None:
        with world.listen(world.host, "192.0.2.1", port) as server:
            self.theirs = within(
                world.space("wan"), lambda: socket.create_connection(("192.0.2.1", port), timeout=2)
            )
            self.ours, _ = server.accept()
        self.ours.settimeout(0.5)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.theirs.close()
        self.ours.close()

    def goes_on(self) -> bool:
        try:
            self.theirs.sendall(b"?")
            return self.ours.recv(8) != b""
        except OSError:
            return False


def test_pitfall_10_an_undone_port_loses_its_connections_and_no_other_does(world: World) -> None:
    world.load(RULES)
    before = observe(world)
    world.load(OPENED)
    with Conversation(world, 8080) as opened, Conversation(world, 80) as kept:
        assert opened.goes_on()
        restore(world, before)
        assert [opened.goes_on(), kept.goes_on()] == [False, True]
        restore(world, before)
        assert kept.goes_on()


def test_where_the_disk_takes_no_record_the_table_is_back_and_the_connections_are_cut(world: World) -> None:
    world.load(RULES)
    before = observe(world)
    world.load(OPENED)
    full = replace(world.facts, paths=replace(world.facts.paths, run=Path("/proc/full")))
    with Conversation(world, 8080) as opened, Conversation(world, 80) as kept:
        within(world.host, lambda: PART.restore(before, full))
        assert [opened.goes_on(), kept.goes_on()] == [False, True]


def test_pitfall_10_where_no_table_was_nothing_is_cut(world: World) -> None:
    before = observe(world)
    world.load(OPENED)
    with Conversation(world, 8080) as opened:
        restore(world, before)
        assert opened.goes_on()


def test_pitfall_10_a_port_that_was_opened_by_hand_before_keeps_its_connections(world: World) -> None:
    world.load(RULES)
    world.at_host("nft", "insert rule inet tsstack input ip ttl > 1 tcp dport 8080 counter accept")
    before = observe(world)
    world.load(OPENED)
    with Conversation(world, 8080) as opened:
        restore(world, before)
        assert opened.goes_on()
