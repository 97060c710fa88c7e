"""Firewalls of others, which have the last word: a drop anywhere is final (nft(8)). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsstack.doctor.finding import Finding
from tsstack.parts.firewall.foreign import ForeignDrop


def check_foreign(drops: Sequence[ForeignDrop] | None) -> Iterator[Finding]:
    """None: nobody asked, since tsstack has no table here or this is not root."""
    if drops is None:
        return
    for drop in drops:
        chain = f"{drop.family} {drop.table} {drop.chain}"
        if drop.hook == "forward" and drop.chain == "FORWARD" and drop.reason == "policy drop":
            fix = f"nft list chain {chain}; iptables -I DOCKER-USER -i tailscale0 -j ACCEPT"
        else:
            fix = f'nft insert rule {chain} iifname "tailscale0" accept    # or switch that firewall off'
        yield Finding("TS864", "warning", f"{drop.family} {drop.table}", str(drop), fix)
    if not drops:
        yield Finding("TS864", "ok", "others", "no chain of another owner drops what the zones open")
