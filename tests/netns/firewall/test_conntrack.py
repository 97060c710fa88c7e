"""The kernel's table of connections, as we list it and drop from it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.netns

# In a namespace of its own: 150 connections, of which the kernel refuses to drop three.
DROP = r"""
import dataclasses, json, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for at in range(150):
    flow = ["-s", f"192.0.2.{at + 1}", "-d", "198.51.100.1", "-p", "tcp", "--sport", "4000", "--dport", "443"]
    added = ["conntrack", "-I", *flow, "--state", "ESTABLISHED", "-t", "99"]
    subprocess.run(added, check=True, capture_output=True)
from tsstack.system.conntrack import drop_connections, list_connections
known = sorted(list_connections(), key=lambda each: each.original.source)
assert len(known) == 150, len(known)
bad = [dataclasses.replace(each, identity=b"\x08\x00\x01\x80\x00\x00\x00\x00") for each in known[:3]]
done = drop_connections([*bad, *known[3:], known[5]])
left = list_connections()
print(json.dumps([done.count, len(done.refused), [each.original.source for each in left]]))
assert [each for each, _ in done.refused] == bad
assert all(isinstance(error, OSError) and error.errno for _, error in done.refused)
"""


def test_what_cannot_be_dropped_is_told_and_keeps_no_other() -> None:
    """One that is gone already counts as neither."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", DROP], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    count, refused, left = json.loads(done.stdout)
    assert (count, refused, len(left)) == (147, 3, 3)
