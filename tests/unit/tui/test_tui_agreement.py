"""One snapshot: the dashboard, ts-status, the metrics and the socket show the same figures of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from status_bed import NOW, TAILSCALED, a_path, a_state, a_status, answering
from tui_bed import a_host, a_window

from tsstack.cli.exit_node import _cells, _merge
from tsstack.cli.fw_screen import firewall_lines
from tsstack.cli.fw_status import Found, _told
from tsstack.cli.glyphs import Terminal
from tsstack.cli.options import Shared
from tsstack.cli.script import EXIT_CODE
from tsstack.cli.status_screen import status_lines
from tsstack.cli.ts_quality import command as ts_quality
from tsstack.doctor import finding
from tsstack.doctor.foreign import Others, check_foreign
from tsstack.doctor.passing import MayDrop
from tsstack.doctor.remarks import STATUS_LEVEL, check_remarks
from tsstack.explain.decisions import Decision
from tsstack.explain.others import Asking, Hit
from tsstack.monitor.metrics import SnapshotCollector, Told, window_label
from tsstack.monitor.protocol import state_line
from tsstack.monitor.quality import Quality
from tsstack.monitor.snapshot import CandidateStatus, ExitStatus, PathStatus, Snapshot
from tsstack.parts.firewall.foreign import ForeignDrop
from tsstack.parts.firewall.kernel_log import Reading
from tsstack.status.gather import GONE, HUNG
from tsstack.status.headline import headline
from tsstack.status.judge import judge, worst
from tsstack.status.severity import NEEDS_ROOT
from tsstack.status.tailnet import read_peers
from tsstack.status.words import SIGNS, milliseconds, number, percent
from tsstack.tui.cells import Signs, lay_out, text_of
from tsstack.tui.frame import Permissions, next_frame
from tsstack.tui.views import bars, exits, firewall, links, overview, services

UTF8 = Signs(unicode=True)
NOBODY = Permissions(steer=False, switch=False)
WINDOWS = (10.0, 60.0, 900.0)
LEVELS = st.sampled_from(["good", "suspect", "poor", "dead", "unknown"])
_NUMBERS = count()
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


def test_a_certificate_that_has_ended_is_expired_in_its_colour() -> None:
    (served,) = a_status()["services"]
    cells = services.service_cells({**served, "certificate_expires": NOW - 60}, NOW, UTF8)
    assert (("expired", "critical"),) in cells
    status = a_status()
    (ended,) = status["certificates"]
    frame = next_frame(None, {**status, "certificates": [{**ended, "expires": NOW - 60}]}, NOBODY)
    lines = services.service_details(frame, UTF8, "wiki")
    assert any((f"{ended['kind']}, expired", "critical") in line for line in lines)


@pytest.mark.parametrize(
    ("error", "words"), [(HUNG, f"not known: {HUNG}"), (GONE, "by nobody: no monitor runs")]
)
def test_who_chooses_the_exit_node_is_not_said_of_a_monitor_that_hangs(error: str, words: str) -> None:
    silent = {"running": False, "wanted": True, "error": error, "state": None}
    frame = next_frame(None, {**a_status(), "monitor": silent}, NOBODY)
    assert words in [line[-1][0] for line in exits.exit_details(frame, UTF8, 80)]


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
        rows = {row[1]: row for row in rows_of(links.links(frame, UTF8, window))}
        assert len(rows) == len(snapshot.paths)
        for path in snapshot.paths:
            row = rows[path.key]
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
    assert {row[1]: row[7] for row in rows_of(links.links(frame, UTF8, 0))} == {
        path.key: milliseconds(metric("tsstack_path_jitter_seconds", path=path.key, kind=path.kind))
        for path in snapshot.paths
    }

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


def test_an_exit_node_that_is_passed_by_is_on_no_screen_the_way_out() -> None:
    past = [{"version": version, "interface": "eth0", "rule": None} for version in (4, 6)]
    status = a_status(exit={"bypassed": past})
    assert overview.exit_in_use(status, UTF8) == ("eth0, past exit-a", "critical")
    (line, *_) = (
        line
        for line in status_lines(status, Terminal(colour=False, unicode=True, width=200))
        if line.strip().startswith("exit node")
    )
    assert line.split() == ["exit", "node", "eth0,", "past", "exit-a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unreached": "tailscaled does not answer"}, "1 of 1 out of reach: tailscaled does not answer"),
        ({"level": "unknown"}, "not watched: no monitor runs"),
    ],
)
def test_without_tailscaled_and_monitor_services_are_told_alike(change: dict[str, Any], words: str) -> None:
    status = a_status(
        monitor={"running": False, "error": "no monitor runs", "state": None},
        tailnet={"error": "tailscaled does not answer", "state": ""},
        services=[{**a_status()["services"][0], "level": "unknown", **change}],
    )
    lines = "\n".join(status_lines(status, Terminal(colour=False, unicode=True, width=200)))
    told = map(text_of, overview.summary(next_frame(None, status, NOBODY), UTF8, 200))
    summary = {text[:11].strip(): text[12:] for text in told}
    assert words in _line(lines, "services")
    assert words in summary["services"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as found:  # a socket's path is short
        yield Path(found)


def of_ts_quality(state: dict[str, Any], folder: Path) -> tuple[int, str]:
    """The exit code of `ts-quality` that asks this monitor, and its first line."""
    answer = json.dumps({"v": 1, "ok": True, "result": state}).encode() + b"\n"
    socket = folder / f"{next(_NUMBERS)}.sock"
    with answering(socket, lambda _: answer):
        told = CliRunner().invoke(
            ts_quality, ["--socket", str(socket), "--history", str(folder / "none.db")],
            standalone_mode=False, obj=Shared(),
        )  # fmt: skip
    return told.return_value, told.stdout.splitlines()[0]


DEAD, WELL = a_path("service:wiki#1", "dead"), a_path("service:wiki#0")
A_TROUBLE = {"about": "history", "message": "the disk is full: nothing is kept", "hint": ""}


@pytest.mark.parametrize(
    ("state", "service", "level"),
    [
        (a_state(WELL), {}, "ok"),
        (a_state(a_path("target:icmp:1.1.1.1", "unknown")), {}, "ok"),
        (a_state(a_path("target:icmp:1.1.1.1", "suspect")), {}, "warning"),
        (a_state(a_path("target:icmp:1.1.1.1", "poor")), {}, "warning"),
        (a_state(a_path("target:icmp:1.1.1.1", "dead")), {}, "critical"),
        (a_state(a_path("service:wiki#0", "poor")), {"level": "poor"}, "warning"),
        (a_state(a_path("service:wiki#0", "suspect")), {"level": "suspect"}, "warning"),
        (a_state(WELL, DEAD), {"dead_upstreams": 1}, "warning"),
        (a_state(DEAD, a_path("service:wiki#0", "unknown")), {"dead_upstreams": 1}, "warning"),
        (a_state(DEAD), {"level": "dead", "dead_upstreams": 1}, "critical"),
        (a_state(a_path("service:git#0"), DEAD), {"level": "dead", "dead_upstreams": 1}, "critical"),
        (a_state(WELL, troubles=[A_TROUBLE]), {}, "warning"),
        (a_state(a_path("exit:exit-a", "dead"), troubles=[A_TROUBLE]), {}, "critical"),
    ],
)
def test_what_the_monitor_sees_is_as_bad_on_every_screen(
    state: dict[str, Any], service: dict[str, Any], level: str, folder: Path
) -> None:
    wiki = {**a_status()["services"][0], **service}
    status = a_status(monitor={"state": state}, services=[wiki])
    code, head = of_ts_quality(state, folder)
    assert (status["level"], code) == (level, EXIT_CODE[level])
    assert head[0] in SIGNS[level]
    findings = [each for area in ("monitor", "services") for each in check_remarks(status, area)]
    assert STATUS_LEVEL[finding.worst(findings)] == level
    assert text_of(bars.header(next_frame(None, status, NOBODY), UTF8, 120, NOW)).count(headline(status))


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, "ok"),
        ({"enabled": False}, "ok"),
        ({"loaded": False, "changed": None}, "critical"),
        ({"loaded": False, "dormant": True, "changed": True}, "critical"),
        ({"changed": True}, "critical"),
        ({"changed": None}, "warning"),
        ({"fallback": True}, "warning"),
        ({"fallback": True, "changed": None}, "warning"),
        ({"fallback": True, "changed": True}, "critical"),
    ],
)
def test_the_table_is_as_bad_on_every_screen(change: dict[str, Any], level: str) -> None:
    status = a_status(firewall=change)
    findings = list(check_remarks(status, "firewall"))
    assert status["level"] == level
    assert STATUS_LEVEL[finding.worst(findings)] == level
    assert fw_status(status["firewall"]).level == level
    shown = firewall.drops(next_frame(None, status, NOBODY), UTF8, 120)[0]
    looks = text_and_looks(shown)
    as_loaded = status["firewall"]["enabled"] and status["firewall"]["changed"] is False
    assert ("default drop" in text_of(shown)) == as_loaded
    if level == "critical" and status["firewall"]["loaded"]:
        assert "critical" in looks
    if level == "warning" and status["firewall"]["changed"] is None:
        assert "warning" in looks


def test_who_may_not_read_the_table_gets_no_all_clear() -> None:
    """It makes nothing worse: `fw-status`, which has nothing else to tell, cannot tell."""
    status = a_status(firewall={"loaded": None, "changed": None, "error": NEEDS_ROOT})
    assert (status["level"], fw_status(status["firewall"]).level) == ("ok", "unknown")
    assert headline(status) == "all is well, as far as this user may look"


def test_a_packet_filter_that_answers_nonsense_is_no_all_clear() -> None:
    status = a_status(firewall={"loaded": None, "changed": None, "error": "it cannot be read: busy"})
    assert [each["code"] for each in status["warnings"]] == ["TS734"]
    assert fw_status(status["firewall"]).level == "unknown"


HIT = Hit(
    "tcp/443", "internal", "100.64.0.9", "tailscale0",
    Decision("ip", "filter", "INPUT", "", "", "drop", owner="x"),
)  # fmt: skip
MAY = MayDrop("inet", "r", "i", "forward", 'oifname "eth1" drop')
THROUGH = ForeignDrop("ip", "filter", "FORWARD", "forward", "policy drop")


@pytest.mark.parametrize(
    ("others", "level"),
    [
        (Others(), "ok"),
        (Others(("ip filter",), Asking(3, ())), "ok"),
        (Others(("ip filter",), Asking(3, (HIT,))), "critical"),
        (Others(("ip filter",), Asking(3, (), astray=("it went astray",))), "warning"),
        (Others(("ip filter",), fault="no tun"), "warning"),
        (Others(drops=(THROUGH,)), "warning"),
        (Others(may=(MAY,)), "warning"),
        (Others(("ip filter",), Asking(3, ()), may=(MAY,)), "warning"),
    ],
)
def test_tables_of_others_are_as_bad_in_the_doctor_as_in_fw_status(others: Others, level: str) -> None:
    found = fw_status(a_status()["firewall"], others)
    assert found.level == level
    assert STATUS_LEVEL[finding.worst(check_foreign(others))] == level
    lines = firewall_lines(found, Terminal(colour=False, unicode=True, width=100))
    assert lines[0].startswith(SIGNS[level][0])
    assert ("as the file says" in lines[0]) == (level == "ok")
    bad = [each for each in check_foreign(others) if each.level != "ok"]
    if others.asked is not None or others.drops:
        assert [each.fix in "\n".join(lines) for each in bad] == [True] * len(bad)
        assert ("TS864" in "\n".join(lines)) == bool(bad)


def fw_status(table: Any, others: Others | None = None) -> Found:
    foreign, tried, level, fixes = _told(others) if others else ((), "", "ok", ())
    return Found(
        firewall=table, lines={}, reading=Reading((), "", 0.0, ""), drops=(), foreign=foreign, tried=tried,
        foreign_level=level, foreign_fixes=fixes, at=NOW,
    )  # fmt: skip


def text_and_looks(line: Any) -> set[str]:
    return {look for _, look in line}


@settings(max_examples=30, deadline=None)
@given(snapshots())
def test_the_list_of_exit_nodes_is_the_dashboards(snapshot: Snapshot) -> None:
    status = status_of(snapshot)
    told = [dict(zip(("mark", "name", "level", "loss", "p50", "p95"), _cells(node), strict=False))
            for node in _merge([], status["monitor"]["state"])]  # fmt: skip
    shown = rows_of(exits.exits(next_frame(None, status, NOBODY), UTF8))
    for node, row in zip(told, shown, strict=False):
        assert row[1] == node["name"]
        assert row[2].split()[1] == node["level"]
        assert row[3:6] == [node["loss"], node["p50"], node["p95"]]


def test_what_speaks_against_an_exit_node_is_said_in_full_however_narrow_the_screen() -> None:
    """Its figures are those of the way to it, and what is told beside them is of the way through it."""
    status = a_host()
    (candidate, *_) = status["monitor"]["state"]["exit"]["candidates"]
    candidate["level"] = "suspect"
    told = "the way to it is good, the way through it suspect"
    (node, *_) = _merge([], status["monitor"]["state"])
    assert told in _cells(node)[-1]
    lines = exits.exit_details(next_frame(None, status, NOBODY), UTF8, 40, candidate["name"])
    at = next(number for number, line in enumerate(lines) if line[0][0].startswith(candidate["name"]))
    assert " ".join(line[1][0] for line in lines[at : at + 2]) == told
    assert all(len(text_of(line)) <= 40 for line in lines[at : at + 2])


def test_an_exit_node_has_the_figures_of_one_window_everywhere() -> None:
    """Ten quiet seconds are no good minute."""
    status = a_host()
    way = status["monitor"]["state"]["paths"][0]
    way["windows"] = [a_window(10.0, 0.018), a_window(60.0, 0.240, lost=14), a_window(900.0, 0.05, lost=20)]
    frame = next_frame(None, status, NOBODY)
    shown = rows_of(exits.exits(frame, UTF8))[0][3:6]
    assert shown == ["11.7 %", "240 ms", "336 ms"]
    (row,) = (each for each in rows_of(links.links(frame, UTF8, 1)) if each[1] == "exit:exit-a")
    assert shown == row[3:6]
    assert shown == list(_cells(_merge([], status["monitor"]["state"])[0])[3:6])


def test_where_tailscaled_is_away_nobody_knows_of_exit_nodes() -> None:
    status = a_status(
        tailnet={"error": "tailscaled does not answer"}, peers=[], exit={"wanted": [], "using": ""},
        monitor={"running": False, "wanted": False, "error": "no monitor runs", "state": None},
    )  # fmt: skip
    assert exits.exits(next_frame(None, status, NOBODY), UTF8).empty == "unknown: tailscaled does not answer"


def _line(lines: str, label: str) -> str:
    return next(line for line in lines.splitlines() if line.startswith(f"  {label} "))
