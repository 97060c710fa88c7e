"""The values of our table's counters, asked of the kernel by netlink. They start anew with each load."""

from __future__ import annotations

from tsstack.system.nfnetlink import Link, attribute, attributes, dump, text_of

TABLE = "tsstack"
_GET_TABLE, _GET_OBJECT = 1, 19  # linux/netfilter/nf_tables.h: NFT_MSG_*
_TABLE, _NAME, _DATA = 1, 2, 4  # NFTA_OBJ_*
_TABLE_FLAGS, _DORMANT = 2, 0x1  # NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*, both 64 bits in network order
_ATTEMPTS = 10


def read_counters(table: str = TABLE) -> dict[str, tuple[int, int]] | None:
    """Packets and bytes of each named counter of an inet table; None when there is no such table.

    Raises OSError (PermissionError without CAP_NET_ADMIN).
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _read(table)
        except InterruptedError:
            continue
    return _read(table)


def flags_of_table(link: Link, table: str) -> int | None:
    """The flags of an inet table: dormant, owner, persist (nft(8), TABLES); None when there is no such table.

    Raises OSError; InterruptedError when tables came or went meanwhile.
    """
    found = None
    for payload in dump(link, _GET_TABLE, b""):
        if text_of(payload, _TABLE) == table:
            found = int.from_bytes(dict(attributes(payload)).get(_TABLE_FLAGS, b""))
    return found


def is_dormant(table: str = TABLE) -> bool:
    """Whether an inet table is there and switched off: none of its chains is asked. Raises OSError."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _is_off(table)
        except InterruptedError:
            continue
    return _is_off(table)


def _is_off(table: str) -> bool:
    with Link() as link:
        return bool((flags_of_table(link, table) or 0) & _DORMANT)


def _read(table: str) -> dict[str, tuple[int, int]] | None:
    found = {}
    with Link() as link:
        if flags_of_table(link, table) is None:
            return None
        for payload in dump(link, _GET_OBJECT, attribute(_TABLE, table)):
            if text_of(payload, _TABLE) != table:
                continue
            fields = dict(attributes(payload))
            values = dict(attributes(fields.get(_DATA, b"")))
            name = fields.get(_NAME, b"").rstrip(b"\0").decode()
            found[name] = (int.from_bytes(values.get(_PACKETS, b"")), int.from_bytes(values.get(_BYTES, b"")))
    return found
