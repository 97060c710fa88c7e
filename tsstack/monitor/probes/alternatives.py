"""The alternatives of a probe that failed: the path is lost only when none of them answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.notices import is_ours


@dataclass(slots=True)
class Round:
    """All alternatives, asked at once after the one that is usually asked has failed."""

    speaks: Attempt
    """What is told when nobody answers: the failure of the usual one, or why this host could not ask."""
    left: int
    """How many have not ended yet."""
    is_over: bool = False

    def end_one(self, attempt: Attempt) -> Attempt | None:
        """One has ended; returns the attempt that speaks for the path, once, as soon as that is known."""
        self.left -= 1
        if self.is_over:
            return None
        if attempt.error and is_ours(attempt.error):
            self.speaks = attempt  # somebody was not asked: that is no loss
        if attempt.error and self.left:
            return None
        self.is_over = True
        return self.speaks if attempt.error else attempt
