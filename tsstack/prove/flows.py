"""Connections in the throwaway world: begun by this host, to it, or through it, and what comes back on them.

Runs in the agent. The other end is played here, packet by packet, on the world's interfaces; this host's own
end is the kernel's. Each connection is a list of stages that come to pass one after another; the answer says
of each whether it did. `Order` tells what to do.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsstack.prove.expected import ACK, SYN
from tsstack.prove.frames import checksum

if TYPE_CHECKING:
    from tsstack.prove.agent import Wires

ANSWERED, DATA, RELATED = "the answer", "data", "an error that belongs to it"
STAGES = (ANSWERED, DATA, RELATED)
_PSH = 0x08
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_REDIRECT, _TIME_EXCEEDED = 5, {4: 11, 6: 3}
_ISS, _OUR_PORT, _CLIENT_PORT = 1000, 0, 45000
_PATIENCE_S, _STEP_S = 0.03, 0.001
_LISTENING = 16


@dataclass(frozen=True, slots=True)
class Order:
    """One connection: `source` begins it, unless `begun` says that this host does, with the same ends."""

    protocol: str
    source: str
    interface: int
    """Where the packets of `source` arrive."""
    port: int
    destination: str
    outgoing: int
    """Where those of `destination` arrive; -1: it is this host."""
    begun: bool = False
    number: int = 0
    """What tells its source port from that of others."""


def run(wires: Wires, orders: bytes) -> bytes:
    """Have all connections of a JSON list of `Order`s; of each, in JSON, which of STAGES came to pass."""
    return json.dumps([_have(wires, Order(*each)) for each in json.loads(orders)]).encode()


def _have(wires: Wires, order: Order) -> list[bool]:
    play = _begun_here if order.begun else _to_here if order.outgoing < 0 else _through
    passed: list[bool] = []
    with contextlib.suppress(OSError):  # a refusal reaches a socket as an error: the stage did not pass
        passed += play(_Stage(wires), order)
    return passed + [False] * (len(STAGES) - len(passed))


@dataclass(frozen=True, slots=True)
class _Frame:
    """An IP packet, read."""

    source: str
    destination: str
    protocol: int
    body: bytes
    raw: bytes

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack_from("!HH", self.body)

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.body[4:8])


class _Stage:
    """The world's interfaces, for one connection."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires

    def write(self, at: int, frame: bytes) -> None:
        self.wires.send(at, frame)

    def read(self, wanted: Callable[[_Frame], bool]) -> _Frame | None:
        """The first packet that leaves and is wanted; the kernel is done when the writing returns, mostly."""
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            for frame in map(_parse, self.wires.read_left()):
                if frame is not None and wanted(frame):
                    return frame
            if time.monotonic() > until_s:
                return None
            time.sleep(_STEP_S)

    def witness(self, family: int, protocol: int, wanted: Callable[[bytes], bool]) -> bool:
        """Whether such a packet reached this host."""
        return any(map(wanted, self.wires.read_delivered(family, protocol)))


def _through(stage: _Stage, order: Order) -> Iterator[bool]:
    protocol = _TCP if order.protocol == "tcp" else _UDP
    own_port = _CLIENT_PORT + order.number
    client = _Ends(protocol, order.source, order.destination, own_port, order.port)

    def left(frame: _Frame) -> bool:
        return frame.destination == order.destination and frame.protocol == protocol

    def back(frame: _Frame) -> bool:
        return frame.destination == order.source and frame.protocol == protocol

    stage.write(order.interface, client.segment(_ISS, 0, SYN, b"ask"))
    first = stage.read(left)
    if first is None:
        return
    there, here = first.ports
    server = _Ends(protocol, first.destination, first.source, here, there)
    stage.write(order.outgoing, server.segment(_ISS, _ISS + 1, SYN | ACK, b"tell"))
    yield stage.read(back) is not None
    last: _Frame | None = first
    if protocol == _TCP:
        stage.write(order.interface, client.segment(_ISS + 1, _ISS + 1, ACK | _PSH, b"ask"))
        last = stage.read(left)
        stage.write(order.outgoing, server.segment(_ISS + 1, _ISS + 4, ACK | _PSH, b"tell"))
        yield last is not None and stage.read(back) is not None
    else:
        stage.write(order.interface, client.segment(0, 0, 0, b"more"))
        last = stage.read(left)
        yield last is not None
    if last is None:
        return
    kind = _TIME_EXCEEDED[_version(order.source)]
    icmp = _ICMP if _version(order.source) == 4 else _ICMPV6
    stage.write(order.outgoing, _error(kind, last))
    yield (
        stage.read(
            lambda each: each.destination == order.source and each.protocol == icmp and each.body[0] == kind
        )
        is not None
    )


