"""What this host knows beside the file: its addresses, its routes, the nodes of its tailnet. Reads only."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.explain import netlink
from tsstack.explain.question import Route, Surroundings
from tsstack.model.names import Address, Network
from tsstack.system.localapi import LocalApi, LocalApiError

if TYPE_CHECKING:
    from tsstack.explain.world import Land

_RTM_GETADDR, _RTM_GETROUTE = 22, 26
_ADDRESS_HEAD, _ROUTE_HEAD = struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_TABLE, _RTA_MULTIPATH = 1, 4, 15, 9
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_TABLES = {254: 1, 52: 0}
"""Main and tailscaled's own, which its rules ask first (5210-5270)."""
_CLONED = 0x200
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP}
_LOCALAPI_PATIENCE_S = 2.0
_TRIES = 5


@dataclass(frozen=True, slots=True)
class LiveRoute:
    """One route of this host, as far as it says which interface a packet leaves by."""

    network: Network
    interface: str


def look_around(uplink: str, socket_path: Path, tailnet: tuple[str, ...]) -> Surroundings:
    """This host at this moment. `tailnet`: its own addresses there, if they are not on an interface."""
    addresses = read_addresses()
    if tailnet and "tailscale0" not in addresses:
        own = map(ipaddress.ip_address, tailnet)
        addresses["tailscale0"] = tuple((each, each.max_prefixlen) for each in own)
    names = tuple(name for _, name in socket.if_nameindex() if name != "lo")
    return Surroundings(names, uplink, addresses, route_to, nodes_by_name(socket_path))


def read_addresses() -> dict[str, tuple[tuple[Address, int], ...]]:
    """This host's addresses with their prefix lengths, by interface; lo's are left out."""
    found: dict[str, list[tuple[Address, int]]] = {}
    names = dict(socket.if_nameindex())
    for content in _listed(_RTM_GETADDR, _ADDRESS_HEAD.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, length, _, _, index = _ADDRESS_HEAD.unpack_from(content)
        values = netlink.by_kind(content[_ADDRESS_HEAD.size :])
        packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        name = names.get(index, "")
        if packed and name and name != "lo":
            found.setdefault(name, []).append((ipaddress.ip_address(packed), length))
    return {name: tuple(listed) for name, listed in found.items()}


def read_routes() -> tuple[LiveRoute, ...]:
    """The routes of the main table and of tailscaled's, those first that the kernel would take first."""
    found: list[tuple[int, int, LiveRoute]] = []
    names = dict(socket.if_nameindex())
    for family in (socket.AF_INET, socket.AF_INET6):
        for content in _listed(_RTM_GETROUTE, _ROUTE_HEAD.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            head = _ROUTE_HEAD.unpack_from(content)
            values = netlink.by_kind(content[_ROUTE_HEAD.size :])
            table = struct.unpack("=I", values.get(_RTA_TABLE, struct.pack("=I", head[4])))[0]
            index = _index(values)
            if head[7] != _RTN_UNICAST or table not in _TABLES or head[8] & _CLONED or index not in names:
                continue
            if head[0] != family:  # a kernel without IPv6 lists all there are
                continue
            packed = values.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
            network = ipaddress.ip_network((packed, head[1]), strict=False)
            if names[index] != "lo" and not network.is_multicast:
                found.append((_TABLES[table], -head[1], LiveRoute(network, names[index])))
    ordered = sorted(found, key=lambda entry: entry[:2])
    return tuple({entry[2].network: entry[2] for entry in reversed(ordered)}.values())


def read_land(around: Surroundings) -> Land:
    """What of this host a world is made like."""
    from tsstack.explain.world import Land

    addresses = ((name, each, size) for name, listed in around.addresses.items() for each, size in listed)
    indexes = {name: number for number, name in socket.if_nameindex()}
    return Land(around.interfaces, tuple(addresses), read_routes(), indexes)


def _index(values: dict[int, bytes]) -> int:
    """The outgoing interface of a route; of several next hops the first one's."""
    if _RTA_OIF in values:
        return int(struct.unpack("=I", values[_RTA_OIF])[0])
    hops = values.get(_RTA_MULTIPATH, b"")
    return int(struct.unpack_from("=i", hops, 4)[0]) if len(hops) >= 8 else 0  # struct rtnexthop


def route_to(address: Address) -> Route | None:
    """Where this host's kernel sends packets for an address, by all of its rules; None if nowhere."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = _ROUTE_HEAD.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body = head + netlink.attribute(_RTA_DST, address.packed)
    try:
        with _route_socket() as link:
            ((_, content), *_) = netlink.ask(link, _RTM_GETROUTE, body, listing=False)
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return None
        raise
    kind = _ROUTE_HEAD.unpack_from(content)[7]
    index = _index(netlink.by_kind(content[_ROUTE_HEAD.size :]))
    name = dict(socket.if_nameindex()).get(index, "")
    if kind == _RTN_LOCAL:
        return Route(name, local=True)
    return Route(name) if kind == _RTN_UNICAST and name else None


def nodes_by_name(socket_path: Path) -> Callable[[str], tuple[Address, ...] | None]:
    """Finds the addresses of a node of the tailnet by its name; tailscaled is asked when it is first used."""
    known: dict[str, tuple[Address, ...]] | None = None
    asked = False

    def find(name: str) -> tuple[Address, ...] | None:
        nonlocal known, asked
        if not asked:
            known, asked = _read_nodes(socket_path), True
        return None if known is None else known.get(name.lower().rstrip("."), ())

    return find


def _read_nodes(socket_path: Path) -> dict[str, tuple[Address, ...]] | None:
    if not socket_path.exists():
        return None
    try:
        status = LocalApi(socket_path, timeout_s=_LOCALAPI_PATIENCE_S).status()
    except LocalApiError:
        return None
    nodes: dict[str, tuple[Address, ...]] = {}
    for peer in (status.get("Peer") or {}).values():
        full = str(peer.get("DNSName") or "").rstrip(".").lower()
        addresses = tuple(map(ipaddress.ip_address, peer.get("TailscaleIPs") or ()))
        # The name in the tailnet is unique; what the machine calls itself may not be.
        for name in (full, full.partition(".")[0], str(peer.get("HostName") or "").lower()):
            if name and addresses:
                nodes.setdefault(name, addresses)
    return nodes


def _listed(kind: int, body: bytes) -> list[bytes]:
    """All that there is of a kind. Raises CheckFailed when it will not stand still."""
    for _ in range(_TRIES):
        try:
            with _route_socket() as link:
                return [content for _, content in netlink.ask(link, kind, body, listing=True)]
        except netlink.Interrupted:
            continue
    raise CheckFailed("this host's addresses or routes change all the time", hint="try again")


def _route_socket() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.bind((0, 0))
    return link
