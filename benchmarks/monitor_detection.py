"""How soon a bad link is seen, how often a good one is taken for bad: ours beside dpinger, BFD, mwan3.

All detectors get the same streams: probes at two a second, a loss known a second after it was sent. Delays
run from the fault to the decision, with that second, on links that were learnt for three days. False alarms
are counted on links that never change; ours leaps over answers with `LossDetector.answered_run`, which a test
proves equal to one by one, so the code that is measured is the code that runs. The others are their published
rules with their defaults:

- dpinger: 0.5 s apart, averaged over 60 s, a probe counts as lost after 2 s; alarm above 20 % or 500 ms as
  pfSense's gateway monitoring sets them.
- BFD (RFC 5880): 0.3 s x 3 without a packet.
- mwan3: a ping each 10 s, five failures in a row are down.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any

from tsstack.monitor.detect import LossDetector, ShiftDetector
from tsstack.monitor.sample import Sample
from tsstack.monitor.verdict import Judge, Limits

PACE_S = 0.5
TIMEOUT_S = 1.0
DAY_S = 86400.0
MAX_LOSS = 0.05


@dataclass(frozen=True, slots=True)
class Link:
    """A link that does not change: so much is lost, in bursts of such mean length (0: each by itself).

    `busy`: the loss doubles in the busy half of the day and is nothing in the other. `brownouts`: so many
    spells a day of 10 s in which a fifth is lost.
    """

    name: str
    share: float
    burst_s: float = 0.0
    busy: bool = False
    brownouts: float = 0.0


LINKS = (
    Link("clean", 0.0001),
    Link("iid 1 %", 0.01),
    Link("iid 3 %", 0.03),
    Link("bursts 0.1 s, 3 %", 0.03, 0.1),
    Link("bursts 0.3 s, 1 %", 0.01, 0.3),
    Link("bursts 0.3 s, 3 %", 0.03, 0.3),
    Link("bursts 1 s, 1 %", 0.01, 1.0),
    Link("bursts 1 s, 3 %", 0.03, 1.0),
    Link("day and night, 0.3 s, 1.5 %", 0.015, 0.3, busy=True),
    Link("brownouts, 0.3 s, 0.5 %", 0.005, 0.3, brownouts=4.0),
)
HEAVY = (0.02, 0.10, 0.14, 0.06, 0.20, 0.16, 0.14, 0.04, 0.10, 0.04)
"""The share of the stream-days that each link gets."""


def lost_spans(link: Link, end_s: float, rng: random.Random) -> Iterator[tuple[float, float]]:
    """When the link loses everything: start and end of each burst, ascending, disjoint."""
    at_s = 0.0
    brown_s = rng.expovariate(link.brownouts / DAY_S) if link.brownouts else end_s
    mean_s = link.burst_s
    gap_s = mean_s * (1 - link.share) / link.share
    while at_s < end_s:
        rate = 1.0
        if link.busy:
            rate = 2.0 if at_s % DAY_S < DAY_S / 2 else 1e-3
        step_s = rng.expovariate(rate / gap_s)
        if link.busy and at_s // (DAY_S / 2) != (at_s + step_s) // (DAY_S / 2):
            at_s = (at_s // (DAY_S / 2) + 1) * DAY_S / 2  # memoryless: drawn anew from the border on
            continue
        if link.brownouts and at_s < brown_s <= at_s + step_s:
            for each in range(20):
                if rng.random() < 0.2:
                    yield brown_s + each * PACE_S - 0.01, brown_s + each * PACE_S + PACE_S - 0.02
            at_s = brown_s + 10
            brown_s = at_s + rng.expovariate(link.brownouts / DAY_S)
            continue
        at_s += step_s
        end = at_s + rng.expovariate(1 / mean_s)
        yield at_s, end
        at_s = end


def lost_probes(link: Link, count: int, rng: random.Random) -> Iterator[int]:
    """The numbers of the probes that are lost, ascending."""
    if not link.burst_s:
        at, per = -1, 1 / log(1 - link.share)
        while (at := at + 1 + int(log(1 - rng.random()) * per)) < count:
            yield at
        return
    last = -1
    for start_s, end_s in lost_spans(link, count * PACE_S, rng):
        for at in range(max(last + 1, int(start_s / PACE_S) + 1), int(end_s / PACE_S) + 1):
            if at >= count:
                return
            last = at
            yield at


def false_alarms(job: tuple[int, float, int]) -> tuple[int, float, int, dict[str, int]]:
    """One stream: link, days, seed. How often each rule of ours called it bad, after its own learning."""
    which, days, seed = job
    rng = random.Random(seed * 1000 + which)  # noqa: S311
    detector = LossDetector(PACE_S, MAX_LOSS)
    count = int(days * DAY_S / PACE_S)
    alarms = {"silence": 0, "loss": 0, "failures": 0}
    after = 0
    for at in lost_probes(LINKS[which], count, rng):
        if at > after:
            detector.answered_run(at - after, (at - 1) * PACE_S)
        after = at + 1
        detector.lost(at * PACE_S)
        alarms["failures"] += detector.streak == 3
        silent = detector.streak >= 3 and detector.silence_s >= detector.silence_limit_s
        if silent or detector.fast.alarm or detector.slow.alarm:
            alarms["silence" if silent else "loss"] += 1
            detector.clear()
    return which, days, seed, alarms


# Others' rules, one step for each probe: (sent_s, rtt_s or None) -> alarm.
Step = Callable[[float, float | None], bool]


def dpinger() -> Step:
    """Averages over the last 60 s of probes that are decided."""
    window: deque[tuple[bool, float]] = deque(maxlen=int(60 / PACE_S))
    state = {"lost": 0, "rtt": 0.0}

    def step(sent_s: float, rtt_s: float | None) -> bool:
        if len(window) == window.maxlen:
            was_lost, was_s = window[0]
            state["lost"] -= was_lost
            state["rtt"] -= was_s
        window.append((rtt_s is None, rtt_s or 0.0))
        state["lost"] += rtt_s is None
        state["rtt"] += rtt_s or 0.0
        answers = len(window) - state["lost"]
        return bool(state["lost"] / len(window) > 0.2 or (answers and state["rtt"] / answers > 0.5))

    return step


def in_a_row(most: int) -> Step:
    """So many in a row missing: BFD 3 at 0.3 s, mwan3 5 at 10 s."""
    state = {"row": 0}

    def step(sent_s: float, rtt_s: float | None) -> bool:
        state["row"] = state["row"] + 1 if rtt_s is None else 0
        return state["row"] >= most

    return step


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a link: from then on so much is lost beside its own, and so much later it answers."""

    name: str
    loss: float = 0.0
    later_s: float = 0.0
    ramp_s: float = 0.0
    """Bufferbloat: the delay grows over so long."""
    target_s: float | None = None


