"""The verdict on one path: from its samples to a level with causes. Pure: time comes as an argument.

docs/decisions/0006-monitor-verdict.md says which rule leads to which level, and why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from tsstack.monitor.detect import LimitDetector, LossDetector, ShiftDetector
from tsstack.monitor.reasons import Cause, Compared
from tsstack.monitor.sample import Sample

if TYPE_CHECKING:
    from tsstack.model.sections import Monitor

Level = Literal["unknown", "good", "suspect", "poor", "dead"]
RANK: dict[Level, int] = {"unknown": 0, "dead": 1, "poor": 2, "suspect": 3, "good": 4}
"""Which level is better. Unknown is never better than anything, and never a reason to leave."""

RECENT_S = 10.0
"""What counts as `recent` for the figures beside a decision; more where a path's usual pace is slow."""
FRESH_ANSWERS = 3
"""So many recent answers make a path measured well enough to move to."""
_RECENT_MOST = 40
_STEADY_LOSS = 0.1
_LOST_MOST = 2  # lost ones in `recent` that say nothing of its health, whatever their share
_WARM_UP = 3  # answers before a path is called good
_RECOVERY_MOST = 48  # answers: 24 s at two a second
_SLEPT_S = 60.0  # no probe for so long (and for 3 intervals): what was before says nothing


