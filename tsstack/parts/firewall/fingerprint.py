"""Whether our table is still the one that was loaded, asked of the kernel without printing it.

nft needs half a second to print a table of 10,000 addresses; a netlink dump of it takes a hundredth of
that. The fingerprint covers chains, rules, sets and their elements, with the kernel's handles, and no
packet changes it: counters and the generation number are left out. Source: linux/netfilter/nf_tables.h,
linux/netfilter/nfnetlink.h, netlink(7).

The kernel counts the transactions on a namespace's ruleset. While that count stands still, nothing has
changed and a fingerprint that was taken before is given again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENT, _GET_GENERATION = 1, 4, 7, 10, 13, 16
_GENERATION_ID = 1  # NFTA_GEN_ID
_SO_NETNS_COOKIE = 71  # socket(7), Linux 5.14: a number that no other namespace ever gets
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the objects changed during the dump
_ATTEMPTS = 10
_INET = 1  # NFPROTO_INET
_HEADER = struct.Struct("=IHHII")
_GENERIC_SIZE = 4  # struct nfgenmsg, which holds the generation number
_RECEIVE_BYTES = 1 << 18
# In all five messages attribute 1 is the table's name; of a set attribute 2, of an element list too.
_TABLE, _SET_NAME, _ELEMENTS = 1, 2, 3
_SET_FLAGS, _INTERVAL = 3, 0x4  # an interval set is a tree, which the kernel dumps in its order
_TIMEOUT_S = 10


_Moment = tuple[bytes, bytes]
"""A namespace and how many transactions its ruleset has seen."""

_known: dict[str, tuple[_Moment, str | None]] = {}
"""Of each table the last fingerprint that was taken, and when."""


def fingerprint(table: str) -> str | None:
    """A digest of an inet table of this network namespace, None if there is no such table.

    Raises OSError (PermissionError without root; EAGAIN when others change the ruleset without pause).
    """
    for _ in range(_ATTEMPTS):
        try:
            return _read(table)
        except InterruptedError:
            continue
    raise OSError(errno.EAGAIN, "the ruleset changed again and again while it was read")


def _read(table: str) -> str | None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(_TIMEOUT_S)
        link.bind((0, 0))
        before = _moment(link)
        if before is not None and table in _known and _known[table][0] == before:
            return _known[table][1]
        digest = _digest(link, table)
        if before is not None and _moment(link) == before:
            _known[table] = (before, digest)
    return digest


def _moment(link: socket.socket) -> _Moment | None:
    """None where the kernel is too old to tell one namespace from another."""
    try:
        namespace = link.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
    generation = [dict(_attributes(payload)) for payload in _ask(link, _GET_GENERATION, b"", _ACKNOWLEDGE)]
    return namespace, generation[0][_GENERATION_ID]


def _digest(link: socket.socket, table: str) -> str | None:
    digest = hashlib.sha256()
    name = _attribute(_TABLE, table)
    if table not in [_value(payload, _TABLE) for payload in _dump(link, _GET_TABLE, b"")]:
        return None
    sets = []
    for message in (_GET_CHAIN, _GET_RULE, _GET_SET):
        for payload in _dump(link, message, name):
            if _value(payload, _TABLE) != table:
                continue
            digest.update(payload)
            if message == _GET_SET:
                flags = int.from_bytes(dict(_attributes(payload)).get(_SET_FLAGS, b""))
                sets.append((_value(payload, _SET_NAME), bool(flags & _INTERVAL)))
    for known, is_sorted in sets:
        digest.update(known.encode() + b"\0")
        # How many elements come in one message is the kernel's choice, so only they are taken.
        lists = _lists(_dump(link, _GET_ELEMENT, name + _attribute(_SET_NAME, known)))
        for piece in lists if is_sorted else sorted(_elements(lists)):
            digest.update(piece)
    return digest.hexdigest()


def _attribute(kind: int, text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _lists(payloads: Iterable[bytes]) -> Iterator[bytes]:
    """The lists of elements in the messages of one set."""
    for payload in payloads:
        yield from (data for kind, data in _attributes(payload) if kind == _ELEMENTS)


def _elements(lists: Iterable[bytes]) -> set[bytes]:
    """The elements of a hash set. It grows in the background: its order changes, one may come twice."""
    return {element for data in lists for _, element in _attributes(data)}


def _attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each attribute (netlink(7): length, type, content, padded to 4 bytes)."""
    at = 0
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        yield kind & 0x3FFF, payload[at + 4 : at + length]
        at += max(length + 3 & ~3, 4)


def _value(payload: bytes, kind: int) -> str:
    """The text of the first attribute of a kind."""
    return next((data.rstrip(b"\0").decode() for found, data in _attributes(payload) if found == kind), "")


def _dump(link: socket.socket, message: int, attributes: bytes) -> Iterator[bytes]:
    """The attributes of every object of a kind. To be read to the end."""
    return _ask(link, message, attributes, _DUMP)


def _ask(link: socket.socket, message: int, attributes: bytes, how: int) -> Iterator[bytes]:
    """The attributes of every object that the kernel answers with. To be read to the end."""
    body = struct.pack("=BBH", _INET, 0, 0) + attributes
    link.send(_HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | message, _REQUEST | how, message, 0) + body)
    interrupted = False
    while True:
        data = link.recv(_RECEIVE_BYTES)
        at = 0
        while at < len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
            interrupted = interrupted or bool(flags & _INTERRUPTED)
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
