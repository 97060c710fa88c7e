"""The dashboard in a real terminal (tmux) on a host of a tailnet, while one thing after the other breaks.

Four at once, so that each fault is seen at every size and in every dress.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from monitor_bed import CHECKOUT, FIRST, HOST, Bed

from tsstack.lab.machine import Machine

pytestmark = pytest.mark.lab
UTF8 = {"LANG": "C.UTF-8"}
SCREENS: dict[str, tuple[int, int, dict[str, str]]] = {
    "plain": (80, 24, UTF8),
    "narrow": (40, 20, UTF8),
    "colourless": (80, 24, {**UTF8, "NO_COLOR": "1"}),
    "ascii": (80, 24, {"LC_ALL": "C", **UTF8}),
}
_COLOUR = re.compile(r"\033\[[0-9;]*?\b(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|[34]8;[25])\b[0-9;]*m")


@dataclass
class Terminals:
    """A tmux of its own on the host."""

    host: Machine
    socket: str

    def tmux(self, *words: str) -> str:
        env = {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        return self.host.run(["tmux", "-u", "-S", self.socket, "-f", "/dev/null", *words], env=env).stdout

    def open(self, name: str) -> None:
        width, height, given = SCREENS[name]
        program = [sys.executable, "-P", "-c", "from tsstack.cli.main import main; main()", "top"]
        start = ["env", "-u", "LC_ALL", *(f"{key}={value}" for key, value in given.items())]
        start += [f"PYTHONPATH={CHECKOUT}", *program]
        self.tmux("new-session", "-d", "-s", name, "-x", str(width), "-y", str(height), *start)

    def shown(self, name: str, *words: str) -> str:
        return self.tmux("capture-pane", "-p", "-t", name, *words)

    def press(self, *keys: str) -> None:
        for name in SCREENS:
            self.tmux("send-keys", "-t", name, *keys)

    def until(self, holds: Callable[[str], object], what: str, *, within_s: float = 30.0) -> None:
        """On every one of the screens, each within its size and without what it cannot have."""
        deadline_s = time.monotonic() + within_s
        for name, (width, height, _) in SCREENS.items():
            while not holds(screen := self.shown(name)):
                assert time.monotonic() < deadline_s, f"{name}, never: {what}\n{screen}"
                time.sleep(0.2)
            lines = screen.rstrip("\n").split("\n")
            assert len(lines) <= height, screen
            assert max(map(len, lines)) <= width, screen
            assert "Traceback" not in screen
            assert re.search(r"\s\d\d:\d\d:\d\d$", lines[0]), "words ran into the clock"
        assert self.shown("ascii").isascii(), self.shown("ascii")
        assert not _COLOUR.search(self.shown("colourless", "-e"))
        assert _COLOUR.search(self.shown("plain", "-e"))


@pytest.fixture
def terminals(bed: Bed) -> Iterator[Terminals]:
    made = Terminals(bed.host, "/tmp/top-in-tmux.sock")
    made.tmux("start-server", ";", "set", "-g", "status", "off", ";", "set", "-g", "exit-empty", "off")
    try:
        yield made
    finally:
        made.tmux("kill-server")


def test_faults_are_seen_while_they_last_and_nothing_ends_the_screen(bed: Bed, terminals: Terminals) -> None:
    with bed.monitor(restore_after="6s", interval="1s") as daemon:
        for name in SCREENS:
            terminals.open(name)
        terminals.until(lambda screen: HOST in screen and "overview" in screen, "the first screen")
        terminals.press("2")
        terminals.until(lambda screen: re.search(rf"[●*] +exit:{FIRST}\b", screen), "a good link")

        bed.lab.fault("cut", FIRST)
        terminals.until(lambda screen: re.search(rf"[▲✖!X] +exit:{FIRST}\b", screen), "a cut link")
        terminals.press("3")
        terminals.until(lambda screen: re.search(r"(→|->) +client-1", screen), "the other exit node in use")
        terminals.press("1")
        terminals.until(lambda screen: "TS710" in screen or "TS742" in screen, "the remark")
        bed.lab.heal()

        daemon.stop()
        terminals.until(lambda screen: re.search(r"monitor away since \d\d:\d\d", screen), "no monitor")
        terminals.press("2")
        terminals.until(lambda screen: re.search(r"of the last 60 s, (as of|…|~)", screen), "old figures")
        daemon.start()
        terminals.until(lambda screen: "away since" not in screen, "the monitor is back")

        bed.host.stop_daemon()
        terminals.until(lambda screen: re.search(r"tailscaled away since \d\d:\d\d", screen), "no tailscaled")
        bed.host.start_daemon()
        terminals.until(lambda screen: "away since" not in screen, "tailscaled is back")

        terminals.press("q")
        deadline_s = time.monotonic() + 10
        while left := terminals.tmux("list-sessions", "-F", "#{session_name}").split():
            assert time.monotonic() < deadline_s, f"still open: {left}"
            time.sleep(0.2)
