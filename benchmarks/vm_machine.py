"""A machine that can lose its power: a Debian in plain emulation, plugged into a lab's `world`.

What it has not flushed to its disk lies in the memory of the emulator alone (its own page cache, and the
write-back cache of the disk that it is given), and goes when that process is killed. What it was told is
on the disk is on it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm_debian import Image, Seat

from tsstack.lab.lab import Lab

_BOOT_LIMIT_S = 900.0
_RUN_LIMIT_S = 1200.0
_SUSPEND_LIMIT_S = 60.0


class Silent(Exception):
    """The machine did not answer in time."""


@dataclass(frozen=True)
class Done:
    """A program that ended inside: its exit code, its stdout, the lines of its stderr."""

    code: int
    out: str
    lines: list[str]


@dataclass
class Job:
    """A request under way. `lines` grows while it runs; `answer` is there when it is over."""

    lines: list[str] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    news: queue.Queue[str | None] = field(default_factory=queue.Queue)
    """Each line once, and None at the end."""
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, limit_s: float = _RUN_LIMIT_S) -> Done:
        if not self.ended.wait(limit_s):
            raise Silent(f"no end within {limit_s:g} s; it said {self.lines[-3:]}")
        return Done(int(self.answer.get("code", 255)), str(self.answer.get("out", "")), self.lines)


def plug_in(lab: Lab, seat: Seat) -> None:
    """Make the seat's network device in the lab's `world`, with a neighbour entry that needs no answer."""
    words = "\n".join(
        (
            f"tuntap add dev {_tap(seat)} mode tap",
            f"addr add {seat.gateway}/24 dev {_tap(seat)}",
            f"addr add {seat.gateway6}/64 dev {_tap(seat)} nodad",
            f"link set {_tap(seat)} up",
            f"neigh replace {seat.address} lladdr {seat.mac} dev {_tap(seat)} nud permanent",
            f"neigh replace {seat.address6} lladdr {seat.mac} dev {_tap(seat)} nud permanent",
            "",
        )
    )
    lab.node("world").configure_links(words)


def _tap(seat: Seat) -> str:
    return f"to-{seat.name}"


class Machine:
    """One machine: its disk stays while its power comes and goes. `stop` takes all of it away.

    Without `own_clock` its time is everybody's, and its emulation half again as quick.
    """

    def __init__(self, lab: Lab, seat: Seat, image: Image, folder: Path, *, own_clock: bool = True) -> None:
        self.lab, self.seat, self.image, self.folder = lab, seat, image, folder
        # Its clock counts instructions while it works, so that no load outside lets its time limits pass.
        self._clock = ("-icount", "shift=1,sleep=on") if own_clock else ()
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk.qcow2"
        self.console = folder / "console.log"
        self._pid = 0
        self._link: socket.socket | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._hello = threading.Event()
        self.boots = 0
        self.new_disk()

    def new_disk(self) -> None:
        """The disk as the image has it. The power must be off."""
        self.disk.unlink(missing_ok=True)
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.image.disk)]
        subprocess.run([*words, str(self.disk)], check=True)

    def power_on(self, *, snapshot: str = "") -> None:
        """Start it, or let it go on from a snapshot, disk and all; returns at once."""
        place = self.folder / "agent.sock"
        place.unlink(missing_ok=True)
        self._hello.clear()
        self._pid = self.lab.node("world").start(self._words(place, snapshot), log=self.console)
        self.boots += 1
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        until = time.monotonic() + 20
        while self._link.connect_ex(str(place)) != 0:
            if time.monotonic() > until or not self.is_on():
                raise Silent(f"the emulator does not start: {self.console.read_text()[-2000:]}")
            time.sleep(0.01)
        threading.Thread(target=self._listen, args=(self._link,), daemon=True).start()

    def _words(self, agent: Path, snapshot: str) -> list[str]:
        resume = ["-loadvm", snapshot] if snapshot else []
        return [
            "qemu-system-x86_64", "-accel", "tcg,tb-size=256", "-smp", "1",
            *self._clock,
            "-cpu", "max,-la57,-avx,-avx2,-smap,-smep",  # what is slow to emulate
            "-m", "640", "-nodefaults", "-display", "none", "-no-user-config", "-serial", "stdio",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append",
            "console=ttyS0 root=/dev/vda rw quiet loglevel=3 mitigations=off nokaslr net.ifnames=0 panic=1 "
            "random.trust_cpu=on audit=0",
            "-drive", f"file={self.disk},format=qcow2,if=none,id=disk,cache=writeback",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", f"tap,id=net,ifname={_tap(self.seat)},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={self.seat.mac},romfile=",
            "-chardev", f"socket,id=agent,path={agent},server=on,wait=off",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent",
            "-monitor", f"unix:{self.folder / 'monitor.sock'},server=on,wait=off", *resume,
        ]  # fmt: skip

    def save(self, snapshot: str) -> None:
        """Keep the machine as it is now, memory and disk, for `power_on`; it goes on running."""
        said = self._tell(f"savevm {snapshot}", limit_s=120)
        if "Error" in said:
            raise RuntimeError(f"no snapshot: {said}")

    def suspend(self) -> None:
        """Send it to sleep as a closing lid does (ACPI S3, `systemctl suspend`); returns when it sleeps.

        Only a machine without a clock of its own sleeps in everybody's time. Raises Silent.
        """
        self.begin(["systemctl", "suspend"])
        until = time.monotonic() + _SUSPEND_LIMIT_S
        while "suspended" not in self._tell("info status"):
            if time.monotonic() > until:
                raise Silent("it does not go to sleep")
            time.sleep(0.2)

    def wake(self) -> None:
        """End its sleep; returns when it answers again."""
        self._tell("system_wakeup")
        self.run("true")

    def _tell(self, words: str, *, limit_s: float = 20.0) -> str:
        """Give the emulator's monitor a command; what it says."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
            monitor.settimeout(limit_s)
            monitor.connect(str(self.folder / "monitor.sock"))
            said = b""
            for line in (b"", f"{words}\n".encode()):
                monitor.sendall(line)
                said = b""
                while not said.endswith(b"(qemu) "):
                    heard = monitor.recv(65536)
                    if not heard:
                        raise Silent("the emulator has ended")
                    said += heard
        return said.decode(errors="replace")

    def is_on(self) -> bool:
        """Whether its emulator runs."""
        if not self._pid:
            return False
        try:
            gone, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            gone = self._pid
        if gone:
            self._pid = 0
        return self._pid != 0

    def reboot(self) -> str:
        """Let it reboot by itself, as `systemctl reboot` does; returns when it is up again."""
        self._hello.clear()
        self.begin(["systemctl", "reboot"])
        return self.await_boot()

    def cut(self) -> None:
        """Cut its power: SIGKILL to the emulator, which is then gone."""
        if self.is_on():
            os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0
        if self._link is not None:
            self._link.close()
            self._link = None
        for job in self._jobs.values():
            job.news.put(None)
        self._jobs.clear()

    stop = cut

    def _listen(self, link: socket.socket) -> None:
        buffer = b""
        while True:
            try:
                data = link.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        if "hello" in said:
            self._hello.set()
            return
        job = self._jobs.get(said["id"])
        if job is None:
            return
        if "line" in said:
            job.lines.append(said["line"])
            job.news.put(said["line"])
        else:
            job.answer = said
            del self._jobs[said["id"]]
            job.ended.set()
            job.news.put(None)

    def await_agent(self, limit_s: float = _BOOT_LIMIT_S) -> None:
        """Wait until the machine answers at all. Raises Silent."""
        until = time.monotonic() + limit_s
        while not self._hello.wait(0.2):
            if time.monotonic() > until or not self.is_on():
                raise Silent(f"it does not boot: {self.console.read_text(errors='replace')[-2000:]}")

    def await_boot(self, limit_s: float = _BOOT_LIMIT_S) -> str:
        """Wait until its boot is over; returns systemd's word for it (`running`, `degraded`)."""
        self.await_agent(limit_s)
        return self.begin(["systemctl", "is-system-running", "--wait"]).wait(limit_s).out.strip()

    def ask(self, **request: Any) -> Job:
        """Send a request to the agent."""
        number = next(self._numbers)
        job = self._jobs[number] = Job()
        assert self._link is not None, "its power is off"
        self._link.sendall(json.dumps({"id": number, **request}).encode() + b"\n")
        return job

    def begin(self, argv: Sequence[str], *, stdin: str = "") -> Job:
        """Start a program inside."""
        return self.ask(do="run", argv=list(argv), stdin=stdin)

    def verb(self, *argv: str) -> Job:
        """Start a verb of tsstack in a fork of the warm process, see vm_verbs.py."""
        return self.ask(do="verb", argv=list(argv))

    def warm(self, file: str) -> None:
        """Start the process that runs verbs. Nothing of it is on the disk."""
        self.begin(["/usr/bin/python3", "-P", "-B", "/opt/vm/vm_verbs.py", file])
        self.run("sh", "-c", "until [ -S /run/vm-verbs.sock ]; do sleep 0.2; done")

    def run(self, *argv: str, check: bool = True, limit_s: float = _RUN_LIMIT_S, stdin: str = "") -> Done:
        """Run a program inside to its end. Raises AssertionError when it ends non-zero and `check`."""
        done = self.begin(argv, stdin=stdin).wait(limit_s)
        assert not check or done.code == 0, f"{argv} ended with {done.code}: {done.out}{done.lines}"
        return done

    def write(self, path: str, text: str, *, mode: int = 0o644, sync: bool = False) -> None:
        """Write a file inside; with `sync` it is on the disk afterwards."""
        done = self.ask(do="write", path=path, text=text, mode=mode, sync=sync).wait()
        assert done.code == 0, done.out

    def read(self, path: str) -> str | None:
        """A file inside; None when it is not there."""
        job = self.ask(do="read", path=path)
        job.wait()
        text: str | None = job.answer["text"]
        return text

    def look(self, *, at_host: bool = False) -> dict[str, Any]:
        """What the host is now, see vm_agent.look; `at_host`: where there is no tsstack."""
        job = self.ask(do="look_at_host" if at_host else "look")
        done = job.wait()
        assert done.code == 0, done.out
        seen: dict[str, Any] = job.answer["seen"]
        return seen
