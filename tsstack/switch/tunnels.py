"""The tunnels of this host, and what carries each, as far as the kernel says. Asked by rtnetlink(7).

linux/if_link.h, linux/if_tunnel.h and linux/wireguard.h have the numbers of the attributes.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tsstack.model.names import Address, Network
from tsstack.prove.expected import TAILNET_INTERFACE, Kind
from tsstack.system.nfnetlink import attribute, attributes

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_NLMSG_ERROR, _NLMSG_DONE, _NLM_F_REQUEST, _NLM_F_DUMP = 2, 3, 0x1, 0x300
_HEAD = struct.Struct("=IHHII")
_LINK_HEAD, _GENERIC_HEAD = struct.Struct("=BxHiII"), struct.Struct("=BBH")
_IFLA_IFNAME, _IFLA_LINKINFO, _INFO_KIND, _INFO_DATA = 3, 18, 1, 2
_NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_WG_NAME, _WG_PORT, _WG_PEERS = 2, 6, 8
_PEER_KEY, _PEER_ENDPOINT, _PEER_KEEPALIVE, _PEER_NETWORKS = 1, 4, 5, 9
_NET_FAMILY, _NET_ADDRESS, _NET_PREFIX = 1, 2, 3


class _Layout(NamedTuple):
    """Where a kind of link says what carries it."""

    remote: tuple[int, ...]
    local: tuple[int, ...]
    link: int
    protocol: int = 0
    """The number of the IP protocol; 0: UDP."""
    port: int = 0
    encapsulated: int = 0
    """The attribute that is not 0 where all goes in UDP besides (FOU, GUE)."""


_GRE = _Layout((7,), (6,), 1, 47, encapsulated=14)
_LAYOUTS = {
    "vxlan": _Layout((2, 16), (4, 17), 3, port=15),
    "geneve": _Layout((2, 7), (), 0, port=5),
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"), _GRE),
    "ipip": _Layout((3,), (2,), 1, 4, encapsulated=15),
    "sit": _Layout((3,), (2,), 1, 41, encapsulated=15),
}
# What of these says too little: which protocol it is, or whether there is UDP around it.
_OPAQUE = {
    "ip6tnl": 1,
    "vti": 1,
    "vti6": 1,
    "xfrm": 1,
    "tun": 0,
    "ovpn": 0,
    "l2tp": 0,
    "bareudp": 0,
    "ppp": 0,
}


class Peer(NamedTuple):
    """A far end: the address of its packets, and whose inner packets come from it (none: all)."""

    address: Address
    networks: tuple[Network, ...] = ()
    begun_here: bool = False
    """Whether this host itself keeps up the way to it (WireGuard's keepalive)."""


class Tunnel(NamedTuple):
    """What carries an interface; nothing but the kind where the kernel does not say."""

    kind: str
    protocol: Kind = "udp"
    port: int = 0
    """Ours, or the number of the IP protocol; 0: unknown."""
    peers: tuple[Peer, ...] = ()
    local: Address | None = None
    link: str = ""
    """The interface that it is bound to."""


def read_tunnels() -> dict[str, Tunnel]:
    """Every tunnel but the tailnet's, by its interface. Raises OSError where the kernel cannot be asked."""
    names = dict(socket.if_nameindex())
    head = _LINK_HEAD.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found = {}
    for content in _ask(socket.NETLINK_ROUTE, _RTM_GETLINK, _NLM_F_DUMP, head):
        values = dict(attributes(content[_LINK_HEAD.size :]))
        info = dict(attributes(values.get(_IFLA_LINKINFO, b"")))
        name, kind = (_text(each) for each in (values[_IFLA_IFNAME], info.get(_INFO_KIND, b"")))
        if name != TAILNET_INTERFACE:
            tunnel = parse_tunnel(kind, info.get(_INFO_DATA, b""), names)
            if kind == "wireguard":
                tunnel = _wireguard(name)
            if tunnel is not None:
                found[name] = tunnel
    return found


def parse_tunnel(kind: str, data: bytes, names: dict[int, str]) -> Tunnel | None:
    """What the attributes of a link's kind say; None where it is no tunnel. `names` has the links."""
    values = dict(attributes(data))
    layout = _LAYOUTS.get(kind)
    if layout is None:
        return Tunnel(kind, link=_link(values, _OPAQUE[kind], names)) if kind in _OPAQUE else None
    link = _link(values, layout.link, names)
    remote, local = (_address(values, keys) for keys in (layout.remote, layout.local))
    if remote is None or remote.is_multicast or any(values.get(layout.encapsulated, b"")):
        return Tunnel(kind, link=link)
    if layout.protocol:
        return Tunnel(kind, "other", layout.protocol, (Peer(remote),), local, link)
    port = int.from_bytes(values.get(layout.port, b""), "big")
    return Tunnel(kind, "udp", port, (Peer(remote),), local, link)


def parse_wireguard(messages: list[bytes]) -> Tunnel:
    """What WireGuard says of a device. A peer of many networks goes on in the next message, by its key."""
    port = 0
    ends: dict[bytes, Address] = {}
    kept: set[bytes] = set()
    networks: dict[bytes, list[Network]] = {}
    for message in messages:
        for kind, value in attributes(message):
            if kind == _WG_PORT:
                (port,) = struct.unpack("=H", value)
            for _, each in attributes(value) if kind == _WG_PEERS else ():
                peer = dict(attributes(each))
                key, end = peer.get(_PEER_KEY, b""), _endpoint(peer.get(_PEER_ENDPOINT, b""))
                if end is not None:
                    ends[key] = end
                if any(peer.get(_PEER_KEEPALIVE, b"")):
                    kept.add(key)
                networks.setdefault(key, []).extend(_networks(peer.get(_PEER_NETWORKS, b"")))
    peers = tuple(Peer(end, tuple(networks[key]), key in kept) for key, end in ends.items())
    return Tunnel("wireguard", "udp", port, peers)


def _wireguard(name: str) -> Tunnel:
    try:
        head = _GENERIC_HEAD.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, "wireguard")
        answer = next(_ask(_NETLINK_GENERIC, _CONTROLLER, 0, head))
        (family,) = struct.unpack("=H", dict(attributes(answer[_GENERIC_HEAD.size :]))[_FAMILY_ID])
        head = _GENERIC_HEAD.pack(0, 1, 0) + attribute(_WG_NAME, name)
        return parse_wireguard(
            [each[_GENERIC_HEAD.size :] for each in _ask(_NETLINK_GENERIC, family, _NLM_F_DUMP, head)]
        )
    except (OSError, StopIteration, KeyError):  # it is gone, or is not for us to read
        return Tunnel("wireguard")