FAULTS = (
    Fault("blackout", loss=1.0, target_s=6.5),
    Fault("30 % loss", loss=0.3, target_s=36.0),
    Fault("15 % loss", loss=0.15),
    Fault("+250 ms", later_s=0.25),
    Fault("bufferbloat to 400 ms in 5 s", later_s=0.38, ramp_s=5.0),
    Fault("a 30 ms step", later_s=0.03, target_s=5.0),
)
GIVEN_UP_S = 300.0


@cache
def learnt(which: int) -> dict[str, Any]:
    """What three days on a link teach."""
    rng = random.Random(which)  # noqa: S311
    detector, after = LossDetector(PACE_S, MAX_LOSS), 0
    for at in lost_probes(LINKS[which], int(3 * DAY_S / PACE_S), rng):
        if at > after:
            detector.answered_run(at - after, (at - 1) * PACE_S)
        after = at + 1
        detector.lost(at * PACE_S)
    return {"unit_s": PACE_S, "bursts": detector.export()}


def delays(job: tuple[int, int, int, float]) -> dict[str, float]:
    """One run of a fault on a link: how long each detector took, seconds; GIVEN_UP_S for never."""
    which, what, seed, warm_s = job
    link, fault = LINKS[which], FAULTS[what]
    rng = random.Random((seed * 100 + which) * 100 + what)  # noqa: S311
    fault_s = warm_s + rng.random() * 10  # at any phase of every pace
    found: dict[str, float] = {}
    lost = set(lost_probes(link, int((fault_s + GIVEN_UP_S) / PACE_S), rng))
    slow_rtt = fault.name == "a 30 ms step"
    judge, shift, theirs = Judge("p", Limits()), ShiftDetector(), dpinger()
    judge.restore(learnt(which))
    base_s = 0.02
    for at in range(int((fault_s + GIVEN_UP_S) / PACE_S)):
        sent_s = at * PACE_S
        since_s = sent_s - fault_s
        rtt_s: float | None = base_s + abs(rng.gauss(0, 0.002))
        if since_s >= 0:
            rtt_s += fault.later_s * (min(1.0, since_s / fault.ramp_s) if fault.ramp_s else 1.0)
        if at in lost or (since_s >= 0 and rng.random() < fault.loss):
            rtt_s = None
        known_s = sent_s + (TIMEOUT_S if rtt_s is None else rtt_s)
        before = since_s < 0
        if slow_rtt:
            if rtt_s is not None and shift.answered(sent_s, rtt_s) and not before:
                found.setdefault("ours", known_s - fault_s)
        elif "ours" not in found:
            judge.observe(Sample("p", "icmp", sent_s, rtt_s))
            if not before and judge.verdict(known_s).level in {"poor", "dead"}:
                found["ours"] = known_s - fault_s
        if "dpinger" not in found and theirs(sent_s, rtt_s) and not before:
            found["dpinger"] = sent_s + (2.0 if rtt_s is None else rtt_s) - fault_s
        if {"ours", "dpinger"} <= found.keys():
            break
    found["bfd"] = _paced(link, fault, fault_s, rng, pace_s=0.3, row=3, timeout_s=0.0)
    found["mwan3"] = _paced(link, fault, fault_s, rng, pace_s=10.0, row=5, timeout_s=4.0)
    return {
        name: min(found.get(name, GIVEN_UP_S), GIVEN_UP_S) for name in ("ours", "dpinger", "bfd", "mwan3")
    }


