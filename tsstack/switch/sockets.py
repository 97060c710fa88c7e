"""The sockets of this network namespace, and which process holds them: proc(5)."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tsstack.model.names import Address

ESTABLISHED, LISTEN = "01", "0A"
_OURS, _THEIRS, _STATE, _INODE = 1, 2, 3, 9


class Socket(NamedTuple):
    """One line of /proc/net/tcp or udp: our end, the other end, its state and inode."""

    address: Address
    port: int
    peer: Address
    peer_port: int
    state: str
    inode: str

    @property
    def ends(self) -> tuple[Address, int, Address, int]:
        """Ours, then the other."""
        return self.address, self.port, self.peer, self.peer_port


def listening(inodes: set[str]) -> list[Socket]:
    """Those of these TCP sockets that listen."""
    return _read("tcp", lambda row: row[_STATE] == LISTEN and row[_INODE] in inodes) if inodes else []


def listening_or_held(inodes: set[str]) -> list[Socket]:
    """All TCP sockets that listen, and these."""
    return _read("tcp", lambda row: row[_STATE] == LISTEN or row[_INODE] in inodes)


def established(ports: set[int]) -> list[Socket]:
    """The open TCP connections to these ports of ours."""
    told = {f"{port:04X}" for port in ports}
    return _read("tcp", lambda row: row[_STATE] == ESTABLISHED and row[_OURS][-4:] in told)


def bound_udp(inodes: set[str]) -> list[Socket]:
    """These UDP sockets."""
    return _read("udp", lambda row: row[_INODE] in inodes) if inodes else []


def held_by(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets (proc_pid_fd(5): `socket:[2248868]`)."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for entry in entries:
        try:
            target = str(entry.readlink())
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it was closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def plain(address: Address) -> Address:
    """A v4 address as such, where a v6 socket saw it mapped (RFC 4291 section 2.5.5.2)."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _read(protocol: str, wanted: Callable[[list[str]], bool]) -> list[Socket]:
    """The sockets of both families whose row is `wanted`."""
    return [
        Socket(*_parse_end(row[_OURS]), *_parse_end(row[_THEIRS]), row[_STATE], row[_INODE])
        for row in _rows(protocol)
        if wanted(row)
    ]


def _rows(protocol: str) -> Iterator[list[str]]:
    """A busy proxy has ten thousands of them: only those that matter are parsed."""
    for path in (Path(f"/proc/net/{protocol}"), Path(f"/proc/net/{protocol}6")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        yield from map(str.split, lines)


def _parse_end(text: str) -> tuple[Address, int]:
    """`0100007F:0016`: the address as words in the machine's own byte order, the port in hex."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return plain(ipaddress.ip_address(raw)), int(port, 16)
