"""Which events become alerts, and how many: enough to act on, never a flood. Pure: time is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tsstack.monitor.events import SEVERITIES
from tsstack.monitor.snapshot import EXIT_NODE, Event, Severity

ABOUT_MOST, ABOUT_EACH_S = 3, 600.0
"""Of one thing: three at once, then one each ten minutes."""
TOTAL_MOST, TOTAL_EACH_S = 10, 120.0
"""Of all together: ten at once, then one each two minutes."""
WORSE_MOST, WORSE_EACH_S = 1, 600.0
"""Of one thing beside these: what is critical after less was told."""
EXIT_MOST, EXIT_EACH_S = 4, 600.0
"""Of all beside these: what the exit node does, when everything behind it fails at once."""
SUMMARY_AFTER_S = 600.0
"""What was held back is summed up this long after the first of it, whatever else there is to tell."""
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
class _Thing:
    """What events are about: its own limits, and how bad the latest alert of it was."""

    usual: Tokens
    worse: Tokens
    sent: Severity = "info"

    def bucket(self, severity: Severity) -> Tokens:
        """The one that an event takes its token from."""
        if self.usual.left < 1 and severity == "critical" and self.sent != "critical":
            return self.worse
        return self.usual


@dataclass(slots=True)
class Gate:
    """Lets events through as alerts. One for all channels, so that all are told the same."""

    open: set[str] = field(default_factory=set)
    """What a beginning was let through for; its recovery passes too."""
    held_total: int = 0
    """How many were held back since the start."""
    _abouts: dict[str, _Thing] = field(default_factory=dict)
    _total: Tokens | None = None
    _of_exit: Tokens | None = None
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
        thing, total = self._thing(event.about, now_s), self._all(event.about, now_s)
        about = thing.bucket(event.severity)
        if about.left < 1 or total.left < 1:
            self._hold(event, now_s)
            return False
        about.left -= 1
        total.left -= 1
        thing.sent = event.severity
        self.open.add(event.about)
        return True

    def summary(self, now_s: float) -> Event | None:
        """One event for all that was held back, when it is time; None else."""
        if self._held_since_s is None or now_s - self._held_since_s < SUMMARY_AFTER_S:
            return None
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

    def _thing(self, about: str, now_s: float) -> _Thing:
        thing = self._abouts.get(about)
        if thing is None:
            if len(self._abouts) >= _ABOUTS_MOST:
                self._forget(now_s)
            usual, worse = _full(ABOUT_MOST, ABOUT_EACH_S, now_s), _full(WORSE_MOST, WORSE_EACH_S, now_s)
            thing = self._abouts[about] = _Thing(usual, worse)
        thing.usual.fill(now_s)
        thing.worse.fill(now_s)
        return thing

    def _forget(self, now_s: float) -> None:
        """Drop those whose buckets are full, which are like new ones; else the oldest."""
        for about, thing in list(self._abouts.items()):
            for each in (thing.usual, thing.worse):
                each.fill(now_s)
            if thing.usual.left >= thing.usual.most and thing.worse.left >= thing.worse.most:
                del self._abouts[about]
        while len(self._abouts) >= _ABOUTS_MOST:
            del self._abouts[next(iter(self._abouts))]

    def _all(self, about: str, now_s: float) -> Tokens:
        """The bucket of all together, or the exit node's own once that is empty."""
        self._total = self._total or _full(TOTAL_MOST, TOTAL_EACH_S, now_s)
        self._total.fill(now_s)
        if about != EXIT_NODE or self._total.left >= 1:
            return self._total
        self._of_exit = self._of_exit or _full(EXIT_MOST, EXIT_EACH_S, now_s)
        self._of_exit.fill(now_s)
        return self._of_exit


def _full(most: int, each_s: float, now_s: float) -> Tokens:
    return Tokens(most, each_s, most, now_s)


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
