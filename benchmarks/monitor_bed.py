"""A lab with two exit nodes, a host that uses them, and a client on it whose packets are counted.

The host is the lab's `laptop`, its exit nodes are `exit-b` and `client-1`, in this order. The client opens a
new TCP connection to the internet each tenth of a second and notes what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsstack.lab.lab import Lab, take_down
from tsstack.lab.machine import Machine

CHECKOUT = Path(__file__).resolve().parents[1]
HOST, FIRST, SECOND = "laptop", "exit-b", "client-1"
FIRST_ADDRESS, SECOND_ADDRESS = "10.77.3.2", "10.77.11.2"
FIRST_ADDRESS6, SECOND_ADDRESS6 = "fd77:0:0:3::2", "fd77:0:0:11::2"
INTERNET, INTERNET6 = "203.0.113.1", "2001:db8:77::1"
FILE = """\
host: {{name: laptop, tailnet: tail.test, uplink: eth0}}
tailscale:
  login_server: http://10.77.0.1:8080
  accept_routes: true
  exit_node: {{use: [exit-b, client-1], otherwise: {otherwise}}}
monitor:
  interval: {interval}
  restore_after: {restore_after}
  max_latency: {max_latency}
  targets: [{{icmp: 203.0.113.1}}, {{tcp: "203.0.113.1:7777"}}]
{extra}"""
PACE_S, PATIENCE_S = 0.1, 1.0
STEADY = 30
"""Traffic flows when so many connections in a row, three seconds' worth, went well: on a link that loses a
third ten in a row go well now and then.
"""

# A process of its own, so that nothing here holds it up. A line for each connection: begun, ended, by whom.
_CLIENT = f"""
import asyncio, json, sys, time
async def one():
    begun = time.time()
    seen = ""
    try:
        async with asyncio.timeout({PATIENCE_S}):
            reader, writer = await asyncio.open_connection(sys.argv[1], 7777)
            seen = (await reader.readline()).decode().strip()
            writer.close()
    except (OSError, TimeoutError):
        pass
    print(json.dumps([begun, time.time(), seen]), flush=True)
async def main():
    tasks = set()
    while True:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep({PACE_S})
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection of the client. Times are seconds since 1970; `by` is empty when it failed."""

    begun: float
    ended: float
    by: str

    @property
    def took_s(self) -> float:
        return self.ended - self.begun


@dataclass
class Client:
    """The client on the host, while it runs."""

    attempts: list[Attempt] = field(default_factory=list)

    def flowing_since(self, at: float, *, limit_s: float = PATIENCE_S, by: str = "") -> float | None:
        """When, after `at`, the first of STEADY good connections in a row began; None: not yet.

        Good: answered within `limit_s`, and through `by` where that is said.
        """
        run: list[Attempt] = []
        for each in sorted(self.attempts, key=lambda each: each.begun):
            if each.begun < at:
                continue
            good = bool(each.by) and each.took_s <= limit_s and (not by or each.by == by)
            run = [*run, each] if good else []
            if len(run) == STEADY:
                return run[0].begun
        return None

    def lost_since(self, at: float) -> int:
        """How many connections that began after `at` failed."""
        return sum(1 for each in self.attempts if each.begun >= at and not each.by)

    def await_flow(
        self, at: float, *, within_s: float, limit_s: float = PATIENCE_S, by: str = ""
    ) -> float | None:
        """The same, waited for; None when the time is over."""
        deadline_s = time.monotonic() + within_s
        while (since := self.flowing_since(at, limit_s=limit_s, by=by)) is None:
            if time.monotonic() > deadline_s:
                return None
            time.sleep(0.05)
        return since


class Bed:
    """The lab made ready. `monitor` runs the daemon on the host, `client` the client."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host = lab.node(HOST)
        self._make_exit(lab.node(SECOND))
        self.ids = self._await_exits()
        self._count_leaks()

    @classmethod
    @contextlib.contextmanager
    def up(cls) -> Iterator[Bed]:
        """A lab of its own, gone afterwards."""
        name = f"m{os.getpid()}-{secrets.token_hex(2)}"
        try:
            yield cls(Lab.up(name=name, clients=1))
        finally:
            take_down(name=name)

    def use(self, node: str) -> None:
        """Set the host's exit node by hand, as tailscale itself would; empty: none."""
        self.host.api.patch_prefs({"ExitNodeID": self.ids[node] if node else ""})

    def write_file(self, **given: str) -> None:
        settings = {"otherwise": "block", "interval": "30s", "restore_after": "2m", "max_latency": "200ms"}
        self.host.write("/etc/tsstack/tsstack.yaml", FILE.format(**{"extra": "", **settings, **given}))

    @contextlib.contextmanager
    def monitor(self, *, under: tuple[str, ...] = (), **given: str) -> Iterator[Daemon]:
        """The daemon, by a file made of `given` and started by `under`; waits until it steers."""
        if given or not self.host.path("/etc/tsstack/tsstack.yaml").exists():
            self.write_file(**given)
        daemon = Daemon(self.host, under)
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()

    @contextlib.contextmanager
    def client(self, to: str = INTERNET) -> Iterator[Client]:
        process = self.host.popen([sys.executable, "-c", _CLIENT, to])
        client = Client()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                client.attempts.append(Attempt(*json.loads(line)))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield client
        finally:
            process.kill()
            process.wait()
            thread.join(5)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def leaked(self) -> int:
        """Packets to the internet that came by the host's own uplink so far."""
        said = json.loads(self.lab.node("world").run(["nft", "-j", "list", "table", "inet", "leaks"]).stdout)
        return sum(
            expression["counter"]["packets"]
            for entry in said["nftables"]
            for expression in entry.get("rule", {}).get("expr", ())
            if "counter" in expression
        )

    def _make_exit(self, node: Machine) -> None:
        node.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        node.api.patch_prefs({"RouteAll": False, "AdvertiseRoutes": ["0.0.0.0/0", "::/0"]})

    def _await_exits(self) -> dict[str, str]:
        deadline_s = time.monotonic() + 20
        while True:
            peers = self.host.api.status()["Peer"].values()
            ids = {peer["HostName"]: peer["ID"] for peer in peers if peer.get("ExitNodeOption")}
            if {FIRST, SECOND} <= ids.keys():
                return ids
            assert time.monotonic() < deadline_s, f"exit nodes: {ids}"
            time.sleep(0.1)

    def _count_leaks(self) -> None:
        rules = "ip daddr 203.0.113.0/24 counter\nip6 daddr 2001:db8:77::/48 counter\n"
        self.lab.node("world").run(
            ["nft", "-f", "-"],
            stdin="table inet leaks {\nchain seen {\ntype filter hook prerouting priority -301;\n"
            f'iifname != "to-{HOST}" return\n{rules}}}\n}}\n',
        )


