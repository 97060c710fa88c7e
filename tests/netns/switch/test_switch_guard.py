"""Nobody is locked out: sessions as they really come in, by every verb that changes a host."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
BASE = "host: {name: one, tailnet: tail.test, uplink: eth0}\nfirewall:\n  zones:\n"
ETH0_OPEN = (
    BASE + "    dmz: {interfaces: [eth0], services: [ssh]}\n    lan: {interfaces: [eth1], tcp: [80]}\n"
)
ETH1_OPEN = (
    BASE
    + "    dmz: {interfaces: [eth0], tcp: [80]}\n    internal: {interfaces: [tailscale0], services: [ssh]}\n"
    "    lan: {interfaces: [eth1], services: [ssh]}\n"
)
LINKS = """
ip link add eth0 type veth peer name peer0; ip link add eth1 type veth peer name peer1
for link in eth0 eth1 peer0 peer1; do ip link set $link up; done
ip addr add 203.0.113.1/24 dev eth0; ip addr add 192.168.15.1/24 dev eth1
ip addr add 2001:db8:5::1/64 dev eth0 nodad
ip route add default via 203.0.113.254 dev eth0; ip -6 route add default via 2001:db8:5::fe dev eth0
ip route add 100.70.0.0/24 dev eth0
"""
OUTSIDE = "203.0.113.9 50000 203.0.113.1 22"

# The renderer drops one address, of which nothing in the file speaks.
ONE_DROPPED = """
import sys
from tsstack.cli.main import run
from tsstack.parts.firewall.host import Firewall
honest = Firewall.desired
def broken(self, stack, facts):
    drop = "type filter hook input priority filter; policy drop;"
    return {path: text.replace(drop, drop + " ip saddr 203.0.113.77 drop") for path, text in
            honest(self, stack, facts).items()}
Firewall.desired = broken
sys.exit(run(sys.argv[1:]))
"""

# Somebody who is logged in: a program named and titled as sshd is, and a client beyond the link.
LOGGED_IN = """
import ctypes, socket
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
port = socket.create_server(("::", 22), family=socket.AF_INET6, dualstack_ipv6=True)
print("listens", flush=True)
held = port.accept()
print("logged in", flush=True)
held[0].recv(1)
"""
CLIENT = "import socket, sys; held = socket.create_connection((sys.argv[1], 22)); sys.stdin.read()"
SSHD = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
port = socket.create_server(("0.0.0.0", 2222))
print("listens", flush=True)
sys.stdin.read()
"""
BRIDGE = """
ip link add br0 type bridge; ip link add p0 type veth peer name pp0; ip link set p0 master br0
for link in br0 p0 pp0; do ip link set $link up; done
ip addr add 10.5.0.1/24 dev br0
"""


# A router that says for two minutes at a time that it is one, and which network there is.
ROUTER = """
import socket, struct, time
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
link = socket.if_nametoindex("peer1")
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
network = bytes([3, 4, 64, 0xC0]) + struct.pack("!III", 120, 120, 0) + socket.inet_pton(10, "2001:db8:99::")
for _ in range(60):
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 120, 0, 0) + network
    sender.sendto(message, ("ff02::1", 0, 0, link))
    time.sleep(0.5)
"""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.run("sh", "-ec", LINKS)
    yield private
    private.close()


