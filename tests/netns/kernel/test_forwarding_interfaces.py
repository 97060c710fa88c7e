"""Which of the switches of single interfaces stop packets: what is told, against packets that are sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]
ASK = """
import json
from tsstack.status.network import read_forwarding_off
print(json.dumps(read_forwarding_off(["10.2.0.0/24"])))
"""


def sh(*words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Bed:
    """A peer behind tailscale0 (a veth of that name), a router, and a LAN behind its eth1."""

    def __init__(self) -> None:
        tag = f"tfi{os.getpid()}"
        self.peer, self.router, self.lan = (f"{tag}{name}" for name in "prl")

    def build(self) -> None:
        for space in (self.peer, self.router, self.lan):
            sh("ip", "netns", "add", space)
        for link, space, net in (("tailscale0", self.peer, 1), ("eth1", self.lan, 2)):
            sh("ip", "-n", self.router, "link", "add", link, "type", "veth", "peer", "eth0", "netns", space)
            for where, name, host in ((self.router, link, 1), (space, "eth0", 2)):
                sh("ip", "-n", where, "link", "set", name, "up")
                sh("ip", "-n", where, "addr", "add", f"10.{net}.0.{host}/24", "dev", name)
                sh("ip", "-n", where, "addr", "add", f"fd0{net}::{host}/64", "dev", name, "nodad")
            sh("ip", "-n", space, "route", "add", "default", "via", f"10.{net}.0.1")
            sh("ip", "-n", space, "-6", "route", "add", "default", "via", f"fd0{net}::1")
        self.set("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def set(self, *values: str) -> None:
        sh("ip", "netns", "exec", self.router, "sysctl", "-qw", *values)

    def told(self) -> list[str]:
        found: list[str] = json.loads(sh("ip", "netns", "exec", self.router, sys.executable, "-c", ASK))
        return found

    def passes(self, address: str) -> bool:
        argv = ["ip", "netns", "exec", self.peer, "ping", "-c1", "-W1", address]
        # The first of a new link may be lost to its setup.
        return any(subprocess.run(argv, check=False, capture_output=True).returncode == 0 for _ in range(3))

    def close(self) -> None:
        for space in (self.peer, self.router, self.lan):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    try:
        made.build()
        yield made
    finally:
        made.close()


def test_what_is_told_is_what_stops_packets(bed: Bed) -> None:
    assert (bed.told(), bed.passes("10.2.0.2"), bed.passes("fd02::2")) == ([], True, True)
    for name in ("tailscale0", "eth1"):
        bed.set(f"net.ipv4.conf.{name}.forwarding=0")
        assert (bed.told(), bed.passes("10.2.0.2")) == ([name], False)
        bed.set(f"net.ipv4.conf.{name}.forwarding=1")
        # IPv6 asks no interface: there it is how router advertisements are taken.
        bed.set(f"net.ipv6.conf.{name}.forwarding=0")
        assert (bed.told(), bed.passes("fd02::2")) == ([], True)
    assert bed.passes("10.2.0.2")
