"""The latest snapshot as Prometheus metrics. Nothing is counted here: every figure is the snapshot's own.

`FAMILIES` lists all there are; docs/monitor-alerts.md, the alert rules and the dashboard are held to it by a
test. Names follow prometheus.io/docs/practices/naming: base units, `_total` for counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from tsstack.monitor.redaction import redacted
from tsstack.monitor.rollup import SEVERITY
from tsstack.monitor.snapshot import ExitStatus, PathStatus, Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from tsstack.monitor.alerts import Count
    from tsstack.monitor.history import HistoryStatus

PATHS_MOST = 2000
"""So many paths are told at most, so that a scrape is bounded; a file with more is told by the rest."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, type, meaning and labels."""

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    labels: tuple[str, ...] = ()


Figure = tuple[str, float | None, tuple[str, ...]]
"""A sample: its family's name, its value (None: it is not known), its labels in the family's order."""


class More(Protocol):
    """Who tells more on the same page, of what the monitor does not know itself."""

    families: tuple[Family, ...]

    def figures(self, snapshot: Snapshot) -> Iterable[Figure]:
        """Samples beside this snapshot. Called in the server's threads; may take a second or two."""


_PATH = ("path", "kind")
FAMILIES = (
    Family("tsstack_build_info", "gauge", "Always 1; the version of tsstack.", ("version",)),
    Family("tsstack_start_time_seconds", "gauge", "When the monitor started, seconds since 1970."),
    Family("tsstack_snapshot_time_seconds", "gauge", "When these figures were taken, seconds since 1970."),
    Family(
        "tsstack_path_level",
        "gauge",
        "What is thought of a path: 1 for the level that it has, 0 for the others.",
        (*_PATH, "level"),
    ),
    Family("tsstack_path_level_since_seconds", "gauge", "Since when, seconds since 1970.", _PATH),
    Family(
        "tsstack_path_rtt_seconds",
        "gauge",
        "Round-trip time of the answers in a window that this share of them does not exceed.",
        (*_PATH, "window", "quantile"),
    ),
    Family("tsstack_path_loss_ratio", "gauge", "Lost probes in a window, 0 to 1.", (*_PATH, "window")),
    Family("tsstack_path_probes", "gauge", "Probes in a window whose outcome is known.", (*_PATH, "window")),
    Family("tsstack_path_jitter_seconds", "gauge", "Jitter as in RFC 3550, of round trips.", _PATH),
    Family("tsstack_path_relayed_ratio", "gauge", "Answers by a relay in the longest window, 0 to 1.", _PATH),
    Family("tsstack_probes_sent_total", "counter", "Probes sent."),
    Family("tsstack_probes_lost_total", "counter", "Probes without an answer."),
    Family("tsstack_probe_lag_seconds", "gauge", "How late the latest round of probing was."),
    Family("tsstack_exit_node_in_use", "gauge", "1 for the exit node in use.", ("node",)),
    Family("tsstack_exit_node_direct", "gauge", "1 while traffic leaves by the bare uplink."),
    Family(
        "tsstack_exit_node_level",
        "gauge",
        "What is thought of a candidate: 1 for the level that it has.",
        ("node", "level"),
    ),
    Family(
        "tsstack_exit_node_offered", "gauge", "1 when it exists, is approved and offers itself.", ("node",)
    ),
    Family("tsstack_exit_node_barred_seconds", "gauge", "How much longer it is not moved to.", ("node",)),
    Family("tsstack_exit_node_moves_total", "counter", "Moves to another way out."),
    Family("tsstack_exit_node_moving", "gauge", "1 while a move is not proven yet."),
    Family("tsstack_exit_node_blocked", "gauge", "1 while no candidate works and nothing may leave."),
    Family("tsstack_exit_node_manual", "gauge", "1 while the way out is chosen by hand."),
    Family("tsstack_exit_node_drift", "gauge", "1 while tailscaled's prefs name another exit node."),
    Family("tsstack_maintenance", "gauge", "1 while nothing is changed for maintenance."),
    Family("tsstack_tailscaled_up", "gauge", "1 while tailscaled answers."),
    Family("tsstack_route_withdrawn", "gauge", "1 while an advertised network is taken back.", ("network",)),
    Family(
        "tsstack_route_level",
        "gauge",
        "What is thought of a network's LAN side: 1 for the level that it has.",
        ("network", "level"),
    ),
    Family("tsstack_trouble", "gauge", "1 for each thing that somebody should mend.", ("about",)),
    Family("tsstack_history_size_bytes", "gauge", "The history's files."),
    Family("tsstack_history_limit_bytes", "gauge", "What they may take."),
    Family("tsstack_history_writing", "gauge", "0 while the history cannot be written."),
    Family("tsstack_history_dropped_total", "counter", "Records lost while it could not be written."),
    Family("tsstack_alerts_sent_total", "counter", "Alerts that arrived.", ("channel",)),
    Family("tsstack_alerts_failed_total", "counter", "Attempts that failed.", ("channel",)),
    Family("tsstack_alerts_lost_total", "counter", "Alerts that were given up.", ("channel",)),
    Family("tsstack_alerts_held_total", "counter", "Alerts held back by the rate limit."),
)


@dataclass(frozen=True, slots=True)
class Told:
    """All that the metrics render."""

    snapshot: Snapshot
    history: HistoryStatus | None = None
    alerts: Mapping[str, Count] = field(default_factory=dict)
    held: int = 0