def _paced(
    link: Link, fault: Fault, fault_s: float, rng: random.Random, *, pace_s: float, row: int, timeout_s: float
) -> float:
    """So many in a row lost at another pace, from the fault on."""
    in_row, at_s = 0, fault_s + rng.random() * pace_s
    while at_s < fault_s + GIVEN_UP_S:
        in_row = in_row + 1 if rng.random() < max(fault.loss, link.share) else 0
        if in_row == row:
            return at_s + timeout_s - fault_s + (pace_s if timeout_s == 0.0 else 0.0)
        at_s += pace_s
    return GIVEN_UP_S


def others_false_alarms(which: int, days: float, seed: int) -> dict[str, int]:
    """How often the others call the link bad: each probe is stepped through, so over fewer days.

    BFD and mwan3 see the same bursts at their own pace.
    """
    link, rng = LINKS[which], random.Random(seed)  # noqa: S311
    end_s = days * DAY_S
    if link.burst_s:
        spans = list(lost_spans(link, end_s, rng))
    else:
        spans = [
            (at * PACE_S - 0.01, at * PACE_S + 0.01) for at in lost_probes(link, int(end_s / PACE_S), rng)
        ]
    counts = {"dpinger": 0, "bfd": 0, "mwan3": 0}
    for name, pace_s, step in (
        ("dpinger", PACE_S, dpinger()),
        ("bfd", 0.3, in_a_row(3)),
        ("mwan3", 10.0, in_a_row(5)),
    ):
        span, down = 0, False
        for at in range(int(end_s / pace_s)):
            at_s = at * pace_s
            while span < len(spans) and spans[span][1] < at_s:
                span += 1
            burst = span < len(spans) and spans[span][0] <= at_s
            lost = burst if link.burst_s else rng.random() < link.share
            alarm = step(at_s, None if lost else 0.02)
            counts[name] += alarm and not down
            down = alarm
    return counts


