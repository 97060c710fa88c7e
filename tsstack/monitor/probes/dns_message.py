"""The little of DNS that a probe needs (RFC 1035 section 4): one question, and what came of it. Pure.

A DNS library would do much more, and costs 80 ms and 13 MB to import (dnspython 2.9): too much beside a
monitor that has 40 MB in all.
"""

from __future__ import annotations

import struct

A, AAAA = 1, 28
_INTERNET = 1
_HEADER = struct.Struct("!HHHHHH")
_TAIL = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_RECURSION_DESIRED = 0x0100
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
# RFC 1035 section 4.1.1.
_RCODES = {
    1: "format error",
    2: "server failure",
    3: "no such name",
    4: "not implemented",
    5: "query refused",
}
NO_ADDRESS = "no address"
"""The name exists and has no address of the kind that was asked for."""


def question(name: str, kind: int) -> bytes:
    """The question section. Raises ValueError for what is no name."""
    wire = b""
    for label in name.rstrip(".").split("."):
        text = label.encode("ascii")
        if not 1 <= len(text) <= 63:
            raise ValueError(f"{name!r} is no domain name")
        wire += bytes((len(text),)) + text
    if len(wire) > 254:
        raise ValueError(f"{name!r} is too long for a domain name")
    return wire + b"\0" + _TAIL.pack(kind, _INTERNET)


def query(ident: int, asked: bytes) -> bytes:
    """A query for one question."""
    return _HEADER.pack(ident, _RECURSION_DESIRED, 1, 0, 0, 0) + asked


def read_answer(packet: bytes, ident: int, asked: bytes) -> str | None:
    """What a packet says: empty when the name resolves, else the cause.

    None when it is not the answer to this query: wrong identifier, wrong question, no response at all.
    """
    end = _HEADER.size + len(asked)
    if len(packet) < end or packet[_HEADER.size : end].lower() != asked.lower():
        return None
    theirs, flags, questions, answers, _, _ = _HEADER.unpack_from(packet)
    if theirs != ident or not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        return None
    rcode = flags & _RCODE
    if rcode:
        return _RCODES.get(rcode, f"dns error {rcode}")
    if flags & _TRUNCATED:
        return ""  # more answers than fit
    (kind,) = struct.unpack_from("!H", asked, len(asked) - _TAIL.size)
    try:
        return "" if kind in _record_kinds(packet, end, answers) else NO_ADDRESS
    except (IndexError, struct.error):
        return "garbled answer"


def _record_kinds(packet: bytes, offset: int, count: int) -> set[int]:
    """The types of the answer's records. Raises IndexError or struct.error where the packet lies."""
    kinds = set()
    for _ in range(count):
        offset = _skip_name(packet, offset)
        kind, _, _, length = _RECORD.unpack_from(packet, offset)
        offset += _RECORD.size + length
        if offset > len(packet):
            raise IndexError
        kinds.add(kind)
    return kinds


def _skip_name(packet: bytes, offset: int) -> int:
    """The offset behind a name; a pointer ends it (RFC 1035 section 4.1.4)."""
    while True:
        length = packet[offset]
        if length & 0xC0 == 0xC0:
            return offset + 2
        if length == 0:
            return offset + 1
        offset += 1 + length
