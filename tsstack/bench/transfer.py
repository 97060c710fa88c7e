"""The client of our own throughput test: some TCP connections, one direction, an end that is kept.

However slow the way is, the load ends with the time: what then still waits in buffers is thrown away with the
connection (SO_LINGER with 0 seconds, tcp(7)).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from tsstack.bench import wire
from tsstack.bench.figures import Direction, Throughput
from tsstack.errors import TsstackError

PIECE_BYTES = 256 << 10
_CONNECT_S = 2.0
_ANSWER_S = 3.0
_BUSY_S = 3.0
_TURN_S = 0.2


class TransferFailed(TsstackError):
    """There is no result; the message says why."""


class NobodyThere(TransferFailed):
    """No `ts-benchmark --serve` answers there."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What one connection of a test moved, and when by this host's monotonic clock."""

    moved_bytes: int
    begun_s: float
    ended_s: float


def discard(connection: socket.socket) -> None:
    """Close, and drop what waits to be sent."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_line(connection: socket.socket, deadline_s: float) -> tuple[bytes, bytes]:
    """A line and what came after it. Raises TimeoutError, OSError, and WireError for what is no line."""
    received = b""
    while b"\n" not in received:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        data = connection.recv(wire.LONGEST_LINE_BYTES)
        received += data
        if not data or (len(received) > wire.LONGEST_LINE_BYTES and b"\n" not in received):
            raise wire.WireError("the other end broke off")
    line, _, rest = received.partition(b"\n")
    return line + b"\n", rest


def transfer(address: str, direction: Direction, span_s: float, *, port: int = wire.PORT) -> Throughput:
    """Load the way for `span_s` seconds in one direction.

    Raises NobodyThere when nothing listens, TransferFailed when the other end refuses or breaks off.
    """
    asked = wire.Request(direction, span_s, wire.MOST_BYTES)
    where = f"the other end at {address} port {port}"
    try:
        return _together(asked, address, direction, port)
    except wire.WireError as error:
        raise TransferFailed(f"{where}: {error}") from error
    except TimeoutError as error:
        raise TransferFailed(f"{where} fell silent") from error
    except OSError as error:
        raise TransferFailed(f"{where} broke off: {str(error.strerror or error).lower()}") from error


def _together(asked: wire.Request, address: str, direction: Direction, port: int) -> Throughput:
    """All connections of a test at once; when one fails the others are ended, and its error raised."""
    end = threading.Event()
    with ThreadPoolExecutor(max_workers=wire.STREAMS) as pool:
        streams = [pool.submit(_patiently, asked, address, direction, port, end) for _ in range(wire.STREAMS)]
        try:
            found = [stream.result() for stream in as_completed(streams)]
        except BaseException:
            end.set()
            raise
    return together(direction, found)


def together(direction: Direction, streams: Sequence[Stream]) -> Throughput:
    """What all of them moved from the first one's begin to the last one's end.

    Not the sum of their rates: one whose SYN was lost begins a second later, and has the way to itself then.
    """
    moved_bytes = sum(each.moved_bytes for each in streams)
    span_s = max(each.ended_s for each in streams) - min(each.begun_s for each in streams)
    bits_s = moved_bytes * 8 / span_s if span_s > 0 else 0.0
    return Throughput(direction, "own", bits_s, moved_bytes, span_s)


def _patiently(
    asked: wire.Request, address: str, direction: Direction, port: int, end: threading.Event
) -> Stream:
    """One connection; where the last test is just ending there, a moment later."""
    until_s = time.monotonic() + _BUSY_S
    while True:
        try:
            return _once(asked, address, direction, port, end)
        except wire.Busy:
            if end.is_set() or time.monotonic() > until_s:
                raise
            time.sleep(0.25)


def _once(asked: wire.Request, address: str, direction: Direction, port: int, end: threading.Event) -> Stream:
    connection = _connect(address, port)
    try:
        connection.sendall(asked.line())
        line, rest = read_line(connection, time.monotonic() + _ANSWER_S)
        agreed = wire.read_ok(line, asked)
        if direction == "up":
            return _send(connection, agreed, end)
        return _receive(connection, agreed, len(rest), end)
    finally:
        discard(connection)


def _connect(address: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((address, port), timeout=_CONNECT_S)
    except OSError as error:
        raise NobodyThere(
            f"nobody answers at {address} port {port}: {str(error.strerror or error).lower()}",
            hint="start `ts-benchmark --serve` there, and let its firewall open that port to the tailnet",
        ) from error


def _send(connection: socket.socket, agreed: wire.Request, end: threading.Event) -> Stream:
    """Send until the receiver says that the time is over; the figures are the receiver's."""
    piece = memoryview(os.urandom(PIECE_BYTES))
    connection.setblocking(False)
    begun_s = time.monotonic()
    left = agreed.most_bytes
    answer = b""
    while b"\n" not in answer:
        since_s = time.monotonic() - begun_s
        if since_s > agreed.span_s + _ANSWER_S or end.is_set():
            raise TimeoutError
        feeding = left > 0 and since_s < agreed.span_s
        readable, writable, _ = select.select([connection], [connection] if feeding else [], [], 0.1)
        if readable:
            data = connection.recv(wire.LONGEST_LINE_BYTES)
            answer += data
            if not data or len(answer) > wire.LONGEST_LINE_BYTES:
                break
        if writable:
            with contextlib.suppress(BlockingIOError):
                left -= connection.send(piece[: min(left, PIECE_BYTES)])
    moved_bytes, span_s = wire.read_done(answer)
    return Stream(moved_bytes, begun_s, begun_s + span_s)


def _receive(connection: socket.socket, agreed: wire.Request, already: int, end: threading.Event) -> Stream:
    """Count until the time is over."""
    buffer = bytearray(PIECE_BYTES)
    moved_bytes = already
    begun_s = time.monotonic()
    broke_off = False
    while (left_s := begun_s + agreed.span_s - time.monotonic()) > 0 and not end.is_set():
        connection.settimeout(min(left_s, _TURN_S))
        try:
            count = connection.recv_into(buffer)
        except TimeoutError:
            continue
        except ConnectionResetError:
            count = 0
        if not count:
            broke_off = moved_bytes < agreed.most_bytes
            break
        moved_bytes += count
    span_s = time.monotonic() - begun_s
    if broke_off and span_s < agreed.span_s * 0.8:
        raise wire.WireError("it broke off")
    if not moved_bytes:
        raise wire.WireError("it sent nothing")
    return Stream(moved_bytes, begun_s, begun_s + span_s)
