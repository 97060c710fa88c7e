"""Walks over the points of each scene: kill, recover, judge, bring back. Runs inside the private host.

crash_walk.py FOLDER POINTS SEED     prints progress on stderr and JSON on stdout
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash_host import CrashHost
from crash_picture import STATE, dead_men, wait_for
from crash_points import Point, errors, kills, sample
from crash_process import Broken, Call

REFUSED = {4, 5, 6}


@dataclass(frozen=True, slots=True)
class Scene:
    """One change of the host: from what, by which words, to what."""

    name: str
    old: str
    new: str
    words: tuple[str, ...]
    weight: int
    """Its share of a sample."""
    faults: bool = False
    """Calls are made to fail in it, too."""
    reboots: bool = False
    """The host is rebooted before it."""
    confirmed: bool = False
    """It waits for a confirmation, so that it may be over and yet not done."""
    begin: Callable[[], None] | None = None
    """What brings the host from `old` to where the scene begins."""
    task: Callable[[], int] | None = None
    """What is run in place of the words."""


@dataclass
class Tally:
    """What was found, by scene and kind of call."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    torn: list[dict[str, Any]] = field(default_factory=list)
    wrong_ends: list[dict[str, Any]] = field(default_factory=list)
    """The host was whole, and the command's exit code or its words were not what they should be."""
    notes: Counter[str] = field(default_factory=Counter)
    missed: int = 0

    def add(self, scene: str, kind: str, state: str) -> None:
        self.counts[(scene, kind, state)] += 1

    def as_json(self) -> dict[str, Any]:
        by = lambda place: {  # noqa: E731
            key: {
                state: sum(n for entry, n in self.counts.items() if entry[place] == key and entry[2] == state)
                for state in ("old", "new", "torn")
            }
            for key in sorted({entry[place] for entry in self.counts})
        }
        totals = {
            state: sum(n for entry, n in self.counts.items() if entry[2] == state)
            for state in ("old", "new", "torn")
        }
        return {
            "points": sum(totals.values()),
            **totals,
            "scenes": by(0),
            "kinds": by(1),
            "not_reached": self.missed,
            "notes": dict(self.notes),
            "torn_points": self.torn,
            "wrong_ends": self.wrong_ends,
        }


def scenes(host: CrashHost) -> list[Scene]:
    """Every way in which a host goes from one generation to another."""
    second = tuple(host.switch("second"))
    waiting = Waiting(host)
    return [
        Scene("switch", "first", "second", second, 8, faults=True),
        Scene("first switch", "none", "second", second, 4, faults=True),
        Scene("rollback", "second", "first", ("rollback", "--to", "1"), 3, faults=True),
        Scene("rollback to nothing", "first", "none", ("rollback", "--to", "0"), 2),
        Scene("boot", "first", "first", ("recover", "--boot"), 2, reboots=True),
        Scene("early firewall", "first", "first", ("recover", "--early"), 1, reboots=True),
        Scene("switch --confirm", "first", "second", (*second, "--confirm", "90s"), 4, confirmed=True),
        Scene(
            "confirm",
            "first",
            "second",
            ("confirm", "--same-session"),
            1,
            confirmed=True,
            begin=waiting.begin,
        ),
        Scene("recover", "first", "first", ("recover",), 2, begin=waiting.begin_expired),
        Scene(
            "dead man", "first", "first", ("recover",), 2, begin=waiting.begin_expired, task=waiting.dead_man
        ),
    ]


class Waiting:
    """A switch that waits for its confirmation, to be confirmed or undone in another scene."""

    def __init__(self, host: CrashHost) -> None:
        self.host = host

    def begin(self) -> None:
        """Switch and leave the confirmation open."""
        if (STATE / "pending.json").exists():
            self.host.runner.must("rollback")
        self.host.runner.must(*self.host.switch("second", "--confirm", "90s"))

    def begin_expired(self) -> None:
        """The same with its time over and its dead man gone."""
        self.begin()
        self.host.send_dead_men_home()
        record = STATE / "pending.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "deadline_s": 0.0}))

    def dead_man(self, deadline_s: float = 0.0) -> int:
        """Be the dead man of the change that waits."""
        from tsstack.model.facts import Paths
        from tsstack.switch import deadman

        paths = Paths()
        change = json.loads((STATE / "pending.json").read_text())["id"]
        sys.argv = [
            "deadman", "--state", str(paths.state), "--run", str(paths.run), "--etc", str(paths.etc),
            "--socket", str(paths.tailscale_socket), "--log", str(paths.log), "--id", change,
            "--deadline", f"{deadline_s}",
        ]  # fmt: skip
        return deadman.main()


