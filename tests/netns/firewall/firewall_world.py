"""A host with six wires to six peers, each in a namespace of its own, and real packets between them."""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from firewall_stack import stack_of

from tsstack.model.facts import Facts, Paths
from tsstack.parts.firewall.host import PART

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
SILENCE_S = 0.25

# peer: (the host's interface, the host's addresses, the peer's addresses)
WIRES = {
    "wan": (
        "eth0",
        ("192.0.2.1/24", "2001:db8:1::1/64"),
        (
            *("192.0.2.2/24", "192.0.2.66/24", "2001:db8:1::2/64", "2001:db8:1::66/64"),
            *("100.64.0.99/32", "100.115.92.5/32", "fd7a:115c:a1e0::99/128", "198.51.100.9/32"),
        ),
    ),
    "tail": (
        "tailscale0",
        ("100.64.0.1/10", "fd7a:115c:a1e0::1/48"),
        ("100.64.0.7/10", "100.64.0.10/10", "fd7a:115c:a1e0::7/48", "fd7a:115c:a1e0::10/48"),
    ),
    "guest": ("br-guest", ("10.66.0.1/24", "fd00:66::1/64"), ("10.66.0.2/24", "fd00:66::2/64")),
    "lan": (
        "lan0",
        ("192.168.15.1/24", "fd00:15::1/64"),
        ("192.168.15.2/24", "192.168.15.9/24", "fd00:15::2/64"),
    ),
    "dock": ("docker0", ("172.17.0.1/16", "fd00:17::1/64"), ("172.17.0.2/16", "fd00:17::2/64")),
    "bare": ("bare0", ("172.18.0.1/16", "fd00:18::1/64"), ("172.18.0.2/16", "fd00:18::2/64")),
}


