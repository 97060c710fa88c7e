"""ICMP echo messages (RFC 792, RFC 4443 section 4): made, and read back with suspicion. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
HEADER_BYTES = 8
_HEADER = struct.Struct("!BBHHH")
_PACKET = struct.Struct("!BBHHH8sQ")
SIZE_BYTES = _PACKET.size
"""Header, 8 bytes that only this process knows, and a number that never comes twice."""


def request(family: int, ident: int, sequence: int, secret: bytes, number: int) -> bytes:
    """An echo request with its checksum left to the kernel (datagram sockets, and ICMPv6 always)."""
    return _PACKET.pack(ECHO_REQUEST[family], 0, 0, ident, sequence, secret, number)


def with_checksum(packet: bytes) -> bytes:
    """The packet with the checksum of RFC 1071, which a raw IPv4 socket needs."""
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return packet[:2] + struct.pack("!H", ~total & 0xFFFF) + packet[4:]


@dataclass(frozen=True, slots=True)
class Quote:
    """What an ICMP error quotes of our request: the 8 bytes of its header, not always more."""

    ident: int
    sequence: int
    number: int | None


def read_reply(family: int, packet: bytes, secret: bytes) -> tuple[int, int, int] | None:
    """Identifier, sequence and number of a reply to a request of ours; None for anything else."""
    if len(packet) != SIZE_BYTES:
        return None
    kind, code, _, ident, sequence, theirs, number = _PACKET.unpack(packet)
    if kind != ECHO_REPLY[family] or code != 0 or theirs != secret:
        return None
    return ident, sequence, number


def read_quote(family: int, packet: bytes, secret: bytes) -> Quote | None:
    """The request that an error speaks of; None when it is none of ours."""
    if len(packet) < HEADER_BYTES:
        return None
    kind, code, _, ident, sequence = _HEADER.unpack_from(packet)
    if kind != ECHO_REQUEST[family] or code != 0:
        return None
    if len(packet) < SIZE_BYTES:
        return Quote(ident, sequence, None)
    *_, theirs, number = _PACKET.unpack_from(packet)
    return Quote(ident, sequence, number) if theirs == secret else None


def payload_of_ipv4(packet: bytes) -> bytes:
    """What a raw IPv4 socket gives, without the IP header (raw(7)). Empty when it is no such packet."""
    if not packet or packet[0] >> 4 != 4:
        return b""
    return packet[(packet[0] & 0x0F) * 4 :]
