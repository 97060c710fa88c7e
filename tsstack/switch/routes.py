"""Which way packets to an address leave this host, and so by which interface its packets are expected.

Asked by rtnetlink(7): no program is started, and every routing rule has its say (tailscaled's too).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from tsstack.model.names import Address, Network
from tsstack.switch.ways import Route

_RTM_NEWADDR, _RTM_GETADDR, _RTM_NEWROUTE, _RTM_GETROUTE = 20, 22, 24, 26
_NLMSG_ERROR, _NLMSG_DONE, _NLM_F_REQUEST, _NLM_F_DUMP = 2, 3, 0x1, 0x300
_NLM_F_DUMP_INTR = 0x10
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_PERMANENT = 1, 2, 8, 0x80
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 1, 2, 4, 5, 9, 18
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_RTM_F_CLONED = 0x200
_RTPROT_RA = 9
# linux/ipv6_route.h, linux/route.h: RTF_LOCAL, RTF_ANYCAST, RTF_REJECT
_RTF_NO_NETWORK, _RTF_GATEWAY = 0x80000000 | 0x100000 | 0x200, 0x2
_HEAD = struct.Struct("=IHHII")
_ROUTE_HEAD = struct.Struct("=BBBBBBBBI")
_ADDRESS_HEAD = struct.Struct("=BBBBI")
_NEXT_HOP = struct.Struct("=HBBi")


def route_to(address: Address, source: Address | None = None) -> Route | None:
    """The route by which this host answers `address`, from its own address `source`; None if nowhere.

    Rules that look at the source count only where `source` is an address of this host. Raises OSError
    when the kernel cannot be asked at all.
    """
    if source is not None and source.version == address.version:
        found = _ask(address, source)
        if found is not None:
            return found
    return _ask(address, None)


def _ask(address: Address, source: Address | None) -> Route | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    bits = address.max_prefixlen
    body = _ROUTE_HEAD.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_RTA_DST, address.packed)
    if source is not None:
        body += _attribute(_RTA_SRC, source.packed)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        link.send(_HEAD.pack(_HEAD.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body)
        answer = link.recv(1 << 16)
    if _HEAD.unpack_from(answer)[1] == _NLMSG_ERROR:
        return None  # unreachable, prohibited, or a source that is not ours
    return _parse(answer[_HEAD.size :])


def _parse(content: bytes) -> Route | None:
    head = _ROUTE_HEAD.unpack_from(content)
    protocol, kind = head[5], head[7]
    if kind not in {_RTN_UNICAST, _RTN_LOCAL}:
        return None
    values = _attributes(content[_ROUTE_HEAD.size :])
    gateway = bool(values.keys() & {_RTA_GATEWAY, _RTA_VIA})
    if _RTA_OIF in values:
        index = struct.unpack("=I", values[_RTA_OIF])[0]
    elif len(hop := values.get(_RTA_MULTIPATH, b"")) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hop)  # struct rtnexthop, the first one
        gateway = bool(_attributes(hop[_NEXT_HOP.size : length]).keys() & {_RTA_GATEWAY, _RTA_VIA})
    else:
        return None
    try:
        return Route(socket.if_indextoname(index), gateway=gateway, learnt=protocol == _RTPROT_RA)
    except OSError:  # the interface has gone meanwhile
        return None


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def own_addresses() -> Iterator[tuple[Address, str, bool]]:
    """Each address of this host, its interface, whether it stays for good. Raises OSError."""
    names = dict(socket.if_nameindex())
    for content in _dump_addresses():
        flags, index = _ADDRESS_HEAD.unpack_from(content)[2], _ADDRESS_HEAD.unpack_from(content)[4]
        values = _attributes(content[_ADDRESS_HEAD.size :])
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS, b"")
        if _IFA_FLAGS in values:
            flags = struct.unpack("=I", values[_IFA_FLAGS])[0]
        if len(raw) in {4, 16} and index in names:
            yield ipaddress.ip_address(raw), names[index], bool(flags & _IFA_F_PERMANENT)


def _dump_addresses() -> Iterator[bytes]:
    return _dump(_RTM_GETADDR, _RTM_NEWADDR, _ADDRESS_HEAD.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def _dump(asked: int, answered: int, body: bytes, *, whole: bool = False) -> Iterator[bytes]:
    """What follows the header of each message. Raises OSError; `whole`: also where it changed meanwhile."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        link.send(_HEAD.pack(_HEAD.size + len(body), asked, flags, 1, 0) + body)
        while True:
            answer, at = link.recv(1 << 18), 0
            while at + _HEAD.size <= len(answer):
                length, kind, flags, *_ = _HEAD.unpack_from(answer, at)
                # A dump that breaks off says so at its end (netlink(7): an error, or 0).
                code = _code(answer, at) if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and whole) else 0
                if code:
                    raise OSError(code, os.strerror(code))
                if whole and flags & _NLM_F_DUMP_INTR:
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    return
                if kind == answered:
                    yield answer[at + _HEAD.size : at + length]
                at += (length + 3) & ~3


def _code(answer: bytes, at: int) -> int:
    start = at + _HEAD.size
    return -struct.unpack_from("=i", answer, start)[0] if len(answer) >= start + 4 else 0