def within(namespace: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread that stands in the namespace; its sockets and programs stay there."""

    def body() -> T:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(body).result()


def run(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class World:
    """The host and its peers; `close` removes them."""

    def __init__(self, folder: Path) -> None:
        self.tag = f"fw{os.getpid() % 100000}{secrets.token_hex(2)}"
        self.host = f"{self.tag}-host"
        self.folder = folder
        self.facts = Facts(paths=Paths(run=folder / "run", state=folder / "state"), default_interface="eth0")
        self.numbers = itertools.count()
        run("ip", "netns", "add", self.host)
        within(self.host, self._quieten)
        for peer, (device, ours, theirs) in WIRES.items():
            space = self.space(peer)
            run("ip", "netns", "add", space)
            within(space, self._quieten)
            run("ip", "-n", self.host, "link", "add", device, "type", "veth", "peer", "p0", "netns", space)
            for where, link, addresses in ((self.host, device, ours), (space, "p0", theirs)):
                for address in addresses:
                    run(
                        "ip",
                        "-n",
                        where,
                        "addr",
                        "add",
                        address,
                        "dev",
                        link,
                        *(["nodad"] * (":" in address)),
                    )
                run("ip", "-n", where, "link", "set", link, "up")
                run("ip", "-n", where, "link", "set", "lo", "up")
            v4, v6 = (address.split("/")[0] for address in ours)
            run("ip", "-n", space, "route", "add", "default", "via", v4)
            run("ip", "-n", space, "-6", "route", "add", "default", "via", v6)
        run("ip", "-n", self.host, "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
        self._await_carriers()

    def space(self, peer: str) -> str:
        return f"{self.tag}-{peer}"

    @staticmethod
    def _quieten() -> None:
        for key, value in {
            "net.ipv4.conf.all.rp_filter": "0",
            "net.ipv4.conf.default.rp_filter": "0",
            "net.ipv4.ip_forward": "1",
            "net.ipv6.conf.all.forwarding": "1",
            "net.ipv6.conf.default.forwarding": "1",
            "net.ipv6.conf.default.accept_dad": "0",
            "net.ipv4.icmp_ratelimit": "0",
            "net.ipv6.icmp.ratelimit": "0",
        }.items():
            run("sysctl", "-qw", f"{key}={value}")

    def _await_carriers(self) -> None:
        """Until everybody is everybody's neighbour: what looks for one first is often lost on a new wire."""
        deadline = time.monotonic() + 10
        plain = [address.partition("/")[::2] for _, _, theirs in WIRES.values() for address in theirs]
        there = [address for address, length in plain if length not in {"32", "128"}]

        def silent() -> list[str]:
            return [each for each in there if _ping(each, "") != "answer"]

        while left := within(self.host, silent):
            assert time.monotonic() < deadline, f"the wires do not carry: {left}"

    def close(self) -> None:
        for name in (self.host, *(self.space(peer) for peer in WIRES)):
            subprocess.run(["ip", "netns", "del", name], check=False)

    # The part under test, in the host's namespace.

    def stage(self, yaml: str) -> Path:
        generation = self.folder / f"generation-{next(self.numbers)}"
        (generation / "nftables").mkdir(parents=True)
        for name, text in PART.desired(stack_of(yaml), self.facts).items():
            (generation / name).write_text(text)
        return generation

    def load(self, yaml: str) -> list[str]:
        generation = self.stage(yaml)
        said: list[str] = []
        within(self.host, lambda: PART.activate(generation, self.facts, said.append))
        within(self.host, lambda: PART.verify(generation, self.facts))
        self.forget()
        return said

    def forget(self) -> None:
        """No flow of an earlier probe lives on."""
        self.at_host("conntrack", "-F")

    def at_host(self, *words: str, stdin: str | None = None) -> str:
        return within(self.host, lambda: run(*words, stdin=stdin))

    def counter(self, name: str) -> int:
        listing = self.at_host("nft", "list", "counter", "inet", "tsstack", name)
        return int(listing.split("packets")[1].split()[0])

    # Packets. Nothing listens unless a test says so: a reset or "port unreachable" is an answer.

    def tcp(self, peer: str, to: str, port: int, source: str = "") -> str:
        """`answer` (accepted or reset), `silence`, or `refused by ICMP`."""

        def attempt() -> str:
            with socket.socket(_family(to), socket.SOCK_STREAM) as link:
                link.settimeout(SILENCE_S)
                if source:
                    link.bind((source, 0))
                try:
                    link.connect((to, port))
                except ConnectionRefusedError:
                    return "answer"
                except TimeoutError:
                    return "silence"
                except OSError as error:
                    return f"refused by ICMP {error.errno}"
                return "answer"

        return within(self.space(peer), attempt)

    def udp(self, peer: str, to: str, port: int, source: str = "", source_port: int = 0) -> str:
        def attempt() -> str:
            with socket.socket(_family(to), socket.SOCK_DGRAM) as link:
                link.settimeout(SILENCE_S)
                if source or source_port:
                    link.bind((source, source_port))
                link.connect((to, port))
                link.send(b"?")
                try:
                    link.recv(16)
                except ConnectionRefusedError:
                    return "answer"
                except TimeoutError:
                    return "silence"
                except OSError as error:
                    return f"refused by ICMP {error.errno}"
                return "answer"

        return within(self.space(peer), attempt)

    def ping(self, peer: str, to: str, source: str = "") -> str:
        return within(self.space(peer), lambda: _ping(to, source))

    def listen(self, namespace: str, address: str, port: int) -> socket.socket:
        def opened() -> socket.socket:
            server = socket.socket(_family(address), socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(16)
            return server

        return within(namespace, opened)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _ping(to: str, source: str) -> str:
    v6 = ":" in to
    kind = socket.getprotobyname("ipv6-icmp" if v6 else "icmp")
    token = secrets.token_bytes(8)
    with socket.socket(_family(to), socket.SOCK_RAW, kind) as raw:
        if source:
            raw.bind((source, 0))
        header = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 1, 1)
        packet = header + token
        if not v6:
            total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
            total = (total >> 16) + (total & 0xFFFF)
            packet = packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
        raw.sendto(packet, (to, 0))
        deadline = time.monotonic() + SILENCE_S
        while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
            answer = raw.recv(2048)
            body = answer if v6 else answer[20:]
            if body[8:16] == token and body[0] in (0, 129):
                return "answer"
    return "silence"
