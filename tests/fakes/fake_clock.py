"""A clock that a test sets."""

from __future__ import annotations


class FakeClock:
    """Wall clock and boot clock, moved by hand; sleeping moves both."""

    def __init__(self, unix_s: float = 1_800_000_000.0, now_s: float = 1000.0) -> None:
        self.wall = unix_s
        self.steady = now_s

    def now_s(self) -> float:
        return self.steady

    def unix_s(self) -> float:
        return self.wall

    def sleep(self, duration_s: float) -> None:
        self.wall += duration_s
        self.steady += duration_s
