"""A program on a terminal of its own, which is read all along, as a person's would be."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hosts import Broken

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
SIZE = (40, 120)
"""Lines and columns."""


class Terminal:
    """A program that runs on a pseudo terminal until `close`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.started_s = time.perf_counter()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
            os.execvpe(  # noqa: S606  a program of ours
                argv[0], list(argv), {**env, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            )
        self.said = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_for(self, words: bytes, timeout_s: float = 20.0) -> float:
        """Seconds from the start until these words were painted. Raises Broken when they never are."""
        end_s = time.perf_counter() + timeout_s
        while words not in self.said:
            left_s = end_s - time.perf_counter()
            if left_s <= 0 or not self._read(left_s):
                raise Broken(f"{words!r} never came: {self.said[-400:]!r}")
        return time.perf_counter() - self.started_s

    def watch(self, span_s: float) -> int:
        """Read for so long; returns how many bytes were painted."""
        before, end_s = len(self.said), time.perf_counter() + span_s
        while (left_s := end_s - time.perf_counter()) > 0:
            self._read(left_s)
        return len(self.said) - before

    def press(self, keys: bytes) -> None:
        """As if these were typed."""
        os.write(self._fd, keys)

    def cpu_s(self) -> float:
        """Processor time of the process until now (proc_pid_stat(5): utime, stime)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if ready:
            try:
                self.said += os.read(self._fd, 1 << 16)
            except OSError:  # EIO: the program has ended
                return False
        return bool(ready)

    def close(self) -> None:
        """End the program and take it in."""
        os.kill(self.pid, signal.SIGTERM)
        end_s = time.perf_counter() + 3.0
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            self._read(0.05)
            if time.perf_counter() > end_s:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
        os.close(self._fd)
