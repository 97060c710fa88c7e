"""Whether what leaves goes past the exit node in use: the monitor's own look at the kernel.

What it measures through the exit node is bound to tailscale0, and so is well whatever else leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.tailscaled import Seen
from tsstack.monitor.troubles import Troubles
from tsstack.system.bypass import Bypass, in_words, read_bypass, way_back

ABOUT = "past the exit node"
SETTLES_S = 15.0
"""tailscaled sets its routes a moment after it has come up."""


def look_once(addresses: Sequence[str]) -> list[Bypass]:
    """What is so at this moment: the event loop waits for nothing."""
    return read_bypass(addresses, wait=lambda _: None)


class PastExit:
    """Looks once in an interval; what two looks in succession show is a trouble, which the next may end."""

    def __init__(
        self, troubles: Troubles, look: Callable[[Sequence[str]], list[Bypass]] | None = None
    ) -> None:
        self._troubles = troubles
        self._look = look or look_once
        self._looked_s = float("-inf")
        self._doubted = False

    def turn(self, seen: Seen, now_s: float, interval_s: float, *, still: bool) -> None:
        """`still`: neither the monitor nor a switch changes anything now."""
        if seen.actual in {None, DIRECT} or seen.told_s is None:
            self._doubted = False
            self._troubles.end(ABOUT)
        elif not still or now_s - seen.told_s < SETTLES_S:
            self._doubted = False
        elif now_s - self._looked_s >= interval_s:
            self._looked_s = now_s
            self._judge(self._look(seen.addresses))

    def _judge(self, found: list[Bypass]) -> None:
        if found and self._doubted:
            self._troubles.begin(ABOUT, f"{in_words(found)}, past the exit node in use", way_back(found))
        elif not found:
            self._troubles.end(ABOUT)
        self._doubted = bool(found)
