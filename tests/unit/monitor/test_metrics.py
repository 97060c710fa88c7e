"""The Prometheus endpoint over real connections; rules, dashboard and document name only what it serves."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from promql import parse
from ruamel.yaml import YAML

from tsstack import assets
from tsstack.monitor import metrics_server
from tsstack.monitor.alerts import Count
from tsstack.monitor.history import HistoryStatus
from tsstack.monitor.metrics import (
    FAMILIES,
    PATHS_MOST,
    Figure,
    SnapshotCollector,
    Told,
    path_labels,
    window_label,
)
from tsstack.monitor.metrics_server import THREADS, MetricsServer
from tsstack.monitor.quality import Quality
from tsstack.monitor.rollup import SEVERITY
from tsstack.monitor.snapshot import (
    CandidateStatus,
    ExitStatus,
    PathStatus,
    RouteStatus,
    Snapshot,
    Trouble,
)
from tsstack.monitor.windows import WINDOWS_S
from tsstack.status.metrics import FAMILIES as HOST_FAMILIES
from tsstack.status.metrics import figures as host_figures
from tsstack.status.shape import Status

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "status"))
from status_bed import a_status

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "monitor-alerts.md"
EVERY_FAMILY = (*FAMILIES, *HOST_FAMILIES)
EVERYWHERE = {"job", "instance"}
"""Labels that Prometheus itself adds to every sample."""


def quality(window_s: float, relayed: float | None = 0.25) -> Quality:
    return Quality(window_s, window_s, 20, 5, 0.021, 0.05, 0.07, 0.003, relayed)


def path(key: str = "exit:exit-a", kind: str = "exit", level: str = "good") -> PathStatus:
    windows = tuple(quality(each) for each in WINDOWS_S)
    return PathStatus(key, kind, "x", level, (), 1.7e9, windows, 0.02, "relay")  # type: ignore[arg-type]


def full_snapshot(**changed: object) -> Snapshot:
    way = ExitStatus(
        "exit-a",
        "exit-b",
        (CandidateStatus("exit-a", True, "good"), CandidateStatus("exit-b", False, "dead", 60.0)),
        moves=3,
    )
    snapshot = Snapshot(
        at=time.time(),
        started=1.7e9,
        host="gw1",
        version="0.1.0",
        paths=(path(), path("target:icmp:1.1.1.1", "target", "dead")),
        exit=way,
        routes=(RouteStatus("192.168.15.0/24", "dead", withdrawn=True),),
        troubles=(Trouble("history", "the disk is full"),),
        probes_sent=1000,
        probes_lost=7,
        samples_behind_s=0.25,
        tailscaled=True,
    )
    return replace(snapshot, **changed)  # type: ignore[arg-type]


def full_status() -> Status:
    """A host of which everything is known, and of which there is something to say."""
    status = a_status(
        tailnet={"key_expires": time.time() + 1e6}, generation={"drift": ["net.x is 1, not 0"], "boot": 6}
    )
    return cast("Status", status)


class Alerting:
    """What the server asks of `Alerts`."""

    held = 4

    def counts(self) -> dict[str, Count]:
        return {"monitor.alerts[0] (ntfy)": Count(5, 2, 1)}


class Remembering:
    """What the server asks of `History`."""

    def status(self) -> HistoryStatus:
        return HistoryStatus(1234, 50_000_000, writing=True, waiting=0, dropped=2)


class Host:
    """What the server asks beside its snapshot, of a status that is at hand."""

    families = HOST_FAMILIES

    def figures(self, snapshot: Snapshot) -> Iterator[Figure]:
        return host_figures(full_status())


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    history, alerts = Remembering(), Alerting()
    serving = MetricsServer("127.0.0.1:0", history=history, alerts=alerts, more=Host())  # type: ignore[arg-type]
    wait_until(lambda: serving.port, "listening")
    yield serving
    serving.close()


def wait_until(done, what: str, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def get(server: MetricsServer, place: str = "/metrics", accept: str = "*/*") -> tuple[int, str, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{place}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def scraped(server: MetricsServer) -> dict[str, list[dict[str, str]]]:
    """The labels of each sample by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in parse_text(get(server)[2]):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def value(server: MetricsServer, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in parse_text(get(server)[2])
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_a_scrape_says_what_the_snapshot_says(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot())
    assert value(server, "tsstack_probes_lost_total") == 7
    assert value(server, "tsstack_exit_node_in_use", node="exit-a") == 1
    assert value(server, "tsstack_exit_node_in_use", node="exit-b") == 0
    assert value(server, "tsstack_exit_node_offered", node="exit-b") == 0
    assert value(server, "tsstack_exit_node_barred_seconds", node="exit-b") == 60
    assert value(server, "tsstack_exit_node_moves_total") == 3
    assert value(server, "tsstack_exit_node_drift") == 1
    assert value(server, "tsstack_path_level", path="target:icmp:1.1.1.1", level="dead") == 1
    assert value(server, "tsstack_path_level", path="target:icmp:1.1.1.1", level="good") == 0
    assert value(server, "tsstack_path_loss_ratio", path="exit:exit-a", window="15m") == 0.25
    rtt = value(server, "tsstack_path_rtt_seconds", path="exit:exit-a", window="1m", quantile="0.95")
    assert rtt == 0.05
    assert value(server, "tsstack_route_withdrawn", network="192.168.15.0/24") == 1
    assert value(server, "tsstack_trouble", about="history") == 1
    assert value(server, "tsstack_alerts_lost_total", channel="monitor.alerts[0] (ntfy)") == 1
    assert value(server, "tsstack_history_size_bytes") == 1234
    assert value(server, "process_resident_memory_bytes") > 0


def test_what_was_not_measured_is_not_told(server: MetricsServer) -> None:
    bare = replace(path(), windows=(Quality(10, 0, 0, 0, None, None, None, None, None),))
    server.on_snapshot(full_snapshot(paths=(bare,), exit=None, routes=(), troubles=()))
    found = scraped(server)
    assert "tsstack_path_rtt_seconds" not in found
    assert "tsstack_path_loss_ratio" not in found
    assert "tsstack_exit_node_direct" not in found
    assert found["tsstack_path_probes"] == [{"path": "exit:exit-a", "kind": "exit", "window": "10s"}]


def test_both_expositions_are_read_by_their_own_parser(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot())
    _, kind, text = get(server, accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    names = {sample.name for family in parse_openmetrics(text) for sample in family.samples}
    assert "tsstack_probes_sent_total" in names
    _, kind, text = get(server)
    assert kind.startswith("text/plain")
    assert {sample.name for family in parse_text(text) for sample in family.samples} >= names - {"eof"}


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_no_number_gets_plain_text(server: MetricsServer, kind: str) -> None:
    server.on_snapshot(full_snapshot())
    for _ in range(THREADS + 1):
        status, told, _ = get(server, accept=f"{kind};version=x")
        assert status == 200 and told.startswith("text/plain")


def test_no_fault_in_answering_ends_a_thread_and_it_is_told(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot(paths=None))
    for _ in range(THREADS + 1):
        with pytest.raises(OSError):
            get(server)
    assert "TypeError" in server.troubles()[0].message
    server.on_snapshot(full_snapshot())
    assert get(server)[0] == 200
    wait_until(lambda: not server.troubles(), "over")


def test_a_host_without_an_exit_node_tells_of_tailscaled_and_maintenance(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot(exit=None, tailscaled=False, maintenance=True))
    assert (value(server, "tsstack_tailscaled_up"), value(server, "tsstack_maintenance")) == (0, 1)
    server.on_snapshot(full_snapshot(exit=None, tailscaled=None))
    assert "tsstack_tailscaled_up" not in scraped(server)


def test_every_family_is_served_with_exactly_its_labels(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot())
    found = {name: each for name, each in scraped(server).items() if name.startswith("tsstack_")}
    assert set(found) == {each.name for each in EVERY_FAMILY}
    for family in EVERY_FAMILY:
        assert all(set(labels) == set(family.labels) for labels in found[family.name]), family.name
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert not re.search(r"_(ms|milliseconds|percent|kb|minutes)(_|$)", family.name), "base units only"


def test_labels_hide_tokens_and_stay_apart(server: MetricsServer) -> None:
    """Two pages that differ in their query alone must not become one series: Prometheus drops the scrape."""
    pages = [f"target:https:https://example.org/health?token=s3cret{number}" for number in range(2)]
    paths = tuple(path(key, "target") for key in pages)
    label = "target:https:https://example.org/health?***"
    assert path_labels(paths) == [label, f"{label}#2"]
    troubles = tuple(Trouble(key, "gone") for key in pages)
    server.on_snapshot(full_snapshot(paths=paths, troubles=troubles))
    text = get(server)[2]
    assert "s3cret" not in text
    series = [line.rpartition(" ")[0] for line in text.splitlines() if line and line[0] != "#"]
    assert len(series) == len(set(series)), "no series twice"


def test_a_scrape_is_bounded() -> None:
    paths = tuple(path(f"target:icmp:{number}", "target") for number in range(PATHS_MOST + 50))
    collector = SnapshotCollector(lambda: Told(full_snapshot(paths=paths)))
    (jitter,) = [each for each in collector.collect() if each.name == "tsstack_path_jitter_seconds"]
    assert len(jitter.samples) == PATHS_MOST


def test_health_says_whether_anything_is_new(server: MetricsServer) -> None:
    assert get(server, "/healthz")[::2] == (503, "nothing is measured yet\n")
    server.on_snapshot(full_snapshot())
    assert get(server, "/healthz")[::2] == (200, "ok\n")
    server.on_snapshot(full_snapshot(at=time.time() - 600))
    assert get(server, "/healthz")[::2] == (503, "the latest figures are 600 s old\n")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"A" * 20000, b""),
        (b"", b""),
    ],
)
def test_other_requests_are_refused(server: MetricsServer, asked: bytes, status: bytes) -> None:
    server.on_snapshot(full_snapshot())
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=10) as client:
        said = b""
        try:
            client.sendall(asked)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                said += piece
        except OSError:
            pass  # what is too long is cut off
    assert said[9:12] == status
    assert get(server, "/healthz")[0] == 200


