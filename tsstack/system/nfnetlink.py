"""Asking the kernel's packet filter by netlink, object by object, without libnftables.

Source: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, netlink(7). Reading needs CAP_NET_ADMIN.

`ts-status` passes through here: what `socket` adds to `_socket` would cost it a tenth of its time.
"""

from __future__ import annotations

import _socket
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the objects changed during the dump
ACKNOWLEDGE, DUMP = 0x4, 0x300
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_REQUEST = 0x1
_ERROR, _DONE = 2, 3
_INET = 1  # NFPROTO_INET
_HEADER = struct.Struct("=IHHII")
_GENERIC_SIZE = 4  # struct nfgenmsg, which holds the generation number
_RECEIVE_BYTES = 1 << 18
_TIMEOUT_S = 10
_SO_NETNS_COOKIE = 71  # socket(7)


class Link:
    """A socket to the packet filter of the network namespace that it was opened in. A context manager.

    Raises OSError when there is none to be had.
    """

    def __init__(self) -> None:
        self.socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _NETLINK_NETFILTER)
        self.socket.settimeout(_TIMEOUT_S)
        self.socket.bind((0, 0))

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        part_from(self.socket.detach())

    def cookie(self) -> bytes:
        """A number that no other network namespace ever gets. OSError where the kernel is older than 5.14."""
        return self.socket.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


_parting: list[int] = []
_MOST_PARTING = 8
# A fork that closes what it inherits may have given their numbers to something else by then.
os.register_at_fork(after_in_child=_parting.clear)


def part_from(descriptor: int) -> None:
    """Close a netfilter socket some sockets later, or when this process ends.

    The kernel holds up whoever closes one until the tables that were replaced are destroyed, and of those
    an RCU grace period has to pass (nf_tables_api.c: nft_rcv_nl_event): 30 ms of every change of the rules.
    Until it is closed it holds its network namespace.
    """
    _parting.append(descriptor)
    if len(_parting) > _MOST_PARTING:
        os.close(_parting.pop(0))


def attribute(kind: int, text: str) -> bytes:
    """A text as an attribute, padded to 4 bytes."""
    data = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each attribute (netlink(7): length, type, content, padded to 4 bytes)."""
    at = 0
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        yield kind & 0x3FFF, payload[at + 4 : at + length]
        at += max(length + 3 & ~3, 4)


def text_of(payload: bytes, kind: int) -> str:
    """The text of the first attribute of a kind; empty without one."""
    return next((data.rstrip(b"\0").decode() for found, data in attributes(payload) if found == kind), "")


def dump(link: Link, message: int, asked: bytes) -> Iterator[bytes]:
    """The attributes of every object of a kind. To be read to the end.

    Raises InterruptedError when the ruleset changed meanwhile, OSError for what the kernel refuses.
    """
    return ask(link, message, asked, DUMP)


def ask(link: Link, message: int, asked: bytes, how: int) -> Iterator[bytes]:
    """The attributes of each object that the kernel answers with. To be read to the end. Raises as `dump`."""
    body = struct.pack("=BBH", _INET, 0, 0) + asked
    link.socket.send(
        _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | message, _REQUEST | how, message, 0) + body
    )
    interrupted = False
    while True:
        data = link.socket.recv(_RECEIVE_BYTES)
        at = 0
        while at < len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
            interrupted = interrupted or bool(flags & INTERRUPTED)
            if kind == _DONE:
                if interrupted:
                    raise InterruptedError
                return
            if kind == _ERROR:
                (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
                if code == 0:  # an acknowledgement: this was all
                    return
                raise OSError(-code, os.strerror(-code))
            if kind >> 8 == _SUBSYSTEM >> 8:
                yield data[at + _HEADER.size + _GENERIC_SIZE : at + length]
            at += length + 3 & ~3
