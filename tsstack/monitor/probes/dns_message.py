"""The little of DNS that a probe needs (RFC 1035 section 4): one question, and what came of it. Pure.

A DNS library would do much more, and costs 80 ms and 13 MB to import (dnspython 2.9): too much beside a
monitor that has 40 MB in all.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

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
_GARBLED = "garbled answer"


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
    head = _read_head(packet, ident, asked)
    if head is None:
        return None
    cause, truncated, answers = head
    if cause or truncated:
        return cause  # truncated: more answers than fit
    (kind,) = struct.unpack_from("!H", asked, len(asked) - _TAIL.size)
    try:
        kinds = {found for found, _ in _records(packet, _HEADER.size + len(asked), answers)}
    except (IndexError, struct.error):
        return _GARBLED
    return "" if kind in kinds else NO_ADDRESS


def read_addresses(packet: bytes, ident: int, asked: bytes) -> tuple[tuple[str, ...], str] | None:
    """The addresses in an answer, and why there are none (empty: there are); None as `read_answer`.

    Those behind aliases (CNAME) are among them: a resolver puts the whole way into its answer.
    """
    head = _read_head(packet, ident, asked)
    if head is None:
        return None
    cause, _, answers = head
    if cause:
        return (), cause
    found = []
    try:
        for kind, data in _records(packet, _HEADER.size + len(asked), answers):
            if (kind, len(data)) in {(A, 4), (AAAA, 16)}:
                found.append(str(ipaddress.ip_address(data)))
    except (IndexError, struct.error):
        return (), _GARBLED
    return tuple(found), "" if found else NO_ADDRESS


def _read_head(packet: bytes, ident: int, asked: bytes) -> tuple[str, bool, int] | None:
    """The cause why there is no answer (empty: there is), whether it was cut, and how many records follow."""
    end = _HEADER.size + len(asked)
    if len(packet) < end or packet[_HEADER.size : end].lower() != asked.lower():
        return None
    theirs, flags, questions, answers, _, _ = _HEADER.unpack_from(packet)
    if theirs != ident or not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        return None
    rcode = flags & _RCODE
    cause = _RCODES.get(rcode, f"dns error {rcode}") if rcode else ""
    return cause, bool(flags & _TRUNCATED), answers


def _records(packet: bytes, offset: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Type and data of the answer's records. Raises IndexError or struct.error where the packet lies."""
    for _ in range(count):
        offset = _skip_name(packet, offset)
        kind, _, _, length = _RECORD.unpack_from(packet, offset)
        offset += _RECORD.size
        if offset + length > len(packet):
            raise IndexError
        yield kind, packet[offset : offset + length]
        offset += length


def _skip_name(packet: bytes, offset: int) -> int:
    """The offset behind a name; a pointer ends it (RFC 1035 section 4.1.4)."""
    while True:
        length = packet[offset]
        if length & 0xC0 == 0xC0:
            return offset + 2
        if length == 0:
            return offset + 1
        offset += 1 + length
