"""The benchmark's measures on real paths: a narrow place, a full queue, a second way in."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tsstack.bench import offloads
from tsstack.bench.datagrams import find_mtu
from tsstack.bench.echoes import Beside, Echoes, measure
from tsstack.bench.grades import added_s, grade
from tsstack.bench.mtu_search import Found
from tsstack.bench.server import Server
from tsstack.bench.transfer import NobodyThere, transfer

pytestmark = pytest.mark.netns

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
FAR, FAR6 = "10.9.2.2", "fd09:2::2"
NARROW_BYTES = 1390


def sh(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def within(namespace: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread that stands in the namespace."""

    def body() -> T:
        with Path(f"/run/netns/{namespace}").open() as handle:
            assert _libc.setns(handle.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(body).result()


class Bed:
    """near (a0 10.9.1.1, b0 10.9.3.1) - mid (10.9.1.2, 10.9.3.2; 10.9.2.1) - far (10.9.2.2); IPv6 alike."""

    def __init__(self) -> None:
        tag = f"tb{os.getpid() % 100000}{secrets.token_hex(2)}"
        self.near, self.mid, self.far = (f"{tag}-{name}" for name in ("near", "mid", "far"))
        for space in (self.near, self.mid, self.far):
            sh("ip", "netns", "add", space)
            sh("ip", "-n", space, "link", "set", "lo", "up")
        self._wire("a0", self.near, self.mid, 1)
        self._wire("b0", self.near, self.mid, 3)
        self._wire("c0", self.mid, self.far, 2)
        for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.sysctl(self.mid, f"net.{family}=1")
        # Each of the many probes that are too big shall be answered.
        self.sysctl(self.mid, "net.ipv4.icmp_ratelimit=0")
        self.sysctl(self.mid, "net.ipv6.icmp.ratelimit=0")
        for space, gateway in ((self.near, "1"), (self.far, "2")):
            last = "2" if space == self.near else "1"
            sh("ip", "-n", space, "route", "add", "default", "via", f"10.9.{gateway}.{last}")
            sh("ip", "-n", space, "-6", "route", "add", "default", "via", f"fd09:{gateway}::{last}")
        for address in (FAR, FAR6):
            deadline = time.monotonic() + 10
            while within(self.near, lambda to=address: measure(Echoes(to), 1, 0.1)).p50_s is None:
                assert time.monotonic() < deadline, f"{address} does not answer"

    @staticmethod
    def _wire(device: str, one: str, other: str, number: int) -> None:
        sh("ip", "-n", one, "link", "add", device, "type", "veth", "peer", device, "netns", other)
        for space, last in ((one, 1), (other, 2)):
            sh("ip", "-n", space, "addr", "add", f"10.9.{number}.{last}/24", "dev", device)
            sh("ip", "-n", space, "addr", "add", f"fd09:{number}::{last}/64", "dev", device, "nodad")
            sh("ip", "-n", space, "link", "set", device, "up")

    @staticmethod
    def sysctl(space: str, setting: str) -> None:
        sh("ip", "netns", "exec", space, "sysctl", "-qw", setting)

    def permit(self, group_range: str) -> None:
        """Which groups may open a datagram ICMP socket in near: `1 0` is none."""
        self.sysctl(self.near, f"net.ipv4.ping_group_range={group_range}")

    def close(self) -> None:
        for space in (self.near, self.mid, self.far):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    made = Bed()
    yield made
    made.close()


@contextmanager
def serving(space: str, address: str, interface: str = "") -> Iterator[int]:
    server = within(
        space, lambda: Server([address], lambda _: "near", lambda _: None, port=0, interface=interface)
    )
    thread = threading.Thread(target=server.serve, args=(time.monotonic() + 60,))
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join()
        server.close()


@pytest.mark.parametrize("sockets", ["0 2147483647", "1 0"], ids=["datagram", "raw"])
@pytest.mark.parametrize("address", [FAR, FAR6])
def test_the_narrow_place_of_a_path_is_found(bed: Bed, address: str, sockets: str) -> None:
    bed.permit(sockets)
    for space in (bed.mid, bed.far):
        sh("ip", "-n", space, "link", "set", "c0", "mtu", str(NARROW_BYTES))
    try:
        assert within(bed.near, lambda: find_mtu(address, 1500, timeout_s=0.3)).size_bytes == NARROW_BYTES
    finally:
        for space in (bed.mid, bed.far):
            sh("ip", "-n", space, "link", "set", "c0", "mtu", "1500")
    # What the kernel learnt of the path meanwhile does not count: each probe is of now.
    assert within(bed.near, lambda: find_mtu(address, 1500, timeout_s=0.3)) == Found(1500)


def test_the_interfaces_own_mtu_is_the_ceiling(bed: Bed) -> None:
    assert within(bed.near, lambda: find_mtu(FAR, 9000, timeout_s=0.3)) == Found(1500)


def test_who_does_not_answer_has_no_mtu(bed: Bed) -> None:
    assert within(bed.near, lambda: find_mtu("10.9.2.77", 1500, timeout_s=0.1)) == Found(None)


@pytest.mark.parametrize(("percent", "lost"), [(12, 5), (25, 9), (60, 17)])
def test_a_size_that_got_lost_is_no_mtu(bed: Bed, percent: int, lost: int) -> None:
    """Loss each way; `lost` of twenty small echoes is what that makes of them."""
    rule = f"meta l4proto {{ icmp, icmpv6 }} numgen random mod 100 < {percent} drop"
    rules = f"table inet lossy {{ chain p {{ type filter hook prerouting priority 0; {rule}; }}; }}"

    def find() -> Found:
        return find_mtu(FAR, 1500, timeout_s=0.1, sent=20, lost=lost)

    sh("ip", "netns", "exec", bed.mid, "nft", rules)
    try:
        found = [within(bed.near, find) for _ in range(12)]
    finally:
        sh("ip", "netns", "exec", bed.mid, "nft", "delete", "table", "inet", "lossy")
    assert all(each == Found(1500) for each in found if each.certain), found
    assert all(each.certain for each in found) == (percent < 60), "what nobody can tell is told as such"


def test_a_full_queue_gets_its_grade(bed: Bed) -> None:
    """A router with 4 Mbit/s and 400 ms of queue on the way up."""
    bed.permit("0 2147483647")
    tbf = ("root", "tbf", "rate", "4mbit", "burst", "16kb", "latency", "400ms")
    sh("ip", "netns", "exec", bed.mid, "tc", "qdisc", "add", "dev", "c0", *tbf)
    try:
        with serving(bed.far, FAR) as port:

            def run() -> tuple[object, ...]:
                idle = measure(Echoes(FAR), 10, 0.05)
                with Beside(Echoes(FAR), 0.05, lambda _: None) as beside:
                    through = transfer(FAR, "up", 3.0, port=port)
                return idle, beside.latency, through

            idle, loaded, through = within(bed.near, run)
    finally:
        sh("ip", "netns", "exec", bed.mid, "tc", "qdisc", "del", "dev", "c0", "root")
    assert 2e6 < through.bits_s < 5e6  # type: ignore[attr-defined]
    grown_s = added_s(idle, loaded)  # type: ignore[arg-type]
    assert grown_s is not None
    assert 0.2 < grown_s < 0.6
    assert grade(idle, loaded) in {"D", "F"}  # type: ignore[arg-type]


def test_the_other_end_is_not_reached_by_another_interface(bed: Bed) -> None:
    """Linux takes packets for any of its addresses from any interface; the server does not."""
    for interface, reached in (("", True), ("a0", False), ("b0", True)):
        with serving(bed.near, "10.9.3.1", interface) as port:

            def call(port: int = port) -> None:
                socket.create_connection(("10.9.3.1", port), timeout=1).close()

            sh("ip", "-n", bed.mid, "route", "replace", "10.9.3.1/32", "via", "10.9.3.1", "dev", "b0")
            if reached:
                within(bed.mid, call)
            else:
                with pytest.raises(OSError):
                    within(bed.mid, call)
    with serving(bed.near, "10.9.3.1", "a0") as port, pytest.raises(NobodyThere):
        within(bed.mid, lambda: transfer("10.9.3.1", "up", 0.2, port=port))


def test_offloads_are_read_as_ethtool_reads_them(bed: Bed) -> None:
    names = {"tx-generic-segmentation": "generic-segmentation-offload", "rx-gro": "generic-receive-offload"}
    for state in ("off", "on"):
        sh("ip", "netns", "exec", bed.near, "ethtool", "-K", "a0", "gso", state, "gro", state)
        found = within(bed.near, lambda: offloads.features("a0"))
        said = subprocess.run(
            ["ip", "netns", "exec", bed.near, "ethtool", "-k", "a0"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        told = dict(line.strip().split(": ") for line in said.splitlines()[1:])
        assert found
        for name, active in found.items():
            assert told[names.get(name, name)].split()[0] == ("on" if active else "off"), name
        assert found["rx-gro"] == (state == "on")
