"""libnftables in our process: what it does when the kernel refuses it a socket."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
from tsstack.parts.firewall.library import NftError, Session
Session()  # everything is loaded now
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    Session()
except NftError as error:
    os.write(1, f"refused: {error.message}".encode())
"""


def test_no_socket_for_nft_is_an_error_and_not_the_end_of_the_process() -> None:
    """libnftables calls exit(3) itself; in the middle of a change nobody would be left to undo it."""
    done = subprocess.run(
        ["prlimit", "--nofile=64", sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused: no netlink socket for nft: Too many open files")
