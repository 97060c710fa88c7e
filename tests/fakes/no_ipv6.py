"""The command line on a kernel that was booted with `ipv6.disable=1`: run as `python no_ipv6.py VERB ...`.

No socket of the family can be made, by any program that is started from here (seccomp(2)). That there are no
files of it, and that rtnetlink(7) takes nothing of it, is so for this process and its copies alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_SOCKET = {"x86_64": 41, "aarch64": 198}
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _UNLESS_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
_GONE = ("/proc/sys/net/ipv6", "/proc/net/ipv6_route", "/proc/self/net/ipv6_route", "/proc/net/if_inet6")


def forbid_sockets() -> None:
    """socket(2) of AF_INET6 fails with EAFNOSUPPORT, from now on and for all children."""
    program = (
        struct.pack("=HBBI", _LOAD, 0, 0, _NUMBER),
        struct.pack("=HBBI", _UNLESS_EQUAL, 0, 3, _SOCKET[platform.machine()]),
        struct.pack("=HBBI", _LOAD, 0, 0, _FIRST_ARGUMENT),
        struct.pack("=HBBI", _UNLESS_EQUAL, 0, 1, socket.AF_INET6),
        struct.pack("=HBBI", _RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(program))
    whole = struct.pack("=H6xQ", len(program), ctypes.addressof(code))
    library = ctypes.CDLL(None, use_errno=True)
    for words in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, whole, 0, 0)):
        if library.prctl(*words) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def forget_files() -> None:
    """The files of the family are not there."""

    def is_gone(path: Path) -> bool:
        return str(path).startswith((*_GONE, "/proc/net/tcp6", "/proc/net/udp6"))

    exists, opened = Path.exists, Path.open

    def seen(path: Path, **how: bool) -> bool:
        return not is_gone(path) and exists(path, **how)

    def refuse(path: Path, *how: object, **named: object) -> object:
        if is_gone(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return opened(path, *how, **named)  # type: ignore[call-overload]

    Path.exists = seen  # type: ignore[method-assign, assignment]
    Path.open = refuse  # type: ignore[method-assign, assignment]


def refuse_messages() -> None:
    """Addresses, routes and rules of the family cannot be made (net/core/rtnetlink.c)."""
    from tsstack.prove import netlink

    honest = netlink.apply_messages

    def apply(messages: Iterable[bytes]) -> None:
        waiting = list(messages)
        for each in waiting:
            if each[16] == socket.AF_INET6:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        honest(waiting)

    netlink.apply_messages = apply


if __name__ == "__main__":
    from tsstack.cli.main import run

    forbid_sockets()
    forget_files()
    refuse_messages()
    sys.exit(run(sys.argv[1:]))
