"""A small, seeded run of the fault injector. `benchmarks/crash` makes the large ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.netns

CRASH = Path(__file__).resolve().parents[3] / "benchmarks" / "crash"
SCENES = (
    "switch", "first switch", "rollback", "rollback to nothing", "boot", "early firewall",
    "switch --confirm", "confirm", "recover", "dead man",
)  # fmt: skip


def crash(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(CRASH), "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_host_that_is_killed_anywhere_is_wholly_old_or_wholly_new() -> None:
    """SIGKILL and failing calls in each scene: files, kernel table, parameters and nginx agree afterwards."""
    scenes = [word for name in SCENES for word in ("--scene", name)]
    found = crash("--points", "45", "--seed", "4", *scenes)
    assert found["torn_points"] == []
    assert found["wrong_ends"] == []
    assert found["points"] >= 35
    assert {name for name, counts in found["scenes"].items() if sum(counts.values())} == set(SCENES)
    assert found["old"] and found["new"]


def test_the_worst_moments_of_nginx_the_dead_man_and_the_clock() -> None:
    found = crash("--points", "1", "--scene", "moments")
    assert found["torn_points"] == []
    assert found["points"] == 22


def test_the_injector_sees_a_torn_host() -> None:
    """Without the recovery the same kills do leave hosts between two generations."""
    found = crash("--points", "12", "--seed", "2", "--scene", "switch", "--without-recovery")
    assert found["torn"] >= 2, found
    faults = " ".join(fault for torn in found["torn_points"] for fault in torn["faults"])
    assert "a pending record is left" in faults
