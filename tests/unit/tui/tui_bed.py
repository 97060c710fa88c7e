"""A dashboard with a feed that asks nobody: frames are handed to it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from status_bed import DAY_S, NOW, a_path, a_state, a_status

from tsstack.parts.firewall.drops import Drops
from tsstack.parts.firewall.kernel_log import Reading
from tsstack.status.gather import Sources
from tsstack.status.judge import judge, worst
from tsstack.status.logged import Logged
from tsstack.tui.app import Dashboard
from tsstack.tui.cells import LOST, Signs
from tsstack.tui.feed import Feed, Places
from tsstack.tui.frame import Frame, Generation, Permissions, next_frame

ROOT = Permissions(steer=True, switch=True)
NOBODY = Permissions(steer=False, switch=False)


def a_window(window_s: float, rtt_s: float, *, lost: int = 0) -> dict[str, Any]:
    sent = int(window_s * 2)
    return {
        "window_s": window_s, "span_s": window_s, "sent": sent, "lost": lost, "loss": lost / sent,
        "rtt_p50_s": rtt_s, "rtt_p95_s": rtt_s * 1.4, "rtt_p99_s": rtt_s * 2.1, "jitter_s": rtt_s / 9,
        "relayed": 0.0,
    }  # fmt: skip


def link(key: str, typical_s: float, level: str = "good", *, lost: int = 0, **more: Any) -> dict[str, Any]:
    windows = [a_window(span_s, typical_s, lost=lost) for span_s in (10.0, 60.0, 900.0)]
    return a_path(key, level, **{"windows": windows, "rtt_s": typical_s, **more})


CAUSE = {
    "rule": "loss", "seen": 0.12, "limit": 0.05, "over_s": 60.0,
    "text": "12 % lost in 60 s, the limit is 5 %",
}  # fmt: skip


def a_host(**more: Any) -> dict[str, Any]:
    """A host with something on every screen, not all of it good."""
    zone = {
        "name": "dmz", "path": "firewall.zones.dmz", "interfaces": ["eth0"], "sources": [],
        "source_count": 0, "allow": "", "ping": True,
        "open": [
            {"protocol": "tcp", "ports": "80, 443", "path": "firewall.zones.dmz.tcp"},
            {"protocol": "udp", "ports": "443", "path": "firewall.zones.dmz.udp[0]"},
        ],
        "accepted": {"packets": 1_204_311, "bytes": 9}, "forwarded": None,
        "refused": {"packets": 4213, "bytes": 9},
    }  # fmt: skip
    paths = [
        link("exit:exit-a", 0.018),
        link("exit:exit-b", 0.046, "poor", lost=7, via="relay", causes=[CAUSE]),
        link("target:icmp:1.1.1.1", 0.0093),
        link("target:https:example.org", 0.021),
        link("route:192.168.15.0/24", 0.0004),
        link("peer:nas", 0.0031),
        link("service:wiki#0", 0.0012),
        link("service:ollama#0", 0.0, "dead", rtt_s=None, error="connection refused"),
    ]
    way = {
        "at": "exit-a", "actual": "exit-a", "blocked": False, "manual": None, "maintenance": False,
        "moving": False, "moves": 3, "why": ["exit-a is good again for 2 min", "it is the first in the file"],
        "candidates": [
            {"name": "exit-a", "offered": True, "level": "good", "barred_s": 0.0},
            {"name": "exit-b", "offered": True, "level": "poor", "barred_s": 34.0},
        ],
    }  # fmt: skip
    service = {"url": "https://ollama.kernelcore.tail.test/", "level": "dead", "rtt_s": None,
               "name": "ollama",
               "error": "connection refused", "certificate_expires": NOW + 80 * DAY_S,
               "certificate_life_s": 90 * DAY_S,
               "dead_upstreams": 1, "unreached": ""}  # fmt: skip
    told: dict[str, Any] = {
        "monitor": {"state": a_state(*paths, exit=way)},
        "exit": {"why": way["why"]},
        "firewall": {
            "zones": [
                zone,
                {**zone, "name": "internal", "interfaces": ["tailscale0"], "path": "firewall.zones.internal",
                 "forwarded": {"packets": 88, "bytes": 1}, "refused": {"packets": 17, "bytes": 1}},
                {**zone, "name": "admin", "interfaces": [], "sources": ["100.64.0.10/32"], "source_count": 1,
                 "path": "firewall.zones.admin", "allow": "all", "open": [], "refused": None},
            ],
            "dropped": {name: {"packets": count, "bytes": 9} for name, count in
                        (("unzoned", 3), ("invalid", 640), ("spoofed", 0), ("misdirected", 12))},
        },
    }  # fmt: skip
    for key, value in more.items():
        told[key] = {**told[key], **value} if key in told else value
    status = a_status(**told)
    if "services" not in more:
        status["services"].append(service)
    status["warnings"] = judge(status)
    status["level"] = worst(status["warnings"])
    return status


def moved_on(status: dict[str, Any], seconds: int) -> dict[str, Any]:
    """The same host so many seconds later: counters have counted, round trips have varied."""
    firewall = status["firewall"]

    def counted(counter: Any, each_s: int) -> Any:
        return None if counter is None else {**counter, "packets": counter["packets"] + each_s * seconds}

    zones = [
        {**zone, "accepted": counted(zone["accepted"], 240), "forwarded": counted(zone["forwarded"], 1),
         "refused": counted(zone["refused"], 3)}
        for zone in firewall["zones"]
    ]  # fmt: skip
    dropped = {
        name: counted(each, 2 if name == "invalid" else 0) for name, each in firewall["dropped"].items()
    }
    monitor = status["monitor"]
    if monitor["state"] is not None:
        paths = [
            {**path, "rtt_s": path["rtt_s"] and path["rtt_s"] * (1 + 0.5 * math.sin(seconds / 3 + index)),
             "error": "no answer" if path["level"] == "poor" and seconds % 8 == 0 else path["error"]}
            for index, path in enumerate(monitor["state"]["paths"])
        ]  # fmt: skip
        monitor = {**monitor, "state": {**monitor["state"], "paths": paths, "at": NOW + seconds}}
    return {
        **status, "at": NOW + seconds, "firewall": {**firewall, "zones": zones, "dropped": dropped},
        "monitor": monitor,
    }  # fmt: skip


def a_drop(source: str, count: int, port: int = 22, zone: str = "dmz", outgoing: str = "") -> Drops:
    return Drops(zone, source, "tcp", port, count, NOW - 600, NOW - 5, "eth0", outgoing, "192.0.2.1")


DROPS = (
    a_drop("198.51.100.7", 3120), a_drop("198.51.100.9", 812, 3389), a_drop("2001:db8::9", 40, 445),
    a_drop("100.64.0.66", 12, 5432, "internal", "br-guest"), a_drop("203.0.113.4", 2, 8080, "no zone"),
)  # fmt: skip


def logged(*drops: Drops, trouble: str = "") -> Logged:
    return Logged(drops, Reading((), "kmsg", NOW - 900, trouble))


GENERATIONS = (
    Generation(7, NOW - 7200, "/etc/tsstack/tsstack.yaml", ("firewall: port tcp/443 is open to dmz",)),
    Generation(
        6, NOW - DAY_S, "/etc/tsstack/tsstack.yaml", ("proxy: wiki has a rate limit", "proxy: ollama is new")
    ),
    Generation(0, 0.0, "", ()),
)


def frames(status: dict[str, Any], seconds: int = 90, permissions: Permissions = ROOT) -> Frame:
    """The frame after so many seconds of that host."""
    frame = None
    for second in range(seconds + 1):
        frame = next_frame(frame, moved_on(status, second), permissions, GENERATIONS)
    assert frame is not None
    log = logged(*DROPS) if permissions.switch else logged(trouble=UNREADABLE)
    return replace(frame, logged=log)


UNREADABLE = "the kernel's log may not be read by this user: try with sudo"


def event(at: float, code: str, severity: str, about: str, text: str, **more: Any) -> dict[str, Any]:
    return {"at": at, "code": code, "severity": severity, "about": about, "text": text, "data": {},
            "over": False,
            **more}  # fmt: skip


EVENTS = (
    event(NOW - 3000, "started", "info", "monitor", "watching 8 paths"),
    event(NOW - 400, "path-dead", "critical", "exit:exit-a", "3 probes in a row were lost", data={"lost": 3}),
    event(NOW - 399, "moved", "warning", "exit-node",
          "moved from exit-a to exit-b: 3 probes in a row were lost",
          data={"from": "exit-a", "to": "exit-b", "took_s": 0.21}),
    event(NOW - 200, "path-good", "info", "exit:exit-a", "good again for 2 min", over=True),
    event(NOW - 80, "home", "info", "exit-node", "back to exit-a, the first in the file", over=True),
)  # fmt: skip


class StillFeed(Feed):
    """Asks nobody."""

    def __init__(self, frame: Frame | None, state: Path = Path("/nonexistent")) -> None:
        places = Places(Sources(state=str(state), monitor=str(state / "monitor.sock")), state / "history.db")
        super().__init__(places)
        self.latest = frame
        self.events = EVENTS

    def give(self, frame: Frame) -> None:
        """As the worker does."""
        self.latest = frame
        self.on_news()


def dashboard(frame: Frame | None, *, unicode: bool = True, **more: Any) -> Dashboard:
    clock = (lambda: frame.status["at"]) if frame else (lambda: NOW)
    feed = more.pop("feed", None) or StillFeed(frame)
    return Dashboard(feed, Signs(unicode=unicode), **{"clock": clock, **more})


__all__ = ["LOST", "NOBODY", "NOW", "ROOT", "StillFeed", "a_host", "dashboard", "frames"]
