"""A short random walk. `benchmarks/walk` makes the long ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


def test_a_host_that_was_walked_on_is_as_a_fresh_one() -> None:
    """Random files, random verbs, rollbacks, expired and refused changes: the last file alone decides."""
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "walk"),
            "--json",
            "--walks",
            "1",
            "--steps",
            "24",
            "--files",
            "12",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert found["steps"] == 24
    assert sum(found["verbs"].values()) >= 24


def test_the_same_start_gives_the_same_files_and_all_of_them_load() -> None:
    from walk_files import random_files

    first = random_files(12, 11)
    assert first == random_files(12, 11)
    assert len(set(first)) == 12
    assert {name for text in first for name, section in json.loads(text).items() if section} >= {
        "firewall",
        "proxy",
        "kernel",
    }


def test_a_walk_sees_what_differs() -> None:
    from walk_host import differences

    one = {"table": "a\nb", "sysctls": {"x": "1", "y": "2"}, "tc": ["q"]}
    other = {"table": "a\nc", "sysctls": {"x": "1"}, "tc": []}
    assert differences(one, one) == []
    assert len(differences(one, other)) == 3
