"""How long a candidate must behave before it is used again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

BUDGET_S = 600.0
"""The time that moves are counted over."""
BUDGET_MOVES = 2
"""So many moves in `BUDGET_S`; then a candidate that fell in that time is not moved to."""
RELAPSE_S = 3600.0
"""A fall within this of coming home is a relapse; each such time without a fall undoes one."""
RELAPSED_HOLD_S = 600.0
"""The hold-down after the first relapse; it doubles with each, up to eight times this."""
BAR_S = 600.0
"""How long a candidate is left alone after a failed proof; it doubles with each, up to eight times this."""
_DOUBLINGS_MOST = 3


@dataclass(frozen=True, slots=True)
class Record:
    """What a candidate did so far. Times are those of the monotonic clock, seconds."""

    fell_s: float | None = None
    """When it was last left because it was bad, or failed its proof."""
    home_s: float | None = None
    """When the way last led home to it."""
    relapses: int = 0
    bars: int = 0
    """Failed proofs in a row."""
    barred_until_s: float | None = None

    def fell(self, now_s: float) -> Record:
        """It was left because it was bad."""
        if self.home_s is None:
            return replace(self, fell_s=now_s)
        forgiven = int((now_s - self.home_s) / RELAPSE_S)
        relapses = max(0, self.relapses - forgiven) + (0 if forgiven else 1)
        return replace(self, fell_s=now_s, home_s=None, relapses=min(relapses, _DOUBLINGS_MOST + 1))

    def failed(self, now_s: float) -> Record:
        """The host moved to it and its proof failed."""
        until_s = now_s + BAR_S * (1 << min(self.bars, _DOUBLINGS_MOST))
        return replace(self.fell(now_s), bars=self.bars + 1, barred_until_s=until_s)

    def proved(self, now_s: float, *, home: bool) -> Record:
        """Its proof came; `home`: it was preferred to what was in use before."""
        return replace(self, bars=0, barred_until_s=None, home_s=now_s if home else self.home_s)

    def barred_s(self, now_s: float) -> float:
        """How long it is still barred, seconds; 0 when it is not."""
        return max(0.0, (self.barred_until_s or now_s) - now_s)

    def hold_s(self, restore_after_s: float) -> float:
        """How long it must have been healthy before the way leads home to it."""
        if not self.relapses:
            return restore_after_s
        return max(restore_after_s, RELAPSED_HOLD_S) * float(1 << min(self.relapses - 1, _DOUBLINGS_MOST))

    def spent(self, now_s: float, moves: tuple[float, ...]) -> bool:
        """Whether moving to it now would be flapping: it fell of late, and the moves are used up."""
        fell_of_late = self.fell_s is not None and now_s - self.fell_s < BUDGET_S
        return fell_of_late and len(recent_moves(moves, now_s)) >= BUDGET_MOVES


def recent_moves(moves: tuple[float, ...], now_s: float) -> tuple[float, ...]:
    """Those of the last `BUDGET_S`."""
    return tuple(each for each in moves if now_s - each < BUDGET_S)


def without_bars(records: Mapping[str, Record]) -> dict[str, Record]:
    """The same once the outage is over: what failed everywhere was not each node's own fault."""
    return {name: replace(each, bars=0, barred_until_s=None) for name, each in records.items()}
