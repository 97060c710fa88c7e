"""Do no harm: seeded fault schedules through the real judges and the real `decide`, under a fake clock.

The world knows the truth of each link and keeps a trace of what was probed, decided and done. The checker
below reads that trace and nothing of the decider's state; it shares no rule and no constant with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from monitor_harm_world import KINDS, TICK_S, Done, Fault, Schedule, Trace, World, schedule

from tsstack.monitor import choice, failover

__all__ = ["KINDS", "Checker", "judge", "main", "measure", "schedule"]

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
        self._left_for_nothing()
        self._wandering()
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
        manual = self._during(at_s, "manual")
        if manual and (manual[0].node == node or manual[0].start_s <= heard_s):
            if manual[0].node != node:
                self._say(at_s, f"moved to {node} although {manual[0].node} was chosen by hand")
            return
        if self._returns(done):
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

    def _returns(self, done: Done) -> bool:
        """Whether a move whose proof has just failed is undone: the host goes back to where something passed.

        Decision 6 asks no more of that place than an answer of the last three paces and 2 s. Where the host
        is nothing passes: a way that passes half is measured to be better, and to wait there is the harm.
        """
        origin, failed = None, False
        for each in self.trace.done[: self.trace.done.index(done) + 1]:
            if each.what == "use":
                failed = any(of == each.left and not ok for _, of, ok in self._proofs_of_late(each.at_s))
                origin = origin if failed else each.left
        heard = any(rtt is not None for rtt in self._known(done.node, done.at_s, 3 * TICK_S + 2))
        return failed and done.node == origin and heard and not self._bad_proof(done.node, done.at_s)

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
        if "" in hit or not set(self.plan.nodes) - hit or self.plan.kind in {"drift", "hands", "homeless"}:
            return
        limits_s = {"cut": 15, "uplink": 60, "latency": 30, "loss": 150}
        for fault in [each for each in self.plan.faults if each.kind in limits_s]:
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
            if self._stays_away(back, due_s, min(ends[1], self.plan.length_s)):
                self._say(due_s, f"on {self._in_use(due_s)}, though {back} works since {ends[0]:.1f} s")

    def _stays_away(self, node: str, at_s: float, until_s: float) -> bool:
        """Whether it is not in use at a time, and away for longer than a way home that fails its proof takes.

        That way is tried by design, as nobody can see from elsewhere whether home has its uplink again.
        """
        before, now, after = (self._in_use(each) != node for each in (at_s - 7, at_s, at_s + 7))
        return now and (before or (after and at_s + 7 < until_s))

    def _left_for_nothing(self) -> None:
        """One silent target is no reason to move, to block or to leave by the uplink."""
        if {each.kind for each in self.plan.faults} == {"mute"}:
            for done in self.trace.done:
                self._say(done.at_s, f"{done.what} {done.node}, though only a target is silent")

    def _wandering(self) -> None:
        """After a failed proof the host goes on only to what is measured to be better than where it came
        from, if that works yet.
        """
        origin = None
        for done in self.trace.done:
            if done.what != "use" or self._during(done.at_s, "manual", "maintenance"):
                continue
            failed = any(of == done.left and not ok for when, of, ok in self._proofs_of_late(done.at_s))
            if not failed:
                origin = (done.left, done.at_s)
                continue
            if origin is None or done.node == origin[0] or origin[0] not in self.plan.nodes:
                continue
            left, left_s = origin
            recent = self._known(left, done.at_s, 10.0)
            works = len(recent) >= 6 and None not in recent[-3:] and not self._faulty(left, left_s, done.at_s)
            if works and not self._measured_better(left, done.node, done.at_s):
                self._say(done.at_s, f"on to {done.node} after a failed proof, though {left} works")

    def _proofs_of_late(self, at_s: float) -> list[tuple[float, str, bool]]:
        return [each for each in self.trace.proofs if at_s - 3 <= each[0] <= at_s]

    def _faulty(self, node: str, since_s: float, until_s: float) -> bool:
        """Whether nothing passed by a node at some time since shortly before."""
        stops = {"cut", "uplink", "own", "target", "gone", "mute"}
        return self._silent(node, since_s) or any(
            each.node in {node, ""}
            and each.kind in stops
            and each.start_s < until_s
            and each.end_s > since_s - 60
            for each in self.plan.faults
        )

    def _measured_better(self, left: str, node: str, at_s: float) -> bool:
        answered = [rtt for rtt in self._known(node, at_s, 10.0) if rtt is not None]
        return bool(answered) and (self._lossier(left, node, at_s) or self._later(left, answered, at_s))

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