class SnapshotCollector:
    """A collector of prometheus_client: renders what `latest` gives at the time of a scrape."""

    def __init__(self, latest: Callable[[], Told | None], more: More | None = None) -> None:
        """`latest` is called in the server's thread and must only read."""
        self._latest = latest
        self._more = more
        self._families = {each.name: each for each in (*FAMILIES, *(more.families if more else ()))}

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering would scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families that have a sample."""
        told = self._latest()
        if told is None:
            return
        metrics = _Metrics(self._families)
        _whole(metrics, told.snapshot)
        for path, label in zip(told.snapshot.paths, path_labels(told.snapshot.paths), strict=False):
            _path(metrics, path, label)
        if told.snapshot.exit is not None:
            _exit(metrics, told.snapshot.exit)
        for route in told.snapshot.routes:
            metrics.put("tsstack_route_withdrawn", route.withdrawn, route.network)
            for level in SEVERITY:
                metrics.put("tsstack_route_level", level == route.level, route.network, level)
        _memory_and_voice(metrics, told)
        for name, value, labels in self._more.figures(told.snapshot) if self._more else ():
            metrics.put(name, value, *labels)
        yield from metrics.families.values()


def path_labels(paths: Sequence[PathStatus]) -> list[str]:
    """The `path` label of each: its key without what an address may hide, made unique."""
    labels: list[str] = []
    seen: dict[str, int] = {}
    for path in paths[:PATHS_MOST]:
        label = redacted(path.key)
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return labels


class _Metrics:
    def __init__(self, known: Mapping[str, Family]) -> None:
        self._known = known
        self.families: dict[str, Metric] = {}

    def put(self, name: str, value: float | None, *labels: str) -> None:
        """One sample; nothing for what was not measured."""
        if value is None:
            return
        metric = self.families.get(name)
        if metric is None:
            metric = self.families[name] = _metric(self._known[name])
        metric.add_metric(labels, float(value))  # type: ignore[attr-defined]


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    made = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    return made(family.name, family.text, labels=family.labels)


def _whole(metrics: _Metrics, snapshot: Snapshot) -> None:
    metrics.put("tsstack_build_info", 1, snapshot.version)
    metrics.put("tsstack_start_time_seconds", snapshot.started)
    metrics.put("tsstack_snapshot_time_seconds", snapshot.at)
    metrics.put("tsstack_probes_sent_total", snapshot.probes_sent)
    metrics.put("tsstack_probes_lost_total", snapshot.probes_lost)
    metrics.put("tsstack_probe_lag_seconds", snapshot.samples_behind_s)
    metrics.put("tsstack_maintenance", snapshot.maintenance)
    metrics.put("tsstack_tailscaled_up", snapshot.tailscaled)
    for about in dict.fromkeys(redacted(each.about) for each in snapshot.troubles):
        metrics.put("tsstack_trouble", 1, about)


def _path(metrics: _Metrics, path: PathStatus, label: str) -> None:
    own = (label, path.kind)
    for level in SEVERITY:
        metrics.put("tsstack_path_level", level == path.level, *own, level)
    metrics.put("tsstack_path_level_since_seconds", path.since, *own)
    for quality in path.windows:
        window = window_label(quality.window_s)
        metrics.put("tsstack_path_loss_ratio", quality.loss, *own, window)
        metrics.put("tsstack_path_probes", quality.sent, *own, window)
        for share, rtt_s in (
            ("0.5", quality.rtt_p50_s),
            ("0.95", quality.rtt_p95_s),
            ("0.99", quality.rtt_p99_s),
        ):
            metrics.put("tsstack_path_rtt_seconds", rtt_s, *own, window, share)
    if path.windows:
        metrics.put("tsstack_path_jitter_seconds", path.windows[0].jitter_s, *own)
        metrics.put("tsstack_path_relayed_ratio", path.windows[-1].relayed, *own)


def window_label(window_s: float) -> str:
    """A window as Prometheus writes spans: `10s`, `1m`, `15m`."""
    return f"{window_s / 60:g}m" if window_s >= 60 else f"{window_s:g}s"


def _exit(metrics: _Metrics, way: ExitStatus) -> None:
    names = dict.fromkeys((*(each.name for each in way.candidates), *([way.at] if way.at else [])))
    for name in names:
        metrics.put("tsstack_exit_node_in_use", name == way.at, name)
    for each in way.candidates:
        for level in SEVERITY:
            metrics.put("tsstack_exit_node_level", level == each.level, each.name, level)
        metrics.put("tsstack_exit_node_offered", each.offered, each.name)
        metrics.put("tsstack_exit_node_barred_seconds", each.barred_s, each.name)
    metrics.put("tsstack_exit_node_direct", not way.at)
    metrics.put("tsstack_exit_node_moves_total", way.moves)
    metrics.put("tsstack_exit_node_moving", way.moving)
    metrics.put("tsstack_exit_node_blocked", way.blocked)
    metrics.put("tsstack_exit_node_manual", way.manual is not None)
    if way.actual is not None:
        metrics.put("tsstack_exit_node_drift", way.actual != way.at and not way.moving)


def _memory_and_voice(metrics: _Metrics, told: Told) -> None:
    if told.history is not None:
        metrics.put("tsstack_history_size_bytes", told.history.size_bytes)
        metrics.put("tsstack_history_limit_bytes", told.history.limit_bytes)
        metrics.put("tsstack_history_writing", told.history.writing)
        metrics.put("tsstack_history_dropped_total", told.history.dropped)
    for channel, count in told.alerts.items():
        metrics.put("tsstack_alerts_sent_total", count.sent, channel)
        metrics.put("tsstack_alerts_failed_total", count.failed, channel)
        metrics.put("tsstack_alerts_lost_total", count.lost, channel)
    metrics.put("tsstack_alerts_held_total", told.held)
