"""Which events become alerts, and how many: enough to act on, never a flood. Pure: time is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tsstack.monitor.events import SEVERITIES
from tsstack.monitor.snapshot import Event, Severity

ABOUT_MOST, ABOUT_EACH_S = 3, 600.0
"""Of one thing: three at once, then one each ten minutes."""
TOTAL_MOST, TOTAL_EACH_S = 10, 120.0
"""Of all together: ten at once, then one each two minutes."""
SUMMARY_AFTER_S = 600.0
"""What was held back is summed up this long after the first of it."""
_ABOUTS_MOST = 1000
_NAMED_MOST = 20
QUIET = frozenset({"path-suspect"})
"""Codes that are told and shown, but alert nobody: most of these pass within seconds."""
HELD = "alerts-held"


@dataclass(slots=True)
class Tokens:
    """A bucket of tokens: full at first, one more each `each_s`."""

    most: int
    each_s: float
    left: float
    at_s: float

    def fill(self, now_s: float) -> None:
        """Add what the time since the last call brought."""
        self.left = min(self.most, self.left + max(0.0, now_s - self.at_s) / self.each_s)
        self.at_s = now_s


@dataclass(slots=True)
class _Held:
    count: int
    event: Event
    over: bool = False


@dataclass(slots=True)
class Gate:
    """Lets events through as alerts. One for all channels, so that all are told the same."""

    open: set[str] = field(default_factory=set)
    """What a beginning was let through for; its recovery passes too."""
    held_total: int = 0
    """How many were held back since the start."""
    _abouts: dict[str, Tokens] = field(default_factory=dict)
    _total: Tokens | None = None
    _held: dict[str, _Held] = field(default_factory=dict)
    _unnamed: int = 0
    _held_since_s: float | None = None
    _held_since: float = 0.0

    def offer(self, event: Event, now_s: float) -> bool:
        """Whether this event is to be sent now. A recovery passes if and only if its beginning did."""
        if event.over:
            held = self._held.get(event.about)
            if held is not None:
                held.over = True
            if event.about not in self.open:
                return False
            self.open.discard(event.about)
            return True
        if event.severity == "info" or event.code in QUIET:
            return False
        about, total = self._tokens(event.about, now_s), self._all(now_s)
        if about.left < 1 or total.left < 1:
            self._hold(event, now_s)
            return False
        about.left -= 1
        total.left -= 1
        self.open.add(event.about)
        return True

    def summary(self, now_s: float) -> Event | None:
        """One event for all that was held back, when it is time; None else."""
        if self._held_since_s is None or now_s - self._held_since_s < SUMMARY_AFTER_S:
            return None
        total = self._all(now_s)
        if total.left < 1:
            return None
        total.left -= 1
        held, unnamed, since = self._held, self._unnamed, self._held_since
        self._held, self._unnamed, self._held_since_s = {}, 0, None
        self.open.update(about for about, each in held.items() if not each.over)
        return _sum_up(held, unnamed, since)

    def _hold(self, event: Event, now_s: float) -> None:
        self.held_total += 1
        if self._held_since_s is None:
            self._held_since_s, self._held_since = now_s, event.at
        held = self._held.get(event.about)
        if held is not None:
            held.count, held.event, held.over = held.count + 1, event, False
        elif len(self._held) < _ABOUTS_MOST:
            self._held[event.about] = _Held(1, event)
        else:
            self._unnamed += 1

    def _tokens(self, about: str, now_s: float) -> Tokens:
        tokens = self._abouts.get(about)
        if tokens is None:
            if len(self._abouts) >= _ABOUTS_MOST:
                self._forget(now_s)
            tokens = self._abouts[about] = Tokens(ABOUT_MOST, ABOUT_EACH_S, ABOUT_MOST, now_s)
        tokens.fill(now_s)
        return tokens

    def _forget(self, now_s: float) -> None:
        """Drop the full buckets, which are like new ones; else the oldest."""
        for about, tokens in list(self._abouts.items()):
            tokens.fill(now_s)
            if tokens.left >= tokens.most:
                del self._abouts[about]
        while len(self._abouts) >= _ABOUTS_MOST:
            del self._abouts[next(iter(self._abouts))]

    def _all(self, now_s: float) -> Tokens:
        if self._total is None:
            self._total = Tokens(TOTAL_MOST, TOTAL_EACH_S, TOTAL_MOST, now_s)
        self._total.fill(now_s)
        return self._total


def _sum_up(held: dict[str, _Held], unnamed: int, since: float) -> Event:
    events = [each.event for each in held.values()]
    worst: Severity = max((each.severity for each in events), key=SEVERITIES.index, default="warning")
    count = sum(each.count for each in held.values()) + unnamed
    named = [_words(about, each) for about, each in list(held.items())[:_NAMED_MOST]]
    rest = len(held) - len(named)
    if rest or unnamed:
        named.append(f"and {rest or 'more'} others")
    data = {
        "since": since,
        "held": [
            {"about": about, "code": each.event.code, "count": each.count, "over": each.over}
            for about, each in held.items()
        ],
    }
    noun = "alert was" if count == 1 else "alerts were"
    text = f"{count} more {noun} held back: {'; '.join(named)}"
    return Event(events[-1].at if events else since, HELD, worst, "alerts", text, data)


def _words(about: str, held: _Held) -> str:
    times = f" {held.count} times" if held.count > 1 else ""
    return f"{about}{times}, {'over by now' if held.over else held.event.text}"


def still_open(event: Event) -> Iterable[str]:
    """What a sent event leaves open, so that its recovery is to be sent: itself, or those it sums up."""
    if event.code == HELD:
        return [each["about"] for each in event.data["held"] if not each["over"]]
    return [event.about]
