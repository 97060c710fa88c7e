"""The sockets that are open in this network namespace, from /proc (proc_pid_net(5))."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from tsstack.prove.places import ANY_4, ANY_6, Socket

_NOWHERE = "127.88.88.88"  # an address that nobody binds: only what takes all of them has it
_NET = Path("/proc/self/net")
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"  # include/net/tcp_states.h
_UNIX_ACCEPTS = 0x10000  # include/uapi/linux/net.h: __SO_ACCEPTCON


def open_sockets(own: Iterable[Socket] = ()) -> set[Socket]:
    """All but our own. One that takes IPv4 on an address of IPv6 counts as both. Raises OSError."""
    seen = {*_inet("tcp", _TCP_LISTEN), *_inet("udp", _UDP_UNCONNECTED), *_unix()} - set(own)
    for each in [each for each in seen if each.address == ANY_6]:
        also = Socket(each.protocol, ANY_4, each.port)
        if also not in seen and not _is_free(Socket(each.protocol, _NOWHERE, each.port)):
            seen.add(also)
    return seen


def _inet(protocol: Literal["tcp", "udp"], state: str) -> Iterator[Socket]:
    for table in (_NET / protocol, _NET / f"{protocol}6"):
        if not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                address, port = fields[1].split(":")
                yield Socket(protocol, _address(address), int(port, 16))


def _address(text: str) -> str:
    """The kernel prints the words of an address in its own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words)))


def _unix() -> Iterator[Socket]:
    table = _NET / "unix"
    if not table.exists():
        return
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _UNIX_ACCEPTS:
            yield Socket("unix", fields[7])


def _is_free(place: Socket) -> bool:
    """Whether it could be bound: nothing there takes what comes for it (ipv6(7): IPV6_V6ONLY)."""
    kind = socket.SOCK_STREAM if place.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as trial:
        if place.protocol == "tcp":  # else connections that have ended count, too
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((place.address, place.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
