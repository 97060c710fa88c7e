"""All paths that are watched, with what was seen of each. No effects: samples and times come as arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.quality import Quality
from tsstack.monitor.sample import Path, Sample
from tsstack.monitor.snapshot import PathKind, PathStatus
from tsstack.monitor.verdict import Judge, Level, Limits, Verdict
from tsstack.monitor.windows import WINDOWS_S, Windows

_KINDS: dict[str, PathKind] = {
    "exit": "exit",
    "target": "target",
    "direct": "target",
    "route": "route",
    "service": "service",
}
_LOOK_AT_ALL_S = 10.0
_FEW = 50
"""So many paths are summed up on the spot; of more, the long windows are of the last half minute."""
_ROUNDS = 60
_FAILING = frozenset({"suspect", "poor", "dead"})


def kind_of(key: str) -> PathKind:
    """What a path's key is about."""
    return _KINDS.get(key.partition(":")[0], "peer")


def may_be_quick(key: str) -> bool:
    """Whether the path is ever probed at the quick pace."""
    return kind_of(key) in {"exit", "target"}


@dataclass(slots=True)
class Entry:
    """One path."""

    path: Path
    judge: Judge
    windows: Windows
    last: Sample | None = None
    counted: bool = True
    """Whether the last sample says something of the path."""
    level: Level = "unknown"
    since_s: float = 0.0
    """Since when the level is so."""
    longest: Quality | None = None
    """The longest window as it was summed up last."""
    told: bool = False
    """Whether people were told that it is not good."""


@dataclass(frozen=True, slots=True)
class Change:
    """A path whose level changed."""

    path: Path
    before: Level
    verdict: Verdict
    over: bool
    """It is good again, after people were told that it was not."""


