"""A whole status to change, and a daemon to ask: what the tests of the screens start from."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOW = 1_800_000_000.0
DAY_S = 86400.0


def a_path(key: str, level: str = "good", **more: Any) -> dict[str, Any]:
    window = {
        "window_s": 60.0, "span_s": 60.0, "sent": 60, "lost": 0, "loss": 0.0, "rtt_p50_s": 0.012,
        "rtt_p95_s": 0.02, "rtt_p99_s": 0.03, "jitter_s": 0.001, "relayed": 0.0,
    }  # fmt: skip
    return {
        "key": key, "kind": key.partition(":")[0], "source": "monitor", "level": level, "causes": [],
        "since": NOW - 60, "windows": [window] * 3, "rtt_s": 0.012, "via": "direct", "interface": "",
        "error": "" if level != "dead" else "refused", **more,
    }  # fmt: skip


def a_state(*paths: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "at": NOW, "started": NOW - 600, "host": "kernelcore", "version": "0.1.0", "paths": list(paths),
        "exit": None, "routes": [], "troubles": [], "probes_sent": 10, "probes_lost": 0,
        "samples_behind_s": 0.0, **more,
    }  # fmt: skip


TAILSCALED = {
    "Version": "1.98.9-t0123", "BackendState": "Running", "Health": None,
    "Self": {
        "ID": "n1", "HostName": "kernelcore", "DNSName": "kernelcore.tail.test.",
        "TailscaleIPs": ["100.64.0.2", "fd7a:115c:a1e0::2"], "Relay": "lab", "Tags": ["tag:server"],
        "Online": True,
        "AllowedIPs": ["100.64.0.2/32", "192.168.15.0/24"], "PrimaryRoutes": ["192.168.15.0/24"],
    },
    "Peer": {
        "a": {
            "ID": "n2", "HostName": "exit-a", "DNSName": "exit-a.tail.test.", "TailscaleIPs": ["100.64.0.3"],
            "OS": "linux", "Online": True, "Active": True, "CurAddr": "203.0.113.9:41641", "Relay": "lab",
            "ExitNodeOption": True, "RxBytes": 5, "TxBytes": 6, "PrimaryRoutes": ["10.1.0.0/16"],
        },
        "b": {
            "ID": "n3", "HostName": "phone", "DNSName": "phone.tail.test.", "TailscaleIPs": ["100.64.0.4"],
            "OS": "iOS", "Online": True, "Active": True, "CurAddr": "", "Relay": "lab",
        },
        "c": {
            "ID": "n4", "HostName": "attic", "DNSName": "attic.tail.test.", "TailscaleIPs": ["100.64.0.5"],
            "OS": "linux", "Online": False, "LastSeen": "2026-11-20T10:00:00Z",
        },
    },
}  # fmt: skip
PREFS = {
    "ControlURL": "http://hs.test:8080", "ExitNodeID": "n2",
    "AdvertiseRoutes": ["192.168.15.0/24", "10.9.0.0/24", "0.0.0.0/0", "::/0"],
}  # fmt: skip


def a_status(**more: Any) -> dict[str, Any]:
    """A host where all is well, with the keys of `more` put over it."""
    from tsstack.status.judge import judge, worst
    from tsstack.status.tailnet import read_exit, read_peers, read_tailnet

    approved = json.loads(json.dumps(TAILSCALED))
    approved["Self"]["AllowedIPs"] = PREFS["AdvertiseRoutes"]
    paths = [a_path("exit:exit-a"), a_path("target:icmp:1.1.1.1"), a_path("service:wiki#0")]
    status: dict[str, Any] = {
        "v": 1, "at": NOW, "host": "kernelcore", "version": "0.1.0", "level": "ok",
        "uplinks": [{"interface": "eth0", "up": True}],
        "forwarding_off": [],
        "tailnet": read_tailnet(approved, PREFS, ()),
        "exit": read_exit(approved, PREFS, {"use": ["exit-a", "exit-b"]}, {"why": ["exit-a is good"]}),
        "peers": read_peers(approved, paths),
        "proxy": {
            "unit": "nginx", "enabled": True, "running": True, "current": True, "orphans": 0,
            "identity": None, "error": "",
        },
        "services": [
            {
                "name": "wiki", "url": "https://wiki.kernelcore.tail.test/", "level": "good", "rtt_s": 0.0012,
                "error": "", "certificate_expires": NOW + 80 * DAY_S,
                "certificate_life_s": 90 * DAY_S, "dead_upstreams": 0, "unreached": "",
            },
        ],
        "certificates": [
            {
                "names": ["wiki.kernelcore.tail.test"], "kind": "local-ca", "error": "", "served": True,
                "expires": NOW + 80 * DAY_S, "life_s": 90 * DAY_S,
            }
        ],
        "firewall": {
            "enabled": True, "fallback": False, "loaded": True, "dormant": False, "changed": False,
            "error": "", "default_policy": "drop",
            "zones": [
                {
                    "name": "dmz", "path": "firewall.zones.dmz", "interfaces": ["eth0"], "sources": [],
                    "source_count": 0, "allow": "", "ping": True,
                    "open": [{"protocol": "tcp", "ports": "443", "path": "firewall.zones.dmz.tcp[1]"}],
                    "accepted": {"packets": 12345, "bytes": 1}, "forwarded": None,
                    "refused": {"packets": 42, "bytes": 1},
                    "rules": [
                        {"name": "dmz.tcp", "path": "firewall.zones.dmz", "packets": 12345, "bytes": 1},
                        {"name": "dmz.refused", "path": "firewall.zones.dmz", "packets": 42, "bytes": 1},
                    ],
                },
            ],
            "dropped": {"unzoned": {"packets": 3, "bytes": 180}},
        },
        "generation": {
            "current": 7, "boot": 7, "made": NOW - 7200, "pending": None,
            "source": "/etc/tsstack/tsstack.yaml", "error": "", "drift": [],
        },
        "monitor": {"running": True, "wanted": True, "error": "", "state": a_state(*paths)},
        "warnings": [],
    }  # fmt: skip
    for key, value in more.items():
        status[key] = {**status[key], **value} if isinstance(value, dict) else value
    status["warnings"] = judge(status)
    status["level"] = worst(status["warnings"])
    return status


@contextmanager
def answering(path: Path, answer: Any):
    """A unix socket that gives `answer(request bytes)` to each connection and closes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    continue
                with link:
                    link.settimeout(5)
                    link.sendall(answer(link.recv(65536)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            done.set()
            thread.join()


def as_http(body: Any) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
