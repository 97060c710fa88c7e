"""TCP connects, to addresses and to unix sockets: the time until the connection stands.

For TCP the kernel's own measure of the handshake counts (TCP_INFO, tcpi_rtt), so that our own delays do not
show. When the first SYN was lost it has none: then the time is ours, from connect(2) until we looked.
Nor has it of a refusal: where that is an answer the loop wakes us, as a slot is longer than a LAN's round
trip.
A unix socket answers within connect(2).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time

from tsstack.monitor.probes.attempt import WRITE, Attempt, Calls
from tsstack.monitor.probes.bound import endpoint, family_of, open_bound
from tsstack.monitor.probes.causes import words_of, words_of_error

# linux/tcp.h, struct tcp_info: tcpi_rtt in microseconds, and how many segments were sent again.
_RTT = struct.Struct("@I")
_RTT_OFFSET = 68
_RETRANSMITS_OFFSET = 100
_INFO_BYTES = 104


def handshake_s(connected: socket.socket) -> float | None:
    """How long the handshake took by the kernel's clock; None when it cannot tell."""
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return None
    (rtt_us,) = _RTT.unpack_from(info, _RTT_OFFSET)
    (again,) = _RTT.unpack_from(info, _RETRANSMITS_OFFSET)
    return rtt_us / 1e6 if rtt_us and not again else None


def connect(attempt: Attempt, calls: Calls) -> None:
    """Begin to connect to the attempt's address, or to its probe's unix socket."""
    probe = attempt.probe
    try:
        if probe.socket:
            _connect_unix(attempt)
            return
        opened = open_bound(
            family_of(attempt.address),
            socket.SOCK_STREAM,
            interface=probe.path.interface,
            from_address=probe.from_address,
        )
    except OSError as error:
        attempt.fail(words_of_error(error, interface=probe.path.interface))
        return
    call = _Connecting(attempt, opened)
    try:
        number = opened.connect_ex(endpoint(attempt.address, probe.port, probe.path.interface))
    except OSError as error:
        number = error.errno or errno.EINVAL
    if number == errno.EINPROGRESS:
        calls.add(call, WRITE)
        if probe.reaches:
            call.note_the_end()
        return
    call.finish(number)
    call.close()


def _connect_unix(attempt: Attempt) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as opened:
        begun_s = time.monotonic()
        number = opened.connect_ex(attempt.probe.socket)
        if number:
            attempt.fail(words_of(number))
        else:
            attempt.succeed(time.monotonic() - begun_s)


class _Connecting:
    """A connection that is being made."""

    def __init__(self, attempt: Attempt, opened: socket.socket) -> None:
        self.attempt = attempt
        self._socket = opened
        self._begun_s = time.monotonic()
        self._ended_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def note_the_end(self) -> None:
        """Have the moment noted at which it stands or fails."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_writer(self._socket, self._note)

    def _note(self) -> None:
        self._ended_s = time.monotonic()
        self._wait_no_more()

    def _wait_no_more(self) -> None:
        if self._loop is not None:
            self._loop.remove_writer(self._socket)
            self._loop = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> bool:
        self.finish(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return True

    def finish(self, number: int) -> None:
        """It stands, or failed with this errno."""
        probe = self.attempt.probe
        refused = number == errno.ECONNREFUSED and probe.reaches
        if number and not refused:
            self.attempt.fail(words_of(number, interface=probe.path.interface))
            return
        measured_s = None if refused else handshake_s(self._socket)
        ended_s = time.monotonic() if self._ended_s is None else self._ended_s
        self.attempt.succeed(ended_s - self._begun_s if measured_s is None else measured_s)

    def close(self) -> None:
        self._wait_no_more()
        self._socket.close()
