"""Two hosts on two wires, in namespaces of their own, and a prober that runs on the near one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tsstack.monitor.probes.probe import Notice, Probe
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.sample import Path, Sample

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
FAR, FAR6, FAR_B, FAR6_B = "10.9.0.2", "fd09::2", "10.9.1.2", "fd09:1::2"
NEAR, NEAR_B = "10.9.0.1", "10.9.1.1"
ANYBODY = "0 2147483647"
NOBODY = "1 0"


def sh(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def within(namespace: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread that stands in the namespace."""

    def body() -> T:
        enter(namespace)
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(body).result()


class Bed:
    """`near` and `far`, joined by two wires: p0 with 10.9.0.0/24 and fd09::/64, p1 with the same plus one."""

    def __init__(self) -> None:
        tag = f"mp{os.getpid() % 100000}{secrets.token_hex(2)}"
        self.near, self.far = f"{tag}-near", f"{tag}-far"
        for space in (self.near, self.far):
            sh("ip", "netns", "add", space)
            sh("ip", "-n", space, "link", "set", "lo", "up")
        for setting in ("ipv4.icmp_ratelimit", "ipv4.icmp_msgs_per_sec", "ipv6.icmp.ratelimit"):
            # Kernels answer with few errors a second; each of our tests' shall be answered.
            self.sysctl(self.far, f"net.{setting}={1_000_000 if 'per_sec' in setting else 0}")
        self.wire(0)
        self.wire(1)
        self.permit(ANYBODY)

    def wire(self, number: int) -> None:
        device = f"p{number}"
        sh("ip", "-n", self.near, "link", "add", device, "type", "veth", "peer", device, "netns", self.far)
        for space, last in ((self.near, 1), (self.far, 2)):
            sh("ip", "-n", space, "addr", "add", f"10.9.{number}.{last}/24", "dev", device)
            v6 = "fd09" if number == 0 else "fd09:1"
            sh("ip", "-n", space, "addr", "add", f"{v6}::{last}/64", "dev", device, "nodad")
            sh("ip", "-n", space, "link", "set", device, "up")
        for target in (f"10.9.{number}.2", f"{v6}::2"):
            # IPv6 neighbours find each other only a moment after the wire is there.
            self._await_answer(target)

    def _await_answer(self, target: str) -> None:
        words = ["ip", "netns", "exec", self.near, "ping", "-q", "-c", "1", "-W", "0.2", target]
        for _ in range(50):
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return
        raise AssertionError(f"{target} never answers")

    def permit(self, groups: str) -> None:
        """Who may open datagram ICMP sockets on `near`."""
        self.sysctl(self.near, f"net.ipv4.ping_group_range={groups}")

    def sysctl(self, space: str, assignment: str) -> None:
        sh("ip", "netns", "exec", space, "sysctl", "-qw", assignment)

    def rules(self, space: str, text: str) -> None:
        sh("ip", "netns", "exec", space, "nft", "-f", "-", stdin=f"table inet hurt {{\n{text}\n}}\n")

    def heal(self) -> None:
        for space in (self.near, self.far):
            sh("ip", "netns", "exec", space, "nft", "flush", "ruleset")  # a namespace of ours alone
        self.permit(ANYBODY)

    def close(self) -> None:
        for space in (self.near, self.far):
            sh("ip", "netns", "del", space)

    def run(self, action: Callable[[Prober, Watch], Awaitable[T]], **options: Any) -> T:
        """Run a coroutine with a prober on `near`."""

        async def body() -> T:
            watch = Watch()
            settings = {"fast_s": 0.05, "slow_s": 0.1, **options}
            async with Prober(watch.samples.append, tell=watch.notices.append, **settings) as prober:
                return await action(prober, watch)

        return within(self.near, lambda: asyncio.run(body()))


class Watch:
    """What came of the probes."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.notices: list[Notice] = []

    def of(self, path: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.path == path]

    async def until(self, happened: Callable[[], object], *, within_s: float = 8.0) -> None:
        async with asyncio.timeout(within_s):
            while not happened():
                await asyncio.sleep(0.02)


def ping(host: str, *, key: str = "", interface: str = "", **more: Any) -> Probe:
    return Probe(Path(key or host, "test", interface), "icmp", host=host, **more)


def errors(samples: Iterable[Sample]) -> set[str]:
    return {sample.error for sample in samples}
