"""The ways out as the targets show them: each answer counts for the node that it came through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits, Verdict, best

_STAND_INS_MOST = 3
_CHOSEN_AFTER_S = 5.0  # so long are all asked before a few that answer are chosen
_REMEMBERED = 8  # changes of the way; a sample is older than the last few only after a long stall


@dataclass
class Egress:
    """What is thought of the internet through each node."""

    limits: Limits
    judges: dict[tuple[str, str], Judge] = field(default_factory=dict)
    """By node and target."""
    witnesses: tuple[str, ...] = ()
    """The targets that are always asked at the quick pace."""
    called_s: float | None = None
    """Since when other targets are asked at that pace too, because the witnesses do not answer well."""
    stand_ins: tuple[str, ...] = ()
    """A few that answer instead of the witnesses; before they are chosen all targets are asked."""
    _targets: tuple[str, ...] = ()
    """Those whose answers come by the way out."""
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
        if self.called_s is not None:  # who was silent there may be so here: the others speak from the start
            self.called_s, self.stand_ins = now_s, ()
        if node == DIRECT:
            return True  # the uplink is asked all the time
        self._renew(each for each in self.judges if each[0] == node)
        return True

    def renew(self) -> None:
        """Nothing that was seen through any node is evidence any more; of the uplink all stays."""
        self._renew(each for each in self.judges if each[0] != DIRECT)

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

    def update(self, witnesses: tuple[str, ...], targets: Iterable[str], limits: Limits) -> None:
        """The targets of the file whose answers come by the way out, read anew."""
        self._targets = kept = tuple(dict.fromkeys(_target(each) for each in targets))
        if limits != self.limits:
            self.limits = limits
            self.judges, before = {}, self.judges
            for (node, target), judge in before.items():
                self._judge(node, target).restore(judge.export())
        self.judges = {key: judge for key, judge in self.judges.items() if key[1] in kept}
        self.witnesses = witnesses
        self.stand_ins = tuple(each for each in self.stand_ins if each in kept)

    def observe(self, sample: Sample) -> None:
        """Take in an answer of a target, or its silence."""
        kind = sample.path.partition(":")[0]
        node = DIRECT if kind == "direct" else self._way_at(sample.sent_s) if kind == "target" else None
        target = _target(sample.path)
        if node is not None and target in self._targets:
            self._judge(node, target).observe(sample)

    def verdict(self, node: str, now_s: float) -> Verdict | None:
        """The way through a node is as good as its best witness; None when nothing was asked through it.

        A witness that is silent may itself be at fault: then those count that were called instead and have
        answered since, as their last answers may be from before. Of loss and latency the witnesses alone
        tell: a page's connection repeats what is lost.
        """
        seen = self._witnessed(node, now_s)
        if self.called_s is None or (seen is not None and not _is_silent(seen)):
            return seen
        called = [self._called(node, each, now_s) for each in self.stand_ins or self._targets]
        return best(each for each in (seen, *called) if each is not None)

    def call(self, node: str, now_s: float) -> bool:
        """Whether all targets are needed at the quick pace: by what the witnesses say, and nobody else.

        Once the others have had time to answer, a few of those that do stand in for the witnesses.
        """
        seen = self._witnessed(node, now_s)
        level = seen.level if seen is not None else "unknown"
        if level == "good":
            self.called_s, self.stand_ins = None, ()
        elif self.called_s is None:
            self.called_s = None if level == "unknown" else now_s
        elif not self._answers(node, self.stand_ins, now_s):
            if self.stand_ins:  # what they said is over: all are asked again
                self.called_s, self.stand_ins = now_s, ()
            elif now_s - self.called_s >= _CHOSEN_AFTER_S:
                self.stand_ins = self._answers(node, self._targets, now_s)[:_STAND_INS_MOST]
        return self.called_s is not None and not self.stand_ins

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

    def _called(self, node: str, target: str, now_s: float) -> Verdict | None:
        """What a target that was called says; None until it has answered since."""
        judge = self.judges.get((node, target))
        if judge is None or self.called_s is None or judge.loss.last_answer_s < self.called_s:
            return None
        verdict = judge.verdict(now_s)
        # Its first answers are too few to call the way good, and enough to not call it dead.
        return replace(verdict, level="suspect") if verdict.level == "unknown" else verdict

    def _answers(self, node: str, targets: Iterable[str], now_s: float) -> tuple[str, ...]:
        """Those that answer well since they were called, but for the witnesses."""
        others = [each for each in targets if "target:" + each not in self.witnesses]
        verdicts = {each: self._called(node, each, now_s) for each in others}
        return tuple(each for each, seen in verdicts.items() if seen is not None and seen.level == "good")

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
