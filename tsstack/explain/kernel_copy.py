"""A copy of a whole ruleset, every owner's tables, from one network namespace into another.

As the kernel has it, by nfnetlink, not as nft prints it: so what iptables-nft loaded (`xt match ...`), which
nft lists but cannot load, is copied too. Reading changes nothing. Numbers are those of
linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tsstack.errors import CheckFailed
from tsstack.explain import netlink

NFNETLINK = 12
_SUBSYSTEM = 10 << 8
_BEGIN, _END = 0x10, 0x11
_GET_GENERATION = 16
_INET = 1
_TABLE_DORMANT = 0x1
_SET_INTERVAL_END = 1
_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of object: the messages that list and make it, and its attributes that are not copied."""

    what: str
    get: int
    new: int
    left_out: frozenset[int]
    """Handles and counts of uses, which the kernel gives out itself, and flags of bindings."""


# In the order in which they must be made: elements of maps name chains and objects, rules name all.
_KINDS = (
    _Kind("table", 1, 0, frozenset({2, 3, 4, 7})),
    _Kind("chain", 4, 3, frozenset({2, 6, 10, 11})),
    _Kind("object", 19, 18, frozenset({5, 6})),
    _Kind("flowtable", 23, 22, frozenset({4, 5})),
    _Kind("set", 10, 9, frozenset({10, 16, 19, 20})),
    _Kind("element", 13, 12, frozenset()),
    _Kind("rule", 7, 6, frozenset({3, 6, 8, 9})),
)
_FLAGS_OF_TABLE, _SET_ID = 2, 10
_ELEMENTS, _ELEMENT_KEY, _ELEMENT_FLAGS = 3, 1, 3
_KEY_VALUE = 1


@dataclass(frozen=True, slots=True)
class Copy:
    """A ruleset as messages that make it: (message number, whether it appends, body)."""

    entries: tuple[tuple[int, bytes], ...]

    def dump(self) -> list[tuple[int, str]]:
        """As JSON can carry it."""
        return [(new, base64.b64encode(body).decode()) for new, body in self.entries]

    @classmethod
    def load(cls, dumped: Iterable[tuple[int, str]]) -> Copy:
        """What `dump` gave."""
        return cls(tuple((new, base64.b64decode(body)) for new, body in dumped))


def read_ruleset() -> Copy:
    """The ruleset of this namespace. Changes nothing.

    Raises CheckFailed without the rights (CAP_NET_ADMIN), or when it does not stand still.
    """
    for _ in range(_TRIES):
        try:
            with _open() as link:
                before = _generation(link)
                entries = tuple(_read(link))
                if _generation(link) == before:
                    return Copy(entries)
        except netlink.Interrupted:
            continue
        except OSError as error:
            if error.errno in {errno.EPERM, errno.EACCES}:
                raise CheckFailed(
                    "the live ruleset cannot be read without root", hint="run it with sudo; it only reads"
                ) from error
            raise CheckFailed(f"the live ruleset cannot be read: {error.strerror}") from error
    raise CheckFailed("the live ruleset changes all the time: no copy of it can be made", hint="try again")


def load_ruleset(copy: Copy) -> None:
    """Make the ruleset in this namespace, in one transaction. Raises OSError; its file name says of what."""
    if not copy.entries:
        return
    head = struct.pack("!BBH", socket.AF_UNSPEC, 0, 10)
    batch = [netlink.pack(_BEGIN, netlink.NLM_F_REQUEST, 0, head)]
    makers = {kind.new: kind for kind in _KINDS}
    for sequence, (new, body) in enumerate(copy.entries, 1):
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE
        flags |= netlink.NLM_F_APPEND if makers[new].what == "rule" else 0
        flags |= netlink.NLM_F_ACK if sequence == len(copy.entries) else 0
        batch.append(netlink.pack(_SUBSYSTEM | new, flags, sequence, body))
    batch.append(netlink.pack(_END, netlink.NLM_F_REQUEST, 0, head))
    whole = b"".join(batch)
    with _open(len(whole)) as link:
        link.send(whole)
        try:
            list(netlink.messages(link.recv(1 << 20)))
        except OSError as error:
            new, body = copy.entries[int(error.filename) - 1] if error.filename else copy.entries[0]
            raise OSError(error.errno, error.strerror, f"{makers[new].what} {_names(body)}") from error


def _open(size: int = 0) -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NFNETLINK)
    link.bind((0, 0))
    link.settimeout(10.0)
    if size:
        _widen(link, size)
    return link


