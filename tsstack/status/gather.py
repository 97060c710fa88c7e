"""Asks everyone who knows something of this host, and makes one `shape.Status` of it.

`ts-status` is this and a screen: what it imports is counted (`tests/unit/status`).
"""

from __future__ import annotations

import json
import os
import time

from tsstack import __version__
from tsstack.status.drift import left_withdrawn, read_dns_drift, read_drift
from tsstack.status.firewall import read_firewall, read_table, standing_folder
from tsstack.status.forwarding import ipv4_networks
from tsstack.status.generation import read_generation
from tsstack.status.judge import judge, worst
from tsstack.status.network import leaving_address, read_forwarding_off, read_uplinks
from tsstack.status.proxy import read_proxy
from tsstack.status.tailnet import (
    exit_names,
    read_exit,
    read_tailnet,
    read_unwatched_peers,
    settles,
    silent_tailnet,
    with_round_trips,
)
from tsstack.system.bypass import read_bypass
from tsstack.system.unix_http import Garbled, exchange, parse_reply, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tsstack.status.firewall import Table
    from tsstack.status.shape import Bypass, Monitor, Peer, Status

VERSION = 1
HUNG = "the monitor does not answer"
GONE = "no monitor runs"
_TIMEOUT_S = 3.0


class Sources:
    """Where to ask. Tests and labs have other places."""

    __slots__ = ("monitor", "run", "state", "tailscaled", "timeout_s")

    def __init__(
        self,
        *,
        state: str = "/var/lib/tsstack",
        run: str = "/run/tsstack",
        tailscaled: str = "/var/run/tailscale/tailscaled.sock",
        monitor: str = "/run/tsstack/monitor.sock",
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self.state = state
        self.run = run
        self.tailscaled = tailscaled
        self.monitor = monitor
        self.timeout_s = timeout_s


class Heard:
    """What tailscaled said: its status, the prefs, and why they cannot be had (empty: they can)."""

    __slots__ = ("error", "exit_names", "hung", "peers", "prefs", "status")

    def __init__(
        self, status: Mapping[str, Any], prefs: Mapping[str, Any], error: str = "", *, hung: bool = False
    ) -> None:
        self.status = status
        self.prefs = prefs
        self.error = error
        self.hung = hung
        """Whether it runs and does not answer."""
        self.exit_names = exit_names(status)
        self.peers: list[Peer] = read_unwatched_peers(status, self.exit_names)


def gather(
    sources: Sources,
    heard: Heard | None = None,
    monitor: Monitor | None = None,
    table: Callable[[str], Table] = read_table,
) -> Status:
    """All that is known now. Whoever does not answer is told as such; nothing of that raises.

    `heard` is what tailscaled said a moment ago: who asks many times a second spares it that. `monitor` is
    what that says, for the monitor itself. `table` reads the packet filter.
    """
    generation = f"{sources.state}/current"
    monitor = monitor or ask_monitor(sources)
    state = monitor["state"] or {}
    paths = state.get("paths") or ()
    heard = heard or ask_tailscaled(sources)
    status, prefs, error = heard.status, heard.prefs, heard.error
    withdrawn = [route["network"] for route in state.get("routes") or () if route["withdrawn"]]
    if monitor["error"] == HUNG:
        from pathlib import Path

        from tsstack.parts.tailscale.withdrawn import withdrawn_routes

        withdrawn = [*withdrawn_routes(Path(sources.state))]
    elif monitor["error"] == GONE:
        withdrawn = left_withdrawn(sources.state)
    tailnet = (
        silent_tailnet(error)
        if error
        else read_tailnet(status, prefs, withdrawn, since=_since(sources.tailscaled))
    )
    proxy, services, certificates = read_proxy(generation, paths, tailnet, hung=heard.hung, run=sources.run)
    standing, is_fallback = standing_folder(sources.state)
    firewall = read_firewall(standing, sources.run, fallback=is_fallback, table=table)
    told: Status = {
        "v": VERSION,
        "at": time.time(),
        "host": os.uname().nodename,
        "version": __version__,
        "level": "ok",
        "uplinks": read_uplinks(),
        "forwarding_off": read_forwarding_off(ipv4_networks(tailnet)),
        "tailnet": tailnet,
        "exit": read_exit(
            status,
            prefs,
            wanted_exit(generation),
            state.get("exit"),
            known=not heard.hung,
            source=leaving_address(),
            paths=paths,
            names=heard.exit_names,
        ),
        "peers": with_round_trips(heard.peers, paths),
        "proxy": proxy,
        "services": services,
        "certificates": certificates,
        "firewall": firewall,
        "generation": {
            **read_generation(sources.state),
            "drift": read_drift(generation, None if error else prefs, withdrawn)
            + read_dns_drift(sources.state),
        },
        "monitor": monitor,
        "warnings": [],
    }
    told["exit"]["bypassed"] = _bypassed(told, sources, str(prefs.get("ExitNodeID") or ""))
    told["warnings"] = judge(told)
    told["level"] = worst(told["warnings"])
    return told


def _bypassed(status: Status, sources: Sources, exit_id: str) -> list[Bypass]:
    """Where the kernel has another way than the exit node in use. Not asked while that changes or begins."""
    way, tailnet = status["exit"], status["tailnet"]
    if not way["using"] or way["moving"] or settles(tailnet, status["at"]):
        return []
    found = read_bypass(tailnet["addresses"])
    if not found:
        return []
    try:  # what was heard of tailscaled may be older than what the kernel says
        now = str(_local_api(sources, "prefs").get("ExitNodeID") or "")
    except (OSError, Garbled, ValueError):
        return []
    if now != exit_id:
        return []
    return [{"version": each.version, "interface": each.interface, "rule": each.rule} for each in found]


def ask_monitor(sources: Sources) -> Monitor:
    """The monitor's state by its socket (docs/monitor-socket.md)."""
    wanted = _wants_monitor(sources)
    try:
        line = exchange(
            sources.monitor, b'{"v": 1, "do": "state"}\n', timeout_s=sources.timeout_s, until=b"\n"
        )
        answer = json.loads(line)
        if answer["ok"] and not isinstance(answer["result"], dict):
            raise TypeError
        if not answer["ok"]:
            refused = f"the monitor runs and refuses to answer: {answer['error']['message']}"
            return {"running": True, "wanted": wanted, "error": refused, "state": None}
        return {"running": True, "wanted": wanted, "error": "", "state": answer["result"]}
    except (FileNotFoundError, ConnectionRefusedError):
        why = GONE
    except TimeoutError:
        why = HUNG
    except OSError as error:
        why = f"the monitor cannot be asked: {error.strerror or error}"
    except (ValueError, LookupError, TypeError, RecursionError):  # as tsstack.monitor.client says it
        why = f"what listens on {sources.monitor} is no monitor"
    return {"running": False, "wanted": wanted, "error": why, "state": None}


def of_snapshot(sources: Sources, state: dict[str, Any]) -> Monitor:
    """The same of the state itself, for who has it."""
    return {"running": True, "wanted": _wants_monitor(sources), "error": "", "state": state}


def _wants_monitor(sources: Sources) -> bool:
    return os.path.exists(f"{sources.state}/current/monitor/settings.json")  # noqa: PTH110


def ask_tailscaled(sources: Sources) -> Heard:
    """Status and prefs, or why they cannot be had. Raises nothing of that."""
    try:
        return Heard(_local_api(sources, "status"), _local_api(sources, "prefs"))
    except (FileNotFoundError, ConnectionRefusedError):
        return Heard({}, {}, f"tailscaled does not answer on {sources.tailscaled}")
    except TimeoutError:
        why = f"tailscaled did not answer within {sources.timeout_s:g} s"
    except (OSError, Garbled, ValueError) as error:
        why = f"tailscaled cannot be asked: {error}"
    return Heard({}, {}, why, hung=True)


def _local_api(sources: Sources, name: str) -> Mapping[str, Any]:
    data = request("GET", f"/localapi/v0/{name}", "local-tailscaled.sock")
    status, _, body = parse_reply(exchange(sources.tailscaled, data, timeout_s=sources.timeout_s))
    if status != 200:
        raise Garbled(f"it answers {name} with status {status}")
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise Garbled(f"it answers {name} with something else")
    return answer


def _since(path: str) -> float | None:
    """When the socket there was made."""
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return None


def wanted_exit(generation: str) -> Mapping[str, Any] | None:
    """What the file behind a generation says of the exit node; None: nothing, or it cannot be read."""
    try:
        with open(f"{generation}/tailscale/prefs.json", "rb") as file:  # noqa: PTH123
            wanted = json.load(file)["exit_node"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return wanted if isinstance(wanted, dict) else None
