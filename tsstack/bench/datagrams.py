"""Echoes of a chosen size that no router may cut into pieces: what a path's MTU is found with.

Source: icmp(7), ip(7), ipv6(7): with IP_PMTUDISC_PROBE the kernel sets the DF bit and does not heed what it
learnt of the path before, so that each answer is of now.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from tsstack.bench.mtu_search import LEAST, LEAST_TRIES, Found, Search, tries_for
from tsstack.monitor.probes import echo
from tsstack.monitor.probes.bound import endpoint, family_of, open_bound

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADERS_BYTES = {4: 20 + echo.HEADER_BYTES, 6: 40 + echo.HEADER_BYTES}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# linux/in.h and linux/in6.h: IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, and IP_PMTUDISC_PROBE of both.
_MTU_DISCOVER = {4: (socket.SOL_IP, 10), 6: (41, 23)}
_PMTUDISC_PROBE = 3
_NEXT_S = 0.02
_NUMBER = struct.Struct("!8sQ")


class SizedEchoes:
    """Echoes with the DF bit to one address. Raises OSError when the kernel gives no ICMP socket.

    A datagram socket where the group may have one (`net.ipv4.ping_group_range`), else a raw one.
    """

    def __init__(self, address: str, *, interface: str = "", timeout_s: float = 1.0) -> None:
        self._family = family_of(address)
        self._address, self._interface, self._timeout_s = address, interface, timeout_s
        self._secret = os.urandom(8)
        self._number = 0
        try:
            self._raw = False
            self._socket = open_bound(
                self._family, socket.SOCK_DGRAM, _PROTOCOL[self._family], interface=interface
            )
        except PermissionError:
            self._raw = True
            self._socket = open_bound(
                self._family, socket.SOCK_RAW, _PROTOCOL[self._family], interface=interface
            )
        self._ident = int.from_bytes(os.urandom(2))
        level, option = _MTU_DISCOVER[self._family]
        self._socket.setsockopt(level, option, _PMTUDISC_PROBE)

    def __enter__(self) -> SizedEchoes:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def passes(self, size_bytes: int, tries: int = LEAST_TRIES) -> bool:
        """Whether a packet of this size, IP header included, came there and its like came back.

        A size beyond the interface's own MTU does not pass. One that gets no answer is sent again, `tries`
        times in all, the later ones close behind each other: they wait for their answers together.
        """
        first = self._number + 1
        for left in reversed(range(tries)):
            try:
                self._send(size_bytes)
            except OSError as error:
                if error.errno in _TOO_BIG:
                    return False
                # An ICMP error about an earlier packet is told at the next call, which sends nothing.
                continue
            alone = self._number == first or not left
            answer = self._await(first, self._timeout_s if alone else _NEXT_S)
            if answer is not None:
                return answer
        return False

    def _send(self, size_bytes: int) -> None:
        self._number += 1
        sequence = self._number & 0xFFFF
        padding = bytes(max(0, size_bytes - _HEADERS_BYTES[self._family] - _NUMBER.size))
        head = struct.pack("!BBHHH", echo.ECHO_REQUEST[self._family], 0, 0, self._ident, sequence)
        packet = head + _NUMBER.pack(self._secret, self._number) + padding
        if self._raw and self._family == 4:
            packet = packet[:2] + b"\0\0" + packet[4:]
            even = packet if len(packet) % 2 == 0 else packet + b"\0"
            packet = packet[:2] + echo.with_checksum(even)[2:4] + packet[4:]
        self._socket.sendto(packet, endpoint(self._address, 0, self._interface))

    def _await(self, first: int, timeout_s: float) -> bool | None:
        """Whether an answer to one from number `first` on came, False if it is too big; None: nothing did.

        What else comes is not ours.
        """
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left_s)[0]:
                return None
            try:
                packet, sender = self._socket.recvfrom(65535)
            except OSError as error:
                if error.errno in _TOO_BIG:
                    return False
                continue
            if self._raw and self._family == 4:
                packet = echo.payload_of_ipv4(packet)
            if str(sender[0]).partition("%")[0] == self._address and self._is_ours(packet, first):
                return True
        return None

    def _is_ours(self, packet: bytes, first: int) -> bool:
        if len(packet) < echo.HEADER_BYTES + _NUMBER.size or packet[0] != echo.ECHO_REPLY[self._family]:
            return False
        secret, number = _NUMBER.unpack_from(packet, echo.HEADER_BYTES)
        return bool(secret == self._secret and first <= number <= self._number)


_TOO_BIG = frozenset({90})  # EMSGSIZE


def find_mtu(
    address: str,
    ceiling_bytes: int,
    *,
    interface: str = "",
    timeout_s: float = 1.0,
    sent: int = 0,
    lost: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """The largest packet that passes, up to `ceiling_bytes`.

    Of `sent` small echoes on this way `lost` got no answer: the more, the more often each size is tried. At
    most 15 sizes are, and in the end the least of those that did not pass once more. Raises OSError when the
    kernel gives no ICMP socket.
    """
    floor = min(LEAST[family_of(address)], ceiling_bytes)
    search = Search(floor, ceiling_bytes)
    tries, certain = tries_for(sent, lost)
    with SizedEchoes(address, interface=interface, timeout_s=timeout_s) as echoes:
        while (size := search.next_size()) is not None:
            tell(f"MTU: {size} bytes")
            search = search.after(size, echoes.passes(size, tries))
        if search.failed and echoes.passes(search.failed, tries):
            certain = False  # it passes now, so what was lost told nothing of sizes
    return Found(search.found, certain)
