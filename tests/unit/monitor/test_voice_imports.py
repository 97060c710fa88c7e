"""What remembers and tells is cheap where nobody asks for it."""

from __future__ import annotations

import subprocess
import sys


def test_neither_help_nor_a_plain_monitor_loads_what_is_heavy() -> None:
    code = (
        "import sys\n"
        "heavy = ('apprise', 'prometheus_client', 'requests', 'sqlite3', 'http.server')\n"
        "import tsstack.monitor.history, tsstack.monitor.alerts, tsstack.monitor.metrics_server\n"
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
    ours = {"history", "alerts", "metrics", "metrics_server", "alert_channel"}
    assert not loaded & {
        "apprise",
        "prometheus_client",
        "sqlite3",
        *(f"tsstack.monitor.{each}" for each in ours),
    }
