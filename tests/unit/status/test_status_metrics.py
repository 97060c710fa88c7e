"""One moment: the page of metrics says of the host what `ts-status --json` says of it."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from status_bed import DAY_S, NOW, PREFS, TAILSCALED, a_status, answering, as_http

from tsstack.cli.ts_status import run as ts_status
from tsstack.monitor.freeing import serve_one
from tsstack.monitor.metrics import SnapshotCollector, Told
from tsstack.monitor.protocol import answer_line
from tsstack.monitor.snapshot import ExitStatus, PathStatus, Snapshot
from tsstack.status import metrics as metrics_module
from tsstack.status.gather import Sources
from tsstack.status.metrics import HostMetrics, figures, table_by_helper

SNAPSHOT = Snapshot(
    at=NOW,
    started=NOW - 600,
    host="kernelcore",
    version="0.1.0",
    paths=(PathStatus("service:wiki#0", "service", "proxy", "dead", (), NOW - 9, (), None, error="refused"),),
    exit=ExitStatus("exit-a", "exit-a", (), blocked=True, why=("no candidate works",)),
)
Told_ = dict[tuple[str, tuple[str, ...]], float]


def told(status: Any) -> Told_:
    return {(name, labels): float(value) for name, value, labels in figures(status) if value is not None}


def expected(status: dict[str, Any]) -> Told_:
    """What the page must say, read from the JSON that ts-status prints, and nothing else."""
    found: Told_ = {}

    def put(name: str, value: Any, *labels: str) -> None:
        if value is not None:
            found[f"tsstack_{name}", labels] = float(value)

    put("status_time_seconds", status["at"])
    put("status_readable", status["tailnet"]["error"] == "", "tailnet")
    proxy, firewall, generation = status["proxy"], status["firewall"], status["generation"]
    put("status_readable", not (proxy["error"] and proxy["running"] is None), "services")
    put("status_readable", firewall["error"] == "", "firewall")
    put("status_readable", generation["error"] == "", "generation")
    put("status_readable", status["uplinks"] is not None, "uplinks")
    for each in status["warnings"]:
        put("warning", 1, each["code"], each["level"], each["about"])
    if proxy["enabled"]:
        put("nginx_up", proxy["running"])
        put("nginx_current", proxy["current"])
    for each in status["services"]:
        put("service_up", {"unknown": None, "dead": 0}.get(each["level"], 1), each["name"])
    for each in status["certificates"]:
        own = (",".join(each["names"]), each["kind"])
        put("certificate_readable", not each["error"], *own)
        put("certificate_expires_timestamp_seconds", each["expires"], *own)
    put("node_key_expires_timestamp_seconds", status["tailnet"]["key_expires"])
    if firewall["enabled"]:
        put("firewall_loaded", firewall["loaded"])
        put("firewall_changed", firewall["changed"])
        for zone in firewall["zones"]:
            for what in ("accepted", "forwarded", "refused"):
                put("firewall_packets_total", (zone[what] or {}).get("packets"), zone["name"], what)
        for reason, counter in firewall["dropped"].items():
            put("dropped_packets_total", counter["packets"], reason)
    put("generation_info", 1, str(generation["current"]), str(generation["boot"]))
    put("generation_pending", generation["pending"] is not None)
    put("drift", len(generation["drift"]))
    return found


UNREAD: dict[str, Any] = {
    "loaded": None,
    "changed": None,
    "error": "reading the packet filter needs root",
    "dropped": {},
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"firewall": UNREAD, "uplinks": None},
        {"firewall": {"enabled": False}, "proxy": {"enabled": False}},
        {"proxy": {"running": False, "current": None, "error": "nginx does not answer on 127.0.0.1:81"}},
        {"proxy": {"running": None, "current": None, "error": "the generation's services cannot be read"}},
        {"generation": {"drift": ["a is 1, not 0", "b is 1, not 0"], "boot": 6, "error": "it is not there"}},
        {"tailnet": {"error": "tailscaled does not answer", "key_expires": None}},
        {"tailnet": {"key_expires": NOW + DAY_S, "health": ["one", "another"]}},
        {"exit": {"blocked": True, "why": ["all are dead"]}},
    ],
)
def test_each_thing_that_is_known_is_told_and_nothing_else(more: dict[str, Any]) -> None:
    status = a_status(**more)
    assert told(status) == expected(json.loads(json.dumps(status)))


@contextmanager
def host(tmp_path: Path) -> Iterator[Sources]:
    """A tailscaled, a monitor and a generation, with much that is not well."""
    generation = tmp_path / "state" / "generations" / "7"
    for name, content in (
        ("manifest.json", {"created_unix_s": 5.0, "source": "/etc/tsstack/tsstack.yaml"}),
        ("monitor/settings.json", {}),
        ("tailscale/prefs.json", {"exit_node": {"use": ["exit-b"]}, "prefs": {"ShieldsUp": True}}),
        (
            "nginx/plan.json",
            {
                "urls": {"wiki": "https://wiki.test/"},
                "status": "127.0.0.1:1",
                "certificates": [{"names": ["*.test"], "kind": "files", "certificate": str(tmp_path / "c")}],
            },
        ),
    ):
        path = generation / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for link in ("current", "boot"):
        (tmp_path / "state" / link).symlink_to("generations/7")
    state = answer_line(1, SNAPSHOT.as_json())
    with (
        answering(
            tmp_path / "ts.sock", lambda asked: as_http(PREFS if b"/prefs" in asked else TAILSCALED)
        ) as tailscaled,
        answering(tmp_path / "monitor.sock", lambda _: state) as monitor,
    ):
        yield Sources(
            state=str(tmp_path / "state"),
            run=str(tmp_path / "run"),
            tailscaled=str(tailscaled),
            monitor=str(monitor),
            timeout_s=2.0,
        )


def page(host_metrics: HostMetrics) -> Told_:
    """What a scrape says of the host."""
    own = {family.name for family in host_metrics.families}
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in SnapshotCollector(lambda: Told(SNAPSHOT), host_metrics).collect()
        for sample in family.samples
        if sample.name in own
    }


def test_the_page_and_the_command_say_the_same_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    with host(tmp_path) as sources:
        places = [f"--{name}={getattr(sources, name)}" for name in ("state", "run", "tailscaled", "monitor")]
        ts_status(["--json", *places])
        status = json.loads(capsys.readouterr().out)
        found = page(HostMetrics(sources))
    assert found == expected(status)
    codes = {each["code"] for each in status["warnings"]}
    assert {"TS707", "TS755"} <= codes, "there is something to tell"
    assert found["tsstack_service_up", ("wiki",)] == 0
    assert found["tsstack_certificate_readable", ("*.test", "files")] == 0


def test_it_is_gathered_when_somebody_scrapes_and_not_for_every_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[float] = []

    def gather(*_: object, **__: object) -> dict[str, Any]:
        gathered.append(time.monotonic())
        return a_status(at=NOW + len(gathered))

    monkeypatch.setattr(metrics_module, "gather", gather)
    host_metrics = HostMetrics(Sources(state=str(tmp_path)))
    assert gathered == []
    assert {page(host_metrics)["tsstack_status_time_seconds", ()] for _ in range(5)} == {NOW + 1}
    monkeypatch.setattr(metrics_module, "AGE_S", 0.0)
    assert page(host_metrics)["tsstack_status_time_seconds", ()] == NOW + 2


def test_a_scrape_does_not_wait_for_who_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(metrics_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(metrics_module, "AGE_S", 0.0)
    statuses = iter([a_status(at=NOW), a_status(at=NOW + 60)])

    def gather(*_: object, **__: object) -> dict[str, Any]:
        status = next(statuses)
        if status["at"] > NOW:
            answers.wait(20)
        return status

    monkeypatch.setattr(metrics_module, "gather", gather)
    host_metrics = HostMetrics(Sources(state=str(tmp_path)))
    assert page(host_metrics)["tsstack_status_time_seconds", ()] == NOW
    begun = time.monotonic()
    for _ in range(3):  # no second one is begun beside it
        assert page(host_metrics)["tsstack_status_time_seconds", ()] == NOW
    assert time.monotonic() - begun < 2
    answers.set()
    host_metrics._done.wait(5)
    monkeypatch.setattr(metrics_module, "AGE_S", 60.0)
    assert page(host_metrics)["tsstack_status_time_seconds", ()] == NOW + 60


def test_without_the_right_to_read_the_packet_filter_the_helper_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> Any:
        raise PermissionError(1, "Operation not permitted")

    def helper(asked: bytes) -> bytes:
        answer = io.BytesIO()
        serve_one(io.BytesIO(asked), answer, {"firewall": lambda: ({"dmz.tcp": (12, 640)}, False)})
        return answer.getvalue()

    monkeypatch.setattr(metrics_module, "read_table", refuse)
    with pytest.raises(PermissionError):  # no helper either: the page says that it cannot be read
        table_by_helper("/run/tsstack", tmp_path / "flows.sock")
    with answering(tmp_path / "flows.sock", helper) as place:
        assert table_by_helper("/run/tsstack", place) == ({"dmz.tcp": [12, 640]}, False)
    with (
        answering(tmp_path / "old.sock", lambda _: b'{"error": "that is no request"}\n') as place,
        pytest.raises(OSError, match="no request"),
    ):
        table_by_helper("/run/tsstack", place)
