"""Whether our table is still the one that was loaded, asked of the kernel without printing it.

nft needs half a second to print a table of 10,000 addresses; a netlink dump of it takes a hundredth of
that. The fingerprint covers the table's flags, chains, rules, sets and their elements, with the kernel's
handles, and no packet changes it: counters and the generation number are left out.

The kernel counts the transactions on a namespace's ruleset. While that count stands still, nothing has
changed and a fingerprint that was taken before is given again.
"""

from __future__ import annotations

import errno

from tsstack.parts.firewall.counters import flags_of_table
from tsstack.system.nfnetlink import ACKNOWLEDGE, Link, ask, attribute, attributes, dump, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENT, _GET_GENERATION = 4, 7, 10, 13, 16
_GENERATION_ID = 1  # NFTA_GEN_ID
_ATTEMPTS = 10
# In all four messages attribute 1 is the table's name; of a set attribute 2, of an element list too.
_TABLE, _SET_NAME, _ELEMENTS = 1, 2, 3
_SET_FLAGS, _INTERVAL = 3, 0x4  # an interval set is a tree, which the kernel dumps in its order


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


def moment_of(table: str) -> str | None:
    """When the fingerprint that was last given for the table was taken: the namespace and its transactions.

    None when that is not known. While `present_moment` says the same, nothing has changed.
    """
    known = _known.get(table)
    return None if known is None or known[1] is None else b"".join(known[0]).hex()


def present_moment() -> str | None:
    """The same of now, in a tenth of the time of a fingerprint. Raises OSError."""
    with Link() as link:
        moment = _moment(link)
    return None if moment is None else b"".join(moment).hex()


def _read(table: str) -> str | None:
    with Link() as link:
        before = _moment(link)
        if before is not None and table in _known and _known[table][0] == before:
            return _known[table][1]
        digest = _digest(link, table)
        if before is not None and _moment(link) == before:
            _known[table] = (before, digest)
    return digest


def _moment(link: Link) -> _Moment | None:
    """None where the kernel is too old to tell one namespace from another."""
    try:
        namespace = link.cookie()
    except OSError:
        return None
    generation = [dict(attributes(payload)) for payload in ask(link, _GET_GENERATION, b"", ACKNOWLEDGE)]
    return namespace, generation[0][_GENERATION_ID]


def _digest(link: Link, table: str) -> str | None:
    import hashlib  # loads OpenSSL: not for those who see by the moment that nothing has changed

    digest = hashlib.sha256()
    name = attribute(_TABLE, table)
    flags = flags_of_table(link, table)
    if flags is None:
        return None
    if flags:  # ours has none when it is loaded; without any the digest is that of earlier versions
        digest.update(flags.to_bytes(4))
    sets = []
    for message in (_GET_CHAIN, _GET_RULE, _GET_SET):
        for payload in dump(link, message, name):
            if text_of(payload, _TABLE) != table:
                continue
            digest.update(payload)
            if message == _GET_SET:
                of_set = int.from_bytes(dict(attributes(payload)).get(_SET_FLAGS, b""))
                sets.append((text_of(payload, _SET_NAME), bool(of_set & _INTERVAL)))
    for known, is_sorted in sets:
        digest.update(known.encode() + b"\0")
        # How many elements come in one message is the kernel's choice, so only they are taken.
        lists = _lists(dump(link, _GET_ELEMENT, name + attribute(_SET_NAME, known)))
        for piece in lists if is_sorted else sorted(_elements(lists)):
            digest.update(piece)
    return digest.hexdigest()


def _lists(payloads: Iterable[bytes]) -> Iterator[bytes]:
    """The lists of elements in the messages of one set."""
    for payload in payloads:
        yield from (data for kind, data in attributes(payload) if kind == _ELEMENTS)


def _elements(lists: Iterable[bytes]) -> set[bytes]:
    """The elements of a hash set. It grows in the background: its order changes, one may come twice."""
    return {element for data in lists for _, element in attributes(data)}
