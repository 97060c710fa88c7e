"""The kernel that does not answer while the guard looks: a refusal, and nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
SESSION = "SSH_CONNECTION=203.0.113.9 50000 203.0.113.1 22"
OPENED = (
    "host: {name: one, uplink: eth0}\n"
    "firewall: {zones: {dmz: {interfaces: [eth0], services: [ssh], tcp: [%d]}}}\n"
)
STATE = "nft list ruleset; cd /var/lib/tsstack; readlink current boot; ls generations"
# The kernel has no memory for a socket of rtnetlink: from the n-th on none is to be had in this process.
NO_SOCKET = """
import errno, os, socket, sys
asked, left, first, honest = 0, int(sys.argv[1]), os.getpid(), socket.socket
class Failing(honest):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        global asked
        if family == socket.AF_NETLINK and proto == socket.NETLINK_ROUTE and os.getpid() == first:
            asked += 1
            if asked >= left:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        super().__init__(family, type, proto, fileno)
socket.socket = Failing
from tsstack.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    setup = (
        "ip link add eth0 type veth peer name peer0; ip link set eth0 up; ip link set peer0 up;"
        "ip addr add 203.0.113.1/24 dev eth0; ip route add default via 203.0.113.254"
    )
    private.run("sh", "-ec", setup)
    private.write(FILE, OPENED % 80)
    private.tsstack("switch", "--no-prove")
    yield private
    private.close()


@pytest.mark.parametrize("left", [1, 2, 3])
@pytest.mark.parametrize(
    "words", [("switch",), ("switch", "--confirm", "60s"), ("test",), ("boot",), ("rollback", "--to", "1")]
)
def test_a_kernel_that_gives_no_socket_is_a_refusal(
    host: PrivateHost, words: tuple[str, ...], left: int
) -> None:
    if words[0] == "rollback":
        host.write(FILE, OPENED % 82)
        host.tsstack("switch", "--no-prove")
    before = host.run("sh", "-c", STATE).stdout
    host.write(FILE, OPENED % 81)
    no_proof = () if words[0] == "rollback" else ("--no-prove",)
    python = (sys.executable, "-c", NO_SOCKET, str(left))
    done = host.run("env", SESSION, *python, *words, *no_proof, check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "could not be judged: [Errno 105] No buffer space available" in done.stderr
    assert host.run("sh", "-c", STATE).stdout == before


def test_a_confirmation_that_cannot_be_told_to_be_a_new_session_is_refused(host: PrivateHost) -> None:
    host.write(FILE, OPENED % 83)
    done = host.run("env", SESSION, "tsstack", "switch", "--no-prove", "--confirm", "600s", check=False)
    assert done.returncode == 0, done.stderr
    python = (sys.executable, "-c", NO_SOCKET, "1")
    other = SESSION.replace("50000", "50001")
    refused = host.run("env", other, *python, "confirm", check=False)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "whether this session is a new one cannot be told: [Errno 105]" in refused.stderr
    assert host.run("env", other, "tsstack", "confirm", check=False).returncode == 0, "it waits still"
