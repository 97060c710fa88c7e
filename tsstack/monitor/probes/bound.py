"""Sockets that stay on the path that they judge: bound to an interface, a local address, or both."""

from __future__ import annotations

import contextlib
import socket

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_LINK_LOCAL = frozenset({"fe8", "fe9", "fea", "feb"})


Endpoint = tuple[str, int] | tuple[str, int, int, int]
"""An address as the socket module takes it."""


def normal(address: str) -> str:
    """An address spelled as the kernel's are. Raises OSError or UnicodeError for what is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address.partition("%")[0]))


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def endpoint(address: str, port: int, interface: str = "") -> Endpoint:
    """The address as the socket module takes it; link-local ones belong to the interface.

    Raises OSError when that interface does not exist.
    """
    if ":" not in address:
        return (address, port)
    scoped = interface and address[:3] in _LINK_LOCAL  # fe80::/10
    return (address, port, 0, socket.if_nametoindex(interface) if scoped else 0)


def open_bound(
    family: int, kind: int, protocol: int = 0, *, interface: str = "", from_address: str = ""
) -> socket.socket:
    """A non-blocking socket that sends by `interface` alone and from `from_address` alone.

    Raises OSError: ENODEV when there is no such interface, EPERM when this process may not bind to one
    (before Linux 5.7 that needs CAP_NET_RAW), EADDRNOTAVAIL when the address is not ours.
    """
    opened = socket.socket(FAMILIES[family], kind | socket.SOCK_NONBLOCK, protocol)
    with contextlib.ExitStack() as undo:
        undo.callback(opened.close)
        if interface:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if from_address:
            opened.bind(endpoint(from_address, 0, interface))
        undo.pop_all()
    return opened