def quantile(values: list[float], share: float) -> float:
    """The value that such a share does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(days: float, runs: int, other_days: float, processes: int, seed: int) -> dict[str, Any]:
    """False alarms over so many stream-days in all, and delays over so many runs for each fault and link."""
    started_s = time.monotonic()
    stream_days = min(30.0, max(1.0, days / 400))
    jobs = []
    for which, share in enumerate(HEAVY):
        jobs += [
            (which, stream_days, seed + each) for each in range(max(1, round(days * share / stream_days)))
        ]
    random.Random(seed).shuffle(jobs)  # noqa: S311
    total = {link.name: {"days": 0.0, "silence": 0, "loss": 0, "failures": 0} for link in LINKS}
    table: dict[str, dict[str, Any]] = {}
    with multiprocessing.Pool(processes) as pool:
        for which, ran, _, alarms in pool.imap_unordered(false_alarms, jobs, chunksize=2):
            row = total[LINKS[which].name]
            row["days"] += ran
            for name, count in alarms.items():
                row[name] += count
        for which in (0, 2, 4, 5, 6):
            for what, fault in enumerate(FAULTS):
                rows = pool.map(delays, [(which, what, seed + each, 120.0) for each in range(runs)])
                table[f"{fault.name}, on {LINKS[which].name}"] = {
                    "target_s": fault.target_s,
                    **{
                        name: [round(quantile([r[name] for r in rows], q), 2) for q in (0.5, 0.95)]
                        for name in rows[0]
                    },
                }
        others = pool.starmap(others_false_alarms, [(which, other_days, seed) for which in range(len(LINKS))])
    for link, counts in zip(LINKS, others, strict=True):
        row = total[link.name]
        row["false_per_30_days"] = round((row["silence"] + row["loss"]) / row["days"] * 30, 3)
        row["others_per_30_days"] = {name: round(n / other_days * 30, 1) for name, n in counts.items()}
    return {
        "stream_days": sum(row["days"] for row in total.values()),
        "days_a_stream": stream_days,
        "false_alarms": total,
        "delays_p50_p95_s": table,
        "took_s": round(time.monotonic() - started_s, 1),
    }


def main(arguments: list[str]) -> int:
    """Print the result. A missed target is said and changes no exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/monitor --detection", description=__doc__)
    parser.add_argument("--days", type=float, default=100_000, help="stream-days in all")
    parser.add_argument("--runs", type=int, default=400, help="runs of each fault on each link")
    parser.add_argument("--other-days", type=float, default=3.0, help="days of each link for the others")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ci", action="store_true", help="a small run")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.ci:
        asked.days, asked.runs, asked.other_days = 100.0, 8, 0.1
    result = measure(asked.days, asked.runs, asked.other_days, asked.processes, asked.seed)
    if asked.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{result['stream_days']:.0f} stream-days of {result['days_a_stream']:.0f} days each\n")
    print(f"{'false in 30 days':28} {'days':>8} {'ours':>17} {'dpinger':>9} {'BFD':>9} {'mwan3':>7}")
    for name, row in result["false_alarms"].items():
        them = row["others_per_30_days"]
        print(
            f"{name:30} {row['days']:8.0f} {row['false_per_30_days']:17.3f}"
            f" {them['dpinger']:9.1f} {them['bfd']:9.1f} {them['mwan3']:7.1f}"
        )
    print(f"\n{'delay p50 / p95, s':50} {'target':>6} {'ours':>14} {'dpinger':>14} {'BFD':>14} {'mwan3':>14}")
    for name, row in result["delays_p50_p95_s"].items():
        target = "" if row["target_s"] is None else f"{row['target_s']:.1f}"
        cells = ("never" if row[each][1] >= GIVEN_UP_S else "{:.1f} / {:.1f}".format(*row[each])
                 for each in ("ours", "dpinger", "bfd", "mwan3"))  # fmt: skip
        print(f"{name:50} {target:>6} " + " ".join(f"{cell:>14}" for cell in cells))
    print(f"\ntook {result['took_s']} s")
    return 0
