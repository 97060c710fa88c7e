"""Pings: one socket for each family, interface and source address, however many targets there are.

A datagram ICMP socket needs no capability where `net.ipv4.ping_group_range` covers our group (icmp(7));
Debian leaves that closed, then a raw socket serves, if CAP_NET_RAW is there. Round-trip times run from just
before sendto(2) to the kernel's stamp on the answer, so they do not grow with our own delays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from array import array
from collections import deque
from typing import NamedTuple

from tsstack.monitor.probes import echo
from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.bound import endpoint, family_of, open_bound
from tsstack.monitor.probes.causes import words_of, words_of_icmp
from tsstack.monitor.probes.probe import TIMEOUT
from tsstack.monitor.probes.stamps import ANCILLARY_BYTES, SO_TIMESTAMPNS, arrival_ns, clock_gap_ns, elapsed_s

NOT_PERMITTED = "no permission for ICMP"
# In the shipped unit a capability would be one of a user namespace, which opens no raw socket.
PERMISSION_HINT = "sysctl net.ipv4.ping_group_range='0 2147483647'"

_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# ip(7) and ipv6(7): errors come with the packet that they are about.
_RECEIVE_ERRORS = {4: (socket.SOL_IP, 11), 6: (41, 25)}
# linux/errqueue.h, struct sock_extended_err: errno, origin, type, code.
_EXTENDED_ERROR = struct.Struct("@IBBB")
_ORIGIN_ICMP = (2, 3)
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_NOTHING_PASSES = [(0x06, 0, 0, 0)]  # classic BPF: return 0 bytes
_BUFFER_BYTES = 4 << 20
# What one small packet takes of a receive buffer: its bytes and the kernel's bookkeeping (skb truesize).
_PACKET_COST_BYTES = 1280
_NAME_BYTES = 16  # IFNAMSIZ
_RETRY_S = 5.0
_SENDING_TRIES = 3


class _Sent(NamedTuple):
    attempt: Attempt
    number: int
    sent_ns: int
    gap_ns: int


class _Way(NamedTuple):
    family: int
    interface: str
    from_address: str


class Pings:
    """All pings of the monitor. `allowed` is False after the kernel refused both kinds of sockets."""

    def __init__(self) -> None:
        self.allowed = True
        self._sockets: dict[_Way, _EchoSocket] = {}
        self._refused: dict[_Way, tuple[float, OSError]] = {}

    def __len__(self) -> int:
        """How many wait for an answer."""
        return sum(len(each) for each in self._sockets.values())

    @property
    def capacity(self) -> int:
        """How many answers the smallest receive buffer holds until it must be read."""
        return min((each.capacity for each in self._sockets.values()), default=100)

    def send(self, attempt: Attempt) -> None:
        """Send one; a failure to do so ends the attempt."""
        probe = attempt.probe
        way = _Way(family_of(attempt.address), probe.path.interface, probe.from_address)
        try:
            self._socket(way).send(attempt)
        except OSError as error:
            opened = self._sockets.get(way)
            if opened is not None and opened.is_stale:
                # The interface went, and may be back under a new index: tailscaled's does so on a restart.
                self._drop(way, words_of(errno.ENODEV, interface=way.interface))
                self._send_again(way, attempt)
            else:
                attempt.fail(self._words(error, way))

    def collect(self) -> None:
        """Take the answers that came, then end what waited too long."""
        now_s = time.monotonic()
        for each in list(self._sockets.values()):
            if len(each):
                each.receive()
                each.expire(now_s)

    def close(self) -> None:
        """Give all sockets back; what was under way ends without a word."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

    def _send_again(self, way: _Way, attempt: Attempt) -> None:
        try:
            self._socket(way).send(attempt)
        except OSError as error:
            attempt.fail(self._words(error, way))

    def _socket(self, way: _Way) -> _EchoSocket:
        found = self._sockets.get(way)
        if found is None:
            until_s, error = self._refused.get(way, (0.0, OSError()))
            if time.monotonic() < until_s:
                raise error
            try:
                found = _EchoSocket(way)
            except PermissionError as refusal:
                self.allowed = False
                self._refused[way] = (time.monotonic() + _RETRY_S, refusal)
                raise
            self.allowed = True
            self._refused.pop(way, None)
            self._sockets[way] = found
        return found

    def _drop(self, way: _Way, error: str) -> None:
        gone = self._sockets.pop(way)
        gone.fail_all(error)
        gone.close()

    def _words(self, error: OSError, way: _Way) -> str:
        if isinstance(error, PermissionError) and way not in self._sockets:
            return NOT_PERMITTED
        return words_of(error.errno or 0, interface=way.interface)


