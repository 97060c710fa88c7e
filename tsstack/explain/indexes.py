"""Which index each interface of the copied host has: its own, since rules may ask for it. Pure.

nftables keeps `iif "eth0"` as a number, and nft prints the name of what has that number by then. An interface
that has vanished leaves its number behind in the rules. Numbers of attributes and keys are those of
linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from tsstack.explain.netlink import attributes, by_kind

if TYPE_CHECKING:
    from tsstack.explain.kernel_copy import Copy

_NEW_RULE = 6
_EXPRESSIONS, _NAME, _DATA = 4, 1, 2
_META_KEY, _META_INDEXES = 2, frozenset({4, 5, 33})  # iif, oif, sdif
_FIB_RESULT, _FIB_FLAGS, _FIB_OIF, _FIB_PRESENT = 2, 3, 1, 0x20
_COMPARED, _VALUE = 3, 1
_END = 1 << 31

_Expression = tuple[str, Mapping[int, bytes]]


def choose(names: Sequence[str], live: Mapping[str, int], own: Collection[int], copy: Copy) -> list[int]:
    """An index for each of `names`, which no two share: the live one's, as far as that can be had.

    `own` are those that the kernel has given out in the copy's network before. What is not on the live host
    gets a number that no rule asks for: above all others, as if it came now.
    """
    taken = {*own, *live.values()}
    top = max(taken, default=1)
    free = (
        each
        for each in chain(range(top + 1, _END), range(2, top))
        if each not in taken and not _occurs(copy, each)
    )
    return [live[name] if name in live and live[name] not in own else next(free) for name in names]


def asks_for(copy: Copy, indexes: Collection[int]) -> bool:
    """Whether a rule may ask for one of these: it does, or looks an index up, or reckons with it."""
    return any(
        _may_ask(expression, following, indexes)
        for new, body in copy.entries
        if new == _NEW_RULE
        for expression, following in pairwise([*_expressions(body), ("", {})])
    )


def _occurs(copy: Copy, index: int) -> bool:
    packed = struct.pack("=I", index)
    return any(packed in body for _, body in copy.entries)


def _expressions(rule: bytes) -> Iterator[_Expression]:
    for _, each in attributes(by_kind(rule[4:]).get(_EXPRESSIONS, b"")):
        values = by_kind(each)
        yield values.get(_NAME, b"").rstrip(b"\0").decode(errors="replace"), by_kind(values.get(_DATA, b""))


def _may_ask(expression: _Expression, following: _Expression, indexes: Collection[int]) -> bool:
    if expression[0] in {"dup", "fwd"}:  # to an interface, by a number that may come from anywhere
        return True
    if not _is_index(expression):
        return False
    name, values = following
    if name != "cmp":
        return True
    compared = by_kind(values.get(_COMPARED, b"")).get(_VALUE, b"")
    return int.from_bytes(compared, sys.byteorder) in indexes


def _is_index(expression: _Expression) -> bool:
    name, values = expression
    if name == "meta":
        return _number(values, _META_KEY) in _META_INDEXES
    is_present = _number(values, _FIB_FLAGS) & _FIB_PRESENT  # it asks whether there is one alone
    return name == "fib" and _number(values, _FIB_RESULT) == _FIB_OIF and not is_present


def _number(values: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(values.get(kind, b""))