@dataclass
class Book:
    """The paths by key."""

    limits: Limits
    entries: dict[str, Entry] = field(default_factory=dict)
    sent: int = 0
    lost: int = 0
    held: frozenset[str] = frozenset()
    """Paths that seem to fail where it is not known yet whether it is they: they are shown as before."""
    _touched: set[str] = field(default_factory=set)
    _round: int = 0
    _looked_s: float = -inf

    def update(self, probes: Iterable[Probe], limits: Limits, now_s: float) -> None:
        """Watch just these from now on. What was seen of those that stay is kept.

        Other limits judge afresh; what was learnt of each link and its windows stay even then.
        """
        afresh = limits != self.limits
        self.limits = limits
        paths = {probe.path.key: probe.path for probe in probes}
        for key in self.entries.keys() - paths:
            del self.entries[key]
        for key, path in paths.items():
            entry = self.entries.get(key)
            if entry is None:
                self.entries[key] = Entry(path, self._judge(key), self._windows(key), since_s=now_s)
                continue
            entry.path = path
            if afresh:
                learnt = entry.judge.export()
                entry.judge = self._judge(key, anew=bool(entry.last))
                entry.judge.restore(learnt)

    def observe(self, sample: Sample, *, judge: bool = True) -> None:
        """Take in a sample; one of a path that is not watched is dropped. `judge` False: only count it."""
        entry = self.entries.get(sample.path)
        if entry is None:
            return
        self.sent += 1
        self.lost += not sample.ok
        entry.last, entry.counted = sample, True
        entry.windows.add(sample)
        if judge:
            entry.judge.observe(sample)
        self._touched.add(sample.path)

    def note(self, sample: Sample) -> None:
        """A sample that says nothing of its path: it was sent, its error is shown, that is all."""
        if entry := self.entries.get(sample.path):
            entry.last, entry.counted = sample, False
            self.sent += 1

    def renew(self, keys: Iterable[str]) -> None:
        """These lead another way from now on: what spoke against them before does not count."""
        for key in keys:
            entry = self.entries[key]
            before, entry.judge = entry.judge, self._judge(key, anew=bool(entry.last))
            before.loss.outage()  # nor is it learnt from
            entry.judge.restore(before.export())
            entry.judge.pace_s = before.pace_s
            self._touched.add(key)

    def set_pace(self, key: str, pace_s: float) -> None:
        """Whoever probes this path slower or faster says so here."""
        if key in self.entries:
            self.entries[key].judge.pace_s = pace_s

    def verdict(self, key: str, now_s: float) -> Verdict:
        """What is thought of a path; unknown when it is not watched."""
        entry = self.entries.get(key)
        return entry.judge.verdict(now_s) if entry else Verdict(key, "unknown")

    def changes(self, now_s: float, waits: Callable[[str], bool] = lambda _: False) -> list[Change]:
        """The paths whose level is another than when this was last asked.

        What seems to fail and `waits` is held until the next time.
        """
        keys: Iterable[str] = self._touched
        if now_s - self._looked_s >= _LOOK_AT_ALL_S:
            self._looked_s = now_s
            keys = list(self.entries)
        found, held = [], set()
        for key in keys:
            entry = self.entries.get(key)
            if entry is None or (level := entry.judge.level(now_s)) == entry.level:
                continue
            if level in _FAILING and waits(key):
                held.add(key)
                continue
            over = level == "good" and entry.told
            verdict = entry.judge.verdict(now_s)
            if not (level in {"good", "unknown"} and not over):
                found.append(Change(entry.path, entry.level, verdict, over))
                entry.told = not over
            entry.level, entry.since_s = level, now_s
        self._touched, self.held = held, frozenset(held)
        return found

    def refresh(self, now_s: float) -> None:
        """Sum up the long windows of some paths; called twice a second, all have had their turn in 30 s.

        A quarter of an hour at the quick pace takes a third of a millisecond to sum up: for a thousand paths
        at once, nothing else would be done for that long.
        """
        keys = list(self.entries)
        if len(keys) <= _FEW:
            return
        share = len(keys) // _ROUNDS + 1
        self._round = (self._round + share) % len(keys)
        for key in (keys[self._round :] + keys[: self._round])[:share]:
            entry = self.entries[key]
            entry.longest = entry.windows.quality(WINDOWS_S[-1], now_s)

    def statuses(self, now_s: float, unix_s: float) -> tuple[PathStatus, ...]:
        """Every path as readers see it."""
        return tuple(self._status(entry, now_s, unix_s) for entry in self.entries.values())

    def export(self) -> dict[str, Any]:
        """What was learnt of each link, as JSON values."""
        return {key: entry.judge.export() for key, entry in self.entries.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `export` gave, of the paths that are watched. Raises ValueError for garbage."""
        for key, entry in self.entries.items():
            learnt = saved.get(key)
            if isinstance(learnt, Mapping):
                entry.judge.restore(learnt)

    def _judge(self, key: str, *, anew: bool = False) -> Judge:
        unit_s = self.limits.probe_s if may_be_quick(key) else self.limits.interval_s
        judge = Judge(key, self.limits, unit_s=unit_s)
        judge.pace_s = self.limits.interval_s
        judge.anew = anew
        return judge

    def _windows(self, key: str) -> Windows:
        return Windows(self.limits.probe_s if may_be_quick(key) else self.limits.interval_s)

    def _status(self, entry: Entry, now_s: float, unix_s: float) -> PathStatus:
        verdict = entry.judge.verdict(now_s)
        last = entry.last
        longest = entry.longest if len(self.entries) > _FEW else None
        return PathStatus(
            key=entry.path.key,
            kind=kind_of(entry.path.key),
            source=entry.path.source,
            level=entry.level if entry.path.key in self.held else verdict.level,
            causes=verdict.causes,
            since=unix_s - (now_s - entry.since_s),
            windows=(
                *(entry.windows.quality(window_s, now_s) for window_s in WINDOWS_S[:-1]),
                longest or entry.windows.quality(WINDOWS_S[-1], now_s),
            ),
            rtt_s=last.rtt_s if last else None,
            via=last.via if last else "unknown",
            interface=entry.path.interface,
            error=last.error if last else "",
            counted=entry.counted,
        )
