"""The ways out as the targets show them: each answer counts for the node that it came through.

Who is asked quickly. The witnesses, always. While none of them is known to do well (silent, not measured yet,
or not to be measured) all others too, until a few of those that do well stand in for the rest; while none of
the stand-ins does well, all again. A new stay begins with everybody.

Whose word counts. A witness's; where none tells, that of those who are asked quickly instead, once they have
answered since or are dead themselves. A way is dead when somebody says so and nobody can say otherwise any
more: who has just answered, or was not asked for it long enough, holds it at `suspect`. So no figure here has
to be quicker than another, whatever `probe` and `failures` are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.detect import SILENCE_MOST_S
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import RECENT_S, Judge, Limits, Verdict, best

_STAND_INS_MOST = 3
_CHOSEN_AFTER_S = 5.0  # so long are all asked before a few that answer are chosen
_DOUBTED_S = (
    1.5  # probes lost in a row for so long: a slow pace has no `suspect` that would come before `dead`
)
_ANSWER_S = 1.5  # a page that is well has answered by then, and within four times `max_latency`
_REMEMBERED = 8  # changes of the way; a sample is older than the last few only after a long stall


@dataclass
class Egress:
    """What is thought of the internet through each node."""

    limits: Limits
    judges: dict[tuple[str, str], Judge] = field(default_factory=dict)
    """By node and target."""
    witnesses: tuple[str, ...] = ()
    """The targets that are always asked at the quick pace."""
    stand_ins: tuple[str, ...] = ()
    """A few that answer instead of the witnesses; before they are chosen all targets are asked."""
    _targets: tuple[str, ...] = ()
    """Those whose answers come by the way out."""
    _asked_s: dict[str, float] = field(default_factory=dict)
    """Since when others than the witnesses are asked at that pace too."""
    _told_s: float = 0.0
    """When the file named these targets, with these limits."""
    _ways: list[tuple[float, str | None]] = field(default_factory=list)

    def use(self, node: str | None, now_s: float) -> bool:
        """From now on packets leave by this node (DIRECT: by the uplink); None: it is not known.

        What was seen through a node in an earlier stay says nothing of this one: only what was learnt of
        its bursts is kept. Returns whether a new stay begins.
        """
        if self._ways and self._ways[-1][1] == node:
            return False
        came = next((each for _, each in reversed(self._ways) if each is not None), None)
        self._ways = [*self._ways[1 - _REMEMBERED :], (now_s, node)]
        if node is None or node == came:
            return False  # tailscaled is silent, or was for a moment
        self._ask_nobody()
        if node == DIRECT:
            return True  # the uplink is asked all the time
        self._renew(each for each in self.judges if each[0] == node)
        return True

    def renew(self) -> None:
        """Nothing that was seen through any node is evidence any more; of the uplink all stays."""
        self._ask_nobody()
        self._renew(each for each in self.judges if each[0] != DIRECT)

    def _ask_nobody(self) -> None:
        self._asked_s, self.stand_ins = {}, ()

    def _renew(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in list(keys):
            judge = self.judges[key]
            judge.loss.outage()
            self.judges[key] = fresh = Judge(judge.path, self.limits)
            fresh.restore(judge.export())
            fresh.pace_s = judge.pace_s

    def is_late(self, sample: Sample) -> bool:
        """Whether a target was asked through another way than the one in use: it says nothing of now."""
        if not sample.path.startswith("target:") or not self._ways:
            return False
        return self._way_at(sample.sent_s) != self._ways[-1][1]

    def update(
        self, witnesses: tuple[str, ...], targets: Iterable[str], limits: Limits, now_s: float
    ) -> None:
        """The targets of the file whose answers come by the way out, read anew."""
        kept = tuple(dict.fromkeys(_target(each) for each in targets))
        if (kept, limits) != (self._targets, self.limits):
            self._told_s = now_s
        self._targets = kept
        if limits != self.limits:
            self.limits = limits
            self.judges, before = {}, self.judges
            for (node, target), judge in before.items():
                self._judge(node, target).restore(judge.export())
        self.judges = {key: judge for key, judge in self.judges.items() if key[1] in kept}
        self.witnesses = witnesses
        others = self._others()
        self.stand_ins = tuple(each for each in self.stand_ins if each in others)
        self._asked_s = {each: since_s for each, since_s in self._asked_s.items() if each in others}

    def observe(self, sample: Sample) -> None:
        """Take in an answer of a target, or its silence."""
        kind = sample.path.partition(":")[0]
        node = DIRECT if kind == "direct" else self._way_at(sample.sent_s) if kind == "target" else None
        target = _target(sample.path)
        if node is not None and target in self._targets:
            self._judge(node, target).observe(sample)

    def verdict(self, node: str, now_s: float) -> Verdict | None:
        """The way through a node is as good as its best witness; None when nothing was asked through it.

        A witness that is silent may itself be at fault: then the others count. Of loss and latency the
        witnesses alone tell: a page's connection repeats what is lost.
        """
        seen = self._witnessed(node, now_s)
        if seen is not None and not _is_silent(seen):
            return seen
        words = [seen, *(self._word(node, each, now_s) for each in self._others())]
        found = best(each for each in words if each is not None)
        if found is not None and found.level == "dead":
            waits = any(self._may_speak(node, each, now_s) for each in self._targets)
            return replace(found, level="suspect") if waits else found
        if self._targets and self._ways and self._ways[-1][1] == node:
            found = found or Verdict(f"egress:{node}", "unknown")
            if found.level == "unknown":
                by_s = max(self._ways[-1][0], self._told_s) + 4 * self.limits.probe_s + SILENCE_MOST_S
                return replace(found, known_by_s=by_s)
        return found

    def call(self, node: str, now_s: float) -> bool:
        """Whether all targets are needed at the quick pace: by what the witnesses say, and nobody else.

        Once the others have had time to answer, a few of those that do stand in for the witnesses.
        """
        if self._ways and self._ways[-1][1] is None:  # tailscaled is silent: no answer would count
            return bool(self._asked_s) and not self.stand_ins
        if any(self._does_well(node, _target(each), now_s) for each in self.witnesses):
            self._ask_nobody()
            return False
        if not any(self._speaks_well(node, each, now_s) for each in self.stand_ins):
            self.stand_ins = ()
            for each in self._others():
                self._asked_s.setdefault(each, now_s)
            if now_s - max(self._asked_s.values(), default=now_s) >= max(_CHOSEN_AFTER_S, self._heard_s):
                well = (each for each in self._asked_s if self._speaks_well(node, each, now_s))
                self.stand_ins = tuple(well)[:_STAND_INS_MOST]
        if self.stand_ins:
            self._asked_s = {each: self._asked_s[each] for each in self.stand_ins}
        return not self.stand_ins

    @property
    def asked(self) -> tuple[str, ...]:
        """The keys of the targets that are asked at the quick pace, but for when all are."""
        return (*self.witnesses, *("target:" + each for each in self.stand_ins))

    def export(self) -> dict[str, Any]:
        """What was learnt of each way, as JSON values."""
        return {f"{node} {target}": judge.export() for (node, target), judge in self.judges.items()}

    def restore(self, saved: Mapping[str, Any], targets: Iterable[str]) -> None:
        """Take up what `export` gave, of the targets that are watched. Raises ValueError for garbage."""
        kept = {_target(each) for each in targets}
        for key, learnt in saved.items():
            node, _, target = key.partition(" ")
            if target in kept and isinstance(learnt, Mapping):
                self._judge(node, target).restore(learnt)

    def _witnessed(self, node: str, now_s: float) -> Verdict | None:
        keys = [(node, _target(each)) for each in self.witnesses]
        return best(self.judges[key].verdict(now_s) for key in keys if key in self.judges)

    def _others(self) -> tuple[str, ...]:
        return tuple(each for each in self._targets if "target:" + each not in self.witnesses)

    @property
    def _heard_s(self) -> float:
        """Who is asked at the quick pace and well has answered within this, seconds."""
        return self.limits.probe_s + max(_ANSWER_S, 4 * self.limits.max_latency_s)

    def _does_well(self, node: str, target: str, now_s: float) -> bool:
        judge = self.judges.get((node, target))
        if judge is None or judge.loss.streak * self.limits.probe_s >= _DOUBTED_S:
            return False
        return judge.level(now_s) == "good"

    def _word(self, node: str, target: str, now_s: float) -> Verdict | None:
        """What one of the others says: its answers of before it was asked quickly are none of now."""
        judge, since_s = self.judges.get((node, target)), self._asked_s.get(target)
        if judge is None or since_s is None:
            return None
        verdict = judge.verdict(now_s)
        return verdict if verdict.level == "dead" or judge.loss.last_answer_s >= since_s else None

    def _speaks_well(self, node: str, target: str, now_s: float) -> bool:
        return self._does_well(node, target, now_s) and self._word(node, target, now_s) is not None

    def _may_speak(self, node: str, target: str, now_s: float) -> bool:
        """Whether a target may yet show that a way works which seems dead."""
        judge = self.judges.get((node, target))
        if judge is not None and judge.level(now_s) == "dead":
            return False
        since_s = self._asked_s.get(target)
        if "target:" + target in self.witnesses and self._ways:
            since_s = self._ways[-1][0]
        if since_s is None or now_s - since_s < self._heard_s:
            return True
        answered_s = -inf if judge is None else judge.loss.last_answer_s
        return answered_s >= since_s and now_s - answered_s <= max(RECENT_S, 3 * self.limits.probe_s)

    def _judge(self, node: str, target: str) -> Judge:
        judge = self.judges.get((node, target))
        if judge is None:
            judge = self.judges[node, target] = Judge(f"egress:{node}", self.limits)
        return judge

    def _way_at(self, sent_s: float) -> str | None:
        """By which node a packet left that was sent then; None when that is not known."""
        for since_s, node in reversed(self._ways):
            if sent_s >= since_s:
                return node
        return None


def _is_silent(seen: Verdict) -> bool:
    """Whether nothing tells of the way: it does where some answers come, late or with some lost."""
    rules = {cause.rule for cause in seen.causes}
    return seen.level != "good" and ("failures" in rules or not rules & {"loss", "latency"})


def _target(key: str) -> str:
    return key.partition(":")[2]
