"""The ways out as the targets show them: each answer counts for the node that it came through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits, Verdict, best

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
    """Since when all targets are asked at that pace, because the witnesses are silent."""
    _targets: frozenset[str] = frozenset()
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
        self.called_s = None
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
        self._targets = kept = frozenset(_target(each) for each in targets)
        if limits != self.limits:
            self.limits = limits
            self.judges, before = {}, self.judges
            for (node, target), judge in before.items():
                self._judge(node, target).restore(judge.export())
        self.judges = {key: judge for key, judge in self.judges.items() if key[1] in kept}
        self.witnesses = witnesses

    def observe(self, sample: Sample) -> None:
        """Take in an answer of a target, or its silence."""
        kind = sample.path.partition(":")[0]
        node = DIRECT if kind == "direct" else self._way_at(sample.sent_s) if kind == "target" else None
        target = _target(sample.path)
        if node is not None and target in self._targets:
            self._judge(node, target).observe(sample)

    def verdict(self, node: str, now_s: float) -> Verdict | None:
        """The way through a node is as good as its best witness; None when nothing was asked through it.

        Other targets are asked less often, so their last answer may be from before: they count once they
        have answered since they were called.
        """
        verdicts = []
        for (through, target), judge in self.judges.items():
            if through != node:
                continue
            if "target:" + target in self.witnesses or self._came(judge):
                verdicts.append(judge.verdict(now_s))
        return best(verdicts)

    def call(self, needed: bool, now_s: float) -> None:
        """Whether all targets are needed at the quick pace."""
        if not needed:
            self.called_s = None
        elif self.called_s is None:
            self.called_s = now_s

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

    def _came(self, judge: Judge) -> bool:
        return self.called_s is not None and judge.loss.last_answer_s >= self.called_s

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


def _target(key: str) -> str:
    return key.partition(":")[2]
