"""Walks over the points of each scene: hurt, recover, judge, bring back. Runs inside the private host.

crash_walk.py ORDER     a `WalkOrder` as JSON; prints progress on stderr; what was found lies in FOUND
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash_children import ChildPoint, Children
from crash_disk import Disk
from crash_events import CLOCK, Strike, events
from crash_host import POWER_CUTS, CrashHost
from crash_picture import STATE, dead_men, links, wait_for
from crash_points import Choice, Point, changes, errors, kills
from crash_process import Broken, Call, Ended
from crash_scenes import Scene, Tally, scenes
from crash_tailnet import Tailscaled

HOWS = ("recover", "again", "reboot", *POWER_CUTS)
"""What follows a kill."""
FOUND = "found.json"
"""In the walk's folder: what was found so far, and how far it came."""
REFUSED = {4, 5, 6}
SMALL = 60
"""A run of so few points spends less on its beginnings."""
# Of a scene's share: so many calls fail or are killed at; the others are events and children's calls.
_MAIN, _OTHERS, _EVENTS, _CHILDREN = 0.62, 0.13, 0.17, 0.08


@dataclass(frozen=True)
class WalkOrder:
    """What one walk is to visit: the `part`-th of `parts` parts of all points."""

    folder: str
    image: str
    points: int
    """0: all of them."""
    seed: int
    part: int = 0
    parts: int = 1
    only: tuple[str, ...] = ()
    recovers: bool = True
    tailscaled: str = ""
    """Its program, where it is to be part of the host."""
    done: dict[str, int] = field(default_factory=dict)
    """How many points of each scene an earlier run has visited."""
    then: str = ""
    """What follows each kill; empty: one of all by chance."""
    match: str = ""
    """Only points whose words hold this."""
    broken: str = ""
    """The name of the fault to put into tsstack; see crash_broken."""


@dataclass
class _After:
    """What is known of a point before the host is looked at."""

    how: str
    """What was done after the accident."""
    faults: list[str]
    wrong: list[str]
    said: str
    counted: bool
    """The accident did happen."""
    must_be_new: bool