class _EchoSocket:
    """One socket and what it sent. Raises PermissionError when the kernel gives neither kind."""

    def __init__(self, way: _Way) -> None:
        self._family = way.family
        self._interface = way.interface
        self._secret = os.urandom(8)
        self._sent: dict[int, _Sent] = {}
        self._queues: dict[float, deque[tuple[int, int]]] = {}
        self._sequence = int.from_bytes(os.urandom(2))
        self._number = 0
        self._raw, self._socket = self._open(way)
        self._ident = self._identify()
        level, option = _RECEIVE_ERRORS[way.family]
        self._socket.setsockopt(level, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._enlarge()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def capacity(self) -> int:
        size_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return max(size_bytes // _PACKET_COST_BYTES, 1)

    @property
    def is_stale(self) -> bool:
        """Whether it is bound to an interface that is gone. Sending tells that for IPv4 alone (ENODEV): for
        IPv6 the network is unreachable, as it is without a route.
        """
        if not self._interface:
            return False
        try:
            name = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_BYTES)
        except OSError:
            return True
        return name.rstrip(b"\0") != self._interface.encode()

    def send(self, attempt: Attempt) -> None:
        """Raises OSError when the kernel refuses to send just this packet."""
        self._number += 1
        sequence = self._free_sequence()
        packet = echo.request(self._family, self._ident, sequence, self._secret, self._number)
        if self._raw and self._family == 4:
            packet = echo.with_checksum(packet)
        where = endpoint(attempt.address, 0, self._interface)
        gap_ns = clock_gap_ns()
        sent_ns = time.time_ns()
        for tries_left in reversed(range(_SENDING_TRIES)):
            try:
                self._socket.sendto(packet, where)
                break
            except OSError:
                # It may be the error of a packet sent before, which the socket tells of at the next call.
                if not self._receive_errors() or not tries_left:
                    raise
                sent_ns = time.time_ns()
        self._sent[sequence] = _Sent(attempt, self._number, sent_ns, gap_ns)
        queue = self._queues.get(attempt.probe.timeout_s)
        if queue is None:
            queue = self._queues[attempt.probe.timeout_s] = deque()
        queue.append((sequence, self._number))

    def receive(self) -> None:
        """Take all that came."""
        gap_ns = clock_gap_ns()
        errors_left = len(self._sent) + _SENDING_TRIES
        while errors_left:
            try:
                packet, ancillary, _, sender = self._socket.recvmsg(256, ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:  # tells that the error queue has something, once for each
                self._receive_errors()
                errors_left -= 1
                continue
            if self._raw and self._family == 4:
                packet = echo.payload_of_ipv4(packet)
            reply = echo.read_reply(self._family, packet, self._secret)
            if reply is None:
                continue
            ident, sequence, number = reply
            sent = self._sent.get(sequence)
            if (
                sent is None
                or ident != self._ident
                or number != sent.number
                or str(sender[0]).partition("%")[0] != sent.attempt.address
            ):
                continue  # late, double, or from somebody who was not asked
            del self._sent[sequence]
            now_ns = time.time_ns()
            sent.attempt.succeed(
                elapsed_s(
                    sent.sent_ns,
                    arrival_ns(ancillary),
                    gap_at_sending_ns=sent.gap_ns,
                    gap_ns=gap_ns,
                    now_ns=now_ns,
                )
            )

    def expire(self, now_s: float) -> None:
        """End what waited too long."""
        for queue in self._queues.values():
            while queue:
                sequence, number = queue[0]
                sent = self._sent.get(sequence)
                if sent is not None and sent.number == number:
                    if sent.attempt.deadline_s > now_s:
                        break
                    del self._sent[sequence]
                    sent.attempt.fail(TIMEOUT)
                queue.popleft()

    def fail_all(self, error: str) -> None:
        """End everything under way for one reason."""
        sent, self._sent = self._sent, {}
        for each in sent.values():
            each.attempt.fail(error)

    def close(self) -> None:
        self._sent.clear()
        self._socket.close()

    def _receive_errors(self) -> int:
        """Take the ICMP errors about packets of ours. Returns how many errors there were, ours or not."""
        count = 0
        while True:
            try:
                quoted, ancillary, _, target = self._socket.recvmsg(256, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return count
            count += 1
            level, option = _RECEIVE_ERRORS[self._family]
            told = [data for where, kind, data in ancillary if (where, kind) == (level, option)]
            quote = echo.read_quote(self._family, quoted, self._secret)
            if not told or quote is None or quote.ident != self._ident:
                continue
            sent = self._sent.get(quote.sequence)
            if (
                sent is None
                or quote.number not in {None, sent.number}
                or str(target[0]).partition("%")[0] != sent.attempt.address
            ):
                continue
            number, origin, kind, code = _EXTENDED_ERROR.unpack_from(told[0])
            del self._sent[quote.sequence]
            from_icmp = origin in _ORIGIN_ICMP
            sent.attempt.fail(
                words_of_icmp(self._family, kind, code, number) if from_icmp else words_of(number)
            )

    def _open(self, way: _Way) -> tuple[bool, socket.socket]:
        """Whether it is raw, and the socket."""
        options = {"interface": way.interface, "from_address": way.from_address}
        try:
            return False, open_bound(way.family, socket.SOCK_DGRAM, _PROTOCOL[way.family], **options)
        except PermissionError:
            return True, open_bound(way.family, socket.SOCK_RAW, _PROTOCOL[way.family], **options)

    def _identify(self) -> int:
        """The identifier of our requests. The kernel gives one to a datagram socket and keeps strangers off;
        on a raw one we pick it, and a filter keeps the answers to other programs' pings out of our buffer.
        A raw socket takes packets from its first moment: what came before the filter stood is thrown away.
        """
        if not self._raw:
            if self._socket.getsockname()[1] == 0:
                self._socket.bind(("", 0))
            return int(self._socket.getsockname()[1])
        ident = int.from_bytes(os.urandom(2))
        _attach_filter(self._socket, _NOTHING_PASSES)
        _drain(self._socket)
        _attach_filter(self._socket, _reply_filter(self._family, ident))
        return ident

    def _enlarge(self) -> None:
        """The largest receive buffer that we may have: answers wait there until the slot is over."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        with contextlib.suppress(PermissionError):  # beyond net.core.rmem_max needs CAP_NET_ADMIN
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)

    def _free_sequence(self) -> int:
        for _ in range(1 << 16):
            self._sequence = (self._sequence + 1) & 0xFFFF
            if self._sequence not in self._sent:
                return self._sequence
        raise OSError(errno.ENOBUFS, "65,536 pings wait for an answer")


def _reply_filter(family: int, ident: int) -> list[tuple[int, int, int, int]]:
    """A classic BPF program (linux/filter.h) that passes echo replies with this identifier alone.

    A raw IPv4 socket sees the IP header first, a raw ICMPv6 one does not.
    """
    if family == 4:
        load = [(0xB1, 0, 0, 0), (0x50, 0, 0, 0)]  # X = length of the IP header; A = byte at X
        load_ident = (0x48, 0, 0, 4)  # A = half-word at X + 4
    else:
        load = [(0x30, 0, 0, 0)]
        load_ident = (0x28, 0, 0, 4)
    return [
        *load,
        (0x15, 0, 3, echo.ECHO_REPLY[family]),
        load_ident,
        (0x15, 0, 1, ident),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    ]


def _drain(opened: socket.socket) -> None:
    """Throw away what waits. Nothing comes after it: a filter stands that lets nothing pass."""
    with contextlib.suppress(BlockingIOError):
        while True:
            opened.recv(1, socket.MSG_DONTWAIT)


def _attach_filter(opened: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = array("B", b"".join(struct.pack("@HBBI", *step) for step in program))
    address, _ = code.buffer_info()
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))