def test_silent_and_slow_clients_hold_up_nobody_for_long(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_S", 1.0)
    server.on_snapshot(full_snapshot())
    get(server)  # all its threads run now
    before = threading.active_count()
    clients = [socket.create_connection(("127.0.0.1", server.port or 0)) for _ in range(THREADS * 3)]
    try:
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.2):
                for client in clients[::2]:
                    try:
                        client.sendall(b"G")
                    except OSError:
                        continue

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        assert get(server)[0] == 200
        assert time.monotonic() - began < 6, "each took one thread for a second"
        assert threading.active_count() <= before + 1, "no thread for each client"
        stop.set()
        thread.join()
    finally:
        for client in clients:
            client.close()


def test_a_taken_address_is_said_once_and_had_when_it_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = MetricsServer(f"127.0.0.1:{port}", retry_s=0.1)
        wait_until(server.troubles, "said")
        (trouble,) = server.troubles()
        assert trouble.message == f"metrics are not served at 127.0.0.1:{port}: address already in use"
        assert f"sport = :{port}" in trouble.hint
        time.sleep(0.3)
        assert server.troubles() == (trouble,)
    wait_until(lambda: not server.troubles(), "it is over")
    server.on_snapshot(full_snapshot())
    wait_until(lambda: server.port, "listening")
    assert get(server, "/healthz")[0] == 200
    server.close()
    with socket.create_server(("127.0.0.1", port)):
        pass  # free again


