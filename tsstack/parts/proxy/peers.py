"""Whose connection a loopback connection is: the answer that inetd's ident would give (RFC 1413).

A PROXY header names the client, and whoever connects can write one. So before a claim counts, the
kernel is asked which user opened the connecting socket (proc_pid_net(5): `uid`). Nothing is kept: an
address and port may be another's a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

_ESTABLISHED = "01"  # include/net/tcp_states.h: TCP_ESTABLISHED
_PEER_CREDENTIALS = struct.Struct("3i")  # unix(7): struct ucred
# cmd/tailscaled/tailscaled.go: with these it connects wherever any local program tells it to.
_OPEN_PROXIES = ("socks5-server", "outbound-http-proxy-listen")


def owner_of(
    address: str, port: int, own_address: str, own_port: int, *, proc: Path = Path("/proc")
) -> int | None:
    """The user id behind `address:port`, connected to `own_address:own_port`; None when there is none.

    IPv4 on this host only. Raises ValueError for what is no address.
    """
    wanted = (_spell(address, port), _spell(own_address, own_port))
    with (proc / "net/tcp").open(encoding="ascii") as table:
        for line in table:
            # Comparing text first spares the splitting of thousands of lines.
            if wanted[0] in line:
                fields = line.split()
                if (fields[1], fields[2]) == wanted and fields[3] == _ESTABLISHED:
                    return int(fields[7])
    return None


def listener_of(path: Path) -> tuple[int, int]:
    """Process id and user id of who listens on a unix socket (unix(7), SO_PEERCRED). Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(3.0)
        probe.connect(str(path))
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid


def open_proxies(pid: int, *, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """The flags by which a tailscaled connects to this host on behalf of any local user. Raises OSError."""
    words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    flags = {word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")}
    return tuple(f"--{flag}" for flag in _OPEN_PROXIES if flag in flags)


def _spell(address: str, port: int) -> str:
    """As the table has it: the 32 bits in the machine's byte order."""
    (word,) = struct.unpack("=I", ipaddress.IPv4Address(address).packed)
    return f"{word:08X}:{port:04X}"
