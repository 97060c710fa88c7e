"""The status that ts-status prints, as Prometheus metrics beside the monitor's own.

`figures` is pure. `HostMetrics` gathers the status for the page: in a thread of its own, at most once in ten
seconds, and only when somebody scrapes. What its process may not read is left out, and
`tsstack_status_readable` says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from tsstack.monitor.freeing import FLOWS_SOCKET, ask_helper
from tsstack.monitor.metrics import Family, Figure
from tsstack.monitor.redaction import redacted
from tsstack.monitor.snapshot import Snapshot
from tsstack.status.firewall import read_table
from tsstack.status.gather import Sources, gather, of_snapshot
from tsstack.status.shape import Status

if TYPE_CHECKING:
    from tsstack.status.firewall import Table

AGE_S = 10.0
"""A status is told for so long before another is gathered."""
PATIENCE_S = 1.5
"""A scrape waits so long for one; then it gets the one before. It has five seconds in all."""
FAMILIES: tuple[Family, ...] = (
    Family("tsstack_status_time_seconds", "gauge", "When the host's status was gathered."),
    Family(
        "tsstack_status_readable",
        "gauge",
        "0 for each part of the status that the monitor cannot read: its metrics are left out.",
        ("part",),
    ),
    Family("tsstack_warning", "gauge", "1 for each warning of ts-status.", ("code", "level", "about")),
    Family("tsstack_nginx_up", "gauge", "1 while nginx answers at `proxy.status`."),
    Family("tsstack_nginx_current", "gauge", "1 while nginx serves the live generation."),
    Family("tsstack_service_up", "gauge", "0 while nobody is served: no upstream answers.", ("service",)),
    Family(
        "tsstack_certificate_expires_timestamp_seconds",
        "gauge",
        "When a certificate ends, seconds since 1970.",
        ("names", "kind"),
    ),
    Family("tsstack_certificate_readable", "gauge", "0 for one that cannot be read.", ("names", "kind")),
    Family(
        "tsstack_node_key_expires_timestamp_seconds",
        "gauge",
        "When this node's key ends, seconds since 1970; absent when it does not.",
    ),
    Family("tsstack_firewall_loaded", "gauge", "1 while the firewall's table is in the kernel."),
    Family("tsstack_firewall_changed", "gauge", "1 while the table is not as it was loaded."),
    Family(
        "tsstack_firewall_packets_total",
        "counter",
        "First packets of connections that a zone's rules `accepted`, `forwarded` or `refused`.",
        ("zone", "what"),
    ),
    Family(
        "tsstack_dropped_packets_total",
        "counter",
        "Packets dropped above the zones: `unzoned`, `invalid`, `spoofed`, `misdirected`.",
        ("reason",),
    ),
    Family(
        "tsstack_generation_info",
        "gauge",
        "Always 1; the live generation and that of the next boot, 0 without tsstack.",
        ("current", "boot"),
    ),
    Family("tsstack_generation_pending", "gauge", "1 while a switch is not over."),
    Family("tsstack_drift", "gauge", "How many settings are not as the live generation says."),
)


def figures(status: Status) -> Iterator[Figure]:
    """Every sample that the status has; nothing for what is not known."""
    yield "tsstack_status_time_seconds", status["at"], ()
    for part, readable in _readable(status).items():
        yield "tsstack_status_readable", readable, (part,)
    warned = [(each["code"], each["level"], redacted(each["about"])) for each in status["warnings"]]
    for labels in dict.fromkeys(warned):
        yield "tsstack_warning", 1, labels
    yield from _served(status)
    yield "tsstack_node_key_expires_timestamp_seconds", status["tailnet"]["key_expires"], ()
    yield from _firewall(status)
    generation = status["generation"]
    yield "tsstack_generation_info", 1, (str(generation["current"]), str(generation["boot"]))
    yield "tsstack_generation_pending", generation["pending"] is not None, ()
    yield "tsstack_drift", len(generation["drift"]), ()


def _readable(status: Status) -> dict[str, bool]:
    proxy, firewall = status["proxy"], status["firewall"]
    return {
        "tailnet": not status["tailnet"]["error"],
        "services": not proxy["error"] or proxy["running"] is not None,
        "firewall": not firewall["error"],
        "generation": not status["generation"]["error"],
        "uplinks": status["uplinks"] is not None,
    }


def _served(status: Status) -> Iterator[Figure]:
    proxy = status["proxy"]
    if proxy["enabled"]:
        yield "tsstack_nginx_up", proxy["running"], ()
        yield "tsstack_nginx_current", proxy["current"], ()
    for service in status["services"]:
        if service["level"] != "unknown":
            yield "tsstack_service_up", service["level"] != "dead", (service["name"],)
    told = set()
    for each in status["certificates"]:
        labels = (",".join(each["names"]), each["kind"])
        if labels not in told:
            told.add(labels)
            yield "tsstack_certificate_readable", not each["error"], labels
            yield "tsstack_certificate_expires_timestamp_seconds", each["expires"], labels


def _firewall(status: Status) -> Iterator[Figure]:
    firewall = status["firewall"]
    if not firewall["enabled"]:
        return
    yield "tsstack_firewall_loaded", firewall["loaded"], ()
    yield "tsstack_firewall_changed", firewall["changed"], ()
    for zone in firewall["zones"]:
        counted = {name: zone[name] for name in ("accepted", "forwarded", "refused")}
        for what, counter in counted.items():
            if counter is not None:
                yield "tsstack_firewall_packets_total", counter["packets"], (zone["name"], what)
    for reason, dropped in firewall["dropped"].items():
        yield "tsstack_dropped_packets_total", dropped["packets"], (reason,)


def table_by_helper(run: str, helper: Path = FLOWS_SOCKET) -> Table:
    """The packet filter's table: read here where that is allowed, else by the service that frees connections.

    Raises OSError: PermissionError where neither may.
    """
    try:
        return read_table(run)
    except PermissionError:
        if not helper.exists():
            raise
    counters, changed = ask_helper({"read": "firewall"}, helper)["read"]
    return counters, changed


class HostMetrics:
    """What `MetricsServer` asks beside its snapshot (`metrics.More`), from any of its threads."""

    families: tuple[Family, ...] = FAMILIES

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = Lock()
        self._asked_s = float("-inf")
        self._status: Status | None = None
        self._done = Event()
        self._done.set()

    def figures(self, snapshot: Snapshot) -> Iterator[Figure]:
        """Of a status that is some seconds old at most, or of the latest while another takes its time."""
        with self._lock:
            if self._done.is_set() and monotonic() - self._asked_s >= AGE_S:
                self._asked_s = monotonic()
                self._done.clear()
                Thread(target=self._gather, args=(snapshot,), name="status", daemon=True).start()
        self._done.wait(PATIENCE_S)
        status = self._status
        # Never: 0, so that an alert on its age fires where it cannot be gathered at all.
        return iter([("tsstack_status_time_seconds", 0, ())]) if status is None else figures(status)

    def _gather(self, snapshot: Snapshot) -> None:
        try:
            # As the socket tells it: the same snapshot that the rest of the page renders.
            state = json.loads(json.dumps(snapshot.as_json()))
            monitor = of_snapshot(self._sources, state)
            self._status = gather(self._sources, monitor=monitor, table=table_by_helper)
        finally:
            self._done.set()
