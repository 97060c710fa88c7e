"""The times are those of the wire, also while the event loop is held up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]


def test_a_held_up_loop_does_not_show_in_the_times_of_pings() -> None:
    """A path of 20 ms, the loop held up for 50 ms twice a second, the truth from a packet socket.

    Stamps taken by ourselves would be wrong by up to 50 ms in one of ten. The limit leaves room for a busy
    machine; benchmarks/monitor shows the real figure.
    """
    words = [sys.executable, str(ROOT / "benchmarks/monitor_probes.py"), "--child", "accuracy", "tsstack"]
    done = subprocess.run([*words, "5", "20"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["samples"] > 300
    assert said["wire_p50_ms"] > 19
    assert said["error_p50_ms"] < 1
    assert said["error_p99_ms"] < 15
