"""The kernel's table of connections by ctnetlink: listed, and single entries dropped.

Spoken directly (linux/netfilter/nfnetlink_conntrack.h), as a table may hold a hundred thousand entries, a
change of the rules waits for it, and the monitor's unit need not start programs. Needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tsstack.system.nfnetlink import part_from

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_HEAD = struct.Struct("=IHHII")
_TUPLE_ORIG, _TUPLE_REPLY, _MARK, _ID, _ZONE = 1, 2, 8, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_RECEIVE_BYTES = 1 << 18
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a connection. Ports are 0 where the protocol has none."""

    source: str
    destination: str
    protocol: int = 0
    source_port: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Connection:
    """One entry: its original direction, and the one that replies take (other addresses there mean NAT)."""

    original: Tuple
    reply: Tuple
    mark: int = 0
    identity: bytes = field(default=b"", repr=False)
    """What the kernel needs to find just this one again: attributes of its own message."""
    family: int = socket.AF_INET


def list_connections() -> list[Connection]:
    """All entries of this network namespace. Raises OSError: PermissionError, or no conntrack here."""
    with _open() as link:
        # Both families at once: the kernel walks all buckets of its table for each question, for 10 ms.
        link.send(_message(_GET, _REQUEST | _DUMP, socket.AF_UNSPEC, b""))
        return [_connection(body) for body in _dumped(link)]


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of connections that were to be dropped."""

    count: int
    """How many there still were."""
    refused: tuple[tuple[Connection, OSError], ...] = ()
    """Those that the kernel keeps, each with its reason: EBUSY of offloaded ones, by older kernels."""


def drop_connections(connections: Iterable[Connection]) -> Dropped:
    """Drop just these, whatever becomes of each. Raises OSError where there is no asking."""
    waiting = [each for each in connections if each.identity]
    count, refused = 0, []
    with _open() as link:
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            requests = [
                _message(_DELETE, _REQUEST | _ACK, each.family, each.identity, sequence=at)
                for at, each in enumerate(batch)
            ]
            link.send(b"".join(requests))
            answered = 0
            while answered < len(batch):
                for at, code in _codes(link.recv(_RECEIVE_BYTES)):
                    answered += 1
                    if code == 0:
                        count += 1
                    elif code == errno.EPERM:  # said once, for the whole batch (nfnetlink.c: nfnetlink_rcv)
                        raise PermissionError(code, os.strerror(code))
                    elif code != errno.ENOENT:  # it ended by itself meanwhile
                        refused.append((batch[at], OSError(code, os.strerror(code))))
    return Dropped(count, tuple(refused))


@contextmanager
def _open() -> Iterator[socket.socket]:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        link.settimeout(5.0)
        link.bind((0, 0))
        yield link
    finally:
        part_from(link.detach())


def _message(kind: int, flags: int, family: int, body: bytes, *, sequence: int = 0) -> bytes:
    generic = struct.pack("=BBH", family, 0, 0)
    return _HEAD.pack(_HEAD.size + len(generic) + len(body), kind, flags, sequence, 0) + generic + body


def _dumped(link: socket.socket) -> Iterator[bytes]:
    """The attributes of each message of a dump."""
    while True:
        data = link.recv(_RECEIVE_BYTES)
        at = 0
        while at < len(data):
            length, kind, _, _, _ = _HEAD.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, at + _HEAD.size)[0]
                raise OSError(code, os.strerror(code))
            yield data[at + _HEAD.size + 4 : at + length]
            at += (length + 3) & ~3


def _codes(data: bytes) -> Iterator[tuple[int, int]]:
    """The sequence number of each request that was answered, and its error (0: none)."""
    at = 0
    while at < len(data):
        length, kind, _, sequence, _ = _HEAD.unpack_from(data, at)
        if kind == _ERROR:
            yield sequence, -struct.unpack_from("=i", data, at + _HEAD.size)[0]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _connection(body: bytes) -> Connection:
    given = _attributes(body)
    original, reply = given.get(_TUPLE_ORIG, b""), given.get(_TUPLE_REPLY, b"")
    identity = _attribute(_TUPLE_ORIG | _NESTED, original)
    for kind in (_ID, _ZONE):
        if kind in given:
            identity += _attribute(kind, given[kind])
    mark = struct.unpack("!I", given[_MARK])[0] if _MARK in given else 0
    six = _V6_SRC in _attributes(_attributes(original).get(_TUPLE_IP, b""))
    family = socket.AF_INET6 if six else socket.AF_INET
    return Connection(_tuple(original), _tuple(reply), mark, identity, family)


def _tuple(data: bytes) -> Tuple:
    parts = _attributes(data)
    addresses = _attributes(parts.get(_TUPLE_IP, b""))
    protocol = _attributes(parts.get(_TUPLE_PROTO, b""))
    six = _V6_SRC in addresses
    family = socket.AF_INET6 if six else socket.AF_INET
    size = 16 if six else 4
    source = addresses.get(_V6_SRC if six else _V4_SRC, b"").ljust(size, b"\0")
    destination = addresses.get(_V6_DST if six else _V4_DST, b"").ljust(size, b"\0")
    return Tuple(
        socket.inet_ntop(family, source),
        socket.inet_ntop(family, destination),
        protocol.get(_PROTO_NUM, b"\0")[0],
        int.from_bytes(protocol.get(_SRC_PORT, b"")),
        int.from_bytes(protocol.get(_DST_PORT, b"")),
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
