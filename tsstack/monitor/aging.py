"""Whether what is old by the wall clock may go: only by one that agrees with what is known of time. Pure.

A clock may stand anywhere after a start, and stay there while nothing sets it: no battery, no way to a time
server. What a history holds would then be too old, or of a time that has not come.
"""

from __future__ import annotations

APART_S = 86400.0
"""A clock that is farther from the expected time is doubted."""
TRUSTED_S = 7 * 86400.0
"""A doubted clock that ran steadily for so long is believed: nobody is going to set it."""
_STEADY_S = 60.0


class Aging:
    """Follows the wall clock beside the one that only grows. All times in seconds."""

    def __init__(self, unix_s: float, now_s: float) -> None:
        """`unix_s`: the latest time that is known, for example of the newest that an earlier run kept."""
        self._known = (unix_s, now_s)
        self._since: tuple[float, float] | None = None
        """Since when a time runs steadily that is doubted."""

    def believes(self, unix_s: float, now_s: float) -> bool:
        """Whether the wall clock may be right. Asked again and again, as the clock may be set at any time."""
        if abs(unix_s - _after(self._known, now_s)) <= APART_S:
            self._known, self._since = (unix_s, now_s), None
            return True
        if self._since is None or abs(unix_s - _after(self._since, now_s)) > _STEADY_S:
            self._since = (unix_s, now_s)
        if now_s - self._since[1] < TRUSTED_S:
            return False
        self._known, self._since = (unix_s, now_s), None
        return True


def _after(reading: tuple[float, float], now_s: float) -> float:
    """What the wall clock shows by now if it went on from a reading."""
    unix_s, then_s = reading
    return unix_s + now_s - then_s
