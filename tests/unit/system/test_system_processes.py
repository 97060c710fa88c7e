"""A process is known by its pid and its start, whatever it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tsstack.system.processes import network_of, process_start

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


def test_one_network_namespace_is_told_from_another() -> None:
    words = ["unshare", "-Urn", "sh", "-c", "echo up; exec sleep 20"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as apart:
        try:
            assert apart.stdout is not None
            assert apart.stdout.readline() == "up\n"
            assert network_of(apart.pid) != network_of("self")
            assert network_of("thread-self") == network_of(os.getpid()) == network_of("self")
        finally:
            apart.kill()
    with pytest.raises(FileNotFoundError):
        network_of(apart.pid)
