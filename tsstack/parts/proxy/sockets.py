"""Who listens where on this host, from /proc (proc_pid_net(5))."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from tsstack.parts.proxy.plan import Listener

_LISTEN = "0A"  # include/net/tcp_states.h: TCP_LISTEN


_UNKNOWN = "another program"


def find_holders(
    listeners: Iterable[Listener], own_pids: Iterable[int], foreign: Container[str] = ()
) -> list[tuple[Listener, str]]:
    """Those TCP listeners whose address and port another program than `own_pids` holds, and its name.

    The wildcard address collides with every other one. Behind the boot unit's walls nobody's sockets may be
    looked at: one of an unknown program may then be our own, and nginx says so if it is not. `foreign` are
    inodes of sockets that are known not to be.
    """
    pids = list(own_pids)
    own = {inode for pid in pids for inode in _inodes_of(pid)}
    is_blind = any(not _may_be_looked_at(pid) for pid in pids)
    found = []
    for listener, inodes in _colliding(listeners):
        for inode in inodes:
            if inode in own:
                continue
            program = _program(inode)
            if program != _UNKNOWN or not is_blind or inode in foreign:
                found.append((listener, program))
                break
    return found


def find_sockets(listeners: Iterable[Listener]) -> list[str]:
    """Inodes of all sockets that listen where these TCP listeners would."""
    return sorted({inode for _, inodes in _colliding(listeners) for inode in inodes})


def _colliding(listeners: Iterable[Listener]) -> Iterator[tuple[Listener, list[str]]]:
    taken = _listening()
    for listener in listeners:
        if listener.protocol != "tcp":
            continue
        wildcard = "::" if ":" in listener.address else "0.0.0.0"  # noqa: S104  (compared, not bound)
        yield (
            listener,
            [
                inode
                for (address, port), inode in taken.items()
                if port == listener.port
                and (":" in address) == (":" in listener.address)
                and (address in {listener.address, wildcard} or listener.address == wildcard)
            ],
        )


def find_foreign_addresses(listeners: Iterable[Listener]) -> list[Listener]:
    """The first listener of each address that this host does not have (bind(2): EADDRNOTAVAIL)."""
    first = {listener.address: listener for listener in reversed(list(listeners))}
    missing = []
    for address, listener in first.items():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((address, 0))
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:  # a kernel without IPv6
                raise
            missing.append(listener)
    return missing


def _listening() -> dict[tuple[str, int], str]:
    """(address, port) -> inode of each listening TCP socket of this network namespace."""
    sockets = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, port = fields[1].split(":")
                sockets[_address(address), int(port, 16)] = fields[9]
    return sockets


def _address(text: str) -> str:
    """Words of 32 bits, each in the machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return str(ipaddress.ip_address(socket.inet_ntop(family, raw)))


def _inodes_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open; empty when it may not be looked at."""
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()
    return found


def _program(inode: str) -> str:
    """`name (pid N)` of a process that has the socket open."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and inode in _inodes_of(int(process.name)):
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            return f"{name} (pid {process.name})"
    return _UNKNOWN


def _may_be_looked_at(pid: int) -> bool:
    """proc_pid_fd(5): to read a link takes as many powers as the process has (PTRACE_MODE_READ_FSCREDS)."""
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            link.readlink()
            break
    except PermissionError:
        return False
    except (FileNotFoundError, ProcessLookupError):
        return True
    return True