def test_an_address_that_is_not_here_yet_is_waited_for() -> None:
    server = MetricsServer("192.0.2.77:9464", retry_s=0.1)
    wait_until(server.troubles, "said")
    assert "no interface has that address" in server.troubles()[0].hint
    server.close()


def test_it_serves_by_ipv6() -> None:
    server = MetricsServer("[::1]:0")
    wait_until(lambda: server.port, "listening")
    with socket.create_connection(("::1", server.port or 0), timeout=5) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 503")
    server.close()


# What is named elsewhere exists here.

EXPECTED_VALUES = {
    "level": set(SEVERITY),
    "window": {window_label(each) for each in WINDOWS_S},
    "quantile": {"0.5", "0.95", "0.99"},
    "kind": {"exit", "target", "route", "service", "peer"},
}

WARNED = {"level": {"warning", "critical"}}


def check(expression: str, found: dict[str, list[dict[str, str]]]) -> None:
    named = parse(expression)
    labels_here: set[str] = set(EVERYWHERE)
    for selector in named.selectors:
        if selector.metric == "up":
            continue
        assert selector.metric in found, f"{expression}: there is no {selector.metric}"
        has = set(found[selector.metric][0])
        labels_here |= has
        for label, op, matched in selector.matchers:
            assert label in has | EVERYWHERE, f"{expression}: {selector.metric} has no label {label}"
            expected = WARNED if selector.metric == "tsstack_warning" else EXPECTED_VALUES
            if label in expected and "$" not in matched:
                for each in matched.split("|") if "~" in op else [matched]:
                    assert each in expected[label], f"{expression}: {label} is never {each}"
    assert set(named.groupings) <= labels_here, f"{expression}: groups by what is not there"