@dataclass(frozen=True, slots=True)
class Limits:
    """What the file says of a path's quality."""

    probe_s: float = 0.5
    interval_s: float = 30.0
    max_latency_s: float = 0.2
    max_loss: float = 0.05
    """A share, 0 to 1."""
    failures: int = 3
    restore_after_s: float = 120.0

    @classmethod
    def of(cls, monitor: Monitor) -> Limits:
        """From the file's section, whose `max_loss` is in percent."""
        return cls(
            probe_s=monitor.probe_s,
            interval_s=monitor.interval_s,
            max_latency_s=monitor.max_latency_s,
            max_loss=monitor.max_loss / 100,
            failures=monitor.failures,
            restore_after_s=monitor.restore_after_s,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of one path at one moment."""

    path: str
    level: Level
    causes: tuple[Cause, ...] = ()
    healthy_since_s: float | None = None
    """When the first probe of the present good time was sent; None unless `level` is good."""
    last_answer_s: float | None = None
    """When the newest answered probe was sent."""
    fresh: bool = False
    """Measured now: its newest probe was answered, and at least FRESH_ANSWERS of the recent ones."""
    loss: float | None = None
    """Share lost of the recent probes."""
    rtt_s: float | None = None
    """Median of the recent answers, seconds."""
    known_by_s: float | None = None
    """Of an unknown way out in use: by when its targets will have told of it, if they can at all."""

    heard: bool = False
    """Whether its newest answer is of the last three paces and 2 s, whatever was lost since."""

    is_steady: bool = True
    """Whether few were lost in the last `restore_after` too: those of `loss` may just have been lucky."""

    is_back: bool = False
    """Of a poor path: it answers well again, for long enough, and only not yet for so long as it must."""

    @property
    def is_usable(self) -> bool:
        """Whether it is measured now that something passes."""
        return self.fresh and self.level in {"good", "poor"}

    def compared(self, name: str) -> Compared:
        """For the reasons of a decision, under the name that people know the path by."""
        return Compared(name, self.level, self.loss, self.rtt_s, self.causes)


class Judge:
    """Follows one path; `observe` each sample, ask `verdict` when a decision is due."""

    def __init__(self, path: str, limits: Limits, *, unit_s: float | None = None) -> None:
        """`unit_s` is the path's usual pace, seconds; default: `limits.probe_s`."""
        self.path = path
        self._limits = limits
        self._unit_s = unit_s or limits.probe_s
        self._recent_s = max(RECENT_S, (FRESH_ANSWERS + 1) * self._unit_s)
        self.pace_s = self._unit_s
        """The pace at which it is probed now; whoever probes it slower or faster says so here."""
        self.loss = LossDetector(self._unit_s, limits.max_loss)
        self._latency = LimitDetector(limits.max_latency_s)
        self._shift = ShiftDetector()
        self._recent: deque[tuple[float, float | None]] = deque(maxlen=_RECENT_MOST)
        self._down: Literal["", "poor", "dead"] = ""
        self._suspect = False
        self._answers = 0
        self._recovered = 0  # answers in favour since the last evidence against
        self._healthy_since_s: float | None = None
        self._last_s = -inf
        self.anew = False
        """Whether there were outcomes before, which say nothing of the path as it is now."""

    def observe(self, sample: Sample) -> None:
        """Take in the outcome of one probe; of each path in any order within a probe's timeout."""
        sent_s = sample.sent_s
        self._mind_the_gap(sent_s)
        self._last_s = max(self._last_s, sent_s)
        self._recent.append((sent_s, sample.rtt_s))
        if sample.rtt_s is None:
            self._lost(sent_s)
        else:
            self._answered(sent_s, sample.rtt_s)

    def verdict(self, now_s: float) -> Verdict:
        """What is thought of the path now. It is unknown when it was not probed of late."""
        loss = self.loss
        recent = [rtt_s for sent_s, rtt_s in self._recent if sent_s >= now_s - self._recent_s]
        answers = [rtt_s for rtt_s in recent if rtt_s is not None]
        level, causes = self._level(now_s)
        heard = now_s - loss.last_answer_s <= 3 * self.pace_s + 2
        return Verdict(
            path=self.path,
            level=level,
            causes=causes,
            healthy_since_s=self._healthy_since_s if level == "good" else None,
            last_answer_s=None if loss.last_answer_s == -inf else loss.last_answer_s,
            fresh=heard and not loss.streak and len(answers) >= FRESH_ANSWERS,
            loss=1 - len(answers) / len(recent) if recent else None,
            rtt_s=median(answers) if answers else None,
            heard=heard,
            is_steady=self._is_steady(now_s),
            is_back=level == "poor" and self._is_back(now_s, len(recent) - len(answers), len(recent)),
        )

    def _is_back(self, now_s: float, lost: int, sent: int) -> bool:
        """`lost` of `sent` lately. A single one wakes the sum over the minutes before, and says nothing."""
        since_s = self._healthy_since_s
        lately = since_s is not None and now_s - since_s > self._recent_s
        return lately and not self._latency.alarm and lost <= max(1, self._limits.max_loss * sent)

    def _is_steady(self, now_s: float) -> bool:
        since_s = now_s - max(self._recent_s, self._limits.restore_after_s)
        lost = [rtt_s is None for sent_s, rtt_s in self._recent if sent_s >= since_s]
        return sum(lost) <= max(_STEADY_LOSS, self._limits.max_loss) * len(lost)

    def level(self, now_s: float) -> Level:
        """The level alone, which costs less than the whole verdict."""
        return self._level(now_s)[0]

    def shifted(self, now_s: float) -> Cause | None:
        """A step of the round-trip time within the last minute: to be told, no reason to move."""
        shift = self._shift
        if not 0 <= now_s - shift.shifted_s <= 60 or not shift.level_s:
            return None
        return Cause("shift", shift.level_s, shift.shifted_from_s, now_s - shift.shifted_s)

    def export(self) -> dict[str, Any]:
        """What was learnt of the link, as JSON values, for `restore` after a restart."""
        return {"unit_s": self._unit_s, "bursts": self.loss.export()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what an earlier run learnt at the same pace; ValueError if it cannot be that."""
        bursts = saved.get("bursts")
        if not isinstance(bursts, Mapping):
            raise ValueError("what was kept of this path cannot be read")
        if saved.get("unit_s") == self._unit_s:
            self.loss.restore(bursts)

    def _level(self, now_s: float) -> tuple[Level, tuple[Cause, ...]]:
        silent_s = now_s - self._last_s
        stale = silent_s > max(3 * self.pace_s, RECENT_S)
        if stale or (not self._down and not self._suspect and self._answers < _WARM_UP):
            if self.anew and (not stale or silent_s == inf):
                return "unknown", (Cause("renewed", self._answers, _WARM_UP),)
            over_s = silent_s if stale and silent_s < inf else 0.0
            return "unknown", (Cause("unmeasured", self._answers, _WARM_UP, over_s),)
        if not self._down and not self._suspect:
            return "good", ()
        return (self._down or "suspect"), tuple(self._causes(now_s))

    def _causes(self, now_s: float) -> Iterable[Cause]:
        loss, limits = self.loss, self._limits
        if loss.streak >= limits.failures:
            yield Cause("failures", loss.streak, limits.failures, loss.silence_s)
        if self._down == "dead":
            yield Cause("silence", loss.silence_s, loss.silence_limit_s, loss.silence_s)
            return
        sums = [each for each in (loss.fast, loss.slow) if each.alarm]
        if sums:
            (each, *_) = sums
            over_s = max(self._last_s - each.since_s, self._unit_s)
            yield Cause("loss", each.lost / each.sent, limits.max_loss, over_s)
        if self._latency.alarm:
            since_s = self._latency.since_s
            rtts = [rtt_s for at_s, rtt_s in self._recent if rtt_s is not None and at_s >= since_s]
            over_s = self._last_s - since_s
            yield Cause("latency", median(rtts or [limits.max_latency_s]), limits.max_latency_s, over_s)
        if self._down and not sums and not self._latency.alarm:
            healthy_s = self._healthy_since_s
            yield Cause("recovering", 0.0 if healthy_s is None else now_s - healthy_s, 0)

    def _mind_the_gap(self, sent_s: float) -> None:
        """Nothing sent for a while is not a loss: a sleep, a stalled machine, a clock that jumped."""
        apart_s = sent_s - self._last_s
        if self._last_s == -inf or -_SLEPT_S < apart_s <= 3 * self.pace_s + 1:
            return
        if apart_s < 0:
            self.loss.forget_times()
            self._last_s = -inf
        elif apart_s <= max(_SLEPT_S, 3 * self._limits.interval_s):
            self.loss.pause()
            return
        self.loss.clear()
        self.loss.learning = True
        self._latency.clear()
        self._shift.clear()
        self._recent.clear()
        self._down, self._suspect = "", False
        self._answers = self._recovered = 0
        self._healthy_since_s = None
        self.anew = True

    def _lost(self, sent_s: float) -> None:
        loss, failures = self.loss, self._limits.failures
        loss.lost(sent_s)
        if loss.streak >= failures:
            self._suspect = True
            self._healthy_since_s = None
        if loss.streak >= min(failures, 3) and loss.silence_s >= loss.silence_limit_s:
            self._fall("dead")
        elif not self._down and (loss.fast.alarm or loss.slow.alarm):
            self._fall("poor")
        if self._down and not self._is_of_before(sent_s):
            # A loss weighs as many answers as there are to one loss at four fifths of the limit.
            # One soon after its return is not held against it: so much may happen to a path that is well.
            in_debt = self._recovered <= 0
            self._recovered -= round(1 / max(0.8 * self._limits.max_loss, 0.01)) - 1
            if loss.streak >= failures or (in_debt and self._is_ill(-inf, self._limits.max_loss, 0)):
                self._recovered, self._healthy_since_s = 0, None
        elif not self._down:
            # Too short for an alarm: its level stands, its good time begins anew.
            share = max(_STEADY_LOSS, self._limits.max_loss)
            if self._is_ill(sent_s - self._recent_s, share, _LOST_MOST):
                self._healthy_since_s = None

    def _is_ill(self, since_s: float, share: float, most: int) -> bool:
        """Whether more than a share and `most` were lost of the good time's newest probes, sent since."""
        since_s = max(since_s, -inf if self._healthy_since_s is None else self._healthy_since_s)
        lost = [rtt_s is None for sent_s, rtt_s in self._recent if sent_s >= since_s]
        return sum(lost) > max(most, share * len(lost))

    def _is_of_before(self, sent_s: float) -> bool:
        """Whether a lost probe is older than the present good time, and is only known since."""
        return self._healthy_since_s is not None and sent_s < self._healthy_since_s

    def _answered(self, sent_s: float, rtt_s: float) -> None:
        loss = self.loss
        loss.answered(sent_s)
        self._latency.answered(sent_s, rtt_s)
        self._shift.answered(sent_s, rtt_s)
        self._answers += 1
        if not loss.streak:
            self._suspect = False
        if self._latency.alarm:
            self._fall("poor")
            if rtt_s > self._limits.max_latency_s:
                self._recovered, self._healthy_since_s = 0, None
        if self._healthy_since_s is None and not self._suspect:
            self._healthy_since_s = sent_s
        if self._down:
            self._recover()

    def _fall(self, level: Literal["poor", "dead"]) -> None:
        if self._down not in {level, "dead"}:
            self._down = level
            self._recovered, self._healthy_since_s = 0, None
            self.loss.outage()

    def _recover(self) -> None:
        """One answer while down. A dead path that answers is poor until it has recovered."""
        if self._down == "dead" and not self.loss.streak:
            self._down = "poor"
            self.loss.clear()
        self._recovered += 1
        enough = max(_WARM_UP, min(_RECOVERY_MOST, int(self._limits.restore_after_s / self.pace_s)))
        if self._recovered < enough or self._latency.alarm:
            return
        self._down = ""
        self.loss.clear()
        self.loss.learning = True


def best(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict on a way that several targets are asked through: as good as its best target.

    One target that is down says nothing of the way; a way where none answers is dead. None without targets.
    """
    known = sorted(verdicts, key=lambda each: (RANK[each.level], each.fresh), reverse=True)
    return known[0] if known else None
