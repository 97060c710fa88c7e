"""TCP connects, to addresses and to unix sockets: the time until the connection stands.

For TCP the kernel's own measure of the handshake counts (TCP_INFO, tcpi_rtt), so that our own delays do not
show. When the first SYN was lost it has none: then the time is ours, from connect(2) until we looked.
A unix socket answers within connect(2).
"""

from __future__ import annotations

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
        self.attempt.succeed(time.monotonic() - self._begun_s if measured_s is None else measured_s)

    def close(self) -> None:
        self._socket.close()
