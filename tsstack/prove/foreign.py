"""Tables of other owners in the world, as Docker or tailscaled have them: ours must work beside them. Pure.

They publish ports (DNAT) and mark packets, and must be there untouched once ours is loaded. A table of our
own name is there as well, that refuses everything: loading must replace it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tsstack.model.names import Address

NAME = "inet elsewhere"
PUBLISHED_PORT = 7777
"""What every port of a published address leads to, at its place."""

_MARKED_DSCP = 0x38  # frames.MARKED_CLASS without its last two bits
_MARK = "0x40000"  # tailscaled's, KB 1337: no rule of ours may mind it
_STALE = "table inet tsstack { chain stale { type filter hook input priority -10; policy drop; }; }"


def write_tables(published: Iterable[tuple[Address, Address, int]]) -> str:
    """The nft commands. `published` are addresses of this host, and the place and port that each leads to."""
    lines = []
    for public, place, port in published:
        family, end = ("ip", f"{place}") if public.version == 4 else ("ip6", f"[{place}]")
        lines.append(f"{family} daddr {public} meta l4proto {{ 6, 17 }} dnat {family} to {end}:{port};")
    marks = f"ip dscp {_MARKED_DSCP} meta mark set {_MARK}; ip6 dscp {_MARKED_DSCP} meta mark set {_MARK};"
    return (
        f"table {NAME} {{ chain published {{ type nat hook prerouting priority -100; {' '.join(lines)} }};"
        f" chain marks {{ type filter hook prerouting priority -150; {marks} }}; }}; {_STALE}"
    )
