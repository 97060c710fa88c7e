"""The command, against a stand-in for tailscaled's socket and a peer at an address of the loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tsstack.bench.server import Server
from tsstack.cli.script import run_script
from tsstack.cli.ts_benchmark import command

PEER = "127.0.0.77"
DARK = "255.255.255.255"
"""The kernel refuses to send there, so nothing leaves this machine."""


class Daemon:
    """What the benchmark asks of tailscaled. It answers for peers that `there` names, by `via`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ts.sock"
        self.there = {PEER}
        self.via: dict[str, Any] = {"Endpoint": f"{PEER}:41641"}
        self.status: dict[str, Any] = {
            "BackendState": "Running",
            "Version": "1.102.3",
            "Self": {"DNSName": "here.tail.test.", "TailscaleIPs": ["127.0.0.1"], "Relay": "hs"},
            "Peer": {
                "nodekey:a": self.peer("exit-b", PEER, ExitNode=True, Online=True),
                "nodekey:b": self.peer("dark", DARK),
            },
        }
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def peer(name: str, address: str, **other: Any) -> dict[str, Any]:
        return {"DNSName": f"{name}.tail.test.", "TailscaleIPs": [address], "Relay": "hs", **other}

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            target = urlsplit(client.recv(65536).split(b" ")[1].decode())
            if target.path.endswith("/ping"):
                if parse_qs(target.query)["ip"][0] not in self.there:
                    time.sleep(0.1)  # the real one is silent until we hang up
                    client.sendall(b'HTTP/1.0 500 no\r\n\r\n{"error": "no answer"}')
                    return
                said: dict[str, Any] = {"LatencySeconds": 0.001, **self.via}
            elif target.path.endswith("/status"):
                said = self.status
            else:
                said = {"Warning": ""}
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(said).encode())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other_end() -> Iterator[int]:
    """`--serve` at the peer, held to few bytes."""
    server = Server([PEER], lambda _: "here", lambda _: None, port=0, most_bytes=2_000_000)
    thread = threading.Thread(target=server.serve, args=(time.monotonic() + 60,))
    thread.start()
    yield server.port
    server.stop()
    thread.join()
    server.close()


def call(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str, script: str = "ts-benchmark"
) -> int:
    usual = ["--tailscaled", str(daemon.path), "--state", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [script, *usual, *words])
    return run_script(command, script)


def test_a_run_over_the_loopback_is_measured_kept_and_compared(
    daemon: Daemon,
    other_end: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--json", "--seconds", "1", "--port", str(other_end))
    assert call(daemon, monkeypatch, tmp_path, *words) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    report = told["report"]
    assert said.err == "loading the way to exit-b: at most 1 s up and 1 s down\n"
    assert (told["level"], told["last_run"], told["changes"]) == ("ok", None, [])
    assert (report["peer"], report["address"], report["way"]["via"]) == ("exit-b", PEER, "direct")
    assert report["idle"]["method"] == "icmp"
    assert report["idle"]["lost"] == 0
    assert [load["throughput"]["direction"] for load in report["loads"]] == ["up", "down"]
    assert all(load["throughput"]["engine"] == "own" for load in report["loads"])
    assert all(load["throughput"]["moved_bytes"] >= 2_000_000 for load in report["loads"])
    assert all(note.startswith("netcheck tells nothing") for note in report["notes"]), report["notes"]

    assert call(daemon, monkeypatch, tmp_path, "--quick", "--json") == 0
    quick = json.loads(capsys.readouterr().out)
    assert (quick["last_run"], quick["changes"]) == (None, []), "a run with load is of another kind"
    assert call(daemon, monkeypatch, tmp_path, "--quick", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["last_run"] == quick["report"]["at"]
    assert {each["what"] for each in again["changes"]} >= {"latency", "loss", "way"}

    assert call(daemon, monkeypatch, tmp_path, "--history", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3


def test_without_another_end_the_rest_is_told_all_the_same(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with socket.create_server((PEER, 0)) as listener:
        port = listener.getsockname()[1]
    assert call(daemon, monkeypatch, tmp_path, "exit-b", "--seconds", "1", "--port", str(port)) == 0
    said = capsys.readouterr().out
    assert said.startswith("● exit-b  127.0.0.77  ok\n")
    (told,) = (line for line in said.splitlines() if "no throughput: start `ts-benchmark --serve` or" in line)
    assert told.endswith("must be open to the tailnet there)"), "in a pipe nothing is wrapped or cut"


def test_a_relayed_way_is_a_warning(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsstack.bench.measure._DISCO_EVERY_S", 0.01)
    daemon.via = {"DERPRegionID": 999, "DERPRegionCode": "hs"}
    assert call(daemon, monkeypatch, tmp_path, "--quick") == 1
    assert "way          relayed, hs" in capsys.readouterr().out
    # A way that went from direct to relayed is worse as well, and said so.
    daemon.via = {"Endpoint": f"{PEER}:41641"}
    assert call(daemon, monkeypatch, tmp_path, "--quick") == 0
    daemon.via = {"DERPRegionID": 999, "DERPRegionCode": "hs"}
    assert call(daemon, monkeypatch, tmp_path, "--quick") == 1
    assert "worse: way direct -> relay" in capsys.readouterr().out


def test_a_peer_that_answers_nothing_is_critical(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(daemon, monkeypatch, tmp_path, "dark", "--quick") == 2
    said = capsys.readouterr().out
    assert said.startswith(f"✖ dark ({DARK}) answers neither tailscaled's pings nor an echo")
    assert call(daemon, monkeypatch, tmp_path, "dark", "--quick", "--json") == 2
    assert json.loads(capsys.readouterr().out)["level"] == "critical"
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_told_is_three(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(daemon, monkeypatch, tmp_path, "nobody") == 3
    assert "peers: exit-b, dark (offline)" in capsys.readouterr().err
    daemon.status["BackendState"] = "Stopped"
    assert call(daemon, monkeypatch, tmp_path) == 3
    assert "not on the tailnet" in capsys.readouterr().err
    daemon.path.unlink()
    assert call(daemon, monkeypatch, tmp_path) == 3
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--quick", "--direct"), ("--serve", "nas"), ("--seconds", "31"), ("--seconds", "0")]
)
def test_what_makes_no_sense_is_refused(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert call(daemon, monkeypatch, tmp_path, *words) == 3


def test_serving_needs_an_interface_of_the_tailnet(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.status["Self"]["TailscaleIPs"] = ["100.64.0.1"]
    assert call(daemon, monkeypatch, tmp_path, "--serve") == 3
    assert "userspace mode" in capsys.readouterr().err


def test_a_damaged_history_is_told_and_hinders_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "20261120T100000.000Z-exit-b.json").write_text("{")
    assert call(daemon, monkeypatch, tmp_path, "--quick") == 0
    assert "holds no run: it is left out" in capsys.readouterr().err


def test_a_run_that_cannot_be_kept_is_shown_all_the_same(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("no folder")
    assert call(daemon, monkeypatch, tmp_path, "--quick") == 0
    said = capsys.readouterr()
    assert said.out.startswith("● exit-b")
    assert "could not be kept" in said.err


def test_help_teaches(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(daemon, monkeypatch, tmp_path, "-h") == 0
    said = capsys.readouterr().out
    assert "ts-benchmark --serve" in said
    assert "Exit codes: 0" in said
