"""The doctor's fix of forwarding, on a host whose IPv6 default route a real router advertisement gave."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from tsstack.doctor.finding import Finding
from tsstack.doctor.forwarding import check_forwarding
from tsstack.doctor.gathering.forwarding import look_at_forwarding
from tsstack.model.facts import Facts

pytestmark = pytest.mark.netns
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
LIVE: Any = SimpleNamespace(forwarding=False)


def sh(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def within(space: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread that stands in the namespace."""

    def body() -> T:
        with Path(f"/run/netns/{space}").open() as handle:
            assert _libc.setns(handle.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(body).result()


def advertise() -> None:
    """One router advertisement with a prefix, to all nodes (RFC 4861, sections 4.2 and 4.6.2)."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0)
    prefix += socket.inet_pton(socket.AF_INET6, "2001:db8::")
    packet = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as link:
        index = socket.if_nametoindex("eth0")
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        link.sendto(packet, ("ff02::1", 0, 0, index))


class Bed:
    """A host, and a router beyond its eth0."""

    def __init__(self) -> None:
        tag = f"tf{os.getpid() % 100000}{secrets.token_hex(2)}"
        self.host, self.router = f"{tag}-host", f"{tag}-router"
        for space in (self.host, self.router):
            sh("ip", "netns", "add", space)
            sh("ip", "-n", space, "link", "set", "lo", "up")
        sh("ip", "-n", self.host, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", self.router)
        for space in (self.host, self.router):
            own = "net.ipv6.conf.eth0."
            sh("ip", "netns", "exec", space, "sysctl", "-qw", f"{own}accept_dad=0", f"{own}accept_ra=1")
            sh("ip", "-n", space, "link", "set", "eth0", "up")

    def route(self) -> str:
        return sh("ip", "-n", self.host, "-6", "route", "show", "default")

    def learn(self) -> None:
        deadline = time.monotonic() + 20
        while not self.route():
            assert time.monotonic() < deadline, "the advertisement gives no route"
            with contextlib.suppress(OSError):  # no address yet to send from
                within(self.router, advertise)
            time.sleep(0.2)

    def close(self) -> None:
        for space in (self.host, self.router):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    yield made
    made.close()


def findings(bed: Bed, *routes: str) -> list[Finding]:
    offers = [{"route": route} for route in routes]
    status = {"tailnet": {"offers": offers, "offers_exit": False}, "exit": {"using": ""}}
    facts = replace(Facts(), default_interface="eth0")
    found = within(bed.host, lambda: look_at_forwarding(LIVE, facts, status))
    return [each for each in check_forwarding(found) if each.code == "TS861" and each.level != "ok"]


def test_the_fix_leaves_the_default_route(bed: Bed) -> None:
    bed.learn()
    fixes = [each.fix for each in findings(bed, "10.0.0.0/8", "fd00:1::/64")]
    assert fixes[1].startswith("sysctl -w net.ipv6.conf.eth0.accept_ra=2 "), fixes
    for fix in fixes:
        sh("ip", "netns", "exec", bed.host, "sh", "-c", fix)
    assert "proto ra" in bed.route()
    assert findings(bed, "10.0.0.0/8", "fd00:1::/64") == []


def test_who_offers_ipv4_alone_is_not_asked_for_ipv6(bed: Bed) -> None:
    bed.learn()
    (only,) = findings(bed, "10.0.0.0/8")
    assert only.fix == "sysctl -w net.ipv4.ip_forward=1"