def _widen(link: socket.socket, size: int) -> None:
    so_sndbufforce = 32
    try:
        link.setsockopt(socket.SOL_SOCKET, so_sndbufforce, 2 * size + 65536)
    except PermissionError:  # root of a user namespace alone: what the machine allows
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size + 65536)


def _generation(link: socket.socket) -> bytes:
    """Changes with every change of any table (NFT_MSG_GETGEN)."""
    answers = netlink.ask(link, _SUBSYSTEM | _GET_GENERATION, struct.pack("!BBH", 0, 0, 0), listing=False)
    return netlink.by_kind(answers[0][1][4:]).get(1, b"")


def _read(link: socket.socket) -> Iterable[tuple[int, bytes]]:
    sets: list[bytes] = []
    for kind in _KINDS:
        if kind.what == "element":
            for body in sets:
                yield from _elements(link, kind, body)
            continue
        for _, body in _ask_all(link, kind):
            if kind.what == "set":
                sets.append(body)
                made = _without(body, kind.left_out) + netlink.attribute(
                    _SET_ID, struct.pack("!I", len(sets))
                )
            else:
                made = _without(body, kind.left_out)
            if kind.what == "table" and _is_dormant(body):
                made += netlink.attribute(_FLAGS_OF_TABLE, struct.pack("!I", _TABLE_DORMANT))
            yield kind.new, made


def _ask_all(link: socket.socket, kind: _Kind, body: bytes = b"") -> list[tuple[int, bytes]]:
    head = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
    try:
        return netlink.ask(link, _SUBSYSTEM | kind.get, body or head, listing=True)
    except OSError as error:
        # A kernel without flow tables or objects does not know the question.
        if kind.what in {"flowtable", "object"} and error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
            return []
        raise


def _is_dormant(body: bytes) -> bool:
    flags = netlink.by_kind(body[4:]).get(_FLAGS_OF_TABLE, bytes(4))
    return bool(int.from_bytes(flags) & _TABLE_DORMANT)


def _elements(link: socket.socket, kind: _Kind, of_set: bytes) -> Iterable[tuple[int, bytes]]:
    """The elements of one set, in messages of a size that an attribute can have.

    The lowest first, as nft sends them: a tree of intervals is listed from its end.
    """
    values = netlink.by_kind(of_set[4:])
    named = netlink.attribute(1, values[1]) + netlink.attribute(2, values[2])
    found: list[bytes] = []
    for _, body in _ask_all(link, kind, of_set[:4] + named):
        listed = netlink.by_kind(body[4:]).get(_ELEMENTS, b"")
        found += [value for _, value in netlink.attributes(listed)]
    found.sort(key=_element_order)
    piece: list[bytes] = []
    size = 0
    for element in found:
        if size + len(element) > 32000:
            yield kind.new, of_set[:4] + named + _nested(piece)
            piece, size = [], 0
        piece.append(netlink.attribute(0x8001, element))
        size += len(element) + 4
    if piece:
        yield kind.new, of_set[:4] + named + _nested(piece)


def _nested(elements: list[bytes]) -> bytes:
    return netlink.attribute(0x8000 | _ELEMENTS, b"".join(elements))


def _element_order(element: bytes) -> tuple[bytes, bool]:
    values = netlink.by_kind(element)
    key = netlink.by_kind(values.get(_ELEMENT_KEY, b"")).get(_KEY_VALUE, b"")
    ends = int.from_bytes(values.get(_ELEMENT_FLAGS, b"")) & _SET_INTERVAL_END
    return key, not ends


def _without(body: bytes, left_out: frozenset[int]) -> bytes:
    """A message's body (family, version, resource, then attributes) without some of its attributes."""
    family = struct.pack("!BBH", body[0], 0, 0)
    kept = [
        netlink.attribute(k, value) for k, value in netlink.attributes(body[4:]) if k & 0x3FFF not in left_out
    ]
    return family + b"".join(kept)


def _names(body: bytes) -> str:
    """What a message speaks of, for people: `ip filter FORWARD`."""
    values = netlink.by_kind(body[4:])
    family = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6", 3: "arp"}.get(body[0], str(body[0]))
    words = [values[kind].rstrip(b"\0").decode(errors="replace") for kind in (1, 2) if kind in values]
    return " ".join([family, *words])


def strerror(error: OSError) -> str:
    """An error of `load_ruleset` in words."""
    return f"{error.filename}: {error.strerror or os.strerror(error.errno or 0)}"
