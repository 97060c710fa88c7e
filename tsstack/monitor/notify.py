"""What systemd is told (sd_notify(3)), without a library: a datagram to the socket that it names."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notify:
    """Says nothing when no service manager asked to be told."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environment is None else environment
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s(env)
        """How often the manager wants to hear of us; 0: it does not."""

    def ready(self, status: str) -> None:
        """The start, or a reload, is complete."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The watchdog is fed."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A manager that went away, or is slow to read, is no reason to stop watching.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            link.sendto(text.encode(), self._address)


def _watchdog_s(env: dict[str, str]) -> float:
    """sd_watchdog_enabled(3): WATCHDOG_USEC, meant for WATCHDOG_PID."""
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = env.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() else 0.0


def _line(text: str) -> str:
    return " ".join(text.split())
