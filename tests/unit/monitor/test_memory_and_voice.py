"""One file's listeners together: kept over reloads, and cheap where the file asks for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tsstack.model.sections import Monitor
from tsstack.monitor.memory_and_voice import MemoryAndVoice
from tsstack.monitor.snapshot import Event


def event(code: str, over: bool = False) -> Event:
    return Event(1.8e9, code, "info" if over else "critical", "exit:a", "text", {}, over)


def test_a_reload_keeps_what_stays_and_replaces_what_changes(tmp_path: Path) -> None:
    both = MemoryAndVoice(tmp_path / "history.db")
    first = both.follow(Monitor.model_validate({"alerts": [{"command": ["true"]}]}), "gw1")
    second = both.follow(Monitor.model_validate({"metrics": "127.0.0.1:1"}), "gw1")
    third = both.follow(Monitor.model_validate({"metrics": "127.0.0.1:2"}), "gw1")
    fourth = both.follow(Monitor.model_validate({}), "gw1")
    assert first == fourth == (both.alerts, both.history)
    assert second[1:] == third[1:] == first
    assert second[0] is not third[0]
    assert both.alerts is not None
    assert both.alerts.counts() == {}
    for voice in fourth:
        voice.close()


def test_what_was_told_outlives_a_restart(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "page"
    script.write_text(f"#!/bin/sh\ncat >> {told}\n")
    script.chmod(0o755)
    monitor = Monitor.model_validate({"alerts": [{"command": [str(script)]}]})
    for happened in (event("path-dead"), event("path-good", over=True), event("path-good", over=True)):
        voices = MemoryAndVoice(tmp_path / "history.db").follow(monitor, "gw1")
        for voice in voices:
            voice.on_event(happened)
        for voice in voices:
            voice.close()
    assert [line.split('"title": "')[1].split('"')[0] for line in told.read_text().splitlines()] == [
        "gw1: exit:a critical",
        "gw1: exit:a recovered",
    ]


def test_neither_help_nor_a_plain_monitor_loads_what_is_heavy() -> None:
    code = (
        "import sys\n"
        "heavy = ('apprise', 'prometheus_client', 'requests', 'sqlite3', 'http.server')\n"
        "import tsstack.monitor.memory_and_voice\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sqlite3']"
    helped = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tsstack.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in helped.stderr.splitlines()}
    ours = {"history", "alerts", "metrics", "metrics_server", "alert_channel", "memory_and_voice"}
    assert not loaded & {
        "apprise",
        "prometheus_client",
        "sqlite3",
        *(f"tsstack.monitor.{each}" for each in ours),
    }
