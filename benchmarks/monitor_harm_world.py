"""The worlds of the harm campaign: seeded fault schedules, and the daemon's loop around the real decider.

A world knows the truth of each link and keeps a trace of what was probed, decided and done.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tsstack.monitor import choice, failover
from tsstack.monitor.egress import Egress
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits

TICK_S = 0.5
TIMEOUT_S = 1.0
BASE_RTT_S = 0.02
# What a probe's sample is called; the node that it went by is found out by `Egress`.
SAMPLED = {"egress": "target:light", "page": "target:page", "direct": "direct:light"}
KINDS = (
    "flap",
    "cut",
    "uplink",
    "loss",
    "latency",
    "own",
    "target",
    "mixed",
    "drift",
    "hands",
    "gone",
    "lost",
    "outage",
    "mute",
    "homeless",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one thing from `start_s` to `end_s`.

    `kind`: cut, uplink, loss, latency (of a node), own (all links), target (all egress), stall (no probes),
    daemon (tailscaled away), none-set, other-set (prefs changed by someone), manual, maintenance,
    gone (the node offers no exit and cannot be set), edits (what is asked of tailscaled is lost), mute (the
    light target is silent while the page answers: through every node, or through one).
    """

    kind: str
    node: str
    start_s: float
    end_s: float
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens in one run."""

    seed: int
    kind: str
    nodes: tuple[str, ...]
    otherwise: str
    restore_after_s: float
    interval_s: float
    length_s: float
    background: float
    faults: tuple[Fault, ...]


def schedule(seed: int) -> Schedule:
    """The schedule of a seed: its kind goes round, everything else is drawn."""
    rng = random.Random(seed)  # noqa: S311
    kind = KINDS[seed % len(KINDS)]
    nodes = tuple(f"exit-{letter}" for letter in "abcd"[: rng.choice((2, 2, 3, 4))])
    length_s = rng.uniform(900, 1500)
    faults: list[Fault] = []

    def some(what: str, node: str, longest_s: float = 400) -> None:
        start_s = rng.uniform(20, length_s * 0.6)
        amount = rng.uniform(0.2, 0.6) if what == "loss" else rng.uniform(0.25, 0.6)
        faults.append(Fault(what, node, start_s, start_s + rng.uniform(3, longest_s), amount))

    if kind == "flap":
        period_s = rng.uniform(60, 120)
        bad = rng.uniform(0.2, 0.8)
        at_s = rng.uniform(20, 120)
        while at_s < length_s:
            faults.append(Fault("cut", nodes[0], at_s, at_s + period_s * bad))
            at_s += period_s
    elif kind == "mixed":
        for _ in range(rng.randint(2, 7)):
            some(rng.choice(("cut", "uplink", "loss", "latency")), rng.choice(nodes))
        some(rng.choice(("own", "target", "stall", "daemon")), "", 90)
    elif kind == "drift":
        for _ in range(rng.randint(1, 4)):
            start_s = rng.uniform(20, length_s - 60)
            faults.append(Fault(rng.choice(("none-set", "other-set")), nodes[-1], start_s, start_s))
        some("cut", nodes[0])
    elif kind == "hands":
        some(rng.choice(("manual", "maintenance")), rng.choice(nodes))
        some("cut", nodes[0])
        some("loss", rng.choice(nodes))
    elif kind in {"gone", "lost", "outage", "mute", "homeless"}:
        faults += _lasting(kind, nodes, length_s, rng)
    elif kind in {"own", "target"}:
        some(kind, "", 120)
    else:
        for node in nodes[: rng.choice((1, 1, 2, len(nodes)))]:
            some(kind, node)
    return Schedule(
        seed=seed,
        kind=kind,
        nodes=nodes,
        otherwise=rng.choice(("block", "block", "direct")),
        restore_after_s=rng.choice((120.0, 120.0, 120.0, 180.0, 300.0)),
        interval_s=rng.choice((10.0, 30.0, 30.0)),
        length_s=length_s,
        background=rng.choice((0.0, 0.001, 0.01)),
        faults=tuple(sorted(faults, key=lambda each: each.start_s)),
    )


def _lasting(kind: str, nodes: tuple[str, ...], length_s: float, rng: random.Random) -> Iterator[Fault]:
    """What used to keep a host from what works: a node that is gone, lost requests, an outage everywhere."""
    start_s = rng.uniform(60, length_s * 0.4)
    if kind == "gone":
        yield Fault("gone", nodes[0], start_s, start_s + rng.uniform(60, 400))
        yield Fault("none-set", "", start_s, start_s)
    elif kind == "lost":
        away_s = start_s + rng.uniform(3, 8)
        back_s = away_s + rng.uniform(0, 25)
        yield Fault("cut", nodes[0], start_s, start_s + rng.uniform(100, 400))
        yield Fault("edits", "", start_s, back_s)
        yield Fault("daemon", "", away_s, back_s)
    elif kind == "mute":
        yield Fault("mute", rng.choice(("", "", nodes[0])), start_s, start_s + rng.uniform(30, 500))
        if rng.random() < 0.4:
            cut_s = start_s + rng.uniform(20, 300)
            yield Fault(rng.choice(("cut", "uplink")), nodes[0], cut_s, cut_s + rng.uniform(60, 300))
    elif kind == "homeless":
        yield from _homeless(nodes, start_s, length_s, rng)
    else:
        for node in nodes:
            yield Fault("uplink", node, start_s, start_s + rng.uniform(30, 500))


def _homeless(nodes: tuple[str, ...], start_s: float, length_s: float, rng: random.Random) -> Iterator[Fault]:
    """A move whose proof fails where what was in use works: home to a node without uplink, or from a lossy
    one to such a node. What follows in the file is well, or worse.
    """
    third = nodes[2] if len(nodes) > 2 else ""
    if rng.random() < 0.5:
        yield Fault("cut", nodes[0], start_s, start_s + rng.uniform(20, 60))
        yield Fault("uplink", nodes[0], start_s, length_s)
        if third and rng.random() < 0.5:
            yield Fault("uplink", third, start_s, length_s)
    else:
        yield Fault("loss", nodes[0], start_s, start_s + rng.uniform(200, 500), rng.uniform(0.1, 0.2))
        yield Fault("uplink", nodes[1], start_s - 30, length_s)
        if third:
            yield Fault("loss", third, start_s - 30, length_s, rng.uniform(0.35, 0.6))


@dataclass(frozen=True, slots=True)
class Done:
    """One action, when it was asked for, with what was in use then."""

    at_s: float
    what: str  # use, repair, direct, block
    node: str
    left: str


@dataclass
class Trace:
    """What happened: the checker reads this and the schedule."""

    done: list[Done] = field(default_factory=list)
    actual: list[tuple[float, str]] = field(default_factory=list)
    """What prefs named, from each time on."""
    proofs: list[tuple[float, str, bool]] = field(default_factory=list)
    probes: dict[str, list[tuple[float, float, float | None]]] = field(default_factory=dict)
    """By path: sent, known, round trip. Paths: a node, `direct`, and by node the light target (`egress:`) and
    the page (`page:`)."""


class World:
    """The links of one schedule, and the daemon's loop around the decider."""

    def __init__(self, plan: Schedule, decide: Callable[..., choice.Decision]) -> None:
        self.plan, self.decide = plan, decide
        self.rng = random.Random(plan.seed ^ 0x5EED)  # noqa: S311
        self.trace = Trace()
        self.limits = Limits(interval_s=plan.interval_s, restore_after_s=plan.restore_after_s)
        self.policy = choice.Policy(plan.nodes, plan.otherwise, plan.restore_after_s)  # type: ignore[arg-type]
        self.state = failover.initial(self.policy, plan.nodes[0])
        self.actual = plan.nodes[0]
        self.judges: dict[str, Judge] = {}
        self.egress = Egress(self.limits)
        self.egress.update(("target:light",), ("target:light", "target:page"), self.limits, 0.0)
        self.egress.use(self.actual, 0.0)
        self.all_targets = False
        self.due_s: dict[str, float] = {}
        self.late: list[tuple[float, str, Sample]] = []
        self.proving: tuple[int, str, float] | None = None
        self.proof: choice.Proof | None = None
        self.fast = frozenset(plan.nodes)
        self.active: list[Fault] = []

    def run(self) -> Trace:
        """The whole schedule."""
        faults = list(self.plan.faults)
        self.trace.actual.append((0.0, self.actual))
        for tick in range(int(self.plan.length_s / TICK_S)):
            now_s = tick * TICK_S
            while faults and faults[0].start_s <= now_s:
                self._begin(faults.pop(0), now_s)
            for fault in [each for each in self.active if each.end_s <= now_s]:
                self.active.remove(fault)
                self._end(fault)
            self._probe(now_s)
            if tick % 2 == 0 and not self._on("stall", ""):
                self._decide(now_s + TICK_S / 2)
        return self.trace

    def _on(self, kind: str, node: str) -> Fault | None:
        for each in self.active:
            if each.kind == kind and each.node == node:
                return each
        return None

    def _begin(self, fault: Fault, now_s: float) -> None:
        if fault.kind in {"none-set", "other-set"}:
            self._set("" if fault.kind == "none-set" else fault.node, now_s)
            return
        self.active.append(fault)
        if fault.kind == "manual":
            self.state = failover.choose(self.policy, self.state, fault.node)
        elif fault.kind == "maintenance":
            self.state = failover.maintain(self.state, True)

    def _end(self, fault: Fault) -> None:
        if fault.kind == "manual":
            self.state = failover.choose(self.policy, self.state, None)
        elif fault.kind == "maintenance":
            self.state = failover.maintain(self.state, False)

    def _edit(self, node: str, now_s: float) -> None:
        if not (self._on("edits", "") or self._on("gone", node)):
            self._set(node, now_s)

    def _set(self, node: str, now_s: float) -> None:
        if node != self.actual:
            self.actual = node
            self.egress.use(node, now_s)
            self.trace.actual.append((now_s, node))

    def _asked(self, path: str) -> float | None:
        """What a probe on a path meets now: a round trip, or nothing."""
        name = path.removeprefix("egress:").removeprefix("page:")
        again_s = 0.0
        if self.active:
            if self._on("own", "") or (path != name and (self._on("target", "") or self._on("uplink", name))):
                return None
            if path == "direct" and self._on("target", ""):
                return None
            if path.startswith("egress:") and (self._on("mute", "") or self._on("mute", name)):
                return None
            lossy = self._on("loss", name)
            lost = lossy is not None and self.rng.random() < lossy.amount
            if self._on("cut", name) or (lost and not path.startswith("page:")):
                return None
            again_s = 1.0 if lost else 0.0  # a page's connection repeats what is lost
        if self.plan.background and self.rng.random() < self.plan.background:
            return None
        slow = self._on("latency", name) if self.active else None
        return BASE_RTT_S + self.rng.random() * 0.005 + (slow.amount if slow else 0.0) + again_s

    def _probe(self, now_s: float) -> None:
        while self.late and self.late[0][0] <= now_s:
            self._take(self.late.pop(0)[2])
        if self._on("stall", ""):
            return
        paths = [*self.plan.nodes, "direct"]
        if self.actual:
            paths += [f"egress:{self.actual}", f"page:{self.actual}"]
        for path in paths:
            light = path.startswith("egress:")
            quick = light or path in self.fast or (path.startswith("page:") and self._is_page_quick())
            pace_s = TICK_S if quick else self.plan.interval_s
            if path == "direct" and self.plan.otherwise == "direct":
                pace_s = 1.0
            elif path == "direct":
                continue
            if now_s < min(self.due_s.get(path, 0.0), now_s + pace_s - TICK_S):
                continue
            if now_s < self.due_s.get(path, 0.0) and pace_s > TICK_S:
                continue
            self.due_s[path] = now_s + pace_s
            rtt_s = self._asked(path)
            sample = Sample(SAMPLED.get(path.partition(":")[0], path), "icmp", now_s, rtt_s)
            if sample.path == path:
                self._judge(path).pace_s = pace_s
            known_s = now_s + (TIMEOUT_S if rtt_s is None else rtt_s)
            self.trace.probes.setdefault(path, []).append((now_s, known_s, rtt_s))
            if known_s <= now_s + TICK_S / 2:  # by then it is decided again
                self._take(sample)
            else:
                bisect.insort(self.late, (known_s, path, sample), key=lambda each: each[0])

    def _is_page_quick(self) -> bool:
        return self.all_targets or "target:page" in self.egress.asked

    def _take(self, sample: Sample) -> None:
        if sample.path in SAMPLED.values():
            self.egress.observe(sample)
        else:
            self._judge(sample.path).observe(sample)

    def _judge(self, path: str) -> Judge:
        if path not in self.judges:
            self.judges[path] = Judge(path, self.limits)
        return self.judges[path]

    def _decide(self, now_s: float) -> None:
        if self.proving is not None:
            number, node, by_s = self.proving
            asked = (f"egress:{node}", f"page:{node}") if node else ("direct",)
            reached = next((rtt_s for each in asked if (rtt_s := self._asked(each)) is not None), None)
            if (reached is not None and self.actual == node) or now_s >= by_s - 1:
                ok = reached is not None and self.actual == node
                self.proof = choice.Proof(number, ok, "" if ok else "no target answered")
                self.trace.proofs.append((now_s, node, ok))
                self.proving = None
        candidates = tuple(
            choice.Candidate(
                node,
                self._judge(node).verdict(now_s),
                self.egress.verdict(node, now_s) if node == self.actual else None,
                offered=not self._on("gone", node),
            )
            for node in self.plan.nodes
        )
        actual = None if self._on("daemon", "") else self.actual
        direct = self.egress.verdict(choice.DIRECT, now_s) if self.plan.otherwise == "direct" else None
        facts = choice.Facts(candidates, actual, self.proof, direct)
        decision = self.decide(self.policy, self.state, facts, now_s)
        self.state, self.fast = decision.state, decision.fast
        self.all_targets = self.egress.call(self.state.at, now_s)
        for action in decision.actions:
            self._do(action, now_s)

    def _do(self, action: choice.Action, now_s: float) -> None:
        done = self.trace.done
        match action:
            case choice.UseExit(node, move):
                done.append(Done(now_s, "use" if move else "repair", node, self.actual))
                self._edit(node, now_s)
            case choice.GoDirect(move):
                done.append(Done(now_s, "direct" if move else "repair", "", self.actual))
                self._edit("", now_s)
            case choice.Block(node):
                done.append(Done(now_s, "block", node, self.actual))
                self._edit(node, now_s)
            case choice.ProveEgress(node, move, by_s):
                self.proving = (move, node, by_s)
