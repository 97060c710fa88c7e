"""Whether what is old by the wall clock may go: only by one that agrees with what is known of time. Pure.

A clock may stand anywhere after a start, and stay there while nothing sets it: no battery, no way to a time
server. What a history holds would then be too old, or of a time that has not come.

What is known is the time that was believed last, which goes on with the clock that only grows. A wall clock
agrees with it when it is a day away at most. Of what an earlier boot knew, and in the first hour of this one,
it may be a week ahead: for so long a host may have been off. One that does not is doubted, until it is set to
what agrees, or has run for a week without being set elsewhere. Both are kept over restarts (`export`), so
that none makes a wrong clock right, or begins the week anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

APART_S, OFF_S = 86400.0, 7 * 86400.0
"""A clock that is farther from the time that is known is doubted; the second: ahead of an earlier boot's."""
_SET_BY_S = 3600.0  # after a boot a time server is asked, and a saved time is what the clock shows until then
TRUSTED_S = 7 * 86400.0
"""A doubted clock that ran for so long, without the time off, is believed: nobody is going to set it."""


class Reading(NamedTuple):
    """The wall clock, and the one that only grows, at one moment."""

    unix_s: float
    now_s: float
    ahead_s: float = APART_S
    """How far ahead of it the wall clock may be later."""

    def agrees(self, unix_s: float, now_s: float) -> bool:
        """Whether the wall clock may have gone on from here."""
        return -APART_S <= unix_s - (self.unix_s + now_s - self.now_s) <= self.ahead_s


class Aging:
    """Follows the wall clock beside the one that only grows. All times in seconds."""

    def __init__(self, unix_s: float, now_s: float) -> None:
        """`unix_s`: the latest time that is known, by an earlier boot perhaps."""
        self._known = Reading(unix_s, now_s, OFF_S)
        self._doubted: Reading | None = None
        """What was read last of a clock that is doubted."""
        self._ran_s = 0.0
        """For how long that has run."""

    @classmethod
    def restored(cls, saved: Mapping[str, Any], now_s: float, *, same_boot: bool) -> Self:
        """Go on from what `export` gave; ValueError if it cannot be that."""

        def reading(kept: Iterable[float]) -> Reading:
            unix_s, then_s, ahead_s = map(float, kept)
            return (
                Reading(unix_s, min(then_s, now_s), ahead_s) if same_boot else Reading(unix_s, now_s, OFF_S)
            )

        try:
            made = cls(0.0, 0.0)
            made._known = reading(saved["known"])
            doubted = saved["doubted"]
            made._doubted = None if doubted is None else reading(doubted)
            made._ran_s = float(saved["ran_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the time that was kept cannot be read: {error!r}") from error
        return made

    def export(self) -> dict[str, Any]:
        """What must outlive a restart, as JSON values."""
        return {"known": self._known, "doubted": self._doubted, "ran_s": self._ran_s}

    def believes(self, unix_s: float, now_s: float) -> bool:
        """Whether the wall clock may be right. Asked again and again, as the clock may be set at any time."""
        if not self._known.agrees(unix_s, now_s) and not self._is_trusted(unix_s, now_s):
            return False
        self._known, self._doubted, self._ran_s = _reading(unix_s, now_s), None, 0.0
        return True

    def _is_trusted(self, unix_s: float, now_s: float) -> bool:
        """Whether a doubted clock has run for long enough by now."""
        before = self._doubted
        goes_on = before is not None and before.agrees(unix_s, now_s)
        self._ran_s = self._ran_s + now_s - before.now_s if before and goes_on else 0.0
        self._doubted = _reading(unix_s, now_s)
        return self._ran_s >= TRUSTED_S


def _reading(unix_s: float, now_s: float) -> Reading:
    return Reading(unix_s, now_s, OFF_S if now_s < _SET_BY_S else APART_S)
