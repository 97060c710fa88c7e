"""The fault injector on a host with the real tailscaled: its settings are old or new with all the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab

CRASH = Path(__file__).resolve().parents[2] / "benchmarks" / "crash"


def test_the_settings_of_tailscaled_are_old_or_new_with_the_rest_of_the_host() -> None:
    words = ["--points", "14", "--seed", "6", "--tailnet", "all"]
    for name in ("switch", "rollback", "join the tailnet"):
        words += ["--scene", name]
    done = subprocess.run(
        [sys.executable, str(CRASH), "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["torn_points"], found["wrong_ends"]) == ([], [])
    assert found["points"] >= 7
