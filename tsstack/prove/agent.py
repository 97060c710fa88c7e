"""The process that stands in the throwaway network: it makes the world, sends and says what became of it.

A copy of the process that proves, forked into an empty network namespace (`tsstack.system.namespaces`). It
speaks through two pipes with `tsstack.prove.world`:

1. a line of JSON: `table` (path of the nft file), `interfaces` (names), `local` (addresses, hex; link-local
   ones are there on each interface), `routes` (address in hex, place of the interface) and `detours` (the
   same, and the traffic class of the packets that they are for), `foreign` (tables of other owners, as nft
   commands; may be missing), `indexes` (those that the interfaces shall have; may be missing), `ipv6`
   (whether there is any; then nothing of the order is of it); answered by a line, `{}` or
   `{"error": .., "hint": ..}`;
2. rounds: HEAD (how many packets, the number of the first), then for each packet RECORD and its bytes;
   answered by one byte a packet, a sum of the flags below. The numbers of a round are consecutive. A packet
   that arrives by TO_HOST is sent by this host itself, one by SPLIT + interface in two fragments;
3. connections: HEAD (0, length of a line) and a line of JSON, `tsstack.prove.flows`; answered by a line.

The world's interfaces are tun devices: what is written to one has arrived there from outside, and what
leaves by it can be read. No peer, no ARP, and any source address can be sent from. Raw sockets witness
what is delivered to this host, so every port has a listener (raw(7): a raw socket gets a copy of every
packet of its protocol, behind the input hook).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tsstack.parts.firewall.library import NftError, Session
from tsstack.prove import flows, netlink
from tsstack.prove.expected import LISTENERS, NEIGHBOURS, OTHER_PROTOCOLS, ROUTER_ADVERTISEMENT, TSMP
from tsstack.prove.foreign import NAME as FOREIGN
from tsstack.prove.frames import DETOUR_CLASSES, SCTP, split_frame

HEAD = struct.Struct("!II")
RECORD = struct.Struct("!HHH")  # interface it arrives by, interface it should leave by, bytes
TO_HOST, SPLIT = 0xFFFF, 0x8000

DELIVERED, LEFT, REFUSED, STRAYED, HIDDEN = 1, 2, 4, 8, 16
"""Flags: reached this host; left by the right interface; an answer says no; left by a wrong interface, or
with a source that is neither its own nor one of this host; left with a source of this host."""

_SYSCTL = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/log_martians": "0",
    "net/ipv4/icmp_ratemask": "0",  # no ICMP error is held back
    "net/ipv4/icmp_echo_ignore_all": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/icmp/ratemask": "255",  # of no ICMPv6 error either; an empty list cannot be written
}
TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETIFINDEX = 0x400454CA, 0x400454CB, 0x400454DA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_AT_ONCE = 128  # a tun device keeps 500 packets for its reader, a socket some 250
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_PATIENCE_S = 60  # a world that hangs ends itself, and with it whoever waits for it goes on
_ERRORS = {_ICMP: {3}, _ICMPV6: {1}}  # destination unreachable
_ECHO = {8, 128}
_NUMBERED = {_TCP, _UDP, *OTHER_PROTOCOLS, TSMP}
# What a kernel says by itself: answers to timestamps, neighbour and listener discovery. No number of ours.
_CHATTER: dict[int, set[int]] = {_ICMP: {14}, _ICMPV6: {*LISTENERS, *NEIGHBOURS, ROUTER_ADVERTISEMENT}}


class Wires:
    """The world's interfaces and the witnesses at this host's end."""

    def __init__(self, links: Mapping[str, int], local: Iterable[bytes] = (), *, ipv6: bool = True) -> None:
        """`links` are the interfaces and the index that each shall have (0: any), `local` this host's
        addresses, which packets may be hidden behind.
        """
        kinds = {socket.AF_INET: (_TCP, _UDP, _ICMP), socket.AF_INET6: (_TCP, _UDP, _ICMPV6)}
        families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
        self.local = frozenset(local)
        self.foreign_kept = True
        """Whether loading the table has left those of other owners as they were."""
        self.tuns = [_open_tun(name, index) for name, index in links.items()]
        self.witnesses = {
            opened.fileno(): (opened, family == socket.AF_INET, protocol)
            for family in families
            for protocol in (*kinds[family], *OTHER_PROTOCOLS, TSMP)
            for opened in [socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)]
        }
        self.poll = select.epoll()
        for descriptor in (*self.tuns, *self.witnesses):
            self.poll.register(descriptor, select.EPOLLIN)
        self.places = {descriptor: at for at, descriptor in enumerate(self.tuns)}
        # Whoever sends here writes the whole packet, its addresses too (raw(7): IPPROTO_RAW).
        self.own = {family: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) for family in families}

    def send(self, arriving: int, frame: bytes) -> None:
        """Let a packet arrive by an interface, or be sent by this host, or arrive in fragments."""
        if arriving < SPLIT:
            os.write(self.tuns[arriving], frame)
        elif arriving == TO_HOST:
            family = socket.AF_INET if frame[0] >> 4 == 4 else socket.AF_INET6
            to = frame[16:20] if frame[0] >> 4 == 4 else frame[24:40]
            # What a rule drops on its way out was sent as well: it is missed where it should have come in.
            with contextlib.suppress(PermissionError):
                self.own[family].sendto(frame, (socket.inet_ntop(family, to), 0))
        else:
            for part in split_frame(frame):
                os.write(self.tuns[arriving - SPLIT], part)

    def read_left(self) -> list[bytes]:
        """All packets that have left since the last reading. What was delivered waits for its own reader."""
        ready = [at for at, _ in self.poll.poll(0) if at in self.places]
        return [data for descriptor in ready for data in _drain(descriptor)]

    def read_delivered(self, family: int, protocol: int) -> list[bytes]:
        """All packets of a protocol that have reached this host since the last reading."""
        return [
            data
            for descriptor, (opened, _, each) in self.witnesses.items()
            if opened.family == family and each == protocol
            for data in _drain(descriptor)
        ]

    def collect(
        self, first: int, leaving: list[int], seen: bytearray, sources: list[bytes] | None = None
    ) -> None:
        """Read all that has arrived anywhere and note it in `seen`, which begins with number `first`.

        `sources` are the addresses that the packets were sent from, to tell which of them were hidden.
        """
        while ready := self.poll.poll(0):
            for descriptor, _ in ready:
                place = self.places.get(descriptor)
                for data in _drain(descriptor):
                    if place is None:
                        _, headed, protocol = self.witnesses[descriptor]
                        offset = (data[0] & 0xF) * 4 if headed else 0
                        number, flag = _number(data, offset, protocol), DELIVERED
                    else:
                        number, flag = read_packet(data)
                    at = number - first
                    if not 0 <= at < len(seen):
                        continue
                    if flag == LEFT and leaving[at] != place:
                        flag = STRAYED
                    elif (
                        flag == LEFT and sources is not None and (source := read_source(data)) != sources[at]
                    ):
                        flag |= HIDDEN if source in self.local else STRAYED
                    seen[at] |= flag


def read_packet(data: bytes) -> tuple[int, int]:
    """The number that a packet from an interface carries and what it shows: LEFT, REFUSED, or (0, 0)."""
    offset, protocol = _locate(data)
    if len(data) < offset + 8:
        return 0, 0
    if protocol == _TCP and data[offset + 13] & 0x04:
        # A reset has our sequence number plus one: acknowledged, or as its own where ours acknowledged it.
        at = offset + (8 if data[offset + 13] & 0x10 else 4)
        return int.from_bytes(data[at : at + 4]) - 1, REFUSED
    if protocol in _ERRORS and data[offset] in _ERRORS[protocol]:
        quoted = data[offset + 8 :]
        return _number(quoted, *_locate(quoted)), REFUSED
    if protocol in _NUMBERED or (protocol in _ERRORS and data[offset] not in _CHATTER[protocol]):
        return _number(data, offset, protocol), LEFT
    return 0, 0


def read_source(data: bytes) -> bytes:
    """The source address of an IP packet."""
    return data[12:16] if data[0] >> 4 == 4 else data[8:24]


def _locate(data: bytes) -> tuple[int, int]:
    """Where the IP packet's payload begins, and its protocol."""
    if data[0] >> 4 == 4:
        return (data[0] & 0xF) * 4, data[9]
    return 40, data[6]