def tsstack(host: PrivateHost, session: str, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run("env", f"SSH_CONNECTION={session}", "tsstack", *words, check=False)


def switch(host: PrivateHost, text: str, session: str, *words: str) -> subprocess.CompletedProcess[str]:
    host.write(FILE, text)
    return tsstack(host, session, "switch", *words)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 4, done.stdout + done.stderr
    for each in ("lock you out", *words):
        assert each in done.stderr


def test_a_session_from_the_tailnets_range_by_an_ordinary_interface(host: PrivateHost) -> None:
    refused = switch(host, ETH1_OPEN, "100.70.0.9 50000 203.0.113.1 22")
    assert_refused(refused, "tcp/22 from 100.70.0.9 on eth0", "by tailscale0 alone")
    assert not host.run("nft", "list", "tables").stdout.strip()
    refused = switch(host, ETH0_OPEN, "100.70.0.9 50000 203.0.113.1 22")
    assert_refused(refused, "tcp/22 from 100.70.0.9 on eth0")
    admin = ETH0_OPEN + "    admin: {sources: [100.70.0.9/32], allow: all}\n"
    refused = switch(host, admin, OUTSIDE)
    assert refused.returncode == 4
    assert "lock out an admin: tcp/22 from 100.70.0.9 on eth0" in refused.stderr
    far = ETH0_OPEN + "    admin: {sources: [100.71.0.9/32], allow: all}\n"
    assert switch(host, far, OUTSIDE).returncode == 0, (
        "no route of its own: the tailnet is still to be joined"
    )


def test_a_link_local_session_is_asked_on_its_own_link(host: PrivateHost) -> None:
    session = "fe80::1234%eth1 50000 fe80::1%eth1 22"
    assert_refused(switch(host, ETH0_OPEN, session), "tcp/22 from fe80::1234 on eth1")
    index = host.run("cat", "/sys/class/net/eth1/ifindex").stdout.strip()
    assert_refused(switch(host, ETH0_OPEN, session.replace("%eth1", f"%{index}")), "on eth1")
    done = switch(host, ETH1_OPEN, session)
    assert done.returncode == 0, done.stderr


def test_routing_rules_that_look_at_our_own_address_count(host: PrivateHost) -> None:
    """A second uplink: answers from its address leave by it, whatever the default route says."""
    host.run("ip", "rule", "add", "from", "192.168.15.1", "lookup", "77")
    host.run("ip", "route", "add", "default", "via", "192.168.15.254", "dev", "eth1", "table", "77")
    session = "198.51.100.7 50000 192.168.15.1 22"
    assert_refused(switch(host, ETH0_OPEN, session), "on eth1 to 192.168.15.1")
    assert switch(host, ETH1_OPEN, session).returncode == 0


def test_answers_that_leave_by_another_interface(host: PrivateHost) -> None:
    """The session came in by eth1, or so it may be: it is to eth1's address, and answered by eth0."""
    session = "198.51.100.7 50000 192.168.15.1 22"
    doubted = switch(host, ETH0_OPEN, session)
    assert doubted.returncode == 0, doubted.stderr
    assert "answers leave by eth0, but its packets may come by eth1" in doubted.stderr
    assert "may come by" not in switch(host, ETH0_OPEN.replace("[80]", "[81]"), session).stderr
    assert switch(host, ETH1_OPEN, OUTSIDE, "--force-lockout", "--confirm", "60s").returncode == 0
    assert tsstack(host, "198.51.100.7 50001 192.168.15.1 22", "confirm").returncode == 0
    assert_refused(switch(host, ETH0_OPEN, session), "tcp/22 from 198.51.100.7 on eth1 to 192.168.15.1")
    done = switch(host, ETH1_OPEN.replace("[80]", "[81]"), session)
    assert done.returncode == 0, "eth0 was shut before, so it comes by eth1"


def test_neither_boot_nor_test_nor_a_rollback_cuts_the_session(host: PrivateHost) -> None:
    host.write(FILE, ETH1_OPEN)
    host.tsstack("switch")
    host.write(FILE, ETH0_OPEN)
    host.tsstack("switch")
    assert_refused(tsstack(host, OUTSIDE, "rollback"), "tcp/22 from 203.0.113.9 on eth0 to 203.0.113.1")
    assert_refused(tsstack(host, OUTSIDE, "rollback", "--to", "1"))
    host.write(FILE, ETH1_OPEN.replace("[80]", "[81]"))
    hint = "make it live by `tsstack switch --force-lockout --confirm 60s`"
    assert_refused(tsstack(host, OUTSIDE, "boot"), "tcp/22 from 203.0.113.9", hint)
    assert_refused(tsstack(host, OUTSIDE, "test"))
    assert host.run("readlink", "/var/lib/tsstack/current").stdout.strip() == "generations/2"
    assert host.run("readlink", "/var/lib/tsstack/boot").stdout.strip() == "generations/2"
    assert tsstack(host, OUTSIDE, "rollback", "--to", "0").returncode == 0, "without rules all come in"
    forced = switch(host, ETH1_OPEN, OUTSIDE, "--force-lockout", "--confirm", "60s")
    assert forced.returncode == 0, forced.stderr
    assert tsstack(host, OUTSIDE, "rollback").returncode == 0


def test_the_ways_in_are_sent_into_the_kernel(host: PrivateHost) -> None:
    """The model lets the session in; only a packet of its own shows that the rules do not."""
    host.write(FILE, ETH0_OPEN)
    session = "203.0.113.77 50000 203.0.113.1 22"
    words = (sys.executable, "-c", ONE_DROPPED, "switch")
    refused = host.run("env", f"SSH_CONNECTION={session}", *words, check=False)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "tcp/22 from 203.0.113.77 on eth0" in refused.stderr
    assert "the kernel does drop" in refused.stderr
    assert host.run(*words, check=False).returncode == 0, "nobody else sends from that address"


@pytest.mark.parametrize(
    ("line", "session", "words"),
    [
        ("sysctl: {net.ipv4.conf.all.arp_ignore: 8}", OUTSIDE, ("arp_ignore: 8", f"{FILE}:6:")),
        ("sysctl: {net/ipv4/conf/eth0/arp_ignore: 8}", OUTSIDE, ("eth0.arp_ignore: 8",)),
        (
            "sysctl: {net.ipv4.ip_default_ttl: 1}",
            "198.51.100.9 50000 203.0.113.1 22",
            ("no further than 1 hop",),
        ),
    ],
)
def test_kernel_parameters_that_cut_the_session(
    host: PrivateHost, line: str, session: str, words: tuple[str, ...]
) -> None:
    assert switch(host, ETH0_OPEN, session).returncode == 0
    assert_refused(switch(host, f"{ETH0_OPEN}kernel: {{{line}}}\n", session), *words)
    assert host.run("cat", "/proc/sys/net/ipv4/conf/all/arp_ignore").stdout.strip() == "0"
    if session != OUTSIDE:
        assert switch(host, f"{ETH0_OPEN}kernel: {{{line}}}\n", OUTSIDE).returncode == 0


def test_a_limit_and_a_doubtful_parameter(host: PrivateHost) -> None:
    tiny = ETH0_OPEN + "bandwidth: {eth0: {egress: 300bit}}\n"
    assert_refused(switch(host, tiny, OUTSIDE), "bandwidth.eth0", "the log-in on eth0")
    told = switch(
        host, ETH0_OPEN + "kernel: {sysctl: {net.ipv4.ip_default_ttl: 9}}\n", "198.51.100.9 5 203.0.113.1 22"
    )
    assert told.returncode == 0, told.stderr
    assert (
        "warning: guard: kernel.sysctl.net.ipv4.ip_default_ttl: 9: answers get no further than 9 hops"
        in told.stderr
    )


def test_what_comes_back_with_a_setting_that_goes(host: PrivateHost) -> None:
    """The host answered to nobody's ARP before tsstack did; the file that says so no longer would cut."""
    host.run("sh", "-c", "echo 8 > /proc/sys/net/ipv4/conf/eth0/arp_ignore")
    host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6")
    assert (
        switch(host, ETH0_OPEN + "kernel: {sysctl: {net.ipv4.conf.eth0.arp_ignore: 0}}\n", OUTSIDE).returncode
        == 0
    )
    assert_refused(switch(host, ETH0_OPEN, OUTSIDE), "eth0.arp_ignore, which the file no longer names: 8")
    lan = "fe80::1234%eth1 50000 fe80::1%eth1 22"
    answered = "net.ipv4.conf.eth0.arp_ignore: 0"
    both = f"kernel: {{sysctl: {{{answered}, net.ipv6.conf.eth1.disable_ipv6: 0}}}}\n"
    assert switch(host, ETH1_OPEN + both, lan).returncode == 0
    refused = switch(host, f"{ETH1_OPEN}kernel: {{sysctl: {{{answered}}}}}\n", lan)
    assert_refused(refused, "eth1.disable_ipv6, which the file no longer names: 1: eth1 has no IPv6 any more")


@contextmanager
def logged_in(host: PrivateHost, link: str = "eth0") -> Iterator[Callable[[], None]]:
    """Somebody beyond a link has come in by SSH; gives what ends that session."""
    peer = link.replace("eth", "peer")
    given = (
        "ip addr add 203.0.113.9/24 dev peer0"
        if link == "eth0"
        else "sysctl -qw net.ipv6.conf.peer1.accept_dad=0; ip addr add fe80::77/64 dev peer1 nodad"
    )
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    far = host.popen("unshare", "-n", "sh", "-c", "echo $$; exec sleep 120", **pipe)
    pid = far.stdout.readline().strip()  # type: ignore[union-attr]
    host.run("ip", "link", "set", peer, "netns", pid)
    beyond = ("nsenter", "-n", "-t", pid)
    host.run(*beyond, "sh", "-ec", f"ip link set {peer} up; {given}")
    # Called by another name, Python has to be told where its modules are.
    titled = f'PYTHONHOME={sys.base_prefix} exec -a "sshd: root@pts/0" "$0" -c "$1"'
    server = host.popen("bash", "-c", titled, sys.executable, LOGGED_IN, **pipe)
    assert server.stdout.readline() == "listens\n"  # type: ignore[union-attr]
    to = "203.0.113.1" if link == "eth0" else f"fe80::1%{peer}"
    client = host.popen(*beyond, sys.executable, "-c", CLIENT, to, **pipe)
    assert server.stdout.readline() == "logged in\n"  # type: ignore[union-attr]

    def leave() -> None:
        client.kill()
        server.kill()
        server.wait()

    try:
        yield leave
    finally:
        for process in (client, server, far):
            process.kill()
            process.communicate()


def test_without_a_session_of_ones_own_nobody_is_cut_off(host: PrivateHost) -> None:
    """As from a console: whoever is logged in by SSH is asked about, and the way back is free."""
    with logged_in(host) as leave:
        host.write(FILE, ETH1_OPEN)
        refused = host.tsstack("switch", check=False)
        assert refused.returncode == 4, refused.stdout + refused.stderr
        assert "cut somebody off: tcp/22 from 203.0.113.9 on eth0 to 203.0.113.1" in refused.stderr
        host.write(FILE, ETH0_OPEN)
        host.tsstack("switch")
        host.tsstack("rollback")
        leave()
        host.write(FILE, ETH1_OPEN)
        host.tsstack("switch")


@pytest.mark.parametrize(
    ("told", "opened"),
    [
        ("127.0.0.1 40000 127.0.0.1 22", ""),
        ("::1 40000 ::1 22", ""),
        ("203.0.113.1 40000 203.0.113.1 22", ""),
        # Of VS Code's server, say, which outlived its connection.
        ("198.51.100.7 40000 203.0.113.1 22", "    office: {sources: [198.51.100.0/24], services: [ssh]}\n"),
    ],
)
def test_a_session_that_tells_nothing_of_the_operator_is_like_none(
    host: PrivateHost, told: str, opened: str
) -> None:
    with logged_in(host):
        assert switch(host, ETH0_OPEN, told).returncode == 0
        refused = switch(host, ETH1_OPEN + opened, told)
        assert refused.returncode == 4, refused.stdout + refused.stderr
        assert "cut somebody off: tcp/22 from 203.0.113.9 on eth0" in refused.stderr


def test_a_session_from_this_host_itself_confirms_nothing(host: PrivateHost) -> None:
    assert switch(host, ETH0_OPEN, OUTSIDE).returncode == 0
    forced = ("--force-lockout", "--confirm", "60s")
    assert switch(host, ETH1_OPEN, OUTSIDE, *forced).returncode == 0
    refused = tsstack(host, "127.0.0.1 5 127.0.0.1 22", "confirm")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "comes from this host itself" in refused.stderr
    assert tsstack(host, "203.0.113.9 50001 203.0.113.1 22", "confirm").returncode == 0


def test_a_link_local_session_of_somebody_is_asked_on_its_link(host: PrivateHost) -> None:
    """The kernel's table of connections names no link."""
    host.run("sh", "-ec", "ip addr add fe80::1/64 dev eth1 nodad")
    with logged_in(host, "eth1"):
        for opened in ("eth0", "peer0"):
            text = BASE + f"    dmz: {{interfaces: [{opened}], services: [ssh]}}\n"
            host.write(FILE, text + "    lan: {interfaces: [eth1], tcp: [80]}\n")
            refused = host.tsstack("switch", check=False)
            assert refused.returncode == 4, refused.stdout + refused.stderr
            assert "cut somebody off: tcp/22 from fe80::77 on eth1" in refused.stderr
        host.write(FILE, ETH1_OPEN)
        host.tsstack("switch")


def test_admins_are_asked_by_the_port_that_sshd_listens_on(host: PrivateHost) -> None:
    listener = host.popen(sys.executable, "-c", SSHD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "listens\n"
    try:
        admins = BASE + "    admin: {sources: [203.0.113.0/24], allow: all}\n"
        host.write(FILE, admins)
        host.tsstack("switch")
        boss = BASE + "    boss: {sources: [203.0.113.0/24], %s}\n"
        host.write(FILE, boss % "services: [ssh]")
        refused = host.tsstack("switch", check=False)
        assert refused.returncode == 4, refused.stdout + refused.stderr
        assert "lock out an admin: tcp/2222 from 203.0.113" in refused.stderr
        host.write(FILE, boss % "tcp: [2222]")
        host.tsstack("switch")
    finally:
        listener.kill()
        listener.communicate()


def test_what_a_session_forwards_is_no_way_in(host: PrivateHost) -> None:
    """GatewayPorts: its sshd listens for its user, and no admin logs in there."""
    titled = f'PYTHONHOME={sys.base_prefix} exec -a "sshd: bob@notty" "$0" -c "$1"'
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    forwards = host.popen("bash", "-c", titled, sys.executable, SSHD, **pipe)
    assert forwards.stdout is not None
    assert forwards.stdout.readline() == "listens\n"
    try:
        host.write(FILE, BASE + "    admin: {sources: [203.0.113.0/24], allow: all}\n")
        host.tsstack("switch")
        host.write(FILE, BASE + "    boss: {sources: [203.0.113.0/24], services: [ssh]}\n")
        host.tsstack("switch")
    finally:
        forwards.kill()
        forwards.communicate()


def test_the_port_of_the_operator_is_not_that_of_all_admins(host: PrivateHost) -> None:
    own = "203.0.113.9 50000 203.0.113.1 2222"
    assert switch(host, BASE + "    admin: {sources: [203.0.113.0/24], allow: all}\n", own).returncode == 0
    refused = switch(host, BASE + "    boss: {sources: [203.0.113.0/24], tcp: [2222]}\n", own)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "lock out an admin: tcp/22 from 203.0.113" in refused.stderr


def test_a_limit_on_what_a_bridge_is_made_of(host: PrivateHost) -> None:
    host.run("sh", "-ec", BRIDGE)
    text = BASE + "    lan: {interfaces: [br0], services: [ssh]}\n"
    session = "10.5.0.9 50000 10.5.0.1 22"
    assert switch(host, text, session).returncode == 0
    limit = "bandwidth: {%s: {egress: 200bit}}\n"
    assert_refused(switch(host, text + limit % "p0", session), "bandwidth.p0: 200bit", "which br0 goes by")
    host.run("sh", "-ec", "ip link add p1 type veth peer name pp1; ip link set p1 master br0 up")
    doubted = switch(host, text + limit % "p0", session)
    assert doubted.returncode == 0, "it may come by another port of the bridge"
    assert "this may lock you out" in doubted.stderr


def test_the_networks_behind_an_admin_interface_are_the_admins(host: PrivateHost) -> None:
    """By its addresses and by its routes; also where another table alone has the route."""
    host.run("sh", "-ec", "ip route add 10.9.0.0/16 via 192.168.15.254")
    host.run("sh", "-ec", "ip addr add 172.16.5.1/24 dev eth1 noprefixroute")
    text = (
        BASE + "    dmz: {interfaces: [eth0], services: [ssh]}\n    admin: {interfaces: [eth1], allow: all}\n"
    )
    assert switch(host, text, OUTSIDE).returncode == 0
    for taken in ("192.168.15.0/24", "10.9.0.0/16", "172.16.5.0/24"):
        guests = f"{text}    guests: {{sources: [{taken}], tcp: [80]}}\n"
        refused = switch(host, guests, OUTSIDE)
        assert refused.returncode == 4, refused.stdout + refused.stderr
        assert "lock out an admin: tcp/22 from " + taken.rpartition(".")[0] in refused.stderr
    camera = f"{text}    cam: {{sources: [192.168.15.50/32], tcp: [80]}}\n"
    told = switch(host, camera, OUTSIDE)
    assert told.returncode == 0, told.stderr
    assert (
        "warning: guard: tcp/22 from 192.168.15.50 on eth1, an admin behind eth1, falls into" in told.stderr
    )
    elsewhere = f"{text}    guests: {{sources: [192.168.16.0/24, 203.0.113.128/25], tcp: [80]}}\n"
    done = switch(host, elsewhere, OUTSIDE)
    assert done.returncode == 0, done.stderr
    assert "lock" not in done.stderr


def test_a_session_that_the_live_rules_refuse_bars_no_other_change(host: PrivateHost) -> None:
    """While the rules are in force: where somebody has flushed them it would be cut indeed."""
    office = "    office: {sources: [203.0.113.9/32], services: [ssh]}\n"
    text = BASE + "    dmz: {interfaces: [eth0], tcp: [%s]}\n" + office
    assert switch(host, text % "80", OUTSIDE).returncode == 0
    left = "203.0.113.77 50000 203.0.113.1 22"
    told = switch(host, text % "80, 81", left)
    assert told.returncode == 0, told.stderr
    assert "warning: guard: tcp/22 from 203.0.113.77 on eth0 to 203.0.113.1, your own session" in told.stderr
    arp = "kernel: {sysctl: {net.ipv4.conf.eth0.arp_ignore: 8}}\n"
    assert_refused(switch(host, text % "80, 81" + arp, left), "eth0.arp_ignore: 8")
    host.run("nft", "flush", "chain", "inet", "tsstack", "input")
    assert_refused(switch(host, text % "80, 82", left), "tcp/22 from 203.0.113.77 on eth0")
    host.run("nft", "delete", "table", "inet", "tsstack")
    assert_refused(switch(host, text % "80, 82", left), "tcp/22 from 203.0.113.77 on eth0")


def test_parameters_by_which_what_a_router_gave_runs_out(host: PrivateHost) -> None:
    """The address in use, and the way back, came by router advertisement."""
    host.run("sh", "-ec", "ip -6 route del default; ip addr add fe80::fe/64 dev peer1 nodad")
    host.run("sh", "-ec", "cd /proc/sys/net/ipv6/conf; echo 0 > peer1/accept_ra; echo 2 > eth1/accept_ra")
    router = host.popen(sys.executable, "-c", ROUTER)
    try:
        own, deadline = "", time.monotonic() + 15
        while not own and time.monotonic() < deadline:
            words = host.run("ip", "-6", "-o", "addr", "show", "dev", "eth1").stdout.split()
            own = next((word[:-3] for word in words if word.startswith("2001:db8:99:")), "")
            time.sleep(0.1)
        assert own
        near, far = (f"{client} 50000 {own} 22" for client in ("2001:db8:99::9", "2001:db8:77::9"))
        done = switch(host, ETH1_OPEN, near)
        assert done.returncode == 0, done.stderr
        text = ETH1_OPEN + "kernel: {sysctl: {net.ipv6.conf.%s: %s}}\n"
        assert_refused(switch(host, text % ("eth1.accept_ra_min_lft", 65535), far), "for less than 65535 s")
        assert_refused(switch(host, text % ("eth1.addr_gen_mode", 3), near), f"and {own} runs out")
        assert_refused(switch(host, text % ("all.addr_gen_mode", 3), near), f"and {own} runs out")
        told = switch(host, text % ("eth1.accept_ra_min_lft", 65535), near)
        assert told.returncode == 0, told.stderr
        assert "(this may lock you out)" in told.stderr
        done = switch(host, text % ("eth1.addr_gen_mode", 1), near)
        assert done.returncode == 0, done.stderr
        assert "warning: guard" not in done.stderr
    finally:
        router.kill()
        router.communicate()


# v0 goes by eth0; the far end need not be there to be asked about.
VXLAN = """
ip link add v0 type vxlan id 5 dstport 4789 local 203.0.113.1 remote 203.0.113.9
ip addr add 10.8.0.1/24 dev v0; ip link set v0 up
ip tuntap add tun0 mode tun; ip addr add 10.9.0.1/24 dev tun0; ip link set tun0 up
"""


def test_what_carries_the_tunnel_that_the_session_comes_by(host: PrivateHost) -> None:
    host.run("sh", "-ec", VXLAN)
    vpn = "    vpn: {interfaces: [v0, tun0], services: [ssh]}\n"
    shut = BASE + "    dmz: {interfaces: [eth0], tcp: [80]}\n" + vpn
    opened = BASE + "    dmz: {interfaces: [eth0], tcp: [80], udp: [1194, 4789]}\n" + vpn
    session = "10.8.0.9 50000 10.8.0.1 22"
    assert_refused(switch(host, shut, session), "udp/4789 from 203.0.113.9 on eth0", "what carries v0")
    assert switch(host, opened, session).returncode == 0
    assert_refused(switch(host, shut, session), "udp/4789 from 203.0.113.9 on eth0", "open udp/4789")
    arp = "kernel: {sysctl: {net.ipv4.conf.eth0.arp_ignore: 8}}\n"
    assert_refused(switch(host, opened + arp, session), "arp_ignore: 8", "which v0 goes by")
    tiny = "bandwidth: {eth0: {egress: 300bit}}\n"
    assert_refused(switch(host, opened + tiny, session), "bandwidth.eth0", "which v0 goes by")
    by_tun = "10.9.0.9 50000 10.9.0.1 22"
    done = switch(host, opened.replace("80", "81"), by_tun)
    assert done.returncode == 0, done.stderr
    assert "is a tunnel" not in done.stderr, "nothing there is closed"
    told = switch(host, shut, by_tun)
    assert told.returncode == 0, told.stderr
    assert "guard: tun0 is a tunnel: what carries it comes by eth0 and was not asked about" in told.stderr
    doubted = switch(host, shut + arp, by_tun)
    assert doubted.returncode == 0, doubted.stderr
    assert "which tun0 goes by (this may lock you out)" in doubted.stderr
