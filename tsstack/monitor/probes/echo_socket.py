"""A socket that sends pings and takes their answers.

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
from typing import Any, NamedTuple

from tsstack.monitor.probes import echo
from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.bound import Endpoint, endpoint, open_bound
from tsstack.monitor.probes.causes import words_of, words_of_icmp
from tsstack.monitor.probes.probe import TIMEOUT
from tsstack.monitor.probes.stamps import ANCILLARY_BYTES, SO_TIMESTAMPNS, arrival_ns, clock_gap_ns, elapsed_s

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
_SENDING_TRIES = 3
_MOST_AT_ONCE = 1 << 14  # more than the buffer holds: who floods us holds nothing else up
Refused = tuple[Attempt, int]
"""What the kernel refused to send, and the errno: an exception that is kept would keep its frames."""
_Came = tuple[bytes, list[tuple[int, int, bytes]], int, Any]


class Way(NamedTuple):
    """What the packets of a socket have in common."""

    family: int
    interface: str
    from_address: str


class _Sent:
    """A ping on its way, from just before its sending on: an error may come before the next is sent."""

    __slots__ = ("attempt", "gap_ns", "number", "packet", "sent_ns", "sequence", "where")

    def __init__(self, attempt: Attempt, sequence: int, number: int, gap_ns: int) -> None:
        self.attempt = attempt
        self.sequence = sequence
        self.number = number
        self.gap_ns = gap_ns
        self.sent_ns = 0
        """By CLOCK_REALTIME as it stood when `gap_ns` was taken, whatever became of that clock since."""
        self.packet = b""
        self.where: Endpoint = ("", 0)


class EchoSocket:
    """One socket and what it sent. Raises PermissionError when the kernel gives neither kind."""

    def __init__(self, way: Way) -> None:
        self._family = way.family
        self._interface = way.interface
        self._secret = os.urandom(8)
        self._sent: dict[int, _Sent] = {}
        self._queues: dict[float, deque[_Sent]] = {}
        self._sequence = int.from_bytes(os.urandom(2))
        self._number = 0
        self._raw, self._socket = self._open(way)
        self._with_header = self._raw and way.family == 4
        self._ident = self._identify()
        level, option = _RECEIVE_ERRORS[way.family]
        self._socket.setsockopt(level, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.capacity = self._enlarge()
        """How many answers its buffer holds until it must be read."""

    def __len__(self) -> int:
        return len(self._sent)

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

    def send(self, attempts: list[Attempt]) -> list[Refused]:
        """Send each. Returns those that the kernel refused to send, and why."""
        refused: list[Refused] = []
        ready: list[_Sent] = []
        gap_ns = clock_gap_ns()
        for attempt in attempts:
            try:
                ready.append(self._prepare(attempt, gap_ns))
            except OSError as error:
                refused.append((attempt, error.errno or 0))
        # All at once and nothing between: the kernel's way of a packet then stays in the processor's caches.
        send, now_ns = self._socket.sendto, time.monotonic_ns
        for sent in ready:
            sent.sent_ns = now_ns() + gap_ns
            try:
                send(sent.packet, sent.where)
            except OSError as error:
                number = self._send_again(sent, error.errno or 0)
                if number is not None and self._sent.pop(sent.sequence, None) is sent:
                    refused.append((sent.attempt, number))
        return refused

    def receive(self) -> None:
        """Take all that came."""
        came = self._take()
        gap_ns, now_ns = clock_gap_ns(), time.time_ns()
        for packet, ancillary, _, sender in came:
            message = echo.payload_of_ipv4(packet) if self._with_header else packet
            reply = echo.read_reply(self._family, message, self._secret)
            if reply is None:
                continue
            ident, sequence, number = reply
            sent = self._sent.get(sequence)
            if (
                sent is None
                or ident != self._ident
                or number != sent.number
                or sender[0].partition("%")[0] != sent.attempt.address
            ):
                continue  # late, double, or from somebody who was not asked
            del self._sent[sequence]
            sent.attempt.succeed(
                elapsed_s(
                    sent.sent_ns,
                    arrival_ns(ancillary),
                    gap_at_sending_ns=sent.gap_ns,
                    gap_ns=gap_ns,
                    now_ns=now_ns,
                )
            )

    def _prepare(self, attempt: Attempt, gap_ns: int) -> _Sent:
        """Raises OSError when it cannot be sent."""
        sequence = self._free_sequence()
        self._number += 1
        sent = _Sent(attempt, sequence, self._number, gap_ns)
        packet = echo.request(self._family, self._ident, sequence, self._secret, self._number)
        sent.packet = echo.with_checksum(packet) if self._with_header else packet
        sent.where = endpoint(attempt.address, 0, self._interface)
        self._sent[sequence] = sent
        queue = self._queues.get(attempt.probe.timeout_s)
        if queue is None:
            queue = self._queues[attempt.probe.timeout_s] = deque()
        queue.append(sent)
        return sent

    def _send_again(self, sent: _Sent, refusal: int) -> int | None:
        """After a refusal, which may be the error of a packet sent before: the socket tells of it at the next
        call. Returns the errno where it is about just this packet.
        """
        tries_left = _SENDING_TRIES - 1
        while self._receive_errors() and tries_left:
            if sent.sequence not in self._sent:
                return None  # the error was its own, and has ended it
            tries_left -= 1
            sent.sent_ns = time.monotonic_ns() + sent.gap_ns
            try:
                self._socket.sendto(sent.packet, sent.where)
                return None
            except OSError as again:
                refusal = again.errno or 0
        return refusal

    def _take(self) -> list[_Came]:
        """The packets that wait at the socket; errors that wait beside them are handled."""
        came: list[_Came] = []
        take = self._socket.recvmsg
        errors_left = len(self._sent) + _SENDING_TRIES
        while errors_left:
            try:
                while len(came) < _MOST_AT_ONCE:
                    came.append(take(256, ANCILLARY_BYTES))
                break
            except BlockingIOError:
                break
            except OSError:  # tells that the error queue has something, once for each
                self._receive_errors()
                errors_left -= 1
        return came

    def expire(self, now_s: float) -> None:
        """End what waited too long."""
        for queue in self._queues.values():
            while queue:
                oldest = queue[0]
                if self._sent.get(oldest.sequence) is oldest:
                    if oldest.attempt.deadline_s > now_s:
                        break
                    del self._sent[oldest.sequence]
                    oldest.attempt.fail(TIMEOUT)
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

    def _open(self, way: Way) -> tuple[bool, socket.socket]:
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

    def _enlarge(self) -> int:
        """The largest receive buffer that we may have: answers wait there until the slot is over. Returns how
        many it holds.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        with contextlib.suppress(PermissionError):  # beyond net.core.rmem_max needs CAP_NET_ADMIN
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        size_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return max(size_bytes // _PACKET_COST_BYTES, 1)

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
