"""The table replaced again and again under real packets: what leaked, and what was lost on the way."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "tests" / "unit" / "firewall"), str(CHECKOUT / "tests" / "netns" / "firewall")]

from firewall_world import World, within  # noqa: E402

from tsstack.parts.firewall.host import PART  # noqa: E402
from tsstack.parts.firewall.library import Session  # noqa: E402

_libc = ctypes.CDLL(None, use_errno=True)
_FORK = multiprocessing.get_context("fork")
# KEPT takes connections that are open all along, and answers them.
OPEN, SHUT, KEPT = 5000, 5001, 5002
# The two tables differ in a port that nobody uses, and in the order of their zones.
_FILES = (
    """
firewall:
  log: true
  zones:
    dmz: {interfaces: [eth0], tcp: [5000], udp: [5000, 5002]}
    internal: {interfaces: [tailscale0], tcp: [22]}
    lan: {interfaces: [lan0]}
  forward: [{from: internal, to: lan, tcp: [5000], udp: [5000, 5002]}]
""",
    """
firewall:
  zones:
    lan: {interfaces: [lan0], tcp: [9999]}
    internal: {interfaces: [tailscale0], tcp: [22]}
    dmz: {interfaces: [eth0], tcp: [5000, 9999], udp: [5000, 5002]}
  forward: [{from: internal, to: lan, tcp: [5000], udp: [5000, 5002]}]
""",
)


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where packets go."""

    name: str
    source: str
    target: str
    address: str


WAYS = (
    Way("in, IPv4", "wan", "host", "192.0.2.1"),
    Way("in, IPv6", "wan", "host", "2001:db8:1::1"),
    Way("through, IPv4", "tail", "lan", "192.168.15.2"),
    Way("through, IPv6", "tail", "lan", "fd00:15::2"),
)


