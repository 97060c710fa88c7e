"""Kernels that are known to slow a tailnet down or to break it. Pure.

Each entry stands with its public source; distributions carry fixes and faults over, so a kernel that is
listed may be mended and one that is not may be hurt: what is said is a hint, no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Kernels from `first` to `last`, both included, and what happens there."""

    first: Version
    last: Version
    what: str
    source: str
    mended: Version | None = None
    """The tailscaled that works around it by itself."""
    with_links: tuple[str, ...] = ()
    """Only where an interface of such a kind exists."""


_TROUBLES = (
    Trouble(
        (0, 0, 0),
        (6, 1, 9999),
        "no UDP segmentation offload on tun devices: less throughput, above all as a subnet router",
        "tailscale.com/kb/1320 (needs Linux 6.2)",
    ),
    Trouble(
        (6, 6, 44),
        (6, 6, 44),
        "tun devices refuse merged packets (`invalid argument` in tailscaled's log): throughput collapses",
        "tailscale/tailscale#13041 (newer kernels are mended, a newer tailscaled looks for it itself)",
    ),
    Trouble(
        (6, 10, 3),
        (6, 10, 3),
        "tun devices refuse merged packets (`invalid argument` in tailscaled's log): throughput collapses",
        "tailscale/tailscale#13041 (newer kernels are mended, a newer tailscaled looks for it itself)",
    ),
    Trouble(
        (6, 2, 0),
        (6, 8, 4),
        "merged UDP packets on their way into a vxlan or geneve interface get lost",
        "tailscale/wireguard-go, tun/tun.go (fixed in 6.8.5)",
        with_links=("vxlan", "geneve"),
    ),
    Trouble(
        (7, 0, 0),
        (7, 1, 4),
        "UDP segmentation offload sends damaged packets with some network cards: heavy loss one way",
        "tailscale/tailscale#19777 (fixed in 7.1.5)",
        mended=(1, 100, 0),
    ),
)


def version_of(release: str) -> Version | None:
    """`6.1.0-28-amd64` or `1.102.3-t1a2b` as numbers; None for what is no version."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", release)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def troubles(release: str, tailscaled: str = "", links: Collection[str] = ()) -> tuple[str, ...]:
    """What is known of this kernel, in words, each with its source.

    `tailscaled` is its version: trouble that it works around is not told. `links` are the kinds of the host's
    interfaces.
    """
    kernel, daemon = version_of(release), version_of(tailscaled)
    if kernel is None:
        return ()
    return tuple(
        f"{each.what}; {each.source}"
        for each in _TROUBLES
        if each.first <= kernel <= each.last
        and not (each.mended and daemon and daemon >= each.mended)
        and (not each.with_links or set(each.with_links) & set(links))
    )
