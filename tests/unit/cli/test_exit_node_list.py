"""`tsstack exit-node list`: each node once, by the file's name for it, nothing for the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "status"))
from status_bed import PREFS, TAILSCALED, a_path, a_state, answering, as_http

from tsstack.cli import exit_node as list_of
from tsstack.cli.exit_node import exit_node
from tsstack.cli.monitor import _print_event, status_lines
from tsstack.cli.options import Shared
from tsstack.cli.output import print_error
from tsstack.errors import TsstackError
from tsstack.model.facts import Paths
from tsstack.system.bypass import Bypass

CANDIDATE = {"name": "Oracle-VM", "offered": True, "level": "good", "barred_s": 0.0}
WAY = {"at": "Oracle-VM", "actual": "Oracle-VM", "manual": None, "candidates": [CANDIDATE]}


def listed(folder: Path, peers: dict[str, Any], monitor: bytes | None, *words: str) -> str:
    def tailscaled(asked: bytes) -> bytes:
        return as_http({**TAILSCALED, "Peer": peers} if b"/status" in asked else PREFS)

    arguments = ["list", "--tailscaled", str(folder / "ts"), "--socket", str(folder / "mon"), *words]
    with answering(folder / "ts", tailscaled):
        if monitor is None:
            told = CliRunner().invoke(exit_node, arguments, obj=Shared())
        else:
            with answering(folder / "mon", lambda _: monitor):
                told = CliRunner().invoke(exit_node, arguments, obj=Shared())
    assert told.exit_code == 0, told.output
    return told.stdout


def exit_peer(label: str, host: str, id_: str = "n2") -> dict[str, Any]:
    return {**TAILSCALED["Peer"]["a"], "ID": id_, "DNSName": f"{label}.tail.test.", "HostName": host}


@pytest.mark.parametrize("monitored", [False, True])
def test_a_node_with_two_names_has_one_row(tmp_path: Path, monitored: bool) -> None:
    answer = {"v": 1, "ok": True, "result": {**a_state(), "exit": WAY}}
    monitor = json.dumps(answer).encode() + b"\n" if monitored else None
    told = listed(tmp_path, {"a": exit_peer("exit-paris", "oracle-vm")}, monitor, "--json")
    nodes = json.loads(told)["exit_nodes"]
    assert [node["name"] for node in nodes] == ["Oracle-VM" if monitored else "exit-paris"]
    assert [node["in_use"] for node in nodes] == [True]


def test_what_goes_past_the_node_in_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsstack.system.bypass.read_bypass", lambda _: [Bypass(4, "eth0", None)])
    peers = {"a": exit_peer("exit-paris", "oracle-vm")}
    for name in ("still", "moving", "screen"):
        (tmp_path / name).mkdir()
    told = json.loads(listed(tmp_path / "still", peers, None, "--json"))
    assert told["bypassed"] == [{"version": 4, "interface": "eth0", "rule": None}]
    answer = {"v": 1, "ok": True, "result": {**a_state(), "exit": {**WAY, "moving": True}}}
    told = json.loads(listed(tmp_path / "moving", peers, json.dumps(answer).encode() + b"\n", "--json"))
    assert told["bypassed"] == []
    path = tmp_path / "screen" / "ts"
    arguments = ["list", "--tailscaled", str(path), "--socket", str(tmp_path / "none")]
    with answering(path, lambda asked: as_http(TAILSCALED if b"/status" in asked else PREFS)):
        said = CliRunner().invoke(exit_node, arguments, obj=Shared()).stderr
    assert "IPv4 leaves this host by eth0" in said
    assert "systemctl restart tailscaled" in said


def test_without_the_monitors_word_the_files_order_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state" / "current" / "tailscale"
    folder.mkdir(parents=True)
    use = ["exit-z", "Oracle-VM", "exit-a"]
    (folder / "prefs.json").write_text(json.dumps({"exit_node": {"use": use}}))
    monkeypatch.setattr(list_of, "Paths", lambda: Paths(state=tmp_path / "state"))
    peers = {
        "a": exit_peer("exit-a", "a", "n1"),
        "b": exit_peer("exit-paris", "oracle-vm"),
        "c": exit_peer("exit-b", "b", "n3"),
    }
    nodes = json.loads(listed(tmp_path, peers, None, "--json"))["exit_nodes"]
    assert [(node["name"], node["offered"], node["in_use"]) for node in nodes] == [
        ("exit-z", False, False), ("Oracle-VM", True, True), ("exit-a", True, False), ("exit-b", True, False)
    ]  # fmt: skip
    (tmp_path / "ts").unlink()
    assert "exit-z     -" in listed(tmp_path, peers, None)


def test_a_name_that_a_peer_gives_itself_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    peer = {**exit_peer("", "\033]0;owned\x07\033[2Jbox"), "DNSName": ""}
    told = listed(tmp_path, {"a": peer}, None)
    assert "box" in told
    assert "\033" not in told
    assert "\x07" not in told


def test_what_others_say_in_the_monitors_words_does_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = "HTTP 500 \x1b]0;PWNED\x07\x1b[2Jall is well"
    event = {"at": 0.0, "severity": "warning", "about": "x", "text": hostile}
    state = a_state(troubles=[{"about": "x", "message": hostile, "hint": hostile}])
    state["paths"] = [a_path("exit:x", "dead", error=hostile, causes=[{"text": hostile}])]
    _print_event(event, as_json=False)
    print_error(TsstackError(f"first\n{hostile}", hint=hostile), as_json=False)
    told = capsys.readouterr()
    text = "\n".join([*status_lines(state), told.out, told.err])
    assert text.count("all is well") == 6
    assert not set("\x1b\x07") & set(text)
    assert "first\nHTTP 500" in told.err.replace("error: ", ""), "what has lines keeps them"
