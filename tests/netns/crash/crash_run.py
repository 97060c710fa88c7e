"""Runs `benchmarks/crash` as a person does, and hands back what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CRASH = Path(__file__).resolve().parents[3] / "benchmarks" / "crash"


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


def scenes(*names: str) -> list[str]:
    return [word for name in names for word in ("--scene", name)]


def assert_whole(found: dict[str, Any], *, at_least: int) -> None:
    assert found["torn_points"] == []
    assert found["wrong_ends"] == []
    assert found["points"] >= at_least, found