def test_the_alert_rules_name_only_what_is_served(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot())
    found = scraped(server)
    rules = YAML(typ="safe").load(assets.folder("monitor") / "prometheus-alerts.yml")
    names = []
    for group in rules["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"Tsstack[A-Za-z]+", rule["alert"])
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
            assert rule["labels"]["severity"] in {"warning", "critical"}
            check(rule["expr"], found)
            metrics = [each.metric for each in parse(rule["expr"]).selectors]
            has = EVERYWHERE.union(*(found[each][0] for each in metrics if each in found))
            summary = rule["annotations"]["summary"]
            for label in re.findall(r"\$labels\.(\w+)", summary):
                assert label in has, f"{rule['alert']}: {label}"
            assert set(re.findall(r"\{\{ (\$\w+)", summary)) <= {"$labels", "$value"}
            names.append(rule["alert"])
    assert len(names) == len(set(names)) > 10


def test_the_dashboard_names_only_what_is_served(server: MetricsServer) -> None:
    server.on_snapshot(full_snapshot())
    found = scraped(server)
    board = json.loads((assets.folder("monitor") / "grafana-dashboard.json").read_text())
    variables = {each["name"] for each in board["templating"]["list"]}
    for each in board["templating"]["list"]:
        if each["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", each["query"]["query"])
            assert query is not None
            check(query[1], found)
            metric = parse(query[1]).selectors[0].metric
            assert query[2] in set(found[metric][0]) | EVERYWHERE
    ids, places = set(), set()
    for panel in board["panels"]:
        assert panel["id"] not in ids
        ids.add(panel["id"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places, f"{panel['title']} overlaps"
        places |= cells
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables
            check(target["expr"], found)
            metrics = [each.metric for each in parse(target["expr"]).selectors]
            has = EVERYWHERE.union(*(found[each][0] for each in metrics))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= has
    assert len(board["panels"]) > 10


@pytest.mark.parametrize(
    "wrong",
    [
        "tsstack_no_such == 1",
        'tsstack_path_level{livel="dead"} == 1',
        'tsstack_path_level{level="broken"} == 1',
        "sum by (pfad) (tsstack_path_level)",
        "rate(tsstack_probes_sent_total)",
        "tsstack_probes_sent_total[5m]",
        "increase(tsstack_probes_sent_total[5m]",
        'tsstack_path_level{level="dead"',
        "frobnicate(tsstack_probes_sent_total)",
        "tsstack_trouble == and 1",
    ],
)
def test_the_check_of_expressions_would_see_a_mistake(server: MetricsServer, wrong: str) -> None:
    server.on_snapshot(full_snapshot())
    with pytest.raises((ValueError, AssertionError)):
        check(wrong, scraped(server))


def test_the_document_lists_every_metric_as_it_is() -> None:
    text = DOCUMENT.read_text()
    rows = {}
    for line in text.splitlines():
        row = re.fullmatch(r"\| `(tsstack_\w+)` \| (gauge|counter) \| ([^|]*) \| (.*) \|", line)
        if row:
            rows[row[1]] = (row[2], tuple(re.findall(r"`(\w+)`", row[3])), row[4])
    assert rows == {each.name: (each.kind, each.labels, each.text) for each in EVERY_FAMILY}
    assert all(name in rows for name in re.findall(r"\btsstack_\w+\b", text)), "nothing else is named"


def test_the_document_lists_every_alert_rule() -> None:
    rules = YAML(typ="safe").load(assets.folder("monitor") / "prometheus-alerts.yml")
    text = DOCUMENT.read_text()
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in text
