"""One snapshot: the dashboard, ts-status, the metrics and the socket show the same figures of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from status_bed import NOW, TAILSCALED, a_status

from tsstack.cli.glyphs import Terminal
from tsstack.cli.status_screen import status_lines
from tsstack.monitor.metrics import SnapshotCollector, Told, window_label
from tsstack.monitor.protocol import state_line
from tsstack.monitor.quality import Quality
from tsstack.monitor.snapshot import CandidateStatus, ExitStatus, PathStatus, Snapshot
from tsstack.status.headline import headline
from tsstack.status.judge import judge, worst
from tsstack.status.tailnet import read_peers
from tsstack.status.words import milliseconds, number, percent
from tsstack.tui.cells import Signs, lay_out, text_of
from tsstack.tui.frame import Permissions, next_frame
from tsstack.tui.views import bars, exits, firewall, links, overview, services

UTF8 = Signs(unicode=True)
NOBODY = Permissions(steer=False, switch=False)
WINDOWS = (10.0, 60.0, 900.0)
LEVELS = st.sampled_from(["good", "suspect", "poor", "dead", "unknown"])
SECONDS = st.floats(0.0001, 3.0, allow_nan=False)


@st.composite
def qualities(draw: st.DrawFn, window_s: float) -> Quality:
    sent = draw(st.integers(1, 2000))
    p50, p95, p99 = sorted(draw(st.tuples(SECONDS, SECONDS, SECONDS)))
    return Quality(
        window_s=window_s, span_s=window_s, sent=sent, lost=draw(st.integers(0, sent)), rtt_p50_s=p50,
        rtt_p95_s=p95, rtt_p99_s=p99, jitter_s=draw(SECONDS), relayed=draw(st.floats(0, 1)),
    )  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    keys = ["exit:exit-a", "exit:exit-b", "target:icmp:1.1.1.1", "peer:phone", "service:wiki#0"]
    paths = tuple(
        PathStatus(
            key=key, kind=key.partition(":")[0], source="monitor", level=draw(LEVELS), causes=(),
            since=NOW - 9,
            windows=tuple(draw(qualities(window_s)) for window_s in WINDOWS), rtt_s=draw(SECONDS),
        )
        for key in keys
    )  # fmt: skip
    candidates = tuple(
        CandidateStatus(name, draw(st.booleans()), draw(LEVELS)) for name in ("exit-a", "exit-b")
    )
    way = ExitStatus("exit-a", "exit-a", candidates, why=("exit-a is good",), moves=draw(st.integers(0, 99)))
    return Snapshot(NOW, NOW - 600, "kernelcore", "0.1.0", paths, way, probes_sent=5, probes_lost=1)


def status_of(snapshot: Snapshot) -> dict[str, Any]:
    """The status of a host whose monitor's socket says this."""
    state = json.loads(state_line(snapshot.as_json()))["state"]
    status = a_status(monitor={"state": state})
    status["peers"] = read_peers(TAILSCALED, state["paths"])
    service = next(path for path in state["paths"] if path["kind"] == "service")
    status["services"][0] |= {"level": service["level"], "rtt_s": service["rtt_s"], "error": service["error"]}
    status["warnings"] = judge(status)
    status["level"] = worst(status["warnings"])
    return status


