"""From afar: a rollback that cuts, one that is killed half-way, mosh and tmux, and who may confirm."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
BASE = "host: {name: one, uplink: eth0}\nfirewall:\n  zones:\n    dmz: {interfaces: [eth0], %s}\n"
SSH = BASE % "services: [ssh]"
LINKS = """
ip link add eth0 type veth peer name peer0
for link in eth0 peer0; do ip link set $link up; done
ip addr add 203.0.113.1/24 dev eth0
ip route add default via 203.0.113.254 dev eth0
"""
OUTSIDE, ANOTHER = "203.0.113.9 50000 203.0.113.1 22", "203.0.113.9 50001 203.0.113.1 22"

# The command line, killed when it is about to bring the rules back: the kernel's parameters are back by then.
KILLED = """
import os, signal, sys
from tsstack.cli.main import run
from tsstack.parts.firewall.host import Firewall
Firewall.restore = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(run(sys.argv[1:]))
"""
FIRST = SSH + "kernel: {sysctl: {net.ipv4.tcp_keepalive_time: 700}}\n"
SECOND = FIRST.replace("[ssh]", "[ssh], tcp: [8080]").replace("700", "900")

# Named as mosh's server is, with a port of its own; runs what it is told below itself, and stays.
MOSH = """
import ctypes, socket, subprocess, sys
ctypes.CDLL(None).prctl(15, b"mosh-server", 0, 0, 0)
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.bind(("0.0.0.0", 60001))
subprocess.run(sys.argv[1:], check=True)
print("started", flush=True)
sys.stdin.read()
"""

# Somebody who is logged in: a program named and titled as sshd is, and a client of its own.
LOGGED_IN = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
port = socket.create_server(("203.0.113.1", 22))
client = socket.create_connection(("203.0.113.1", 22))
held, peer = port.accept()
client.detach()
print(*peer, "203.0.113.1", 22, flush=True)
sys.stdin.read()
"""


TWO_LOGGED_IN = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
port = socket.create_server(("203.0.113.1", 22))
print("listens", flush=True)
held = [port.accept() for _ in range(2)]
for _, peer in held:
    print(*peer, "203.0.113.1", 22, flush=True)
sys.stdin.read()
"""
TWO_CLIENTS = """
import socket, sys
sources = [(f"203.0.113.{at}", 0) for at in (9, 10)]
held = [socket.create_connection(("203.0.113.1", 22), source_address=source) for source in sources]
sys.stdin.read()
"""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.run("sh", "-ec", LINKS)
    yield private
    private.close()


def tsstack(host: PrivateHost, session: str, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run("env", f"SSH_CONNECTION={session}", "tsstack", *words, check=False)


def switch(host: PrivateHost, text: str, *words: str) -> None:
    host.write(FILE, text)
    done = tsstack(host, OUTSIDE, "switch", "--no-prove", *words)
    assert done.returncode == 0, done.stderr


def read(host: PrivateHost, parameter: str) -> str:
    return host.run("cat", f"/proc/sys/net/ipv4/{parameter}").stdout.strip()


def picture(host: PrivateHost) -> dict[str, object]:
    return {
        "links": [host.run("readlink", f"/var/lib/tsstack/{name}").stdout for name in ("current", "boot")],
        "rules": host.run("nft", "-s", "list", "ruleset").stdout,
        "values": [read(host, name) for name in ("conf/eth0/arp_ignore", "tcp_keepalive_time")],
        "pending": host.path("/var/lib/tsstack/pending.json").exists(),
    }


@pytest.mark.parametrize("to", [(), ("--to", "0")])
def test_the_way_back_to_the_bare_host_is_asked_about(host: PrivateHost, to: tuple[str, ...]) -> None:
    """It has no table, but the kernel's parameters are there again as they were: nobody was told by ARP."""
    host.run("sh", "-c", "echo 8 > /proc/sys/net/ipv4/conf/eth0/arp_ignore")
    switch(host, SSH + "kernel: {sysctl: {net.ipv4.conf.eth0.arp_ignore: 0}}\n")
    before = picture(host)
    refused = tsstack(host, OUTSIDE, "rollback", *to)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "this switch would lock you out: tcp/22 from 203.0.113.9 on eth0" in refused.stderr
    assert "net.ipv4.conf.eth0.arp_ignore, which the file no longer names: 8" in refused.stderr
    assert picture(host) == before
    forced = tsstack(host, OUTSIDE, "rollback", *to, "--force-lockout", "--confirm", "60s")
    assert forced.returncode == 0, forced.stderr
    assert read(host, "conf/eth0/arp_ignore") == "8"
    assert tsstack(host, OUTSIDE, "rollback").returncode == 0
    assert picture(host) == before
    # Of a console, and of who comes by another link, it asks nothing.
    assert host.tsstack("rollback", *to, check=False).returncode == 0