def _endpoint(data: bytes) -> Address | None:
    """sockaddr_in, sockaddr_in6."""
    if len(data) < 16:
        return None
    (family,) = struct.unpack_from("=H", data)
    return ipaddress.ip_address(data[4:8] if family == socket.AF_INET else data[8:24])


def _networks(data: bytes) -> Iterator[Network]:
    for _, each in attributes(data):
        values = dict(attributes(each))
        yield ipaddress.ip_network((values[_NET_ADDRESS], values[_NET_PREFIX][0]), strict=False)


def _address(values: dict[int, bytes], keys: tuple[int, ...]) -> Address | None:
    raw = next((values[key] for key in keys if any(values.get(key, b""))), b"")
    return ipaddress.ip_address(raw) if len(raw) in {4, 16} else None


def _link(values: dict[int, bytes], key: int, names: dict[int, str]) -> str:
    return names.get(struct.unpack("=I", values[key])[0], "") if key and key in values else ""


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _ask(family: int, message: int, how: int, body: bytes) -> Iterator[bytes]:
    """What follows the header of each answer. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as link:
        link.send(_HEAD.pack(_HEAD.size + len(body), message, _NLM_F_REQUEST | how, 1, 0) + body)
        while True:
            answer, at = link.recv(1 << 18), 0
            while at + _HEAD.size <= len(answer):
                length, kind, *_ = _HEAD.unpack_from(answer, at)
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, at + _HEAD.size)[0], "netlink refuses")
                if kind == _NLMSG_DONE:
                    return
                yield answer[at + _HEAD.size : at + length]
                at += (length + 3) & ~3
            if not how:
                return