def every_route() -> Iterator[tuple[Network, tuple[str, ...]]]:
    """Each network that any routing table leads to, and by which interfaces; by none: it is not said which.

    Raises OSError, InterruptedError of it where routes came and went while they were read.
    """
    names = dict(socket.if_nameindex())
    for family, bits in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        body = _ROUTE_HEAD.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for content in _dump(_RTM_GETROUTE, _RTM_NEWROUTE, body, whole=True):
            version, prefix, *_, kind, flags = _ROUTE_HEAD.unpack_from(content)
            # A kernel without IPv6 tells of IPv4 again; old ones tell of what they learnt of hosts.
            if version != family or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
                continue
            values = _attributes(content[_ROUTE_HEAD.size :])
            network = ipaddress.ip_network((values.get(_RTA_DST, bytes(bits // 8)), prefix), strict=False)
            # One that is gone by now, or of another network namespace, has no name here, and is none of ours.
            yield network, tuple(names.get(index, "") for index in _links(values))


def _links(values: dict[int, bytes]) -> Iterator[int]:
    """The index of each interface that a route leads by: none of a nexthop object that is not told of."""
    if _RTA_OIF in values:
        yield struct.unpack("=I", values[_RTA_OIF])[0]
    hops = values.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)  # struct rtnexthop
        yield index
        hops = hops[max((length + 3) & ~3, _NEXT_HOP.size) :]


def interface_of(zone: str) -> str:
    """The interface that the zone of a link-local address names: by name, or by index (RFC 4007, 11.2)."""
    if zone.isdigit() and not Path(f"/sys/class/net/{zone}").exists():
        try:
            return socket.if_indextoname(int(zone))
        except (OSError, OverflowError):
            return zone
    return zone


def networks_beside(interface: str, within: tuple[Network, ...]) -> dict[Network, str]:
    """The networks inside `within` that the usual table leads to by others than `interface`, and by which.

    A host may have a provider's or a cluster's network of 100.64.0.0/10 on an ordinary interface. Default
    routes tell nothing, and are left out. proc(5): /proc/net/route; Linux's net/ipv6/route.c.
    """
    found: dict[Network, str] = {}
    for network, name in (*_routes4(), *_routes6()):
        if name in {interface, "lo"}:
            continue
        if any(network.version == each.version and _is_inside(network, each) for each in within):
            found[network] = name
    return found


def networks_behind() -> list[tuple[Network, str]]:
    """Every network that this host is on, or that the usual table leads to, and by which interface.

    A default route is one of them; what is for this host itself, for nobody, or for many is not. Nor is a
    single host by a router: that is a server of this host's, as systemd-networkd leads to those of DNS; nor
    the router of a default route by itself, as a VPS with an address of its own alone leads to it.
    """
    found: dict[tuple[Network, str], None] = {}
    routed = (*_routes4(hosts_by_router=False), *_routes6(_RTF_NO_NETWORK, hosts_by_router=False))
    for network, name in (*_networks_of_addresses(), *routed):
        if name not in {"lo", "*"} and not (network.is_multicast and network.prefixlen):
            found[network, name] = None
    return list(found)


def _networks_of_addresses() -> Iterator[tuple[Network, str]]:
    """Whoever manages an address may keep its network in a routing table of its own (a VRF, say)."""
    names = dict(socket.if_nameindex())
    for content in _dump_addresses():
        _, prefix, _, _, index = _ADDRESS_HEAD.unpack_from(content)
        raw = _attributes(content[_ADDRESS_HEAD.size :]).get(_IFA_ADDRESS, b"")
        if len(raw) in {4, 16} and index in names and prefix < 8 * len(raw):
            yield ipaddress.ip_network((raw, prefix), strict=False), names[index]


def _is_inside(network: Network, other: Network) -> bool:
    return network.prefixlen >= other.prefixlen and network.network_address in other


def _routes4(*, hosts_by_router: bool = True) -> list[tuple[Network, str]]:
    found: list[tuple[Network, str]] = []
    rows = _rows("/proc/net/route")[1:]
    routers = {(row[2], row[0]) for row in rows if not int(row[7], 16)}
    for row in rows:
        address, mask = (struct.pack("=I", int(row[at], 16)) for at in (1, 7))
        prefix = int.from_bytes(mask, "big").bit_count()
        by_router = int(row[3], 16) & _RTF_GATEWAY or (row[1], row[0]) in routers
        if hosts_by_router or prefix < 32 or not by_router:
            found.append((ipaddress.IPv4Network((address, prefix), strict=False), row[0]))
    return found


def _routes6(without: int = 0, *, hosts_by_router: bool = True) -> list[tuple[Network, str]]:
    found: list[tuple[Network, str]] = []
    rows = _rows("/proc/net/ipv6_route")
    routers = {(row[4], row[9]) for row in rows if row[1] == "00"}
    for row in rows:
        prefix, flags = int(row[1], 16), int(row[8], 16)
        by_router = flags & _RTF_GATEWAY or (row[0], row[9]) in routers
        if not flags & without and (hosts_by_router or prefix < 128 or not by_router):
            found.append((ipaddress.IPv6Network((int(row[0], 16), prefix), strict=False), row[9]))
    return found


def _rows(path: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(path).read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:  # a kernel without IPv6
        return []
