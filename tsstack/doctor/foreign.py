"""Firewalls of others, which have the last word: a drop anywhere is final (nft(8)). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsstack.doctor.finding import Finding
from tsstack.parts.firewall.foreign import ForeignDrop

_OURS_CLOSES = "table inet tsstack closes what the file does not open"


def check_foreign(drops: Sequence[ForeignDrop] | None) -> Iterator[Finding]:
    """None: nobody asked, since tsstack has no table here or this is not root."""
    if drops is None:
        return
    for drop in drops:
        chain = f"{drop.family} {drop.table} {drop.chain}"
        if drop.hook == "forward" and drop.chain == "FORWARD" and drop.reason == "policy drop":
            fix = f"nft list chain {chain}; iptables -I DOCKER-USER -i tailscale0 -j ACCEPT"
        elif drop.reason == "policy drop":
            fix = f"nft chain {chain} '{{ policy accept; }}'    # {_OURS_CLOSES}; or switch that firewall off"
        else:
            fix = f"nft -a list chain {chain}    # nft delete rule {chain} handle N: {_OURS_CLOSES}"
        yield Finding("TS864", "warning", f"{drop.family} {drop.table}", str(drop), fix)
    if not drops:
        yield Finding("TS864", "ok", "others", "no chain of another owner drops what the zones open")
