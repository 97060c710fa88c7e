"""Do no harm: seeded fault schedules through the real judges and the real `decide`, under a fake clock.

The world knows the truth of each link and keeps a trace of what was probed, decided and done. The checker
below reads that trace and nothing of the decider's state; it shares no rule and no constant with it.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import multiprocessing
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tsstack.monitor import choice, failover
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits, Verdict

TICK_S = 0.5
TIMEOUT_S = 1.0
BASE_RTT_S = 0.02
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
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one thing from `start_s` to `end_s`.

    `kind`: cut, uplink, loss, latency (of a node), own (all links), target (all egress), stall (no probes),
    daemon (tailscaled away), none-set, other-set (prefs changed by someone), manual, maintenance,
    gone (the node offers no exit and cannot be set), edits (what is asked of tailscaled is lost).
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
    elif kind in {"gone", "lost", "outage"}:
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
    else:
        for node in nodes:
            yield Fault("uplink", node, start_s, start_s + rng.uniform(30, 500))


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
    """By path: sent, known, round trip. Paths: a node, `egress:` and a node, `direct`."""


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
            if f"egress:{node}" in self.judges:  # an earlier stay is no evidence, as in `Egress.use`
                self.judges[f"egress:{node}"] = Judge(f"egress:{node}", self.limits)
            self.trace.actual.append((now_s, node))

    def _asked(self, path: str) -> float | None:
        """What a probe on a path meets now: a round trip, or nothing."""
        name = path.removeprefix("egress:")
        if self.active:
            if self._on("own", "") or (path != name and (self._on("target", "") or self._on("uplink", name))):
                return None
            if path == "direct" and self._on("target", ""):
                return None
            lossy = self._on("loss", name)
            if self._on("cut", name) or (lossy and self.rng.random() < lossy.amount):
                return None
        if self.plan.background and self.rng.random() < self.plan.background:
            return None
        slow = self._on("latency", name) if self.active else None
        return BASE_RTT_S + self.rng.random() * 0.005 + (slow.amount if slow else 0.0)

    def _probe(self, now_s: float) -> None:
        while self.late and self.late[0][0] <= now_s:
            _, path, sample = self.late.pop(0)
            self._judge(path).observe(sample)
        if self._on("stall", ""):
            return
        paths = [*self.plan.nodes, "direct"] + ([f"egress:{self.actual}"] if self.actual else [])
        for path in paths:
            pace_s = TICK_S if path in self.fast or path.startswith("egress:") else self.plan.interval_s
            if path == "direct" and self.plan.otherwise == "direct":
                pace_s = 1.0
            elif path == "direct":
                continue
            if now_s < min(self.due_s.get(path, 0.0), now_s + pace_s - TICK_S):
                continue
            if now_s < self.due_s.get(path, 0.0) and pace_s > TICK_S:
                continue
            self.due_s[path] = now_s + pace_s
            judge = self._judge(path)
            judge.pace_s = pace_s
            rtt_s = self._asked(path)
            sample = Sample(path, "icmp", now_s, rtt_s)
            known_s = now_s + (TIMEOUT_S if rtt_s is None else rtt_s)
            self.trace.probes.setdefault(path, []).append((now_s, known_s, rtt_s))
            if known_s <= now_s + TICK_S / 2:  # by then it is decided again
                judge.observe(sample)
            else:
                bisect.insort(self.late, (known_s, path, sample), key=lambda each: each[0])

    def _judge(self, path: str) -> Judge:
        if path not in self.judges:
            self.judges[path] = Judge(path, self.limits)
        return self.judges[path]

    def _verdict(self, path: str, now_s: float) -> Verdict | None:
        judge = self.judges.get(path)
        return judge.verdict(now_s) if judge else None

    def _decide(self, now_s: float) -> None:
        if self.proving is not None:
            number, node, by_s = self.proving
            reached = self._asked(f"egress:{node}" if node else "direct")
            if (reached is not None and self.actual == node) or now_s >= by_s - 1:
                ok = reached is not None and self.actual == node
                self.proof = choice.Proof(number, ok, "" if ok else "no target answered")
                self.trace.proofs.append((now_s, node, ok))
                self.proving = None
        candidates = tuple(
            choice.Candidate(
                node,
                self._judge(node).verdict(now_s),
                self._verdict(f"egress:{node}", now_s) if node == self.actual else None,
                offered=not self._on("gone", node),
            )
            for node in self.plan.nodes
        )
        actual = None if self._on("daemon", "") else self.actual
        direct = self._verdict("direct", now_s) if self.plan.otherwise == "direct" else None
        facts = choice.Facts(candidates, actual, self.proof, direct)
        decision = self.decide(self.policy, self.state, facts, now_s)
        self.state, self.fast = decision.state, decision.fast
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


# The checker. Its constants are those of the promise, not of the code.


class Checker:
    """Holds a trace against the promises; `faults` are sentences."""

    def __init__(self, plan: Schedule, trace: Trace) -> None:
        self.plan, self.trace = plan, trace
        self.faults: list[str] = []

    def check(self) -> list[str]:
        """Every promise that was broken, with the time."""
        for done in self.trace.done:
            if done.what == "use":
                self._move(done)
            elif done.what == "direct":
                self._direct(done)
        self._flapping()
        self._at_home()
        self._leaks()
        self._one_at_a_time()
        self._stuck()
        self._given_up()
        return self.faults

    def _say(self, at_s: float, what: str) -> None:
        self.faults.append(f"seed {self.plan.seed} ({self.plan.kind}) at {at_s:.1f} s: {what}")

    def _during(self, at_s: float, *kinds: str) -> list[Fault]:
        return [each for each in self.plan.faults if each.kind in kinds and each.start_s <= at_s < each.end_s]

    def _known(self, path: str, at_s: float, span_s: float) -> list[float | None]:
        """Round trips of the probes sent in the last `span_s` whose outcome was known, oldest first."""
        rows = self.trace.probes.get(path, [])
        return [rtt for sent, known, rtt in rows if at_s - span_s <= sent and known <= at_s]

    def _move(self, done: Done) -> None:
        """A move by itself leads only to what was measured, and measured to be better."""
        at_s, node, left = done.at_s, done.node, done.left
        heard_s = at_s - TICK_S  # what begins within a tick is heard of at its end
        if any(each.start_s <= heard_s for each in self._during(at_s, "maintenance")):
            self._say(at_s, "moved during maintenance")
        manual = [each for each in self._during(at_s, "manual") if each.start_s <= heard_s]
        if manual:
            if manual[0].node != node:
                self._say(at_s, f"moved to {node} although {manual[0].node} was chosen by hand")
            return
        recent = self._known(node, at_s, 10.0)
        answered = [rtt for rtt in recent if rtt is not None]
        if len(answered) < 3 or not recent or recent[-1] is None:
            self._say(at_s, f"moved to {node}, which was not measured: {recent[-6:]}")
            return
        if node == left or self._bad_proof(left, at_s) or self._silent(left, at_s):
            return
        if self._lossier(left, node, at_s) or self._later(left, answered, at_s):
            return
        nodes = self.plan.nodes
        if left == "" or (left in nodes and nodes.index(node) < nodes.index(left)):
            long = self._known(node, at_s, self.plan.restore_after_s - 1)
            lost = sum(rtt is None for rtt in long)
            if long and lost <= max(2, 0.1 * len(long)):
                return
        self._say(at_s, f"moved from {left} to {node}, which was not measured to be better")

    def _bad_proof(self, node: str, at_s: float) -> bool:
        last = [ok for when, of, ok in self.trace.proofs if of == node and at_s - 60 <= when <= at_s]
        return bool(last) and not last[-1]

    def _silent(self, node: str, at_s: float) -> bool:
        for path in (node or "direct", f"egress:{node}"):
            last = self._known(path, at_s, 12.0)
            streak = next((i for i, rtt in enumerate(reversed(last)) if rtt is not None), len(last))
            if streak >= 3:
                return True
        return False

    def _lossier(self, left: str, node: str, at_s: float) -> bool:
        ours = self._known(node, at_s, 10.0)
        share = sum(rtt is None for rtt in ours) / len(ours)
        for path in (left or "direct", f"egress:{left}"):
            # Over a span that the rule chose: some span from 5 s to 10 min must show it.
            for span_s in (5, 10, 20, 40, 80, 160, 320, 600):
                theirs = self._known(path, at_s, span_s)
                lost = sum(rtt is None for rtt in theirs)
                if lost >= 3 and lost / len(theirs) > max(0.05, share):
                    return True
        return False

    def _later(self, left: str, answered: list[float], at_s: float) -> bool:
        for path in (left or "direct", f"egress:{left}"):
            for span_s in (6.0, 10.0, 20.0):
                theirs = [rtt for rtt in self._known(path, at_s, span_s) if rtt is not None]
                if theirs and statistics.median(theirs) > max(0.2, statistics.median(answered)):
                    return True
        return False

    def _direct(self, done: Done) -> None:
        at_s = done.at_s
        if self.plan.otherwise == "block":
            self._say(at_s, "went direct although the file says block")
        recent = self._known("direct", at_s, 10.0)
        if not recent or recent[-1] is None:
            self._say(at_s, "went direct although that was not measured")
        for node in self.plan.nodes:
            if not self._silent(node, at_s) and not any(
                of == node and not ok and when <= at_s for when, of, ok in self.trace.proofs
            ):
                self._say(at_s, f"went direct although {node} works")

    def _flapping(self) -> None:
        if self.plan.kind != "flap":
            return
        times = [each.at_s for each in self.trace.done if each.what in {"use", "direct"}]
        for first, third in zip(times, times[2:], strict=False):
            if third - first < 600:
                self._say(third, f"three moves within {third - first:.0f} s on a link that flaps")

    def _at_home(self) -> None:
        """Away from a home that was well for `restore_after` and one interval: only after it failed there.

        Who sets prefs again and again means it, and gets it. Well means that no fault is on and that no 20 s
        of probes lost more than `max_loss`.
        """
        home = self.plan.nodes[0]
        spans = [(0.0, 0.0), *((each.start_s, each.end_s) for each in self.plan.faults)]
        spans.append((self.plan.length_s, self.plan.length_s))
        well_s = 0.0
        for start_s, end_s in sorted(spans):
            well_s = self._calm_from(home, well_s, start_s)
            due_s = well_s + self.plan.restore_after_s + self.plan.interval_s + 2
            relapsed = any(
                not ok for when, of, ok in self.trace.proofs if of == home and when < due_s
            ) or any(
                each.node == home and each.what == "use" and each.at_s < well_s for each in self.trace.done
            )
            fought = sum(each.what == "repair" and each.at_s < due_s for each in self.trace.done) >= 3
            if start_s > due_s and not (relapsed or fought) and self._in_use(due_s) != home:
                self._say(due_s, f"not at home, which was well since {well_s:.1f} s")
            well_s = max(well_s, end_s)

    def _calm_from(self, node: str, from_s: float, until_s: float) -> float:
        """The end of the last 20 s with more than 5 % lost between two faults."""
        rows = [row for row in self.trace.probes.get(node, []) if from_s <= row[0] <= until_s]
        calm_s, window = from_s, deque[tuple[float, bool]]()
        for sent_s, known_s, rtt_s in rows:
            window.append((sent_s, rtt_s is None))
            while window[0][0] < sent_s - 20:
                window.popleft()
            lossy = sum(lost for _, lost in window) > 0.05 * max(len(window), 20)
            if rtt_s is None and (lossy or len(window) < 10):  # at the slow pace one loss is an interval lost
                calm_s = known_s
        return calm_s

    def _in_use(self, at_s: float) -> str:
        return [node for when, node in self.trace.actual if when <= at_s][-1]

    def _leaks(self) -> None:
        if self.plan.otherwise != "block":
            return
        rows = [*self.trace.actual, (self.plan.length_s, "end")]
        for (start_s, node), (end_s, _) in itertools.pairwise(rows):
            hands_off = self._during(start_s, "maintenance", "daemon", "edits", "stall")
            free_s = max([each.end_s for each in hands_off], default=start_s)
            if node == "" and end_s - free_s > 1.5:
                self._say(
                    start_s, f"left by the uplink for {end_s - start_s:.1f} s although the file says block"
                )

    def _one_at_a_time(self) -> None:
        moves = [each for each in self.trace.done if each.what in {"use", "direct"}]
        for one, other in itertools.pairwise(moves):
            settled = any(
                one.at_s <= when <= other.at_s for when, of, _ in self.trace.proofs if of == one.node
            )
            if not settled and other.at_s - one.at_s < 5:
                self._say(other.at_s, "moved while a move was open")

    def _stuck(self) -> None:
        """Doing nothing is harm too: a bad node is left when another was well all the time."""
        if self.plan.kind == "lost":
            self._lost_edits()
        hit = {each.node for each in self.plan.faults}
        if "" in hit or not set(self.plan.nodes) - hit or self.plan.kind in {"drift", "hands"}:
            return
        limits_s = {"cut": 15, "uplink": 60, "latency": 30, "loss": 150}
        for fault in self.plan.faults:
            due_s = fault.start_s + limits_s[fault.kind]
            lasting = due_s < min(fault.end_s, self.plan.length_s)
            used = [node for when, node in self.trace.actual if fault.start_s <= when <= due_s]
            stayed = not used and self._in_use(due_s) == fault.node
            if lasting and stayed and not self._unclear(fault, due_s):
                self._say(due_s, f"still on {fault.node}: {fault.kind} since {fault.start_s:.1f} s")

    def _lost_edits(self) -> None:
        """A few seconds after tailscaled works again the host has left a node that is dead yet."""
        cut, edits = (
            next(each for each in self.plan.faults if each.kind == kind) for kind in ("cut", "edits")
        )
        due_s = max(edits.end_s + 8, cut.start_s + 20)
        if due_s < cut.end_s and self._in_use(due_s) == cut.node:
            self._say(due_s, f"still on {cut.node}: its cut began at {cut.start_s:.1f} s")

    def _given_up(self) -> None:
        """Where another node works nothing is blocked, and a blocked host finds the one that is back."""
        for done in self.trace.done:
            well = [node for node in self.plan.nodes if not self._touched(node, done.at_s)]
            if done.what == "block" and well:
                self._say(done.at_s, f"blocked although {well[0]} works")
        if self.plan.kind != "outage" or self.plan.otherwise != "block":
            return
        ends = sorted(each.end_s for each in self.plan.faults)
        due_s = ends[0] + 30 * len(self.plan.nodes) + 40
        if due_s < min(ends[1], self.plan.length_s):
            back = next(each.node for each in self.plan.faults if each.end_s == ends[0])
            if self._in_use(due_s) != back:
                self._say(due_s, f"on {self._in_use(due_s)}, though {back} works since {ends[0]:.1f} s")

    def _touched(self, node: str, at_s: float) -> bool:
        """Whether any fault that concerns a node began before, or it lost a probe of late."""
        if any(
            each.node in {node, ""} and each.start_s <= at_s and each.kind not in {"edits", "daemon"}
            for each in self.plan.faults
        ):
            return True
        return None in self._known(node, at_s, 20.0)

    def _unclear(self, fault: Fault, due_s: float) -> bool:
        """Whether another fault of the same node began before, so that the promise's time is not clear."""
        return any(
            each is not fault and each.node == fault.node and each.start_s <= due_s <= each.end_s + 120
            for each in self.plan.faults
        )


