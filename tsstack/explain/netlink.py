"""Asking the kernel by netlink(7): what there is of a kind, or one thing."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_SIZE = 1 << 20

Message = tuple[int, int, bytes]
"""Its type, its sequence number and its body."""


class Interrupted(Exception):
    """What was listed changed meanwhile: the list is not to be trusted (NLM_F_DUMP_INTR)."""


def pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message; `body` is padded as it must be."""
    padded = body + b"\0" * (-len(body) % 4)
    return _HEAD.pack(_HEAD.size + len(padded), kind, flags, sequence, 0) + padded


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind (with its flags) and value of each attribute; `kind & 0x3fff` is the kind alone."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def by_kind(data: bytes) -> dict[int, bytes]:
    """The attributes by kind, without their flags."""
    return {kind & _TYPE_MASK: value for kind, value in attributes(data)}


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises OSError for an error in it, Interrupted for a spoiled list.

    An acknowledgement is told as `(NLMSG_ERROR, its sequence number, b"")`.
    """
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, flags, sequence, _ = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + length]
        if flags & _NLM_F_DUMP_INTR:
            raise Interrupted
        if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
            code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
            if code > 0:
                raise OSError(code, os.strerror(code), str(sequence))
            body = b""
        yield kind, sequence, body
        at += (length + 3) & ~3


def ask(link: socket.socket, kind: int, body: bytes, *, listing: bool) -> list[tuple[int, bytes]]:
    """All answers to one request. Raises OSError, Interrupted."""
    flags = NLM_F_REQUEST | (NLM_F_DUMP if listing else NLM_F_ACK)
    link.send(pack(kind, flags, 1, body))
    found: list[tuple[int, bytes]] = []
    while True:
        for answer, _, content in messages(link.recv(_SIZE)):
            if answer in {_NLMSG_ERROR, _NLMSG_DONE}:
                return found
            found.append((answer, content))


def read_events(link: socket.socket) -> Iterator[Message]:
    """What has come in so far on a socket that does not block. Raises OSError."""
    while True:
        try:
            data = link.recv(_SIZE)
        except BlockingIOError:
            return
        yield from messages(data)
