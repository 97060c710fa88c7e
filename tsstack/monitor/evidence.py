"""What is measured through tailscaled speaks of the paths only while tailscaled itself works."""

from __future__ import annotations

from math import inf

from tsstack.monitor.book import Book
from tsstack.monitor.sample import Sample
from tsstack.monitor.settings import TUNNEL
from tsstack.monitor.tailscaled import Tailscaled

SETTLED_S = 6.0
"""So long after its start it may not reach its peers: a first handshake that is lost is repeated after 5 s
(REKEY_TIMEOUT of WireGuard)."""
_ANSWERED_S = 1.5  # an answer of tailscaled shows for so long that it does not hang


class Evidence:
    """Knows since when tailscaled can be heard. Times: CLOCK_BOOTTIME, seconds."""

    def __init__(self, tailscaled: Tailscaled, book: Book) -> None:
        self.blind_until_s = inf
        """What was sent through tailscaled before this says nothing: it was silent."""
        self._tailscaled = tailscaled
        self._book = book

    def turned(self, now_s: float) -> bool:
        """Whether tailscaled fell silent, or answers again; then what went through it is judged afresh."""
        silent = self._tailscaled.seen.actual is None
        if silent == (self.blind_until_s == inf):
            return False
        self.blind_until_s = inf if silent else now_s
        self._book.renew(key for key in self._book.entries if self._leads_through_it(key))
        return True

    def is_blind(self, sample: Sample) -> bool:
        """Whether it was sent through a tailscaled that was silent."""
        return sample.sent_s < self.blind_until_s and self._leads_through_it(sample.path)

    def answers(self, now_s: float) -> bool:
        """Whether tailscaled has just answered."""
        return now_s - self._tailscaled.answered_s <= _ANSWERED_S

    def is_settled(self, now_s: float) -> bool:
        """Whether it has told its peers for a moment."""
        told_s = self._tailscaled.seen.told_s
        return told_s is not None and now_s - told_s >= SETTLED_S

    def waits(self, key: str, now_s: float) -> bool:
        """Whether nothing may be said against this path before it is known that tailscaled works."""
        return self._leads_through_it(key) and not (self.answers(now_s) and self.is_settled(now_s))

    def _leads_through_it(self, key: str) -> bool:
        entry = self._book.entries.get(key)
        return key.startswith("exit:") or (entry is not None and entry.path.interface == TUNNEL)
