"""A tailscaled and a monitor that answer as the real ones do, for so many peers.

    python benchmarks/cli_daemons.py FOLDER PEERS

They listen on FOLDER/tailscaled and FOLDER/monitor until their standard input ends. Every answer differs from
the one before: bytes have been received, round trips have varied. FOLDER/state becomes a store with one
generation.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WATCHED = 24
"""Peers that the monitor watches, besides two exit nodes and four targets."""


def main() -> None:
    """Serve until the standard input ends."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    write_generation(folder / "state")
    for name, serve in (("tailscaled", Tailscaled(count).serve), ("monitor", Monitor(count).serve)):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / name))
        listener.listen(64)
        threading.Thread(target=accept, args=(listener, serve), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    while True:
        link, _ = listener.accept()
        threading.Thread(target=quietly, args=(serve, link), daemon=True).start()


def quietly(serve: Callable[[socket.socket], None], link: socket.socket) -> None:
    """A client that hangs up is no fault of ours."""
    with link:
        try:
            serve(link)
        except OSError:
            return


def write_generation(state: Path) -> None:
    """One generation of a host with a proxy, an exit node and a monitor."""
    folder = state / "generations" / "1"
    files: dict[str, Any] = {
        "manifest.json": {
            "number": 1, "created_unix_s": time.time() - 7200, "version": "0.1.0",
            "source": "/etc/tsstack/tsstack.yaml", "summary": ["proxy: wiki is new"],
        },
        "monitor/settings.json": {},
        "tailscale/prefs.json": {"exit_node": {"use": ["peer-0", "peer-1"]}},
        "nginx/plan.json": {"urls": {"wiki": "https://wiki.bench.test/"}, "certificates": []},
    }  # fmt: skip
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for link in ("current", "boot"):
        (state / link).symlink_to("generations/1")


class Tailscaled:
    """The LocalAPI's `status` and `prefs`, as one reply to each connection."""

    def __init__(self, count: int) -> None:
        self._status: dict[str, Any] = {
            "Version": "1.102.3-t0", "BackendState": "Running", "HaveNodeKey": True, "AuthURL": "",
            "TailscaleIPs": ["100.64.0.2"], "Health": [], "MagicDNSSuffix": "bench.test", "TUN": True,
            "CurrentTailnet": {"Name": "bench", "MagicDNSSuffix": "bench.test", "MagicDNSEnabled": True},
            "Self": _peer(0) | {"ID": "self", "HostName": "bench", "DNSName": "bench.bench.test."},
            "Peer": {f"nodekey:{number:064x}": _peer(number) for number in range(count)}, "User": {},
        }  # fmt: skip
        prefs = {"ExitNodeID": "n0", "AdvertiseRoutes": [], "WantRunning": True}
        self._prefs = json.dumps(prefs).encode()
        self._body = json.dumps(self._status).encode()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        """Now and then a new status: a tenth of the peers have sent something."""
        turn = 0
        while True:
            time.sleep(0.5)
            turn += 1
            for number, peer in enumerate(self._status["Peer"].values()):
                if number % 10 == turn % 10 or number < 50:
                    peer["RxBytes"] += 1234
            self._body = json.dumps(self._status).encode()

    def serve(self, link: socket.socket) -> None:
        asked = link.recv(65536)
        body = self._prefs if b"/prefs" in asked.split(b"\r\n", 1)[0] else self._body
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        link.sendall(f"{head}Tailscale-Version: 1.102.3\r\nConnection: close\r\n\r\n".encode() + body)


def _peer(number: int) -> dict[str, Any]:
    address = f"100.64.{number // 250}.{number % 250 + 3}"
    return {
        "ID": f"n{number}", "PublicKey": f"nodekey:{number:064x}", "HostName": f"peer-{number}",
        "DNSName": f"peer-{number}.bench.test.", "OS": "linux", "UserID": 1, "TailscaleIPs": [address],
        "AllowedIPs": [f"{address}/32"], "Addrs": [f"203.0.113.9:{20000 + number}"], "Relay": "lab",
        "CurAddr": f"203.0.113.9:{20000 + number}", "RxBytes": 1000 * number, "TxBytes": 10, "Online": True,
        "Created": "2026-01-01T00:00:00Z", "LastWrite": "0001-01-01T00:00:00Z", "Active": True,
        "LastSeen": "0001-01-01T00:00:00Z", "LastHandshake": "2026-11-20T10:00:00Z",
        "ExitNodeOption": number < 2, "ExitNode": number == 0, "PeerAPIURL": [f"http://{address}:1234"],
        "InNetworkMap": True, "InMagicSock": True, "InEngine": True,
    }  # fmt: skip


class Monitor:
    """The monitor's socket: `state`, `events`, `subscribe`."""

    def __init__(self, count: int) -> None:
        targets = [("target", f"icmp:203.0.113.{number}") for number in range(4)]
        peers = [("peer", f"peer-{number}") for number in range(2, min(count, WATCHED + 2))]
        self._keys = [("exit", "peer-0"), ("exit", "peer-1"), *targets, *peers]
        self._turn = 0

    def serve(self, link: socket.socket) -> None:
        with link.makefile("rwb") as file:
            for line in file:
                do = json.loads(line)["do"]
                answers = {"state": self._state, "events": list, "subscribe": lambda: {"subscribed": True}}
                told = {"v": 1, "id": None, "ok": True, "result": answers[do]()}
                file.write(json.dumps(told).encode() + b"\n")
                file.flush()

    def _state(self) -> dict[str, Any]:
        self._turn += 1
        paths = [self._path(kind, name, number) for number, (kind, name) in enumerate(self._keys)]
        candidates = [
            {"name": f"peer-{number}", "offered": True, "level": "good", "barred_s": 0.0} for number in (0, 1)
        ]
        way = {
            "at": "peer-0", "actual": "peer-0", "candidates": candidates, "blocked": False, "manual": None,
            "maintenance": False, "moving": False, "why": ["peer-0 is good"], "moves": 0,
        }  # fmt: skip
        return {
            "at": time.time(), "started": 0.0, "host": "bench", "version": "0.1.0", "paths": paths,
            "exit": way, "routes": [], "troubles": [], "probes_sent": self._turn, "probes_lost": 0,
            "samples_behind_s": 0.0,
        }  # fmt: skip

    def _path(self, kind: str, name: str, number: int) -> dict[str, Any]:
        rtt_s = 0.004 + (number * 7 + self._turn) % 50 / 1000
        windows = [
            {
                "window_s": span_s, "span_s": span_s, "sent": int(span_s * 2), "lost": 0, "loss": 0.0,
                "rtt_p50_s": rtt_s, "rtt_p95_s": rtt_s * 1.3, "rtt_p99_s": rtt_s * 2, "jitter_s": rtt_s / 9,
                "relayed": 0.0,
            }
            for span_s in (10.0, 60.0, 900.0)
        ]  # fmt: skip
        return {
            "key": f"{kind}:{name}", "kind": kind, "source": "monitor.targets[0]", "level": "good",
            "causes": [],
            "since": 0.0, "windows": windows, "rtt_s": rtt_s, "via": "direct", "interface": "",
            "error": "",
        }  # fmt: skip


if __name__ == "__main__":
    main()
