"""What the tests of the monitor on two exit nodes share; `bed` and `client` are fixtures in conftest.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from monitor_bed import FIRST_ADDRESS, Client, Daemon


def settle(client: Client, by: str = FIRST_ADDRESS) -> None:
    """Traffic flows, and the monitor has seen enough to know what is normal."""
    assert client.await_flow(time.time(), within_s=30, by=by) is not None
    time.sleep(6)


def codes(daemon: Daemon) -> list[str]:
    return [event["code"] for event in daemon.events() if event["about"] == "exit-node"]
