"""When each probe is due: a wheel of slots, so that many probes share few wakeups. Pure; time is passed in.

Wakeups cost processor time, packets hardly do. So probes are due in slots of a tenth of a second, and all
that is due in one slot is done in one wakeup. Phases follow the golden ratio, which spreads any number of
probes evenly over their pace, however many come and go.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import floor
from typing import Generic, TypeVar

T = TypeVar("T")
SLOT_S = 0.1
_GOLDEN = 0.6180339887498949
_STALLED_SLOTS = 3


@dataclass(slots=True, eq=False)
class Turn(Generic[T]):
    """One item's place on the wheel. `phase` is its share (0 to 1) of the pace, kept for its lifetime."""

    item: T
    pace_s: float
    phase: float
    due_s: float = 0.0
    slot: int = field(default=-1)


class Wheel(Generic[T]):
    """Items that come round again and again, each at its own pace.

    `due` gives what is to be done now; `next_s` says when to look again. Nothing is lost when one is late:
    an item is late by as much and then keeps its rhythm. After a long stall (three slots) the missed turns
    are not made up for in one burst, but spread over as much time as was lost.
    """

    def __init__(self, now_s: float, *, slot_s: float = SLOT_S) -> None:
        self._slot_s = slot_s
        self._slots: dict[int, list[Turn[T]]] = {}
        self._order: list[int] = []
        self._made = 0
        self._size = 0
        self._position = self._slot_of(now_s)

    def __len__(self) -> int:
        return self._size

    @property
    def slot_s(self) -> float:
        """How long a slot is, seconds."""
        return self._slot_s

    def add(self, item: T, pace_s: float, now_s: float) -> Turn[T]:
        """Put an item on the wheel; its first turn comes within one pace from now."""
        self._made += 1
        turn = Turn(item, pace_s, (self._made * _GOLDEN) % 1.0)
        self._size += 1
        self._place(turn, self._first_s(turn, now_s))
        return turn

    def remove(self, turn: Turn[T]) -> None:
        """Take it off. Nothing happens when it is off already."""
        slot = self._slots.get(turn.slot)
        if slot is not None and turn in slot:
            slot.remove(turn)
            turn.slot = -1
            self._size -= 1

    def set_pace(self, turn: Turn[T], pace_s: float, now_s: float) -> None:
        """Give it another pace. A quicker one begins within that pace, not when the slow turn would come."""
        if turn.pace_s == pace_s or turn.slot == -1:
            return
        self.remove(turn)
        self._size += 1
        quicker = pace_s < turn.pace_s
        turn.pace_s = pace_s
        self._place(turn, self._first_s(turn, now_s) if quicker else max(turn.due_s, now_s))

    def due(self, now_s: float) -> list[T]:
        """What is due by now, the oldest first; each has its next turn already."""
        current = self._slot_of(now_s)
        late_slots = current - self._position
        self._position = max(current, self._position)
        late: list[Turn[T]] = []
        while self._order and self._order[0] <= current:
            late += self._slots.pop(heapq.heappop(self._order))
        ready: list[T] = []
        for turn in late:
            if current - turn.slot > _STALLED_SLOTS:
                spread_s = min(turn.pace_s, late_slots * self._slot_s)
                self._place(turn, now_s + self._slot_s + turn.phase * spread_s)
                continue
            ready.append(turn.item)
            next_s = turn.due_s + turn.pace_s
            # Paces shorter than the delay skip turns rather than doubling up.
            missed = floor((now_s - next_s) / turn.pace_s) + 1 if next_s <= now_s else 0
            self._place(turn, next_s + missed * turn.pace_s)
        return ready

    def next_s(self) -> float | None:
        """The time of the next slot that has something; None when the wheel is empty."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * self._slot_s if self._order else None

    def _slot_of(self, moment_s: float) -> int:
        # The start of slot n, computed as a float, may lie a hair before it.
        return floor(moment_s / self._slot_s + 1e-6)

    def _first_s(self, turn: Turn[T], now_s: float) -> float:
        """The next moment of its phase: the grid is absolute, so equal paces stay evenly spread."""
        start = turn.phase * turn.pace_s
        return start + (floor((now_s - start) / turn.pace_s) + 1) * turn.pace_s

    def _place(self, turn: Turn[T], due_s: float) -> None:
        turn.due_s = due_s
        # Never the slot that was just handled: it would be looked at only after a whole round.
        turn.slot = max(self._slot_of(due_s), self._position + 1)
        if turn.slot not in self._slots:
            self._slots[turn.slot] = []
            heapq.heappush(self._order, turn.slot)
        self._slots[turn.slot].append(turn)
