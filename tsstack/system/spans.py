"""How long something lasts, in words: the same everywhere. Pure, and light to import."""

from __future__ import annotations

_DAY_S = 86400.0


def span(seconds: float) -> str:
    """The largest unit that says enough: 40 s, 12 min, 5 h, 86 days."""
    if seconds < 0:
        return "no time"
    for limit_s, size_s, unit in ((120, 1, "s"), (7200, 60, "min"), (2 * _DAY_S, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds / _DAY_S:.0f} days"


def time_left(seconds: float) -> str:
    """Until a certificate ends: alike on every screen."""
    return span(seconds) if seconds > 0 else "expired"
