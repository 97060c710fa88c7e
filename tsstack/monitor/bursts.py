"""What is learnt of a link's bursts, and how long to wait because of them. Pure.

Lost probes come in runs. A run starts after an answer with probability g, and a lost probe is followed by
another with probability r: Gilbert's model as two probes can see it. From these two figures follow

- how long a silence may last that is only a burst: runs outlast k probes with probability r^(k-1), and
- how high a CUSUM may climb by chance: Lundberg's bound, exp(-theta h), with theta the positive root of
  E[exp(theta X)] = 1 for one cycle X of a run and the answers after it (S. Asmussen, H. Albrecher: Ruin
  Probabilities, chapter IV; the same bound gives CUSUM's time between false alarms, D. Siegmund: Sequential
  Analysis).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log

FALSE_ALARM_S = 120 * 86400.0
"""Each of three rules may be wrong once in so long on a link that stays as it was learnt: one in 40 days."""

# What a link is taken for before it says otherwise: 1 % lost in bursts of 0.3 s. Forty bursts' worth.
_PRIOR_STARTS = 40.0
_PRIOR_BURST_S = 0.3
_PRIOR_ANSWERS = 4800.0
_FORGET = 1 - 1 / 1000
"""An older run counts less by this with each new one."""
_QUIET_MOST = 1200
"""A longer row of answers counts as this one: a quiet night must not make the busy day look calm."""
_SAVED = ("starts", "follows", "answers")


class Bursts:
    """How a link's losses cluster, in units of its usual pace. `starts`, `follows`, `answers` decay."""

    __slots__ = ("_answers", "_pending", "_prior_follows", "_unit_s", "follows", "starts")

    def __init__(self, unit_s: float) -> None:
        """For a path whose usual pace is one probe each `unit_s` seconds."""
        self._unit_s = unit_s
        ratio = exp(-unit_s / _PRIOR_BURST_S)
        self._prior_follows = _PRIOR_STARTS * ratio / (1 - ratio)
        self.starts = 0.0
        self.follows = 0.0
        self._answers = 0.0
        self._pending = 0

    @property
    def follow(self) -> float:
        """r: how probably a lost probe is followed by a lost one."""
        follows = self.follows + self._prior_follows
        return min(0.98, max(1e-9, follows / (follows + self.starts + _PRIOR_STARTS)))

    @property
    def start(self) -> float:
        """g: how probably a run starts after an answer."""
        starts = self.starts + _PRIOR_STARTS
        return min(0.5, starts / (starts + self._answers + _PRIOR_ANSWERS))

    def answered(self, count: int) -> None:
        """So many answers in a row."""
        self._pending += count

    def started(self) -> None:
        """A run of losses starts."""
        self.starts = self.starts * _FORGET + 1
        self.follows *= _FORGET
        self._answers = self._answers * _FORGET + min(self._pending, _QUIET_MOST)
        self._pending = 0

    def export(self) -> dict[str, float]:
        """What was learnt, to be given to `restore` after a restart."""
        return {
            "starts": self.starts,
            "follows": self.follows,
            "answers": self._answers + min(self._pending, _QUIET_MOST),
        }

    def restore(self, saved: Mapping[str, float]) -> None:
        """Take up what an earlier run learnt; ValueError if it cannot be that."""
        values = [saved.get(name) for name in _SAVED]
        if not all(isinstance(value, int | float) and 0 <= value < 1e12 for value in values):
            raise ValueError("what was kept of this path's bursts cannot be read")
        self.starts, self.follows, self._answers = (float(saved[name]) for name in _SAVED)
        self._pending = 0


def silence_s(bursts: Bursts, unit_s: float) -> float:
    """First to last lost probe of a silence that a burst explains once in FALSE_ALARM_S at most."""
    runs = bursts.start * FALSE_ALARM_S / unit_s
    return unit_s * log(max(runs, 1.0)) / -log(bursts.follow)


def threshold(bursts: Bursts, unit_s: float, *, neutral: float, excused: float) -> float:
    """How high a CUSUM (a loss +1, an answer -neutral / (1 - neutral)) climbs once in FALSE_ALARM_S at most.

    A loss above the share `excused` is not taken for the link's nature, however long it lasts: only how it
    clusters is.
    """
    follow = bursts.follow
    start = min(bursts.start, excused * (1 - follow) / (1 - excused))
    drop = neutral / (1 - neutral)
    low, high = 0.0, -log(follow) * (1 - 1e-9)
    for _ in range(40):
        theta = (low + high) / 2
        climb = (1 - follow) * exp(theta) / (1 - follow * exp(theta))
        fall = start * exp(-theta * drop) / (1 - (1 - start) * exp(-theta * drop))
        if climb * fall < 1:
            low = theta
        else:
            high = theta
    theta = max(low, 1e-6)
    # A climb starts with a run, and only a run that finds the score on the ground starts one: the share of
    # these is that of an idle server's arrivals.
    idle = max(0.05, 1 - start / ((1 - follow) * drop))
    return 1 + log(max(start * idle * FALSE_ALARM_S / unit_s, 1.0)) / theta