def _enter(namespace: str) -> None:
    with open(f"/run/netns/{namespace}", "rb") as place:  # noqa: PTH123  a descriptor for setns(2)
        if _libc.setns(place.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Crowd:
    """Processes that send and receive until `stop`; each tells its counts once."""

    def __init__(self) -> None:
        self.going = _FORK.Event()
        self.answers: Any = _FORK.Queue()
        self.processes: list[Any] = []

    def start(self, name: str, namespace: str, work: Callable[..., dict[str, int]], *words: Any) -> None:
        def body() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _enter(namespace)
            self.answers.put((name, work(self.going, *words)))

        process = _FORK.Process(target=body, daemon=True)
        process.start()
        self.processes.append(process)

    def finish(self, count: int) -> list[tuple[str, dict[str, int]]]:
        """The answers of the next `count` that end."""
        return [self.answers.get(timeout=30) for _ in range(count)]

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
            process.join(5)


def send_udp(stop: Any, address: str, port: int, pace_s: float, anew: bool) -> dict[str, int]:
    """Numbered datagrams at a pace, from one port or each from another; `sent` ones left the socket."""
    sent, refused, number = 0, 0, 0
    fixed = socket.socket(_family(address), socket.SOCK_DGRAM)
    next_s = time.monotonic()
    while not stop.is_set():
        link = fixed
        if anew:
            link = socket.socket(_family(address), socket.SOCK_DGRAM)
            if ":" in address:
                link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the other senders count alike
            link.bind(("::" if ":" in address else "", 10_000 + number % 20_000))
        try:
            link.sendto(struct.pack("!I", number), (address, port))
            sent += 1
        except OSError:
            refused += 1  # our own socket's buffer: it never was a packet
        if anew:
            link.close()
        number += 1
        next_s += pace_s
        time.sleep(max(0.0, next_s - time.monotonic()))
    return {"sent": sent, "not_sent": refused}


def receive_udp(stop: Any, address: str, port: int) -> dict[str, int]:
    """Datagrams that arrived, and those that our own socket had no room for (/proc/net/udp).

    On KEPT they are answered, which makes the kernel take what follows for an open connection's.
    """
    link = socket.socket(_family(address), socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, 33, 32 * 1024 * 1024)  # SO_RCVBUFFORCE
    link.bind((address, port))
    link.settimeout(0.1)
    received, quiet = 0, 0
    while not stop.is_set() or quiet < 8:
        try:
            _, sender = link.recvfrom(64)
            received, quiet = received + 1, 0
            if port == KEPT:
                link.sendto(b"!", sender)
        except TimeoutError:
            quiet += stop.is_set()
    table = Path("/proc/thread-self/net/udp6" if ":" in address else "/proc/thread-self/net/udp")
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    dropped = sum(int(row[-1]) for row in rows if row[1].endswith(f":{port:04X}"))
    return {"received": received, "no_room": dropped}


def serve_tcp(stop: Any, address: str, port: int) -> dict[str, int]:
    """Accept and answer."""
    accepted = 0
    with socket.socket(_family(address), socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(1024)
        server.settimeout(0.1)
        while not stop.is_set():
            try:
                link, _ = server.accept()
            except TimeoutError:
                continue
            accepted += 1
            with link:
                link.sendall(b"!")
    return {"accepted": accepted}


def connect_tcp(stop: Any, address: str, port: int, limit_s: float) -> dict[str, int]:
    """New connections in turn. A SYN or an answer that was lost costs a second (RFC 6298): `slow`."""
    counts = {"asked": 0, "answered": 0, "slow": 0, "failed": 0}
    while not stop.is_set():
        with socket.socket(_family(address), socket.SOCK_STREAM) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.settimeout(limit_s)
            counts["asked"] += 1
            started_s = time.monotonic()
            try:
                link.connect((address, port))
                if link.recv(1) == b"!":
                    counts["answered"] += 1
                else:
                    counts["failed"] += 1
            except OSError:
                counts["failed"] += 1
            counts["slow"] += time.monotonic() - started_s > 0.95
        time.sleep(0.002)
    return counts


def flood(replacements: int, *, pace_s: float = 0.002, torn: bool = False) -> dict[str, Any]:
    """Replace the table `replacements` times; `torn` does it in two steps, to see that leaks are seen."""
    with tempfile.TemporaryDirectory(prefix="tsstack-churn-") as folder:
        world = World(Path(folder))
        crowd = Crowd()
        try:
            return _flood(world, crowd, replacements, pace_s, torn=torn)
        finally:
            crowd.going.set()
            crowd.end()
            world.close()


def _flood(world: World, crowd: Crowd, replacements: int, pace_s: float, *, torn: bool) -> dict[str, Any]:
    generations = [world.stage(text) for text in _FILES]
    for timeout in ("udp_timeout", "udp_timeout_stream", "tcp_timeout_time_wait", "tcp_timeout_close"):
        world.at_host("sysctl", "-qw", f"net.netfilter.nf_conntrack_{timeout}=5")
    world.load(_FILES[0])
    listening, sending = Crowd(), crowd
    listening.answers = crowd.answers
    listeners = senders = 0
    try:
        for way in WAYS:
            target = world.host if way.target == "host" else world.space(way.target)
            for port in (OPEN, SHUT, KEPT):
                listening.start(f"udp {way.name} {port}", target, receive_udp, way.address, port)
                listeners += 1
            for port in (OPEN, SHUT):
                listening.start(f"tcp {way.name} {port}", target, serve_tcp, way.address, port)
                listeners += 1
        time.sleep(0.5)
        for way in WAYS:
            source = world.space(way.source)
            for port in (OPEN, SHUT, KEPT):
                words = (way.address, port, pace_s * (1 + (port != KEPT)), port != KEPT)
                sending.start(f"udp {way.name} {port}", source, send_udp, *words)
                senders += 1
            for port in (OPEN, SHUT):
                limit_s = 5.0 if port == OPEN else 0.1
                sending.start(f"tcp {way.name} {port}", source, connect_tcp, way.address, port, limit_s)
                senders += 1
        time.sleep(0.5)
        started_s = time.monotonic()
        within(world.host, lambda: _replace(world, generations, replacements, torn=torn))
        duration_s = time.monotonic() - started_s
        sending.going.set()
        told = crowd.finish(senders)
        time.sleep(0.3)
        listening.going.set()
        told += crowd.finish(listeners)
    finally:
        listening.going.set()
        listening.end()
    return {"replacements": replacements, "duration_s": round(duration_s, 1), **_judge(told)}


def _replace(world: World, generations: list[Path], replacements: int, *, torn: bool) -> None:
    for number in range(replacements):
        if torn:
            Session().run("flush table inet tsstack")
        PART.activate(generations[(number + 1) % 2], world.facts, lambda line: None)
    PART.verify(generations[replacements % 2], world.facts)


def _judge(told: list[tuple[str, dict[str, int]]]) -> dict[str, Any]:
    flows: dict[str, dict[str, int]] = {}
    for name, counts in told:
        flow = flows.setdefault(name, {})
        for what, count in counts.items():
            flow[what] = flow.get(what, 0) + count
    leaked = lost = lost_new = 0
    for name, flow in flows.items():
        if name.endswith(str(SHUT)):
            flow["leaked"] = flow.get("received", 0) + flow.get("no_room", 0) + flow.get("accepted", 0)
            leaked += flow["leaked"]
        elif name.startswith("udp"):
            flow["lost"] = max(0, flow["sent"] - flow["received"] - flow["no_room"])
        else:
            flow["lost"] = flow["failed"] + flow["slow"]
        if name.endswith(str(KEPT)):
            lost += flow["lost"]
        elif name.endswith(str(OPEN)):
            lost_new += flow["lost"]
    closed = [flow for name, flow in flows.items() if name.endswith(str(SHUT))]
    return {
        "sent": sum(flow.get("sent", 0) + flow.get("asked", 0) for flow in flows.values()),
        "sent_to_closed_ports": sum(flow.get("sent", 0) + flow.get("asked", 0) for flow in closed),
        "leaked": leaked,
        "lost": lost,
        "lost_first_packets": lost_new,
        "no_room_at_the_receiver": sum(flow.get("no_room", 0) for flow in flows.values()),
        "flows": flows,
    }


if __name__ == "__main__":
    import json

    json.dump(flood(int(sys.argv[1]), torn=len(sys.argv) > 2), sys.stdout, indent=1)
