"""Addresses and routes of the world, by rtnetlink(7) directly: a thousand of them cost no program."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

_RTM_NEWADDR, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWRULE = 20, 24, 25, 32
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLMSG_ERROR = 2
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_FRA_PRIORITY, _FRA_TABLE, _FR_ACT_TO_TBL = 6, 15, 1
MAIN, DETOURS = 254, 100
"""Routing tables: the usual one, and the first of those for packets of another traffic class."""

_LOCAL = 255  # asked before the others, by every packet
_PROTO_STATIC, _TYPE_UNICAST, _TYPE_LOCAL, _TYPE_UNREACHABLE = 4, 1, 2, 7
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME, _IFF_UP = 0x8913, 0x8914, 0x8923, 0x1
_AT_ONCE = 64
_ROUTES, _RTF_LOCAL = Path("/proc/self/net/ipv6_route"), 0x80000000
_PATIENCE_S, _STEP_S = 10, 0.0005
_FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}


def raise_link(name: str) -> None:
    """Set an interface up (netdevice(7)). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | _IFF_UP))


def rename_link(name: str, new: str) -> None:
    """Give an interface that is down another name. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFNAME, struct.pack("16s16s8x", name.encode(), new.encode()))


def give_addresses(given: Iterable[tuple[bytes, int, int]]) -> None:
    """Give interfaces, by their index, addresses with their prefix lengths; back when packets reach them.

    The kernel acknowledges an IPv6 address before its own route is there: that is laid by the worker of
    duplicate address detection, which waits for the lock of all links on this computer (net/ipv6/addrconf.c).
    Raises OSError.
    """
    wanted = list(given)
    apply_messages(_address_message(*each) for each in wanted)
    awaited = {
        (address.hex(), socket.if_indextoname(index)) for address, _, index in wanted if len(address) == 16
    }
    until_s = time.monotonic() + _PATIENCE_S
    while awaited := awaited and awaited - _read_local_routes():
        if time.monotonic() > until_s:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(_ROUTES))
        time.sleep(_STEP_S)


def _read_local_routes() -> set[tuple[str, str]]:
    """This host's own IPv6 addresses, in hex, and their interfaces. Linux, net/ipv6/route.c."""
    lines = [line.split() for line in _ROUTES.read_text().splitlines()]
    return {(fields[0], fields[9]) for fields in lines if int(fields[8], 16) & _RTF_LOCAL}


def _address_message(address: bytes, prefix: int, interface: int) -> bytes:
    head = struct.pack("=BBBBI", _FAMILY[len(address)], prefix, 0, 0, interface)
    return _message(_RTM_NEWADDR, head + _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address))


def route_message(address: bytes, prefix: int, interface: int, table: int = MAIN) -> bytes:
    """A route to `address`/`prefix` straight out of an interface, by its index. Prefix 0: the default."""
    scope = _SCOPE_LINK if len(address) == 4 else 0
    head = struct.pack(
        "=BBBBBBBBI", _FAMILY[len(address)], prefix, 0, 0, table, _PROTO_STATIC, scope, _TYPE_UNICAST, 0
    )
    destination = _attribute(_RTA_DST, address) if prefix else b""
    return _message(_RTM_NEWROUTE, head + destination + _attribute(_RTA_OIF, struct.pack("=I", interface)))


def own_network_message(address: bytes, prefix: int, interface: int) -> bytes:
    """Make a whole network this host's own. In IPv6 who binds one of it needs IP_FREEBIND (ip(7))."""
    scope = _SCOPE_HOST if len(address) == 4 else 0
    head = struct.pack(
        "=BBBBBBBBI", _FAMILY[len(address)], prefix, 0, 0, _LOCAL, _PROTO_STATIC, scope, _TYPE_LOCAL, 0
    )
    out = _attribute(_RTA_OIF, struct.pack("=I", interface))
    return _message(_RTM_NEWROUTE, head + _attribute(_RTA_DST, address) + out)


def unreachable_message(address: bytes, *, there: bool) -> bytes:
    """An address that nobody can connect to (EHOSTUNREACH), even if it is this host's; or an end of that."""
    bits = len(address) * 8
    head = struct.pack(
        "=BBBBBBBBI", _FAMILY[len(address)], bits, 0, 0, _LOCAL, _PROTO_STATIC, 0, _TYPE_UNREACHABLE, 0
    )
    kind = _RTM_NEWROUTE if there else _RTM_DELROUTE
    return _message(kind, head + _attribute(_RTA_DST, address))


def class_rule_message(version: int, traffic_class: int, table: int) -> bytes:
    """A rule that sends packets of a traffic class (IPv4: type of service) to a routing table."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBBBBBI", family, 0, 0, traffic_class, table, 0, 0, _FR_ACT_TO_TBL, 0)
    priority = _attribute(_FRA_PRIORITY, struct.pack("=I", 100))
    return _message(_RTM_NEWRULE, head + priority + _attribute(_FRA_TABLE, struct.pack("=I", table)))


def apply_messages(messages: Iterable[bytes]) -> None:
    """Have the kernel do them all, in order. Raises OSError for the first that it refuses."""
    waiting = list(messages)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            link.send(b"".join(batch))
            answered = 0
            while answered < len(batch):
                answered += _read_answers(link.recv(1 << 16))


def _read_answers(answer: bytes) -> int:
    at = count = 0
    while at < len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", answer, at + 16)[0]
            if code:
                raise OSError(code, os.strerror(code))
            count += 1
        at += (length + 3) & ~3
    return count


def _message(kind: int, body: bytes) -> bytes:
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
