"""The search for the largest packet that passes: which size to try next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log

TAILNET_DEFAULT = 1280
"""The MTU of tailscaled's interface if nothing else is set: the least of IPv6 (RFC 8200 section 5), so
that it fits into any path. Tailscale, net/tstun/mtu.go, safeTUNMTU."""
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""What WireGuard adds to a packet, by the family that carries it: IP and UDP headers, 16 bytes of its own and
the tag of 16 (net/tstun/mtu.go, wgHeaderLen, which is the one of IPv6)."""
LEAST = {4: 576, 6: 1280}
"""What any path carries: RFC 1122 section 3.3.3 and RFC 8200 section 5."""

LEAST_TRIES, MOST_TRIES = 3, 16
_BY_CHANCE = 1e-4
"""How often at most all tries of a size that passes may get lost."""


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search."""

    size_bytes: int | None
    """The largest packet that passes, IP header included; None when not even the smallest did."""
    certain: bool = True
    """False where so much gets lost that a size may have failed by chance."""


def tries_for(sent: int, lost: int) -> tuple[int, bool]:
    """How often to try each size on a way that lost so many small echoes, and whether that is often enough.

    A few echoes tell a share of loss roughly, so one more of each kind is added (Laplace's rule).
    """
    if not sent:
        return LEAST_TRIES, True
    share = (lost + 1) / (sent + 2)
    needed = ceil(log(_BY_CHANCE) / log(share)) if share < 1 else MOST_TRIES + 1
    return min(MOST_TRIES, max(LEAST_TRIES, needed)), needed <= MOST_TRIES


@dataclass(frozen=True, slots=True)
class Search:
    """What is known of a path so far. `ceiling` is tried first: mostly it passes, and that is all."""

    floor: int
    ceiling: int
    passed: int = 0
    """The largest that came through; 0: none yet."""
    failed: int = 0
    """The smallest that did not; 0: none yet."""

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.ceiling:
            raise ValueError(f"no packet has {self.floor} to {self.ceiling} bytes")

    def next_size(self) -> int | None:
        """The size to try; None when the search is over."""
        if not self.failed:
            return None if self.passed else self.ceiling
        if not self.passed:
            return self.floor if self.failed > self.floor else None
        return (self.passed + self.failed) // 2 if self.failed - self.passed > 1 else None

    def after(self, size: int, passed: bool) -> Search:
        """The search after `size` was tried. An answer that contradicts an earlier one changes nothing."""
        if passed:
            contradicts = self.failed and size >= self.failed
            return self if contradicts else replace(self, passed=max(self.passed, size))
        contradicts = size <= self.passed
        return self if contradicts else replace(self, failed=min(self.failed or size, size))

    @property
    def found(self) -> int | None:
        """The largest packet that passes, IP header included; None when not even the smallest did."""
        return self.passed or None


def fits_tailnet(underlay_bytes: int, family: int, tailnet_bytes: int = TAILNET_DEFAULT) -> bool:
    """Whether a full packet of the tailnet passes the underlay in one piece."""
    return underlay_bytes >= tailnet_bytes + WIREGUARD_OVERHEAD[family]
