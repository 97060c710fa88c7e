"""Detection of a bad path from its probes, adapting to each link's bursts. Pure: samples bring the time.

Scores are whole numbers (`_ONE` is one lost probe), so that many answers in a row can be taken in at once
with exactly the same result as one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from tsstack.monitor.bursts import Bursts, silence_s, threshold

_ONE = 1 << 20

FAST, SLOW = 1.8, 1.15
"""The two CUSUMs of loss climb while the loss is above so many times `max_loss`."""
_FAST_LEAST, _FAST_MOST = 6.0, 60.0
_SLOW_LEAST, _SLOW_MOST = 8.0, 150.0
_EXCUSED = 0.6
"""Up to this share of `max_loss` is taken for the link's own nature when thresholds are learnt."""

SILENCE_LEAST_S, SILENCE_MOST_S = 3.0, 15.0
"""A silence counts as dead after a time between these, whatever was learnt."""
_NEAR_MISS = 1.25
"""A silence that ended by itself just before it counted raises the wait to so many times its length."""
_NEAR_MISS_HALVES_S = 86400.0
_LEARN_EACH = 16  # runs of losses between two computations of the thresholds


class Cusum:
    """One cumulative sum of losses: +1 for a loss, a fixed step down for an answer, never below 0."""

    __slots__ = ("_drop", "_full", "height", "lost", "neutral", "score", "sent", "since_s")

    def __init__(self, neutral: float) -> None:
        """It climbs while the share of lost probes is above `neutral` (0 to 0.9)."""
        self.neutral = min(0.9, neutral)
        self._drop = round(_ONE * self.neutral / (1 - self.neutral))
        self.clear()
        self.set_height(10.0)

    def clear(self) -> None:
        """Back to the ground: no evidence."""
        self.score = 0
        self.sent = 0
        """Probes since the score left the ground, that is since `since_s`."""
        self.lost = 0
        self.since_s = inf

    def set_height(self, height: float) -> None:
        """Alarm from so many losses on."""
        self.height = height
        self._full = round(height * _ONE)

    @property
    def alarm(self) -> bool:
        """Whether the evidence is enough."""
        return self.score >= self._full

    def lose(self, sent_s: float, weight: int) -> None:
        """One lost probe; `weight` is `_ONE`, or less when it followed quicker than usual."""
        if not self.score:
            self.since_s = sent_s
        self.sent += 1
        self.lost += 1
        # Bounded, so that the way back does not depend on how long it was bad.
        self.score = min(self.score + weight, self._full + self._full // 4)

    def answer(self, count: int) -> None:
        """So many answers in a row."""
        if not self.score:
            return
        self.score -= self._drop * count
        self.sent += count
        if self.score <= 0:
            self.clear()


class LossDetector:
    """Silence, failures in a row and loss of one path.

    Samples may conclude in any order within a probe's timeout: what counts is when each was sent.
    """

    __slots__ = (
        "_last_lost_s",
        "_last_s",
        "_near_miss_at_s",
        "_near_miss_s",
        "_run_follows",
        "_run_s",
        "_runs",
        "_unit_s",
        "bursts",
        "fast",
        "last_answer_s",
        "learning",
        "silence_limit_s",
        "slow",
        "streak",
        "streak_s",
    )

    def __init__(self, unit_s: float, max_loss: float) -> None:
        """For a path that is usually probed each `unit_s` seconds; `max_loss` is a share, 0 to 1."""
        self._unit_s = unit_s
        self.bursts = Bursts(unit_s)
        limit = max(max_loss, 0.001)
        self.fast = Cusum(FAST * limit)
        self.slow = Cusum(SLOW * limit)
        self.learning = True
        """Off while the path is bad, see `outage`; whoever sees it recover turns it on."""
        self.streak = 0
        """Probes lost in a row that were sent after the newest answered one."""
        self.streak_s = inf
        """When the first of them was sent."""
        self.last_answer_s = -inf
        """When the newest answered probe was sent."""
        self._last_s = -inf
        self._last_lost_s = -inf
        self._run_s = -inf  # when the run of losses started that `bursts` counts
        self._run_follows = 0
        self._runs = 0
        self._near_miss_s = 0.0
        self._near_miss_at_s = -inf
        self.silence_limit_s = 0.0
        self._learn()

    @property
    def silence_s(self) -> float:
        """From the first to the last lost probe of the streak."""
        return self._last_lost_s - self.streak_s if self.streak else 0.0

    def answered(self, sent_s: float) -> None:
        """An answer to the probe that was sent then."""
        self.answered_run(1, sent_s)

    def answered_run(self, count: int, last_sent_s: float) -> None:
        """So many answers in a row at the usual pace, the last to the probe that was sent then."""
        self.fast.answer(count)
        self.slow.answer(count)
        self.bursts.answered(count)
        self.last_answer_s = max(self.last_answer_s, last_sent_s)
        self._last_s = max(self._last_s, last_sent_s)
        if self.streak and last_sent_s > self.streak_s:
            self._end_streak()

    def lost(self, sent_s: float) -> None:
        """The probe that was sent then had no answer in time."""
        apart_s = sent_s - self._last_s
        weight = _ONE if not 0 < apart_s < self._unit_s * 0.9 else round(_ONE * apart_s / self._unit_s)
        self._learn_run(sent_s)
        self.fast.lose(sent_s, weight)
        self.slow.lose(sent_s, weight)
        self._last_lost_s = max(self._last_lost_s, sent_s)
        if apart_s > 0:
            self._last_s = sent_s
        if sent_s > self.last_answer_s:
            if not self.streak:
                self.streak_s = sent_s
            self.streak += 1

    def outage(self) -> None:
        """The path is bad from here on: nothing is learnt, and the run that showed it is taken back."""
        if self.learning and self.streak:
            self.bursts.follows = max(0.0, self.bursts.follows - self._run_follows)
        self.learning = False

    def pause(self) -> None:
        """Nothing was measured for a while: what came before says nothing of a silence now."""
        self.streak, self.streak_s = 0, inf

    def clear(self) -> None:
        """Forget the evidence, keep what was learnt: after recovery, sleep or a jump of the clock."""
        self.pause()
        self.fast.clear()
        self.slow.clear()

    def forget_times(self) -> None:
        """The clock started anew: no time that was seen may be held against a later one."""
        self.clear()
        self.last_answer_s = self._last_s = self._last_lost_s = self._run_s = -inf
        self._near_miss_s, self._near_miss_at_s = 0.0, -inf

    def export(self) -> dict[str, float]:
        """What was learnt of the link."""
        return self.bursts.export()

    def restore(self, saved: Mapping[str, float]) -> None:
        """Take up what an earlier run learnt; ValueError if it cannot be that."""
        self.bursts.restore(saved)
        self._learn()

    def _end_streak(self) -> None:
        silence_s = self.silence_s
        if self.learning and self.streak >= 3 and silence_s * _NEAR_MISS > self.silence_limit_s:
            self._near_miss_s, self._near_miss_at_s = silence_s, self._last_lost_s
            self._learn()
        self.streak, self.streak_s = 0, inf

    def _learn_run(self, sent_s: float) -> None:
        """Count this loss as the start of a run or as its going on."""
        since_s = sent_s - self._last_lost_s
        answered_between = self._last_lost_s < self.last_answer_s < sent_s
        if 0 < since_s <= 1.5 * self._unit_s and not answered_between:
            follows = int((sent_s - self._run_s) / self._unit_s + 0.5)
            if self.learning:
                self.bursts.follows += follows - self._run_follows
            self._run_follows = follows
            return
        if since_s <= 0:
            return  # an older one that was known late
        self._run_s, self._run_follows = sent_s, 0
        if self.learning:
            self.bursts.started()
            self._runs += 1
            if self._runs % _LEARN_EACH == 0:
                self._learn()

    def _learn(self) -> None:
        """Set the thresholds to what the link's bursts explain."""
        near_s = 0.0
        if self._near_miss_s:
            age_s = max(0.0, self._last_lost_s - self._near_miss_at_s)
            near_s = self._near_miss_s * _NEAR_MISS * 0.5 ** (age_s / _NEAR_MISS_HALVES_S)
        wait_s = max(near_s, silence_s(self.bursts, self._unit_s))
        self.silence_limit_s = min(SILENCE_MOST_S, max(SILENCE_LEAST_S, wait_s))
        for cusum, least, most in (
            (self.fast, _FAST_LEAST, _FAST_MOST),
            (self.slow, _SLOW_LEAST, _SLOW_MOST),
        ):
            excused = cusum.neutral * _EXCUSED / (FAST if cusum is self.fast else SLOW)
            height = threshold(self.bursts, self._unit_s, neutral=cusum.neutral, excused=excused)
            cusum.set_height(min(most, max(least, height)))


_STEP = 2  # of an answer; one just below the limit is half a step towards the end of an alarm


class LimitDetector:
    """Whether the median round-trip time is above a limit: CUSUM of the sign of (rtt - limit).

    One late answer moves it by one step, however late it is. It alarms after `height` more late answers than
    timely ones, and ends when as many timely ones came, or twice as many that are just below the limit.
    """

    __slots__ = ("_height", "_limit_s", "_score", "alarm", "since_s")

    def __init__(self, limit_s: float, *, height: int = 10) -> None:
        self._limit_s = limit_s
        self._height = height * _STEP
        self.clear()

    def clear(self) -> None:
        """Forget the evidence."""
        self._score = 0
        self.alarm = False
        self.since_s = inf

    def answered(self, sent_s: float, rtt_s: float) -> None:
        """Take in an answer."""
        if rtt_s > self._limit_s:
            if not self._score:
                self.since_s = sent_s
            self._score = min(self._score + _STEP, self._height)
            if self._score == self._height:
                self.alarm = True
        elif self._score:
            just_below = self.alarm and rtt_s >= 0.9 * self._limit_s
            self._score = max(0, self._score - (1 if just_below else _STEP))
            if not self._score:
                self.clear()


_CLIP, _SLACK, _SHIFTED = 3.0, 1.5, 9.0
_WARM_UP = 20  # answers before a level is known
_FOLLOW = 0.02  # how much of each residue the learnt level takes on


class ShiftDetector:
    """A step of the round-trip time against the path's own learnt level, in either direction.

    CUSUM of clipped residues (clip 3, slack 1.5, height 9, in standard deviations): single late answers are
    clipped, so only a lasting step adds up. After a step the new level is learnt afresh.
    """

    __slots__ = ("_count", "_down", "_spread_s", "_up", "level_s", "shifted_from_s", "shifted_s")

    def __init__(self) -> None:
        self.shifted_s = -inf
        """When the last step was seen (time of sending)."""
        self.shifted_from_s = 0.0
        """The level before it."""
        self.clear()

    def clear(self) -> None:
        """Learn the level afresh."""
        self._count = 0
        self.level_s = 0.0
        self._spread_s = 0.0
        self._up = self._down = 0.0

    def answered(self, sent_s: float, rtt_s: float) -> bool:
        """Take in an answer; True if it completes a step."""
        residue_s = rtt_s - self.level_s
        if self._count < _WARM_UP:
            self._count += 1
            if self._count == 1:
                self.level_s, self._spread_s = rtt_s, rtt_s * 0.25
                return False
            share = max(1 / self._count, _FOLLOW)
            # Clipped from the start: one late answer must not become the level.
            bound_s = _CLIP * self._spread_s + 1e-4
            residue_s = min(bound_s, max(-bound_s, residue_s))
            self.level_s += residue_s * share
            self._spread_s += (abs(residue_s) * 1.25 - self._spread_s) * share
            return False
        deviation_s = max(self._spread_s, 0.0005, 0.02 * self.level_s)
        z = min(_CLIP, max(-_CLIP, residue_s / deviation_s))
        self.level_s += _FOLLOW * z * deviation_s
        self._spread_s += _FOLLOW * (abs(z) * deviation_s * 1.25 - self._spread_s)
        self._up = max(0.0, self._up + z - _SLACK)
        self._down = max(0.0, self._down - z - _SLACK)
        if self._up < _SHIFTED and self._down < _SHIFTED:
            return False
        self.shifted_s, self.shifted_from_s = sent_s, self.level_s
        self.clear()
        return True
