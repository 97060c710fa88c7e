"""What a shell offers of this host's own names."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from watched_links import Watching, path, served, state

from tsstack.cli.completion import command_of


def offered(name: str, *words: str) -> list[str]:
    """What is offered for the last of `words`."""
    completing = ShellComplete(command_of(name), {}, name, "_X_COMPLETE")
    return [item.value for item in completing.get_completions(list(words[:-1]), words[-1])]


def test_watched_paths_and_their_kinds(tmp_path: Path) -> None:
    socket = tmp_path / "m.sock"
    with served(socket, Watching(state(path("exit:exit-a"), path("exit:exit-b"), path("target:1.1.1.1")))):
        at = ["--socket", str(socket)]
        assert offered("ts-quality", *at, "ex") == ["exit", "exit-a", "exit-b"]
        assert offered("ts-quality", *at, "1") == ["1.1.1.1"]
        assert offered("ts-quality", *at, "x") == []


def test_zones_of_the_live_generation(tmp_path: Path) -> None:
    folder = tmp_path / "current" / "nftables"
    folder.mkdir(parents=True)
    zone = {
        "path": "",
        "interfaces": [],
        "sources": [],
        "source_count": 0,
        "allow": [],
        "ping": True,
        "open": [],
    }
    described = {"default_policy": "drop", "zones": [{"name": "dmz", **zone}, {"name": "lan", **zone}]}
    (folder / "zones.json").write_text(json.dumps({**described, "counters": []}))
    assert offered("fw-status", "--state", str(tmp_path), "d") == ["dmz"]


def test_peers_of_the_tailnet(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = {
        key: {"DNSName": f"{name}.tail.example.", "TailscaleIPs": [f"100.64.0.{at}"]}
        for at, (key, name) in enumerate((("k1", "nas"), ("k2", "phone")), 1)
    }
    monkeypatch.setattr("tsstack.system.localapi.LocalApi.status", lambda *_, **__: {"Peer": peers})
    assert offered("ts-benchmark", "n") == ["nas"]


@pytest.mark.parametrize(
    ("name", "option"),
    [("ts-quality", "--socket"), ("fw-status", "--state"), ("ts-benchmark", "--tailscaled")],
)
def test_where_nobody_knows_nothing_is_offered(name: str, option: str, tmp_path: Path) -> None:
    assert offered(name, option, str(tmp_path / "absent"), "a") == []
    assert isinstance(command_of(name), click.Command)
