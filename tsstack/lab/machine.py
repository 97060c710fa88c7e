"""One node of a lab that is up: run programs in it, talk to its tailscaled, start and stop its daemon."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from tsstack.errors import CommandFailed, TsstackError
from tsstack.lab import processes
from tsstack.lab.headscale import CONFIG
from tsstack.lab.topology import Node
from tsstack.system import command
from tsstack.system.localapi import LocalApi

if TYPE_CHECKING:
    from tsstack.system.command import Process, Result

AGE_KEY = "/etc/tsstack/age.key"
SOCKET = "/run/tailscale/tailscaled.sock"


@dataclass(frozen=True)
class Machine:
    """A node as others use it. Programs in it run as root, with the lab's engines on PATH."""

    plan: Node
    pid: int
    """Its holder process, the handle to its namespaces."""
    token: str
    programs: Mapping[str, str]
    log: Path

    @property
    def name(self) -> str:
        return self.plan.name

    def path(self, inside: str | Path) -> Path:
        """A file of the node, as it is reached from outside. Links in it must be relative."""
        return Path(f"/proc/{self.pid}/root") / str(inside).lstrip("/")

    @cached_property
    def api(self) -> LocalApi:
        """Its tailscaled."""
        return LocalApi(self.path(SOCKET))

    @cached_property
    def environment(self) -> dict[str, str]:
        """What programs in the node get beside the usual: PATH, the age key, the machine's name."""
        return {"PATH": self._search_path(), "SOPS_AGE_KEY_FILE": AGE_KEY, "HOSTNAME": self.name}

    def _search_path(self) -> str:
        """This Python's own scripts first, then engines that were built, then the machine's PATH."""
        usual = command.environment()["PATH"].split(":")
        own = [str(Path(sys.executable).parent)]
        own += [folder for path in self.programs.values() if (folder := str(Path(path).parent)) not in usual]
        return ":".join(dict.fromkeys([*own, *usual]))

    def entering(self, argv: Sequence[str | Path], *, folder: str = "/") -> list[str]:
        """The words that run `argv` in the node, in its folder `folder`."""
        if not self.path(folder).is_dir():
            folder = "/"
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--"]
        return [*enter, "env", "-C", folder, *(str(word) for word in argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Result:
        """Run a program in the node to its end. Raises CommandFailed as `command.run` does."""
        return command.run(
            self.entering(argv),
            stdin=stdin,
            timeout_s=timeout_s,
            env={**self.environment, **(env or {})},
            check=check,
        )

    def start(
        self, argv: Sequence[str | Path], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """Start a long-lived program in the node; it ends with the lab. Returns its pid."""
        return command.start(
            self.entering(argv), log=log or self.log, env={**self.environment, **(env or {})}
        )

    def popen(self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Process:
        """Start a program in the node that the caller talks to; see `command.popen`."""
        return command.popen(self.entering(argv), env={**self.environment, **(env or {})})

    def become(self, argv: Sequence[str]) -> NoReturn:
        """Replace this process by a program in the node, with our terminal and our environment."""
        folder = str(Path.cwd())
        command.replace_process(self.entering(argv, folder=folder), env={**os.environ, **self.environment})

    def write(self, inside: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the node, its folder made if need be."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_text(text)

    def daemon_pid(self) -> int:
        """The pid of its tailscaled (or headscale), 0 when it does not run."""
        if not self.plan.daemon:
            return 0
        for pid in processes.within(self.pid):
            if processes.program(pid) == self.plan.daemon:
                return pid
        return 0

    def start_daemon(self, *, timeout_s: float = 20.0) -> None:
        """Start its daemon and wait until it answers; nothing to do when it runs.

        Raises TsstackError with the end of its log when it dies or stays silent.
        """
        if not self.plan.daemon or self.daemon_pid():
            return
        if self.plan.daemon == "headscale":
            pid = self.start([self.programs["headscale"], "-c", CONFIG, "serve"])
        else:
            self.path(SOCKET).unlink(missing_ok=True)
            pid = self.start(self._tailscaled(), env=_TAILSCALED_ENV)
        start = processes.start_ticks(pid)
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if processes.start_ticks(pid) != start or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise TsstackError(f"{self.plan.daemon} of {self.name} does not come up:\n{tail}")
            time.sleep(0.02)

    def _tailscaled(self) -> list[str]:
        return [
            self.programs["tailscaled"],
            "--statedir=/var/lib/tailscale",
            "--state=/var/lib/tailscale/tailscaled.state",
            "--socket=/var/run/tailscale/tailscaled.sock",
            "--tun=tailscale0",
            "--port=41641",
            "--no-logs-no-support",
        ]

    def _answers(self) -> bool:
        if self.plan.daemon == "headscale":
            return _listens(self.pid, 8080)
        try:
            self.api.status(peers=False)
        except TsstackError:
            return False
        return True

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End its daemon and wait until it is gone; nothing to do when it does not run."""
        pid = self.daemon_pid()
        if pid:
            processes.end([pid], self.token, number)

    def await_tailnet(self, *, timeout_s: float = 20.0) -> None:
        """Wait until its tailscaled is on the tailnet again, if it ever was. Raises TsstackError."""
        if self.plan.daemon != "tailscaled":
            return
        deadline = time.monotonic() + timeout_s
        while (state := self.api.status(peers=False)["BackendState"]) in {"NoState", "Starting"}:
            if time.monotonic() > deadline:
                raise TsstackError(f"tailscaled of {self.name} stays in the state {state}")
            time.sleep(0.05)

    def tailnet_addresses(self) -> tuple[str, ...]:
        """Its addresses on the tailnet; empty when it has none, or no tailscaled that answers."""
        if self.plan.daemon != "tailscaled":
            return ()
        try:
            return tuple(self.api.status(peers=False).get("TailscaleIPs") or ())
        except TsstackError:
            return ()

    def configure_links(self, lines: str, *, family: Literal["-4", "-6", ""] = "") -> None:
        """Feed lines to `ip -batch` in the node. Raises TsstackError with ip's words."""
        try:
            self.run(["ip", *([family] if family else []), "-batch", "-"], stdin=lines)
        except CommandFailed as error:
            said = error.stderr.strip()
            raise TsstackError(f"the links of {self.name} could not be made: {said}") from error


def _listens(pid: int, port: int) -> bool:
    """Whether a TCP port is open in the network namespace of `pid` (proc(5), net/tcp; state 0A is LISTEN)."""
    for table in ("tcp", "tcp6"):
        rows = (line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:])
        if any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows):
            return True
    return False


_TAILSCALED_ENV = {
    # The lab's engines must not need iptables, nor look for a router that maps ports.
    "TS_DEBUG_FIREWALL_MODE": "nftables",
    "TS_DISABLE_PORTMAPPER": "1",
    # Headscale's embedded relay speaks plain HTTP here.
    "TS_DEBUG_USE_DERP_HTTP": "1",
    "TS_NO_LOGS_NO_SUPPORT": "true",
}