class Daemon:
    """`tsstack monitor` on the host."""

    def __init__(self, host: Machine, under: tuple[str, ...] = ()) -> None:
        self.host = host
        self._under = under
        self.process: Any = None
        self.lines: list[str] = []

    def start(self) -> None:
        """Start it and wait until it says where the host is."""
        self.process = self.host.popen(
            [
                *self._under,
                sys.executable,
                "-P",
                "-c",
                "from tsstack.cli.main import main; main()",
                "monitor",
            ],
            env={"PYTHONPATH": str(CHECKOUT)},
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        deadline_s = time.monotonic() + 30
        while True:
            state = self.state(check=False)
            if state and state["exit"] and state["exit"]["actual"] is not None:
                return
            assert self.process.poll() is None, "\n".join(self.lines)
            assert time.monotonic() < deadline_s, "\n".join(self.lines)
            time.sleep(0.2)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        # nsenter passes no signals on: the daemon is its child.
        if process.poll() is None:
            os.kill(self.pid_of(process), number)
        code: int = process.wait(20)
        for stream in (process.stdin, process.stdout):
            stream.close()
        return code

    @staticmethod
    def pid_of(process: Any) -> int:
        """nsenter and env become what they start."""
        return int(process.pid)

    def ask(self, do: str, *, check: bool = True, **arguments: Any) -> Any:
        """Ask it by its socket, reached from outside."""
        from tsstack.errors import TsstackError
        from tsstack.monitor.client import Client as Asking

        # The way through /proc is too long for a socket's address: by a descriptor it is short.
        folder = os.open(self.host.path("/run/tsstack"), os.O_PATH) if self._listens() else -1
        try:
            return Asking(Path(f"/proc/self/fd/{folder}/monitor.sock")).ask(do, **arguments)
        except TsstackError:
            if check:
                raise
            return None
        finally:
            if folder >= 0:
                os.close(folder)

    def state(self, *, check: bool = True) -> Any:
        return self.ask("state", check=check)

    def events(self) -> list[dict[str, Any]]:
        """What happened in this run."""
        started = self.state()["started"]
        return [event for event in self.ask("events", count=1000) if event["at"] >= started]

    def await_state(self, holds: Any, *, within_s: float = 30.0) -> Any:
        """The first state for which `holds`."""
        deadline_s = time.monotonic() + within_s
        while not holds(state := self.state()):
            assert time.monotonic() < deadline_s, (
                json.dumps(state["exit"]) + "\n" + "\n".join(self.lines[-30:])
            )
            time.sleep(0.1)
        return state

    def _listens(self) -> bool:
        return self.host.path("/run/tsstack/monitor.sock").exists()

    def _read(self, process: Any) -> None:
        with contextlib.suppress(ValueError):
            for line in process.stderr:
                self.lines.append(line.decode(errors="replace").rstrip())
        process.stderr.close()
