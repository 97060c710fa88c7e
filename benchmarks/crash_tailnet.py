"""A control server beside the private host, and the real tailscaled in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crash_process import Broken

SOCKET = Path("/var/run/tailscale/tailscaled.sock")
KEY = Path("/etc/tsstack/key")
_STATE = Path("/var/lib/tailscale")
_LOG = Path("/var/log/tailscaled.log")
_ENV = {
    "TS_DEBUG_FIREWALL_MODE": "nftables",
    "TS_DISABLE_PORTMAPPER": "1",
    "TS_PANIC_IF_HIT_MAIN_CONTROL": "1",
    "TS_DEBUG_USE_DERP_HTTP": "1",
}
# Not settings: what the daemon holds of its login, and what a first login leaves in it for good.
_NO_PREFS = {"Config", "LoggedOut", "ProfileName", "InternalExitNodePrior"}


@contextlib.contextmanager
def control_server(pid: int) -> Iterator[tuple[str, str]]:
    """A Headscale that the host behind `pid` reaches by its eth0; yields tailscaled's path and a key."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "lab"))
    from tailscale_bed import CONTROL, Bed, engine

    port = f"vc{os.getpid() % 1000000}"
    bed = Bed()
    try:
        for words in (
            f"-n {bed.hub} link add {port} type veth peer eth0 netns {pid}",
            f"-n {bed.hub} link set {port} master br0 up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        for words in (
            "addr add 10.77.0.10/24 dev eth0",
            "link set eth0 up",
            f"route add default via {CONTROL}",
        ):
            subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *words.split()], check=True)
        yield engine("tailscaled"), bed.key(tags="tag:exit", reusable=True)
    finally:
        bed.close()


class Tailscaled:
    """The daemon of the host that we are in. `prefs` is what is compared."""

    def __init__(self, program: str) -> None:
        from tsstack.system.localapi import LocalApi

        self.program = program
        self.api = LocalApi(SOCKET)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.bare = self.prefs()

    def start(self) -> None:
        """Start it and wait until it answers, and until it is on the tailnet again if it ever was."""
        self.launch()
        self.await_state(("Running", "NeedsLogin", "Stopped"))

    def launch(self) -> None:
        """Start it, as its unit does when it has died."""
        SOCKET.parent.mkdir(parents=True, exist_ok=True)
        self.kill()
        SOCKET.unlink(missing_ok=True)
        with _LOG.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.program, f"--statedir={_STATE}", f"--state={_STATE}/tailscaled.state",
                    f"--socket={SOCKET}", "--tun=tailscale0", "--port=41641", "--no-logs-no-support",
                    "--encrypt-state=false",
                ],
                env={**os.environ, **_ENV}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def await_state(self, states: tuple[str, ...], limit_s: float = 30.0) -> str:
        """The daemon's state as soon as it is one of these. Raises Broken."""
        from tsstack.errors import TsstackError

        deadline_s, state = time.monotonic() + limit_s, "silent"
        while time.monotonic() < deadline_s:
            with contextlib.suppress(TsstackError):
                status = self.api.status(peers=False)
                state = str(status.get("BackendState"))
                online = bool((status.get("Self") or {}).get("Online")) or state != "Running"
                if state in states and online:
                    return state
            time.sleep(0.02)
        tail = "\n".join(_LOG.read_text(errors="replace").splitlines()[-20:])
        raise Broken(f"tailscaled stays {state}:\n{tail}")

    def prefs(self) -> dict[str, Any]:
        """All settings and whether it belongs to a tailnet; without its keys."""
        found = self.api.prefs()
        shown = {
            name: value
            for name, value in found.items()
            if name not in _NO_PREFS and value not in (None, "", [])
        }
        # Without a name of its own the node has the machine's, which is no other state if they are the same.
        # (What status says of itself is what the server knew of it when it last spoke.)
        shown.setdefault("Hostname", socket.gethostname().partition(".")[0])
        return {
            **shown,
            "enrolled": bool((found.get("Config") or {}).get("NodeID")) and not found.get("LoggedOut"),
        }

    def leave(self) -> None:
        """Off the tailnet, with the settings that it had when it was new."""
        self.kill()
        shutil.rmtree(_STATE, ignore_errors=True)
        self.start()
