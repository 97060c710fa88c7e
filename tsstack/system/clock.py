"""The seam to time, so that tests can inject their own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What code that waits or stamps needs of time."""

    def now_s(self) -> float:
        """Seconds that only grow, counting sleep too (clock_gettime(2): CLOCK_BOOTTIME)."""

    def unix_s(self) -> float:
        """Wall-clock seconds since the epoch, for stamps that people read."""

    def sleep(self, duration_s: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own time."""

    def now_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def unix_s(self) -> float:
        return time.time()

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)