def metrics_of(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in SnapshotCollector(lambda: Told(snapshot)).collect():
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def rows_of(table: Any) -> list[list[str]]:
    widths = lay_out(table.columns, 400)
    return [[text_of(cell) for cell in table.cells(row, widths)] for row in range(len(table.keys))]


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_one_snapshot_is_the_same_on_every_screen(snapshot: Snapshot) -> None:
    status = status_of(snapshot)
    frame = next_frame(None, status, NOBODY)
    metrics = metrics_of(snapshot)
    lines = "\n".join(status_lines(status, Terminal(colour=False, unicode=True, width=200), everything=True))

    def metric(name: str, **labels: str) -> float:
        return metrics[name, tuple(sorted(labels.items()))]

    for window, window_s in enumerate(WINDOWS):
        for row, path in zip(rows_of(links.links(frame, UTF8, window)), snapshot.paths, strict=True):
            own = {"path": path.key, "kind": path.kind}
            told = {**own, "window": window_label(window_s)}
            assert row[1:7] == [
                path.key,
                path.level,
                percent(metric("tsstack_path_loss_ratio", **told)),
                *(
                    milliseconds(metric("tsstack_path_rtt_seconds", quantile=share, **told))
                    for share in ("0.5", "0.95", "0.99")
                ),
            ]
            assert metric("tsstack_path_level", level=row[2], **own) == 1
    assert [row[7] for row in rows_of(links.links(frame, UTF8, 0))] == [
        milliseconds(metric("tsstack_path_jitter_seconds", path=path.key, kind=path.kind))
        for path in snapshot.paths
    ]

    for row in rows_of(exits.exits(frame, UTF8)):
        level = row[2].split()[1]
        assert metric("tsstack_exit_node_level", node=row[1], level=level) == 1
        assert metric("tsstack_exit_node_in_use", node=row[1]) == (row[0] == "→")
        assert metric("tsstack_exit_node_offered", node=row[1]) == ("offers no exit" not in row[7])

    # The commands' lines have the dashboard's words.
    counted = [path.level for path in snapshot.paths if path.kind != "service"]
    summary = {text[:11].strip(): text[12:] for text in map(text_of, overview.summary(frame, UTF8, 200))}
    for level in set(counted):
        assert f"{counted.count(level)} {level}" in summary["links"]
        assert f"{counted.count(level)} {level}" in _line(lines, "links")
    for peer in rows_of(overview.peers(frame, UTF8)):
        if peer[3].startswith(("direct", "relay", "silent")):
            row = rf"^ +{re.escape(peer[1])} +{re.escape(peer[2])} +(\S+) ?(.*)$"
            theirs = re.search(row, lines, re.MULTILINE)
            assert theirs is not None
            assert theirs[1] == peer[3].partition(" ")[0]
            assert peer[4] in theirs[2]
            assert bool(peer[4]) == (" ms" in theirs[2])
    (service,) = rows_of(services.services(frame, UTF8))
    assert service[2] == snapshot.paths[-1].level
    assert service[3] in lines
    zone = rows_of(firewall.zones(frame, UTF8))[0]
    assert f"accepted {zone[2]}, refused {zone[5]}" in lines
    assert f"{number(3)} unzoned" in summary["firewall"]
    assert f"{number(3)} unzoned" in _line(lines, "firewall")
    assert headline(status) in lines.splitlines()[0]
    assert headline(status) in text_of(bars.header(frame, UTF8, 120, NOW))
    said = [text_of(line) for line in overview.remarks(status, UTF8, 190)]
    for warning in status["warnings"]:
        start = f"{warning['code']} {warning['about']}: "
        assert any(start in line for line in said)
        assert start in lines


@pytest.mark.parametrize("wanted", [[], ["exit-a"]])
def test_where_nothing_leaves_no_screen_names_a_way_out(wanted: list[str]) -> None:
    status = a_status(exit={"stuck": True, "using": "", "online": None, "wanted": wanted})
    text, look = overview.exit_in_use(status, UTF8)
    assert look == "critical"
    assert text.startswith("none: what leaves goes to tailscaled")
    frame = next_frame(None, status, NOBODY)
    summary = "\n".join(map(text_of, overview.summary(frame, UTF8, 200)))
    lines = "\n".join(status_lines(status, Terminal(colour=False, unicode=True, width=200)))
    for screen in (summary, lines):
        assert "none: what leaves goes to tailscaled" in screen
        assert "bare uplink" not in screen


def _line(lines: str, label: str) -> str:
    return next(line for line in lines.splitlines() if line.startswith(f"  {label} "))