def _begun_here(stage: _Stage, order: Order) -> Iterator[bool]:
    protocol = _TCP if order.protocol == "tcp" else _UDP
    family = _family(order.source)
    kind = socket.SOCK_STREAM if protocol == _TCP else socket.SOCK_DGRAM
    with socket.socket(family, kind) as own:
        own.setblocking(False)
        own.bind((order.destination, _OUR_PORT))
        with contextlib.suppress(BlockingIOError):
            own.connect((order.source, order.port))
        if protocol == _UDP:
            own.send(b"ask")

        def left(frame: _Frame) -> bool:
            return frame.destination == order.source and frame.protocol == protocol

        first = stage.read(left)
        if first is None:
            return
        there, here = first.ports
        server = _Ends(protocol, order.source, order.destination, here, there)
        answer = server.segment(_ISS, first.sequence + 1, SYN | ACK, b"tell")
        stage.write(order.interface, answer)
        if protocol == _TCP:
            yield _soon(lambda: own.send(b"ask")) == 3
            last = stage.read(lambda each: left(each) and b"ask" in each.body[20:])
            if last is None:
                return
            stage.write(
                order.interface,
                server.segment(_ISS + 1, last.sequence + 3, ACK | _PSH, b"tell"),
            )
            yield _soon(lambda: own.recv(16)) == b"tell"
        else:
            yield _soon(lambda: own.recv(16)) == b"tell"
            own.send(b"more")
            last = stage.read(left)
            yield last is not None
        if last is None or _version(order.source) == 6:
            # ICMPv6 errors of a connection pass by a rule of their own, and it knows no other kind.
            yield True
            return
        stage.write(order.interface, _error(_REDIRECT, last))
        quoted = last.raw[:28]
        yield stage.witness(
            socket.AF_INET, _ICMP, lambda each: each[20] == _REDIRECT and each[28:].startswith(quoted)
        )


def _to_here(stage: _Stage, order: Order) -> Iterator[bool]:
    """Of TCP alone: an open port of this host, behind which somebody listens."""
    with socket.socket(_family(order.source)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind((order.destination, order.port))
        listening.listen(_LISTENING)
        client = _Ends(_TCP, order.source, order.destination, _CLIENT_PORT + order.number, order.port)

        def back(frame: _Frame) -> bool:
            return frame.destination == order.source and frame.protocol == _TCP

        stage.write(order.interface, client.segment(_ISS, 0, SYN))
        answer = stage.read(back)
        if answer is None or answer.body[13] != SYN | ACK:
            return
        acknowledged = answer.sequence + 1
        stage.write(order.interface, client.segment(_ISS + 1, acknowledged, ACK))
        stage.write(order.interface, client.segment(_ISS + 1, acknowledged, ACK | _PSH, b"ask"))
        accepted = _soon(listening.accept)
        yield accepted is not None
        if accepted is None:
            return
        with accepted[0] as own:
            own.setblocking(False)
            heard = _soon(lambda: own.recv(16)) == b"ask"
            own.send(b"tell")
            yield heard and stage.read(lambda each: back(each) and b"tell" in each.body[20:]) is not None
            yield True


def _soon(attempt: Callable[[], Any]) -> Any:
    """What it gives, once it has something to give; None after a while."""
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return attempt()
        except BlockingIOError:
            if time.monotonic() > until_s:
                return None
            time.sleep(_STEP_S)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _parse(raw: bytes) -> _Frame | None:
    if raw[0] >> 4 == 4:
        start, protocol, ends, family = (raw[0] & 0xF) * 4, raw[9], raw[12:20], socket.AF_INET
    else:
        start, protocol, ends, family = 40, raw[6], raw[8:40], socket.AF_INET6
    if len(raw) < start + 8:
        return None
    half = len(ends) // 2
    source, destination = (socket.inet_ntop(family, each) for each in (ends[:half], ends[half:]))
    return _Frame(source, destination, protocol, raw[start:], raw)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where packets of one direction come from and go to."""

    protocol: int
    source: str
    destination: str
    source_port: int
    port: int

    def segment(self, sequence: int, acknowledged: int, flags: int, data: bytes = b"") -> bytes:
        """A TCP segment, or a datagram of UDP, which has no sequence and no flags. A SYN has no data."""
        if self.protocol == _UDP:
            head, at = struct.pack("!HHHH", self.source_port, self.port, 8 + len(data), 0), 6
        else:
            data = b"" if flags & SYN else data
            numbers = (sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF)
            ports = (self.source_port, self.port)
            head, at = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 64240, 0, 0), 16
        return _packet(self.protocol, self.source, self.destination, head + data, at)


def _error(kind: int, about: _Frame) -> bytes:
    """An ICMP error by the one that the packet was sent to. A redirect names that one as the next hop."""
    four = about.raw[0] >> 4 == 4
    rest = socket.inet_aton(about.destination) if kind == _REDIRECT and four else bytes(4)
    body = struct.pack("!BBH", kind, 0, 0) + rest + about.raw
    return _packet(_ICMP if four else _ICMPV6, about.destination, about.source, body, 2)


def _packet(protocol: int, source: str, destination: str, body: bytes, at: int) -> bytes:
    """An IP packet whose checksum stands at `at` of its body."""
    family = _family(source)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    pseudo = b"" if protocol == _ICMP else ends + struct.pack("!HH", protocol, len(body))
    even = body + bytes(len(body) % 2)
    body = body[:at] + checksum(pseudo + even) + body[at + 2 :]
    if family == socket.AF_INET6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    return head[:10] + checksum(head + ends) + ends + body
