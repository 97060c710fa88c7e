"""A process is known by its pid and its start, whatever it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tsstack.system.processes import process_start

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["sleep", "a) S 1 2 (3", "(("])
def test_the_start_is_the_moment_it_began(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    shutil.copy(str(shutil.which("sleep")), program)
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert abs(int(process_start(process.pid)) / _TICKS_PER_S - uptime_s) < 5
        finally:
            process.kill()
    assert process_start(process.pid) == "", "it is gone"
