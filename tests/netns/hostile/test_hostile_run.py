"""A small, seeded run of the hostile files, with nft and nginx. `benchmarks/hostile` makes the large ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

HOSTILE = Path(__file__).resolve().parents[3] / "benchmarks" / "hostile"


def test_hostile_files_are_refused_with_their_place_or_do_no_harm() -> None:
    done = subprocess.run(
        [sys.executable, str(HOSTILE), "--json", "--inputs", "2400", "--seed", "4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert found["inputs"] == found["refused"] + found["accepted"] == 2400
    assert found["rendered"] > 100
    assert found["nft_loaded"] > 50
    assert found["nginx_tried"] >= 2
    assert len(found["codes"]) > 60
    assert sum(found["behind_the_model"].values()) == 240
