"""Packets as bytes: what is written into the world's interfaces, and how it is known again. Pure.

Every packet carries a number. TCP has it as its sequence number (a reset answers with it plus one, and
ICMP errors quote it: RFC 9293 section 3.5.2, RFC 792), UDP and echo requests in their payload, other ICMP in
the four bytes behind its checksum, which are unused in most.
"""

from __future__ import annotations

import struct

from tsstack.model.names import Address
from tsstack.prove.expected import ICMP_ERRORS, ROUTER_ADVERTISEMENT, Packet

_TCP, _UDP = 6, 17
_ICMP = {4: 1, 6: 58}
_ECHO = {4: 8, 6: 128}
_SYN = 0x02
DETOUR_CLASS = 0x10
"""The traffic class of packets that take a detour: a routing rule of the world looks at it."""

# Source ports that no file opens by accident; every new connection has another one.
_FIRST_SOURCE_PORT, _SOURCE_PORTS = 20000, 20000


def build_frame(packet: Packet, to: Address, number: int, *, detour: bool = False) -> bytes:
    """The packet as an IP packet to the address `to`; `number` (32 bits, not 0) is how it is known again."""
    source_port = packet.source_port or _FIRST_SOURCE_PORT + number % _SOURCE_PORTS
    version = packet.source.version
    traffic_class = DETOUR_CLASS if detour else 0
    addresses = packet.source.packed + to.packed
    if packet.protocol == "tcp":
        protocol, at = _TCP, 16
        body = struct.pack("!HHIIBBHHH", source_port, packet.port, number, 0, 5 << 4, _SYN, 64240, 0, 0)
    elif packet.protocol == "udp":
        protocol, at = _UDP, 6
        body = struct.pack("!HHHHI", source_port, packet.port, 12, 0, number)
    elif packet.icmp_type:
        protocol, at = _ICMP[version], 2
        body = struct.pack("!BBHI", packet.icmp_type, 0, 0, number) + _icmp_body(packet, to)
    else:
        protocol, at = _ICMP[version], 2
        body = struct.pack("!BBHHHI", _ECHO[version], 0, 0, number & 0xFFFF, number >> 16, number)
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


def checksum(words: bytes) -> bytes:
    """The internet checksum (RFC 1071) of an even number of bytes.

    A ones' complement sum of 16-bit words is the number they form, modulo 65535.
    """
    return (0xFFFF - int.from_bytes(words) % 0xFFFF).to_bytes(2)
