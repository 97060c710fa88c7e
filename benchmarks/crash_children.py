"""Kills at the calls of others: the programs that a command starts, and nginx's master in its reload.

A program is started through a script of its name, found first on PATH, which runs it under strace(1) when
its turn has come.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crash_picture import nginx_masters
from crash_points import Point, changes
from crash_process import Broken, Ended, read_calls

if TYPE_CHECKING:
    from crash_host import CrashHost

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_PROGRAMS = (
    "nginx",
    "nft",
    "conntrack",
    "modprobe",
    "ip",
    "sysctl",
    "ethtool",
    "tc",
    "unshare",
    "resolvectl",
)
_SCRIPT = """#!/bin/sh
n=1
while ! mkdir {folder}/turns/$n 2>/dev/null; do n=$((n + 1)); done
echo "$0 $*" > {folder}/turns/$n/words
case "$(cat {folder}/turn)" in
  all) exec {strace} -qq -o {folder}/log.$n -e signal=none {program} "$@";;
  $n) exec {strace} -qq -o {folder}/log.$n -e signal=none $(cat {folder}/inject) {program} "$@";;
esac
exec {program} "$@"
"""


@dataclass(frozen=True)
class ChildPoint:
    """Before a call of the `number`-th program that the command starts; 0: of nginx's master."""

    number: int
    program: str
    point: Point

    @property
    def kind(self) -> str:
        return f"{self.program} is killed"

    def __str__(self) -> str:
        return f"{self.program} (child {self.number}) killed at {self.point.call}"


class Children:
    """Runs commands with the scripts first on PATH. `folder` takes what they note."""

    def __init__(self, host: CrashHost) -> None:
        self.host = host
        self.folder = host.runner.folder / "children"
        self.folder.mkdir(exist_ok=True)
        self._turns = self.folder / "turns"
        for name in _PROGRAMS:
            program = shutil.which(name, path=_PATH)
            if program is not None:
                script = self.folder / name
                strace = shutil.which("strace", path=_PATH)
                script.write_text(_SCRIPT.format(folder=self.folder, program=program, strace=strace))
                script.chmod(0o755)

    @contextmanager
    def _first_on_path(self, turn: str, inject: str) -> Iterator[None]:
        for log in self.folder.glob("log.*"):
            log.unlink()
        shutil.rmtree(self._turns, ignore_errors=True)
        self._turns.mkdir()
        (self.folder / "turn").write_text(turn)
        (self.folder / "inject").write_text(inject)
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.folder}:{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before

    def points(self, words: tuple[str, ...]) -> list[ChildPoint]:
        """The points of one run of the command that nobody disturbs: its programs', and the master's."""
        masters = nginx_masters()
        log = self.host.runner.folder / "master.log"
        with self._first_on_path("all", ""):
            tracer = _attach(masters[0], log, []) if masters else None
            done = self.host.runner.run(*words)
            _detach(tracer)
        if done.code != 0:
            raise Broken(f"{words} ended with {done.code}: {done.said}")
        found = []
        for number in range(1, len(list(self._turns.iterdir())) + 1):
            name = Path((self._turns / str(number) / "words").read_text().split()[0]).name
            calls = read_calls((self.folder / f"log.{number}").read_text(errors="replace"))
            found += [ChildPoint(number, name, Point(call)) for call in calls]
        if tracer is not None:
            calls = read_calls(log.read_text(errors="replace"))
            found += [ChildPoint(0, "nginx's master", Point(call)) for call in calls if changes(call)]
        return found

    def run(self, words: tuple[str, ...], child: ChildPoint) -> tuple[Ended, bool]:
        """The command with that point; and whether it was reached."""
        if child.number:
            with self._first_on_path(str(child.number), f"-e inject={child.point.inject}"):
                done = self.host.runner.run(*words)
            log = self.folder / f"log.{child.number}"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            # A call that never came back, as exit_group(2) would be, which nobody is killed at.
            return done, bool(lines) and lines[-1].startswith(f"{child.point.call.name}(")
        masters = nginx_masters()
        if not masters:
            raise Broken("no master of nginx to kill")
        log = self.host.runner.folder / "master.log"
        tracer = _attach(masters[0], log, ["-e", f"inject={child.point.inject}"])
        done = self.host.runner.run(*words)
        reached = masters[0] not in nginx_masters()
        _detach(tracer)
        return done, reached


def _attach(pid: int, log: Path, more: list[str]) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", str(log), "-e", "signal=none", *more, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait(lambda: b"TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_bytes())
    return tracer


def _detach(tracer: subprocess.Popen[bytes] | None) -> None:
    if tracer is not None:
        tracer.terminate()
        tracer.wait(timeout=10)


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not condition():
        if time.monotonic() > deadline_s:
            raise Broken("strace does not attach")
        time.sleep(0.002)
