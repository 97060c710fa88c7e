"""Packets as bytes: what is written into the world's interfaces, and how it is known again. Pure.

Every packet carries a number. TCP has it as its sequence number (a reset answers with it plus one, and
ICMP errors quote it: RFC 9293 section 3.5.2, RFC 792), UDP and echo requests in their payload, other ICMP in
the four bytes behind its checksum, which are unused in most. Other protocols have it behind their first
eight bytes, SCTP as the tag of its first chunk (RFC 9260 section 3.3.2).
"""

from __future__ import annotations

import struct

from tsstack.model.names import Address
from tsstack.prove.expected import ACK, ICMP_ERRORS, ROUTER_ADVERTISEMENT, SYN, Packet

_TCP, _UDP = 6, 17
_ICMP = {4: 1, 6: 58}
_ECHO = {4: 8, 6: 128}
SCTP = 132
DETOUR_CLASSES = (0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1C)
"""The traffic classes of packets that take a detour: each has a routing rule of the world."""
MARKED_CLASS = 0xE0
"""The traffic class of packets that another owner's rule of the world marks."""

# What a Linux client's SYN has: most to a segment, SACK, times, one byte of nothing, a window scale (RFC 9293
# section 3.2, RFC 2018, RFC 7323). A rule that drops what has no MSS, or some, shows so.
_SYN_OPTIONS = {
    version: struct.pack("!BBHBBBBIIBBBB", 2, 4, mss, 4, 2, 8, 10, 1, 0, 1, 3, 3, 7)
    for version, mss in ((4, 1460), (6, 1440))
}
# Source ports that no file opens by accident; every new connection has another one.
_FIRST_SOURCE_PORT, _SOURCE_PORTS = 20000, 20000


def build_frame(packet: Packet, to: Address, number: int, *, detour: int = 0) -> bytes:
    """The packet as an IP packet to the address `to`; `number` (32 bits, not 0) is how it is known again.

    `detour` is the traffic class of the detour that it takes, 0 for none.
    """
    source_port = packet.source_port or _FIRST_SOURCE_PORT + number % _SOURCE_PORTS
    version = packet.source.version
    traffic_class = MARKED_CLASS if packet.marked else detour
    port = packet.asked_port or packet.port
    addresses = packet.source.packed + to.packed
    if packet.protocol == "tcp":
        protocol, at = _TCP, 16
        # A reset has the number that ours acknowledges, if ours is no first packet (RFC 9293 section 3.5.2).
        acknowledged = number + 1 if packet.flags & ACK else 0
        options = _SYN_OPTIONS[version] if packet.flags == SYN else b""
        words = 5 + len(options) // 4
        body = struct.pack(
            "!HHIIBBHHH", source_port, port, number, acknowledged, words << 4, packet.flags, 64240, 0, 0
        )
        body += options
    elif packet.protocol == "udp":
        protocol, at = _UDP, 6
        body = struct.pack("!HHHHI", source_port, port, 12, 0, number)
    elif packet.protocol == "other":
        protocol, at = packet.port, -1
        body = _other_body(packet.port, source_port, number)
    elif packet.icmp_type:
        protocol, at = _ICMP[version], 2
        body = struct.pack("!BBHI", packet.icmp_type, 0, 0, number) + _icmp_body(packet, to)
    else:
        protocol, at = _ICMP[version], 2
        body = struct.pack("!BBHHHI", _ECHO[version], 0, 0, number & 0xFFFF, number >> 16, number)
    if at >= 0:
        # RFC 792: ICMP's checksum has no pseudo header; ICMPv6's has one (RFC 4443 section 2.3).
        pseudo = b"" if protocol == _ICMP[4] else addresses + struct.pack("!HH", protocol, len(body))
        body = body[:at] + checksum(pseudo + body) + body[at + 2 :]
    if version == 6:
        return (
            struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(body), protocol, packet.hop_limit)
            + addresses
            + body
        )
    head = struct.pack(
        "!BBHHHBBH", 0x45, traffic_class, 20 + len(body), number & 0xFFFF, 0, packet.hop_limit, protocol, 0
    )
    return head[:10] + checksum(head + addresses) + addresses + body


def _icmp_body(packet: Packet, to: Address) -> bytes:
    """What follows the first eight bytes: an error quotes a packet that nobody sent, a neighbour is named."""
    if packet.icmp_type in ICMP_ERRORS[packet.source.version]:
        never_sent = Packet(to, "", "udp", 9, packet.source, source_port=9)
        return build_frame(never_sent, packet.source, 0)
    if packet.icmp_type == ROUTER_ADVERTISEMENT:
        return bytes(8)
    return to.packed if packet.source.version == 6 else bytes(12)


def _other_body(protocol: int, source_port: int, number: int) -> bytes:
    """A protocol's first packet: an empty one, but SCTP's, which conntrack reads."""
    if protocol != SCTP:
        return bytes(8) + number.to_bytes(4) + bytes(12)
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, number, 64240, 1, 1, number)
    head = struct.pack("!HHI", source_port, 9, 0)
    return head + _crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk


def _crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def split_frame(frame: bytes) -> tuple[bytes, bytes]:
    """The packet as two fragments of which the first has eight bytes (RFC 791; RFC 8200 section 4.5)."""
    if frame[0] >> 4 == 6:
        head, body, number = frame[:40], frame[40:], frame[-4:]
        return tuple(  # type: ignore[return-value]
            head[:4]
            + struct.pack("!HB", 8 + len(part), 44)
            + head[7:]
            + struct.pack("!BBH", head[6], 0, offset | more)
            + number
            + part
            for part, offset, more in ((body[:8], 0, 1), (body[8:], 8, 0))
        )
    head, body = frame[:20], frame[20:]
    parts = []
    for part, offset, more in ((body[:8], 0, 0x2000), (body[8:], 1, 0)):
        own = head[:2] + struct.pack("!H", 20 + len(part)) + head[4:6] + struct.pack("!H", more | offset)
        own += head[8:10] + bytes(2) + head[12:]
        parts.append(own[:10] + checksum(own) + own[12:] + part)
    return parts[0], parts[1]


def checksum(words: bytes) -> bytes:
    """The internet checksum (RFC 1071) of an even number of bytes.

    A ones' complement sum of 16-bit words is the number they form, modulo 65535.
    """
    return (0xFFFF - int.from_bytes(words) % 0xFFFF).to_bytes(2)