def test_the_way_back_to_the_bare_host_is_free_where_nothing_hangs_on_it(host: PrivateHost) -> None:
    switch(host, SSH + "kernel: {sysctl: {net.ipv4.conf.eth0.arp_ignore: 1}}\n")
    done = tsstack(host, OUTSIDE, "rollback")
    assert done.returncode == 0, done.stderr
    assert read(host, "conf/eth0/arp_ignore") == "0"


@pytest.mark.parametrize("then", ["recover", "confirm", "rollback", "switch"])
def test_a_rollback_that_is_killed_half_way_is_ended_and_nothing_is_kept(
    host: PrivateHost, then: str
) -> None:
    switch(host, FIRST)
    before = picture(host)
    switch(host, SECOND, "--confirm", "300s")
    killed = host.run(sys.executable, "-c", KILLED, "rollback", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "8080" in host.run("nft", "list", "ruleset").stdout
    assert read(host, "tcp_keepalive_time") == "700", "half of it is undone"
    host.write(FILE, FIRST)
    done = tsstack(host, ANOTHER, then)
    assert done.returncode == (4 if then == "confirm" else 0), done.stdout + done.stderr
    assert picture(host) == before
    refused = tsstack(host, ANOTHER, "confirm")
    assert refused.returncode == 4
    assert "no change waits for a confirmation" in refused.stderr
    assert picture(host) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_rollback_is_not_ended_by_its_terminal(host: PrivateHost, number: signal.Signals) -> None:
    switch(host, FIRST)
    before = picture(host)
    switch(host, SECOND, "--confirm", "300s")
    slow = KILLED.replace(
        "Firewall.restore = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "honest = Firewall.restore\n"
        "def slow(*words):\n    print('at it', flush=True)\n    sys.stdin.readline()\n    honest(*words)\n"
        "Firewall.restore = slow",
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    undoing = host.popen(sys.executable, "-c", slow, "rollback", **pipes)
    assert undoing.stdout is not None
    assert undoing.stdout.readline() == "at it\n"
    undoing.send_signal(number)
    time.sleep(0.1)
    _, said = undoing.communicate("go on\n" * 2, timeout=60)
    assert undoing.returncode == 0, said
    assert picture(host) == before


def ended(host: PrivateHost) -> str:
    """What the command in the terminal has said, once it is over."""
    out = host.path("/run/out")
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        if out.exists() and "exit " in (said := out.read_text()):
            return said
        time.sleep(0.05)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("multiplexer", [(), ("tmux", "-S", "/run/guard", "new-session", "-d")])
def test_the_port_of_mosh_is_kept_also_in_tmux(host: PrivateHost, multiplexer: tuple[str, ...]) -> None:
    """tmux's server is no child of mosh's, and the connection that began it is long over."""
    switch(host, BASE % "services: [ssh], udp: [60000-61000]")
    before = picture(host)
    for opened, cut in (
        ("tcp: [80]", "tcp/22" if not multiplexer else "udp/60001"),
        ("services: [ssh]", "udp/60001"),
        ("services: [ssh], udp: [60001]", ""),
    ):
        host.write(FILE, BASE % opened)
        host.path("/run/out").unlink(missing_ok=True)
        host.write("/run/go", "tsstack switch --no-prove >/run/out 2>&1; echo exit $? >>/run/out\n")
        words = (
            "env",
            f"SSH_CONNECTION={OUTSIDE}",
            sys.executable,
            "-c",
            MOSH,
            *multiplexer,
            "sh",
            "/run/go",
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with host.popen(*words, **pipes) as mosh:
            said = ended(host)
            mosh.communicate()
        assert f"exit {4 if cut else 0}" in said, said
        if cut:
            assert f"{cut} from 203.0.113.9 on eth0 to 203.0.113.1" in said
            assert picture(host) == before
    assert picture(host) != before


def test_a_tmux_that_is_looked_at_from_elsewhere(host: PrivateHost) -> None:
    """It was begun from one session, which is there still, and is attached from another."""
    switch(host, SSH)
    before = picture(host)
    host.write(FILE, BASE % "tcp: [80]" + "    home: {sources: [203.0.113.9/32], services: [ssh]}\n")
    host.write("/run/go", "tsstack switch --no-prove >/run/out 2>&1; echo exit $? >>/run/out\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    far = host.popen("unshare", "-n", "sh", "-c", "echo $$; exec sleep 120", **pipes)
    assert far.stdout is not None
    beyond = far.stdout.readline().strip()
    host.run("ip", "link", "set", "peer0", "netns", beyond)
    addresses = "ip addr add 203.0.113.9/24 dev peer0; ip addr add 203.0.113.10/24 dev peer0"
    host.run("nsenter", "-n", "-t", beyond, "sh", "-ec", f"ip link set peer0 up; {addresses}")
    titled = f'PYTHONHOME={sys.base_prefix} exec -a "sshd: root@pts/0" "$0" -c "$1"'
    server = host.popen("bash", "-c", titled, sys.executable, TWO_LOGGED_IN, **pipes)
    assert server.stdout is not None
    assert server.stdout.readline() == "listens\n"
    clients = host.popen("nsenter", "-n", "-t", beyond, sys.executable, "-c", TWO_CLIENTS, **pipes)
    first, second = (server.stdout.readline().strip() for _ in range(2))
    tmux = ("env", "TERM=xterm", "tmux", "-S", "/run/guard")
    host.run("env", f"SSH_CONNECTION={first}", *tmux, "new-session", "-d", "sh")
    try:
        for looks, code in ((second, 4), (first, 0)):
            host.path("/run/out").unlink(missing_ok=True)
            attach = ("script", "-qec", " ".join((*tmux, "attach")), "/dev/null")
            with host.popen("env", f"SSH_CONNECTION={looks}", *attach, **pipes) as terminal:
                while not host.run(*tmux, "list-clients").stdout:
                    time.sleep(0.05)
                host.run(*tmux, "send-keys", "sh /run/go", "Enter")
                said = ended(host)
                host.run(*tmux, "detach-client")
                terminal.communicate()
            assert f"exit {code}" in said, said
            if code:
                assert "cut somebody off: tcp/22 from 203.0.113.10 on eth0" in said
                assert picture(host) == before
    finally:
        for process in (clients, server, far):
            process.kill()
            process.communicate()


def test_only_who_came_after_the_change_began_confirms_it(host: PrivateHost) -> None:
    """A second terminal that was open lives on under any rules; a unit has no session of its own."""
    switch(host, SSH)
    titled = f'PYTHONHOME={sys.base_prefix} exec -a "sshd: root@pts/1" "$0" -c "$1"'
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with host.popen("bash", "-c", titled, sys.executable, LOGGED_IN, **pipes) as other:
        assert other.stdout is not None
        opened = other.stdout.readline().strip()
        for asked_from in (OUTSIDE, ""):
            host.write(FILE, SSH.replace("[ssh]", f"[ssh], tcp: [{8080 + len(asked_from)}]"))
            words = (*(("env", f"SSH_CONNECTION={asked_from}") if asked_from else ()), "tsstack")
            host.run(*words, "switch", "--no-prove", "--confirm", "60s")
            for session in filter(None, (asked_from, opened)):
                refused = tsstack(host, session, "confirm")
                assert refused.returncode == 4, refused.stdout + refused.stderr
                assert "this session was open before the change" in refused.stderr
            accepted = tsstack(host, ANOTHER, "confirm")
            assert accepted.returncode == 0, accepted.stderr
        other.communicate()