class Walk:
    """All points of some scenes."""

    def __init__(self, host: CrashHost, seed: int, *, recovers: bool = True) -> None:
        self.host = host
        self.recovers = recovers
        self.chance = random.Random(seed)  # noqa: S311  a sample, no secret
        self.tally = Tally()

    def prepare(self, scene: Scene) -> None:
        self.host.become(scene.old)
        if scene.reboots:
            self.host.cut_power()
        if scene.begin is not None:
            scene.begin()

    def calls(self, scene: Scene) -> list[Call]:
        """The calls of one run that nobody disturbs."""
        self.prepare(scene)
        done, calls = self.host.runner.trace(scene.words, task=scene.task)
        if done.code != 0:
            raise Broken(f"{scene.name} ended with {done.code}:\n{done.said}")
        return calls

    def choose(self, scene: Scene, share: int | None) -> list[Point]:
        """The points of a scene: all changing calls, then others up to `share`; None: every one."""
        calls = self.calls(scene)
        changing, others = kills(calls)
        failing = errors(calls) if scene.faults else []
        if share is None:
            return [*changing, *failing, *others]
        main = [*changing, *failing]
        some = sample(main, max(1, share * 5 // 6), self.chance)
        return [*some, *sample(others, share - len(some), self.chance)]

    def visit(self, scene: Scene, point: Point) -> None:
        """One point, and the host brought back to where the scene begins."""
        host = self.host
        done, calls = host.runner.trace(
            scene.words, trace=point.call.name, inject=point.inject, task=scene.task
        )
        hit = done.killed if not point.error else len(calls) >= point.call.when
        if not hit:
            self.tally.missed += 1
        last = calls[point.call.when - 1] if len(calls) >= point.call.when else None
        how = self.chance.choice(("recover", "recover", "again", "reboot"))
        if scene.begin is not None and how == "again":
            how = "recover"
        faults: list[str] = []
        wrong: list[str] = []
        if point.error:
            how = "recover" if done.code != 0 else "nothing"
            wrong = self._bad_end(done.code, done.said)
        words = scene.words if scene.name != "early firewall" else ("recover", "--boot")
        if scene.name in {"boot", "early firewall"} and how == "recover":
            how = "again"  # what was lost with the boot comes back by the boot unit, run once more
        if not self.recovers:
            how = "nothing"
        if how != "nothing":
            after = host.recover(how, words)
            if after.code != 0 and not (scene.confirmed and how == "again" and after.code == 4):
                faults.append(f"{how} ended with {after.code}: {after.said}")
        if scene.confirmed:
            faults += self._end_waiting()
        left = host.send_dead_men_home()
        self.tally.notes["dead men with nothing to do"] += left
        verdict = host.judge((scene.old, scene.new))
        faults += verdict.faults
        if how == "again" and not scene.confirmed and verdict.state == "old" and scene.new != scene.old:
            faults.append("the command ran once more and the host is still old")
        state = "torn" if faults else verdict.state
        if hit:
            self.tally.add(scene.name, point.kind, state)
        found = {
            "scene": scene.name,
            "point": str(point),
            "call": str(last) if last else "",
            "then": how,
            "faults": faults or wrong,
            "said": done.said[-2000:],
        }
        if faults:
            self.tally.torn.append(found)
            say(f"TORN {scene.name}: {point}; then {how}: {faults[:3]}")
            host.scrub()
        elif wrong:
            self.tally.wrong_ends.append(found)
            say(f"WRONG END {scene.name}: {point}: {wrong}")
        self.prepare(scene)

    def _end_waiting(self) -> list[str]:
        """Confirm or undo a change that waits; there must be a dead man behind it."""
        record = STATE / "pending.json"
        if not record.exists():
            return []
        faults = (
            [] if dead_men() else ["a change waits for its confirmation, and no dead man stands behind it"]
        )
        words = self.chance.choice((("confirm", "--same-session"), ("rollback",)))
        done = self.host.runner.run(*words)
        if done.code != 0:
            faults.append(f"{words[0]} ended with {done.code}: {done.said}")
        if not wait_for(lambda: not dead_men(), 3.0):
            faults.append(f"a dead man stays after {words[0]}")
        return faults

    def _bad_end(self, code: int, said: str) -> list[str]:
        if code == 3 and "Unable to initialize Netlink socket" in said:
            # libnftables calls exit(3) itself when the kernel has no memory for its socket: a kill.
            self.tally.notes["times libnftables ended the command for want of memory"] += 1
            return []
        faults = [] if code in REFUSED | {0} else [f"exit {code} is none of 0, 4, 5, 6"]
        return [*faults, *(["a traceback was shown"] if "Traceback" in said else [])]

    def walk(self, scene: Scene, share: int | None) -> None:
        points = self.choose(scene, share)
        self.prepare(scene)
        started_s = time.monotonic()
        say(f"{scene.name}: {len(points)} points")
        for number, point in enumerate(points, 1):
            self.visit(scene, point)
            if scene.reboots and number == len(points):
                self.host.runner.must("recover", "--boot")  # what the next scene begins with
            if number % 100 == 0:
                pace_s = (time.monotonic() - started_s) / number
                say(f"{scene.name}: {number} of {len(points)}, {pace_s:.2f} s each")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(folder: Path, points: int | None, seed: int, only: Sequence[str], recovers: bool) -> dict[str, Any]:
    """All scenes, and the worst moments of nginx and of the dead man."""
    from crash_moments import moments

    started_s = time.monotonic()
    host = CrashHost(folder)
    walk = Walk(host, seed, recovers=recovers)
    wanted = [scene for scene in scenes(host) if not only or scene.name in only]
    whole = sum(scene.weight for scene in wanted)
    for scene in wanted:
        walk.walk(scene, None if points is None else max(1, points * scene.weight // whole))
    if not only or "moments" in only:
        host.become("first")
        moments(walk)
    return {"seed": seed, "duration_s": round(time.monotonic() - started_s, 1), **walk.tally.as_json()}


def main() -> int:
    """Answer on stdout."""
    folder, points, seed, recovers, *only = sys.argv[1:]
    try:
        said = run(Path(folder), int(points) or None, int(seed), only, bool(recovers))
    except Broken as error:
        say(f"broken: {error}")
        return 1
    json.dump(said, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
