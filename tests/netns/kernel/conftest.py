"""A network namespace that the test's own thread stands in; it goes when the test leaves it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator

import pytest

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Stand in an empty network namespace with `lo` up and the pair v0 - v1 (192.0.2.1 on v0)."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare needs root")
        for line in (
            "link set lo up",
            "link add v0 type veth peer name v1",
            "addr add 192.0.2.1/24 dev v0",
            "link set v0 up",
            "link set v1 up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        yield
    finally:
        if _libc.setns(home, _CLONE_NEWNET) != 0:
            os._exit(70)  # nothing may run on in the wrong namespace
        os.close(home)
