"""The values of our table's counters, asked of the kernel by netlink. They start anew with each load."""

from __future__ import annotations

from tsstack.system.nfnetlink import Link, attribute, attributes, dump, text_of

TABLE = "tsstack"
_GET_TABLE, _GET_OBJECT = 1, 19  # linux/netfilter/nf_tables.h: NFT_MSG_*
_TABLE, _NAME, _DATA = 1, 2, 4  # NFTA_OBJ_*
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


def _read(table: str) -> dict[str, tuple[int, int]] | None:
    found = {}
    with Link() as link:
        if table not in [text_of(payload, _TABLE) for payload in dump(link, _GET_TABLE, b"")]:
            return None
        for payload in dump(link, _GET_OBJECT, attribute(_TABLE, table)):
            if text_of(payload, _TABLE) != table:
                continue
            fields = dict(attributes(payload))
            values = dict(attributes(fields.get(_DATA, b"")))
            name = fields.get(_NAME, b"").rstrip(b"\0").decode()
            found[name] = (int.from_bytes(values.get(_PACKETS, b"")), int.from_bytes(values.get(_BYTES, b"")))
    return found
