"""What `tailscale netcheck` tells of the network; the LocalAPI has no such question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tsstack.bench.figures import Relays
from tsstack.system.command import run

_TIMEOUT_S = 8.0


def ask_netcheck(daemon: Path) -> Relays:
    """Latency of the home relay, UDP and NAT. Blocks for 8 s at most. Raises CommandFailed."""
    words = ["tailscale", f"--socket={daemon}", "netcheck", "--format=json"]
    return read_netcheck(run(words, timeout_s=_TIMEOUT_S).stdout)


def read_netcheck(text: str) -> Relays:
    """A netcheck.Report (net/netcheck/netcheck.go) as JSON; latencies are nanoseconds there. Pure."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return Relays("", "")
    if not isinstance(parsed, dict):
        return Relays("", "")
    latencies: Any = parsed.get("RegionLatency")
    home_ns = latencies.get(str(parsed.get("PreferredDERP"))) if isinstance(latencies, dict) else None
    return Relays(
        home="",
        peer_home="",
        home_s=home_ns / 1e9 if isinstance(home_ns, int | float) and home_ns >= 0 else None,
        udp=_truth(parsed.get("UDP")),
        varies=_truth(parsed.get("MappingVariesByDestIP")),
    )


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
