"""libnftables in our process: what it does when the kernel refuses it a socket."""

from __future__ import annotations

import subprocess
import sys

import pytest

REFUSED = "refused: no netlink socket for nft: Too many open files"
PROGRAM = """
import os, sys
from tsstack.parts.firewall.library import NftError, Session
Session()  # everything is loaded now
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for number in held[: int(sys.argv[1])]:
    os.close(number)
try:
    Session()
    os.write(1, b"had one")
except NftError as error:
    os.write(1, f"refused: {error.message}".encode())
"""


@pytest.mark.parametrize(("free", "outcome"), [(0, REFUSED), (1, "had one"), (2, "had one")])
def test_no_socket_for_nft_is_an_error_and_not_the_end_of_the_process(free: int, outcome: str) -> None:
    """libnftables calls exit(3) itself; in the middle of a change nobody would be left to undo it."""
    done = subprocess.run(
        ["prlimit", "--nofile=64", sys.executable, "-c", PROGRAM, str(free)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, outcome)
