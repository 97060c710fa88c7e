"""The worst moments of nginx, of the dead man and of the wall clock, each several times."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crash_host import CrashHost
from crash_picture import RUN, STATE, dead_men, nginx_masters, wait_for
from crash_process import Broken, verb

if TYPE_CHECKING:
    from crash_walk import Walk

_DELAYS_S = (0.0, 0.005, 0.02, 0.05, 0.1)
_TEN_YEARS_S = 10 * 365 * 86400.0


def moments(walk: Walk, *, rounds: int = 2) -> None:
    """Visit all of them. Each leaves the host as it found it: wholly of the first file."""
    for delay_s in _DELAYS_S if rounds > 1 else _DELAYS_S[::3]:
        for name, workers in (
            ("nginx's master killed in a reload", False),
            ("all of nginx killed in a reload", True),
        ):
            _visit(walk, name, lambda d=delay_s, w=workers: _kill_nginx(walk.host, d, w))
    for name, what in (
        ("dead man killed while it waits", _kill_dead_man),
        ("dead man killed, then a reboot", _kill_dead_man_and_reboot),
        ("command and dead man killed", _kill_both),
        ("command killed while nginx is slow to start", _kill_while_nginx_starts),
        ("wall clock jumps in a switch", _jump),
        ("wall clock jumps while the dead man waits", _jump_while_waiting),
    ):
        for _ in range(rounds):
            _visit(walk, name, lambda w=what: w(walk.host))


def _visit(walk: Walk, name: str, moment: Callable[[], list[str]]) -> None:
    host = walk.host
    faults = moment()
    host.send_dead_men_home()
    verdict = host.judge(("first", "second"))
    faults += verdict.faults
    walk.tally.add("moments", name, "torn" if faults else verdict.state)
    if faults:
        walk.tally.torn.append({"scene": "moments", "point": name, "call": "", "then": "", "faults": faults})
        host.scrub()
    host.become("first")


def _kill_nginx(host: CrashHost, delay_s: float, workers: bool) -> list[str]:
    """SIGKILL to nginx when its reload has begun; the command sees it or not, the next one mends it."""
    (master,) = nginx_masters()
    pid = host.runner.begin(host.switch("second"), trace="none")
    record = RUN / "proxy.json"

    def reload_began() -> bool:
        try:
            return not json.loads(record.read_text())["digest"]
        except (OSError, ValueError):
            return False

    seen = wait_for(reload_began, 20.0)
    time.sleep(delay_s)
    if workers:
        host.end_processes(only="nginx: ")
    else:
        os.kill(master, signal.SIGKILL)
    done, _ = host.runner.finish(pid)
    faults = [] if seen else ["the reload was not seen"]
    if done.code not in {0, 5, 6}:
        faults.append(f"exit {done.code} is none of 0, 5, 6: {done.said}")
    words = {0: host.switch("second"), 5: host.switch("first"), 6: ["recover"]}.get(done.code, ["recover"])
    after = host.runner.run(*words)
    if after.code != 0:
        faults.append(f"{' '.join(words)} ended with {after.code}: {after.said}; before: {done.said}")
    return faults


def _switch_confirm(host: CrashHost, time_s: str = "2s") -> None:
    host.runner.must(*host.switch("second", "--confirm", time_s))
    if len(dead_men()) != 1:
        raise Broken(f"one dead man should stand guard, not {len(dead_men())}")


def _kill_dead_man(host: CrashHost) -> list[str]:
    _switch_confirm(host, "1s")
    host.send_dead_men_home()
    time.sleep(1.1)
    done = host.runner.run("recover")
    return [] if "not confirmed in time" in done.said else [f"recover said {done.said}"]


def _kill_dead_man_and_reboot(host: CrashHost) -> list[str]:
    _switch_confirm(host, "300s")
    done = host.recover("reboot", ())
    return [] if "rebooted before it was confirmed" in done.said else [f"recover --boot said {done.said}"]


def _kill_both(host: CrashHost) -> list[str]:
    """The command between its record and its end, the dead man a moment later."""
    pid = host.runner.begin(host.switch("second", "--confirm", "300s"), trace="none")
    if not wait_for((STATE / "pending.json").exists, 20.0):
        raise Broken("no record came")
    os.kill(pid, signal.SIGKILL)
    host.send_dead_men_home()
    host.runner.finish(pid)
    done = host.runner.run("recover")
    return [] if "died before it was done" in done.said else [f"recover said {done.said}"]


def _kill_while_nginx_starts(host: CrashHost) -> list[str]:
    """Its names take long to resolve, say. It must not come up with the new files after the undoing."""
    host.become("none")
    folder = host.runner.folder / "slow"
    folder.mkdir(exist_ok=True)
    slow, began = folder / "nginx", folder / "began"
    began.unlink(missing_ok=True)
    real = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    slow.write_text(
        f'#!/bin/sh\ncase " $* " in *" -t "*|*" -V "*|*" -v "*) exec {real} "$@";; esac\n'
        f'touch {began}\nsleep 1\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        pid = host.runner.begin(host.switch("first"), trace="none")
    finally:
        os.environ["PATH"] = path
    seen = wait_for(began.exists, 20.0)
    os.kill(pid, signal.SIGKILL)
    host.runner.finish(pid)
    faults = [] if seen else ["nginx was not started"]
    done = host.runner.run("recover")
    time.sleep(1.5)
    state = host.judge(("none", "first"))
    host.become("first")
    if done.code != 0 or state.state != "old":
        faults += [f"exit {done.code}, {state.state}: {done.said}", *state.faults]
    return faults


def with_jumping_clock(task: Callable[[], int]) -> Callable[[], int]:
    """The same in a process whose CLOCK_REALTIME is up to ten years off, differently each time it is read."""

    def jumping() -> int:
        true, chance = time.time, random.Random(1)  # noqa: S311  no secret
        time.time = lambda: true() + chance.uniform(-_TEN_YEARS_S, _TEN_YEARS_S)
        time.time_ns = lambda: int(time.time() * 1e9)
        return task()

    return jumping


def _jump(host: CrashHost) -> list[str]:
    done = host.runner.run(task=with_jumping_clock(verb(host.switch("second"))))
    again = host.runner.run(task=with_jumping_clock(verb(host.switch("second"))))
    if done.code or "nothing to do" not in again.said:
        return [f"exit {done.code}: {done.said}; then: {again.said}"]
    return []


def _jump_while_waiting(host: CrashHost) -> list[str]:
    """Time is up when it is up: neither at once nor in ten years."""
    from crash_scenes import Waiting

    _switch_confirm(host, "2s")
    host.send_dead_men_home()
    deadline_s = float(_pending()["deadline_s"])
    done = host.runner.run(task=with_jumping_clock(lambda: Waiting(host).dead_man(deadline_s)))
    late_s = time.clock_gettime(time.CLOCK_BOOTTIME) - deadline_s
    return (
        [] if done.code == 0 and 0 <= late_s < 2 else [f"undone {late_s:.2f} s after its time: {done.said}"]
    )


def _pending() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STATE / "pending.json").read_text())
    return found
