"""Starts tsstack's verbs as processes of their own without Python's start-up, and traces them.

The process that imports this has loaded all of tsstack once. Each verb then runs in a fork of it, as the
command line would run it; strace(1) attaches to the fork before its first call and kills it, or lets a
call fail, at the moment that is asked for. strace counts the calls of each process for itself, so the
children of a verb are neither counted nor killed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LIMIT_S = 90.0
_CALL = re.compile(r"^(\w+)\((.*)$")


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is over: its exit code (negative: the signal that ended it) and what it said."""

    code: int
    said: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of a run: `when` counts from 1 among the calls of its name."""

    name: str
    when: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} #{self.when}: {self.text}"


class Broken(Exception):
    """The harness itself cannot go on."""


def fork(task: Callable[[], int], log: Path, *, stopped: bool = False) -> int:
    """Run `task` in a child, its output in `log`; return its pid. `stopped`: it waits for SIGCONT."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for target, source in ((0, nothing), (1, out), (2, out)):
            os.dup2(source, target)
        os.close(out)
        os.close(nothing)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = task()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  it is the whole process: what it dies of goes to its log
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError("not reached")


def verb(words: Sequence[str]) -> Callable[[], int]:
    """The command line `tsstack WORDS`, to be run in a fork."""

    def task() -> int:
        from tsstack.cli.main import run

        return run(list(words))

    return task


def wait(pid: int, log: Path) -> Ended:
    """Wait for a child. Raises Broken when it does not end in time."""
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise Broken(f"a verb did not end within {_LIMIT_S:g} s: {log.read_text(errors='replace')}")


class Runner:
    """Runs verbs, plainly or under strace. `folder` takes the logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.strace: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, task: Callable[[], int] | None = None) -> Ended:
        """A verb, from its first line to its end."""
        log = self.folder / "run.log"
        return wait(fork(task or verb(words), log), log)

    def must(self, *words: str) -> str:
        """A verb that has to succeed. Raises Broken."""
        done = self.run(*words)
        if done.code != 0:
            raise Broken(f"tsstack {' '.join(words)} ended with {done.code}:\n{done.said}")
        return done.said

    def begin(
        self,
        words: Sequence[str],
        *,
        trace: str = "all",
        inject: str = "",
        task: Callable[[], int] | None = None,
    ) -> int:
        """Start a verb under strace and return its pid; `finish` waits for it."""
        pid = fork(task or verb(words), self.folder / "victim.log", stopped=True)
        os.waitpid(pid, os.WUNTRACED)
        argv = ["strace", "-qq", "-s", "160", "-o", str(self.folder / "strace.log"), "-e", f"trace={trace}"]
        argv += ["-e", "signal=STOP" if "signal=STOP" in inject else "signal=none"]
        if inject:
            argv += ["-e", f"inject={inject}"]
        (self.folder / "strace.log").write_text("")
        self.strace = subprocess.Popen([*argv, "-p", str(pid)], stdin=subprocess.DEVNULL)
        while b"TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_bytes():
            if self.strace.poll() is not None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise Broken("strace does not run here")
            time.sleep(0.001)
        os.kill(pid, signal.SIGCONT)
        return pid

    def await_stop(self, pid: int) -> bool:
        """Wait until the injected SIGSTOP has stopped a verb that began; False when it ended before."""
        deadline_s = time.monotonic() + _LIMIT_S
        log = self.folder / "strace.log"
        while time.monotonic() < deadline_s:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                return False
            # SI_KERNEL: not the stop that it was born in, which it gave itself.
            if state in "tT" and "si_code=SI_KERNEL" in log.read_text(errors="replace"):
                return True
            time.sleep(0.002)
        raise Broken("a verb neither stops nor ends")

    def finish(self, pid: int) -> tuple[Ended, list[Call]]:
        """Wait for a traced verb; return how it ended and the calls that were traced, in their order."""
        done = wait(pid, self.folder / "victim.log")
        assert self.strace is not None
        self.strace.wait(timeout=_LIMIT_S)
        return done, read_calls((self.folder / "strace.log").read_text(errors="replace"))

    def trace(
        self,
        words: Sequence[str],
        *,
        trace: str = "all",
        inject: str = "",
        task: Callable[[], int] | None = None,
    ) -> tuple[Ended, list[Call]]:
        """`begin` and `finish`."""
        return self.finish(self.begin(words, trace=trace, inject=inject, task=task))


def read_calls(log: str) -> list[Call]:
    """The calls of one process in an strace log."""
    counts: dict[str, int] = {}
    calls = []
    for line in log.splitlines():
        found = _CALL.match(line)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
            calls.append(Call(found[1], counts[found[1]], found[2]))
    return calls


def load_everything(runner: Runner, words: Sequence[str]) -> None:
    """Import here what a verb imports, so that its forks begin with all of it."""
    import importlib
    import json

    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as tsstack.cli.main has it
    names = runner.folder / "modules.json"

    def task() -> int:
        code = verb(words)()
        names.write_text(json.dumps(sorted(sys.modules)))
        return code

    done = runner.run(task=task)
    if done.code != 0:
        raise Broken(f"tsstack {' '.join(words)} ended with {done.code}:\n{done.said}")
    for name in json.loads(names.read_text()):
        with contextlib.suppress(ModuleNotFoundError):  # a compiler's own, which no one can import by name
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork's collector then leaves our pages shared