def _number(data: bytes, offset: int, protocol: int) -> int:
    # TCP's sequence number; what follows the checksum of ICMP that is no echo; else the payload.
    plain = protocol == _TCP or (protocol in _ERRORS and data[offset] not in _ECHO)
    at = offset + (4 if plain else 16 if protocol == SCTP else 8)
    return int.from_bytes(data[at : at + 4])


def _drain(descriptor: int) -> list[bytes]:
    packets = []
    try:
        while True:
            packets.append(os.read(descriptor, 2048))
    except BlockingIOError:
        return packets


def _open_tun(name: str, index: int) -> int:
    """A tun device of that name, up. Linux, Documentation/networking/tuntap.rst."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        if index:
            fcntl.ioctl(descriptor, _TUNSETIFINDEX, struct.pack("=I", index))
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise OSError(error.errno, error.strerror, TUN) from error
    # Else each device goes when it is closed, one by one, at 20 ms; so they go with the namespace.
    fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    netlink.raise_link(name)
    return descriptor


def build_world(order: dict[str, Any]) -> Wires:
    """Make the network that `order` describes and load the table, if it names one.

    Raises OSError, NftError.
    """
    ipv6 = order.get("ipv6", True)
    for key, value in _SYSCTL.items():
        if ipv6 or not key.startswith("net/ipv6/"):
            Path("/proc/sys", key).write_text(value)
    netlink.raise_link("lo")
    names = list(order["interfaces"])
    _step_aside(names)
    links = dict(zip(names, order.get("indexes") or [0] * len(names), strict=True))
    wires = Wires(links, map(bytes.fromhex, order["local"]), ipv6=ipv6)
    indexes = [socket.if_nametoindex(name) for name in names]
    loopback = [socket.if_nametoindex("lo")]
    netlink.give_addresses(
        (local, len(local) * 8, each)
        for local in map(bytes.fromhex, order["local"])
        for each in (indexes if local[:1] == b"\xfe" and local[1] & 0xC0 == 0x80 else loopback)
    )
    messages = []
    for hexed, at, *detour in [*order["routes"], *order["detours"]]:
        address, table = bytes.fromhex(hexed), netlink.DETOURS + detour[0] if detour else netlink.MAIN
        messages.append(netlink.route_message(address, len(address) * 8, indexes[at], table))
    messages += [
        netlink.class_rule_message(version, each, netlink.DETOURS + each)
        for version in ((4, 6) if ipv6 else (4,))
        for each in DETOUR_CLASSES
        if order["detours"]
    ]
    # Answers to sources that no route leads to go out somewhere, where they are read.
    messages += [netlink.route_message(bytes(size), 0, indexes[0]) for size in ((4, 16) if ipv6 else (4,))]
    netlink.apply_messages(messages)
    if order["table"]:
        wires.foreign_kept = _load(Path(order["table"]), order.get("foreign", ""))
    return wires


def _step_aside(names: Collection[str]) -> None:
    """Rename what the kernel makes in every network once a tunnel's module is loaded, as `sit0`."""
    for number, name in socket.if_nameindex():
        if name != "lo" and name in names:
            netlink.rename_link(name, f"own-{number}")


