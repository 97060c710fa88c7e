"""The packets that somebody asks for: always sent, and never the ruin of a good file."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prove_bed import FACTS, Limits, prove, render, stack_of

from tsstack.prove import agent
from tsstack.prove.expected import Oracle, Packet
from tsstack.prove.plan import QUICK
from tsstack.prove.proof import FILE, Experiment
from tsstack.prove.world import NoWorld

pytestmark = pytest.mark.netns

DMZ = "    dmz: {interfaces: [eth0], tcp: [80], services: [ssh]}\n"
SESSIONS = {
    "the server is somebody of the proof": (DMZ, "198.18.0.7", "eth0", "198.18.0.1"),
    "client and server are the whole network": (
        DMZ + "    admin: {sources: [10.9.0.0/31], allow: all}\n",
        "10.9.0.0",
        "eth1",
        "10.9.0.1",
    ),
    "the server is a source itself": (
        DMZ + "    admin: {sources: [192.168.15.1/32, 192.168.15.7/32], allow: all}\n",
        "192.168.15.7",
        "eth1",
        "192.168.15.1",
    ),
    "link-local": (DMZ, "fe80::7", "eth0", "fe80::1"),
    "the server has an address of the proof": (DMZ, "198.18.0.7", "eth0", "198.19.255.240"),
    "the client has the proof's own": (DMZ, "198.19.255.254", "eth0", "203.0.113.1"),
    "the tailnet": (
        "    internal: {interfaces: [tailscale0], services: [ssh]}\n",
        "100.64.0.1",
        "tailscale0",
        "100.127.255.254",
    ),
    "this host itself": (DMZ, "203.0.113.1", "lo", "203.0.113.1"),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_the_operators_own_packet_is_sent_and_ruins_nothing(tmp_path: Path, name: str) -> None:
    zones, client, interface, server = SESSIONS[name]
    stack = stack_of(f"firewall:\n  zones:\n{zones}")
    (tmp_path / "nftables").mkdir()
    (tmp_path / FILE).write_text(render(stack))
    own = Packet(ipaddress.ip_address(client), interface, "tcp", 22, ipaddress.ip_address(server))
    for seed in range(1, 5):
        with Experiment(stack, FACTS, tmp_path, seed=seed, limits=QUICK, asked=[own]) as experiment:
            proof = experiment.run()
        assert [(str(row.packet), row.expected.outcome, row.seen) for row in proof.mismatches] == []
        assert [row.seen for row in proof.rows if row.packet == own] == ["accept"]
        assert proof.checks > 1000, "all the rest is proven too"
    assert Oracle(stack, FACTS).judge(own).accepted


def test_what_claims_to_come_from_an_address_of_this_host_ruins_nothing(tmp_path: Path) -> None:
    """The kernel drops it, so it is not sent; the address stays this host's for all the rest."""
    stack = stack_of("firewall:\n  zones:\n    admin: {sources: [203.0.113.0/24], allow: all}\n")
    (tmp_path / "nftables").mkdir()
    (tmp_path / FILE).write_text(render(stack))
    router = ipaddress.ip_address("203.0.113.1")
    own = Packet(ipaddress.ip_address("203.0.113.9"), "eth0", "tcp", 22, router)
    claims = Packet(router, "eth0", "tcp", 22)
    with Experiment(stack, FACTS, tmp_path, limits=QUICK, asked=[own, claims]) as experiment:
        proof = experiment.run()
    assert [(str(row.packet), row.expected.outcome, row.seen) for row in proof.mismatches] == []
    assert [row.seen for row in proof.rows if row.packet == own] == ["accept"]


@pytest.mark.parametrize("stuck", ["build_world", "send_round"])
def test_a_world_that_hangs_ends_itself(tmp_path: Path, stuck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever: neither for its making nor for a round."""

    def hang(*_: object) -> None:
        time.sleep(30)

    monkeypatch.setattr(agent, "_PATIENCE_S", 1)
    monkeypatch.setattr(agent, stuck, hang)
    started_s = time.monotonic()
    stack = stack_of(f"firewall:\n  zones:\n{DMZ}")
    with pytest.raises(NoWorld):
        prove(tmp_path, stack, render(stack), limits=Limits(100, 100))
    assert time.monotonic() - started_s < 15


def test_a_proof_may_take_long_as_long_as_each_round_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = agent.send_round

    def slow(*words: Any) -> bytes:
        time.sleep(2.0)
        return whole(*words)

    monkeypatch.setattr(agent, "_PATIENCE_S", 5)
    monkeypatch.setattr(agent, "send_round", slow)
    stack = stack_of(f"firewall:\n  zones:\n{DMZ}")
    started_s = time.monotonic()
    assert prove(tmp_path, stack, render(stack), limits=Limits(100, 100)).mismatches == ()
    assert time.monotonic() - started_s > 5, "the rounds did not take long enough to tell"


@pytest.mark.parametrize("flags", [0, agent.REFUSED])
def test_a_packet_that_a_busy_machine_loses_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """Of one that its witness did not get, the reset by which a closed port answers may still be seen."""
    whole: Callable[..., bytes] = agent.send_round
    calls: list[int] = []

    def lossy(*words: Any) -> bytes:
        calls.append(1)
        seen = whole(*words)
        return bytes([flags]) * len(seen) if len(calls) == 1 else seen

    monkeypatch.setattr(agent, "send_round", lossy)
    stack = stack_of(f"firewall:\n  zones:\n{DMZ}")
    assert prove(tmp_path, stack, render(stack), limits=Limits(100, 100)).mismatches == ()
