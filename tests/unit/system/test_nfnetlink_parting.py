"""Sockets that are closed later: not too many of them, and none in a fork that may use their numbers anew."""

from __future__ import annotations

import subprocess
import sys

FEW = """
import os
from tsstack.system.nfnetlink import part_from
before = len(os.listdir("/proc/self/fd"))
for _ in range(50):
    part_from(os.open("/dev/null", os.O_RDONLY))
print(len(os.listdir("/proc/self/fd")) - before)
"""

FORK = """
import os
from tsstack.system.nfnetlink import part_from
for _ in range(8):
    part_from(os.open("/dev/null", os.O_RDONLY))
if os.fork() == 0:
    os.closerange(3, 64)
    own = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    for _ in range(8):
        part_from(os.open("/dev/null", os.O_RDONLY))
    os._exit(len([each for each in own if not os.path.exists(f"/proc/self/fd/{each}")]))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def said(program: str) -> int:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_only_some_stay_open() -> None:
    assert 0 < said(FEW) <= 8


def test_a_fork_closes_nothing_of_its_own() -> None:
    assert said(FORK) == 0