class Walk:
    """All points of some scenes."""

    def __init__(self, host: CrashHost, order: WalkOrder) -> None:
        self.host = host
        self.recovers = order.recovers
        self.then, self.match = order.then, order.match
        self.chance = random.Random(f"{order.seed} {order.part}")  # noqa: S311  a sample, no secret
        self.choice = Choice(order.seed, order.part, order.parts)
        self.tally = Tally()
        self.done = dict(order.done)
        self.folder = Path(order.folder)
        self.started_s = time.monotonic()
        self.children = Children(host)

    def prepare(self, scene: Scene) -> None:
        self.host.become(scene.old)
        if scene.reboots:
            self.host.reboot()
        if scene.begin is not None:
            scene.begin()
        self.host.disk.settle()

    def calls(self, scene: Scene) -> list[Call]:
        """The calls of one run that nobody disturbs."""
        self.prepare(scene)
        done, calls = self.host.runner.trace(scene.words, task=scene.task)
        if done.code != 0:
            raise Broken(f"{scene.name} ended with {done.code}:\n{done.said}")
        return calls

    def choose(self, scene: Scene, share: int | None) -> list[Point | Strike | ChildPoint]:
        """The points of a scene; None: every one."""
        calls = self.calls(scene)
        changing, others = kills(calls, () if self.then else HOWS)
        once, _ = kills(calls)
        changing = changing or once
        failing = errors(calls) if scene.faults else []
        strikes = [
            Strike(event, point)
            for event in events(self.chance)
            for point in once
            if (scene.faults or scene.joins or (scene.confirmed and scene.begin is None))
            and (not scene.joins or event.tailscaled)
            and event.waits == scene.confirmed
            and (self.host.tailscaled or not event.tailscaled)
        ]
        born: list[ChildPoint] = []
        if scene.faults:
            self.prepare(scene)
            born = self.children.points(scene.words)
        groups: list[tuple[Sequence[Any], float]] = [
            ([*changing, *failing], _MAIN), (others, _OTHERS), (strikes, _EVENTS), (born, _CHILDREN)
        ]  # fmt: skip
        if self.match:
            alike = [each for group, _ in groups for each in group if self.match in f"{each.kind}: {each}"]
            return self.choice.some(scene.name, alike, share or len(alike))
        if share is None:
            return [point for group, _ in groups for point in self.choice.mine(scene.name, group)]
        whole = sum(weight for group, weight in groups if group)
        chosen: list[Any] = []
        for group, weight in groups:
            if group:
                chosen += self.choice.some(scene.name, group, max(1, round(share * weight / whole)))
        return chosen

    def visit(self, scene: Scene, point: Point | Strike | ChildPoint) -> None:
        """One point, and the host brought back to where the scene begins."""
        if isinstance(point, ChildPoint):
            self._visit_child(scene, point)
        elif isinstance(point, Strike):
            self._visit_strike(scene, point)
        else:
            self._visit_call(scene, point)
        self.prepare(scene)

    def _visit_call(self, scene: Scene, point: Point) -> None:
        host = self.host
        done, calls = host.runner.trace(
            scene.words, trace=point.call.name, inject=point.inject, task=scene.task
        )
        hit = done.killed if not point.error else len(calls) >= point.call.when
        last = calls[point.call.when - 1] if len(calls) >= point.call.when else None
        how = self.then or point.then or self.chance.choice(HOWS)
        if self.then == POWER_CUTS[0]:
            how = self.chance.choice(POWER_CUTS)
        if scene.begin is not None and how == "again":
            how = "recover"
        faults: list[str] = []
        wrong: list[str] = []
        if point.error:
            # Only a call that writes can meet such a disk; the calls of two runs are not numbered alike.
            hit = hit and last is not None and changes(last)
            how = "recover" if done.code != 0 else "nothing"
            wrong = self._bad_end(done.code, done.said) if hit else []
        words = scene.words if scene.name != "early firewall" else ("recover", "--boot")
        if scene.reboots and how == "recover":
            how = "again"  # what was lost with the boot comes back by the boot unit, run once more
        if not self.recovers:
            how = "nothing"
        if how != "nothing":
            after = host.recover(how, words)
            if after.code != 0 and not (scene.confirmed and how == "again" and after.code == 4):
                faults.append(f"{how} ended with {after.code}: {after.said}")
        if scene.confirmed:
            faults += self._end_waiting()
        said = f"{last or ''}\n{done.said}"
        again = how == "again" and not scene.confirmed
        self.tally.missed += not hit
        self._judge(scene, point, _After(how, faults, wrong, said, hit, again))

    def _visit_strike(self, scene: Scene, strike: Strike) -> None:
        host, call = self.host, strike.point.call
        inject = f"{call.name}:signal=STOP:when={call.when}"
        pid = host.runner.begin(scene.words, trace=call.name, inject=inject, task=scene.task)
        reached = host.runner.await_stop(pid)
        if reached:
            strike.event.strike(host)
            os.kill(pid, signal.SIGCONT)
        else:
            self.tally.missed += 1
        done, _ = host.runner.finish(pid)
        if reached:
            strike.event.mend(host)
        if host.tailscaled:
            host.tailscaled.await_state(("Running", "NeedsLogin", "Stopped"))
        wrong = self._bad_end(done.code, done.said)
        if strike.event.cuts and done.code == 0:
            how = self.chance.choice(POWER_CUTS)
            after = host.recover(how, scene.words)
        else:
            how, after = self._settle(scene, done, daemons=strike.event.daemons)
        faults = [] if after.code == 0 else [f"{how} ended with {after.code}: {after.said}"]
        if scene.confirmed and done.code == 0:
            faults += self._end_waiting(alone=strike.event.waits)
        must_be_new = done.code == 0 and not scene.confirmed
        self._judge(scene, strike, _After(how, faults, wrong, done.said, reached, must_be_new))

    def _visit_child(self, scene: Scene, child: ChildPoint) -> None:
        done, reached = self.children.run(scene.words, child)
        if not reached:
            self.tally.missed += 1
        wrong = self._bad_end(done.code, done.said)
        how, after = self._settle(scene, done, daemons=not child.number)
        faults = [] if after.code == 0 else [f"{how} ended with {after.code}: {after.said}"]
        self._judge(scene, child, _After(how, faults, wrong, done.said, reached, done.code == 0))

    def _settle(self, scene: Scene, done: Ended, *, daemons: bool) -> tuple[str, Ended]:
        """What a person does after a command that ended so.

        `daemons`: one may have died at any time, so the same is asked for once more. Else a command that
        says that it has undone itself, or done all, must have.
        """
        if scene.confirmed and done.code == 0:
            return "nothing", done
        if done.code == 0 and daemons:
            return "again", self.host.runner.run(*scene.words)
        if done.code in {4, 5} and daemons:
            return "the old one again", self.host.runner.run(*self.host.words_for(scene.old))
        return "recover", self.host.runner.run("recover")

    def _judge(
        self,
        scene: Scene,
        point: Point | Strike | ChildPoint,
        after: _After,
    ) -> None:
        host = self.host
        self.tally.notes["dead men with nothing to do"] += host.send_dead_men_home()
        verdict = host.judge((scene.old, scene.new), scene.boots)
        faults = after.faults + verdict.faults
        if scene.boots == scene.new and links()[0] != 1 and after.how not in {"reboot", *POWER_CUTS}:
            faults.append("the live generation moved without a boot")
        if after.must_be_new and verdict.state == "old" and scene.new != scene.old:
            faults.append("the command was done, or ran once more, and the host is still old")
        state = "torn" if faults else verdict.state
        if after.counted:
            self.tally.add(scene.name, point.kind, state)
            if host.tailscaled:
                self.tally.notes["points with a real tailscaled, its settings judged"] += 1
        found = {
            "scene": scene.name,
            "point": str(point),
            "then": after.how,
            "faults": faults or after.wrong,
            "said": after.said[-2000:],
        }
        if faults:
            self.tally.torn.append(found)
            say(f"TORN {scene.name}: {point}; then {after.how}: {[fault[-1500:] for fault in faults[:3]]}")
            host.scrub()
        elif after.wrong:
            self.tally.wrong_ends.append(found)
            say(f"WRONG END {scene.name}: {point}: {after.wrong}")

    def _end_waiting(self, *, alone: bool = False) -> list[str]:
        """Confirm or undo a change that waits; there must be a dead man behind it, unless he was killed."""
        record = STATE / "pending.json"
        if not record.exists():
            return []
        faults = (
            []
            if dead_men() or alone
            else ["a change waits for its confirmation, and no dead man stands behind it"]
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
            # libnftables calls exit(3) itself when it gets no socket. tsstack asks for one right before,
            # so this is a shortage that lasts for that one call; it is judged as a kill is.
            self.tally.notes["times libnftables itself ended the command for want of a socket"] += 1
            return []
        faults = [] if code in REFUSED | {0} else [f"exit {code} is none of 0, 4, 5, 6"]
        return [*faults, *(["a traceback was shown"] if "Traceback" in said else [])]

    def note(self) -> None:
        """Leave what was found so far for whoever goes on when this walk is ended."""
        duration_s = round(time.monotonic() - self.started_s, 1)
        found = {"duration_s": duration_s, **self.tally.as_json(), "done": self.done}
        staged = self.folder / "found.new"
        staged.write_text(json.dumps(found))
        staged.rename(self.folder / FOUND)

    def walk(self, scene: Scene, share: int | None) -> None:
        points = self.choice.mixed(scene.name, self.choose(scene, share))[self.done.get(scene.name, 0) :]
        self.prepare(scene)
        started_s = time.monotonic()
        say(f"{scene.name}: {len(points)} points")
        for number, point in enumerate(points, 1):
            self.visit(scene, point)
            self.done[scene.name] = self.done.get(scene.name, 0) + 1
            if number % 10 == 0 or number == len(points):
                self.note()
            if scene.reboots and number == len(points):
                self.host.runner.must("recover", "--boot")  # what the next scene begins with
            if number % 100 == 0 or number == len(points):
                pace_s = (time.monotonic() - started_s) / number
                say(f"{scene.name}: {number} of {len(points)}, {pace_s:.2f} s each")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(order: WalkOrder) -> None:
    """All scenes, and the worst moments of nginx and of the dead man."""
    started_s = time.monotonic()
    disk = Disk(Path(order.image))
    disk.mount()
    CLOCK.install()
    tailscaled = Tailscaled(order.tailscaled) if order.tailscaled else None
    small = 0 < order.points <= SMALL
    host = CrashHost(Path(order.folder), disk, tailscaled, thrifty=small)
    say(f"part {order.part}: ready after {time.monotonic() - started_s:.1f} s")
    if order.broken:
        from crash_broken import break_it

        break_it(order.broken)
    try:
        _walk_all(Walk(host, order), order)
    finally:
        host.end_processes()  # else a command that is stopped keeps whoever waits for us


def _walk_all(walk: Walk, order: WalkOrder) -> None:
    from crash_moments import moments

    host = walk.host
    wanted = [scene for scene in scenes(host) if not order.only or scene.name in order.only]
    whole = sum(scene.weight for scene in wanted)
    for scene in wanted:
        share = max(1, round(order.points * scene.weight / whole)) if order.points else None
        walk.walk(scene, share)
    if "moments" not in walk.done and ("moments" in order.only or (not order.only and order.part % 4 == 0)):
        host.become("first")
        moments(walk, rounds=1 if order.points <= SMALL else 2)
        walk.done["moments"] = 1
    walk.note()


def main() -> int:
    """The answer lies in FOUND."""
    fields = json.loads(sys.argv[1])
    try:
        run(WalkOrder(**{**fields, "only": tuple(fields["only"])}))
    except Broken as error:
        say(f"broken: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