def _load(table: Path, foreign: str) -> bool:
    """Load the file among tables of other owners; whether those are afterwards as they were before."""
    session = Session()
    if not foreign:
        session.load(table)
        return True
    session.run(foreign)
    before = session.run(f"list table {FOREIGN}")
    session.load(table)
    try:
        after = session.run(f"list table {FOREIGN}")
    except NftError:
        after = ""
    return after == before


def send_round(wires: Wires, count: int, first: int, source: BinaryIO) -> bytes:
    """Send the packets of one round and say what became of each."""
    seen, leaving, sources = bytearray(count), [TO_HOST] * count, [b""] * count
    for at in range(count):
        arriving, leaving[at], size = RECORD.unpack(source.read(RECORD.size))
        frame = source.read(size)
        sources[at] = read_source(frame)
        wires.send(arriving, frame)
        if at % _AT_ONCE == _AT_ONCE - 1:
            wires.collect(first, leaving, seen, sources)
    wires.collect(first, leaving, seen, sources)
    return bytes(seen)


def serve(source: BinaryIO, answers: BinaryIO) -> None:
    """Serve one world until `source` ends."""
    problem: dict[str, str] = {}
    signal.alarm(_PATIENCE_S)
    try:
        wires = build_world(json.loads(source.readline()))
        if not wires.foreign_kept:
            problem = {"error": "the rules would change tables of other owners when loaded", "hint": ""}
    except NftError as error:
        problem = {"error": f"nft refuses the table: {error.message}", "hint": error.hint}
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        problem = {"error": f"{place}{error.strerror}", "hint": ""}
    answers.write(json.dumps(problem).encode() + b"\n")
    answers.flush()
    if problem:
        return
    while head := source.read(HEAD.size):
        count, first = HEAD.unpack(head)
        signal.alarm(_PATIENCE_S)
        if count:
            answers.write(send_round(wires, count, first, source))
        else:
            answers.write(flows.run(wires, source.read(first)) + b"\n")
        answers.flush()