def judge(seed: int, decide: Callable[..., choice.Decision] = failover.decide) -> tuple[list[str], int]:
    """Run and check one schedule: what was broken, and how many moves were made."""
    plan = schedule(seed)
    trace = World(plan, decide).run()
    return Checker(plan, trace).check(), sum(each.what in {"use", "direct"} for each in trace.done)


def measure(count: int, first: int, processes: int) -> dict[str, Any]:
    """So many schedules from seed `first` on."""
    started_s = time.monotonic()
    broken: list[str] = []
    moves: Counter[int] = Counter()
    with multiprocessing.Pool(processes) as pool:
        for faults, made in pool.imap_unordered(judge, range(first, first + count), chunksize=20):
            broken.extend(faults)
            moves[made] += 1
    return {
        "schedules": count,
        "first_seed": first,
        "violations": len(broken),
        "examples": broken[:20],
        "moves_per_schedule": dict(sorted(moves.items())),
        "took_s": round(time.monotonic() - started_s, 1),
    }


def main(arguments: list[str]) -> int:
    """Print the result; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="benchmarks/monitor --harm", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ci", action="store_true", help="60 schedules")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    result = measure(60 if asked.ci else asked.count, asked.seed, asked.processes)
    if asked.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['schedules']} schedules, {result['violations']} violations, {result['took_s']} s")
        print(f"moves in a schedule: {result['moves_per_schedule']}")
        print("\n".join(result["examples"]))
    return 1 if result["violations"] else 0
