"""An admin interface that gives way to its own networks, on the real kernel's routes."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
SESSION = "SSH_CONNECTION=203.0.113.9 50000 203.0.113.1 22"
LINKS = """
ip link add eth0 type veth peer name peer0; ip link add lan0 type veth peer name far0
for link in eth0 lan0 peer0 far0; do ip link set $link up; done
ip addr add 203.0.113.1/24 dev eth0; ip addr add 192.168.15.1/24 dev lan0
ip addr add fd00:9::1/64 dev lan0 nodad
ip route add default via 203.0.113.254 dev eth0
"""
BASE = (
    "host: {name: one, uplink: eth0}\nfirewall:\n  zones:\n    dmz: {interfaces: [eth0], services: [ssh]}\n"
)
WIDE = BASE + "    admin: {interfaces: [lan0], allow: all}\n"
ALL = "192.168.15.0/24, 'fd00:9::/64', 'fe80::/10'"
NARROW = BASE + "    admin: {sources: [%s], allow: all}\n"
WEB = "    lan: {interfaces: [lan0], tcp: [80]}\n"
# The kernel's own route to the link is there once it has looked for doubles of its address.
UP = """
for at in $(seq 200); do
  grep -q up /sys/class/net/lan0/operstate && ip -6 route | grep -q 'fe80::/64 dev lan0' && exit
  sleep 0.1
done
exit 1
"""
REACH = """
from ipaddress import ip_address
from tsstack.model.facts import Facts
from tsstack.switch import reach
from tsstack.switch.ways import Session
reach.logins = lambda: [Session(ip_address(each), 5, ip_address("192.168.15.1"), 22) for each in %s]
known = reach.Reach(Facts())("lan0", 4)
print(*(["anybody"] if known is None else known))
"""
HOLD = """
import fcntl, os, pathlib, struct, time
descriptor = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"tun7", 0x1001))
pathlib.Path("/run/held").touch()
time.sleep(60)
"""
ROUTES = """
import json
from tsstack.switch.routes import every_route
print(json.dumps([[str(network), links] for network, links in every_route()]))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.run("sh", "-ec", LINKS)
    private.run("sh", "-ec", UP)
    yield private
    private.close()


def switch(host: PrivateHost, text: str) -> subprocess.CompletedProcess[str]:
    host.write(FILE, text)
    return host.run("env", SESSION, "tsstack", "switch", "--no-prove", check=False)


def narrow(host: PrivateHost, sources: str, more: str = "") -> subprocess.CompletedProcess[str]:
    done = switch(host, WIDE)
    assert done.returncode == 0, done.stderr
    return switch(host, NARROW % sources + more)


@pytest.mark.parametrize("more", ["", WEB])
def test_an_admin_interface_that_gives_way_to_all_its_networks_is_told(host: PrivateHost, more: str) -> None:
    done = narrow(host, ALL, more)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "guard: " in line]
    assert len(told) == 2, done.stderr
    assert "guard: by lan0 who is not in 192.168.15.0/24 no longer comes in" in told[0]
    assert "guard: by lan0 who is not in fd00:9::/64, fe80::/64 no longer comes in" in told[1]
    assert all(line.endswith("(this may lock out an admin)") for line in told)
    again = switch(host, NARROW % ALL + more + "    cam: {sources: [203.0.113.77/32], tcp: [80]}\n")
    assert again.returncode == 0
    assert "guard: " not in again.stderr


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ("192.168.15.0/24, 'fd00:9::/64'", "fe80::"),
        ("192.168.15.0/25, 'fd00:9::/64', 'fe80::/10'", "192.168.15.129"),
        ("'fd00:9::/64', 'fe80::/10'", "192.168.15.2"),
        ("192.168.15.0/24, 'fe80::/10'", "fd00:9::2"),
    ],
)
def test_a_network_of_it_that_is_left_out_is_refused(host: PrivateHost, sources: str, said: str) -> None:
    refused = narrow(host, sources)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert f"lock out an admin: tcp/22 from {said}" in refused.stderr


def test_a_zone_that_takes_some_of_its_networks_in_the_same_change_is_refused(host: PrivateHost) -> None:
    """Of the interface nothing is the admins' any more: what the zone takes is no part of what is left."""
    refused = narrow(host, ALL, "    cam: {sources: [192.168.15.50/32], tcp: [80]}\n")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "lock out an admin: tcp/22 from 192.168.15.50 on lan0" in refused.stderr


BEFORE_NEXTHOPS_WERE_TOLD = "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode; "


@pytest.mark.parametrize(
    ("made", "unmade", "more", "said"),
    [
        (
            "ip route add default via 192.168.15.254 metric 9",
            "ip route del default metric 9",
            "",
            "198.51.100.1",
        ),
        ("ip route add default via 192.168.15.254 table 77", "ip route flush table 77", "", "198.51.100.1"),
        ("ip -6 route add default via fd00:9::fe", "ip -6 route del default", "", "198.51.100.1"),
        ("ip route add 128.0.0.0/1 dev lan0 table 77", "ip route flush table 77", "", "198.51.100.1"),
        (
            "ip route add default table 77 nexthop via 203.0.113.254 nexthop via 192.168.15.254",
            "ip route flush table 77",
            "",
            "198.51.100.1",
        ),
        (
            "ip nexthop add id 5 via 192.168.15.254 dev lan0; ip route add default nhid 5 metric 9",
            "ip route del default metric 9; ip nexthop del id 5",
            "",
            "198.51.100.1",
        ),
        (
            BEFORE_NEXTHOPS_WERE_TOLD
            + "ip nexthop add id 5 via 203.0.113.254 dev eth0; ip route add 10.0.0.0/8 nhid 5",
            "ip route del 10.0.0.0/8; ip nexthop del id 5; echo 1 > /proc/sys/net/ipv4/nexthop_compat_mode",
            "",
            "198.51.100.1",
        ),
        ("ip route add blackhole default metric 9", "ip route del blackhole default metric 9", "", ""),
        ("ip route add unreachable 10.0.0.0/8", "ip route del unreachable 10.0.0.0/8", "", ""),
        ("ip route add 10.7.0.0/16 via 192.168.15.254", "ip route del 10.7.0.0/16", "", "10.7.0.1 on lan0"),
        ("ip route add 10.7.0.0/16 via 192.168.15.254", "ip route del 10.7.0.0/16", ", 10.7.0.0/16", ""),
        (
            "ip route add 10.7.0.0/16 via 192.168.15.254 table 77",
            "ip route flush table 77",
            "",
            "198.51.100.1",
        ),
        (
            "ip route add 10.7.0.0/16 via 192.168.15.254 table 77",
            "ip route flush table 77",
            ", 10.0.0.0/8",
            "",
        ),
        ("ip route add 10.7.7.7 via 192.168.15.254", "ip route del 10.7.7.7", "", "198.51.100.1"),
        ("ip route add 192.168.15.53 dev lan0", "ip route del 192.168.15.53", "", ""),
        ("ip link set far0 down", "ip link set far0 up", "", "198.51.100.1"),
        ("ip addr del 192.168.15.1/24 dev lan0", "ip addr add 192.168.15.1/24 dev lan0", "", "198.51.100.1"),
        (
            "ip addr del 192.168.15.1/24 dev lan0; ip addr add 169.254.7.7/16 dev lan0",
            "ip addr del 169.254.7.7/16 dev lan0; ip addr add 192.168.15.1/24 dev lan0",
            ", 169.254.0.0/16",
            "198.51.100.1",
        ),
    ],
)
def test_what_else_the_routes_lead_to(
    host: PrivateHost, made: str, unmade: str, more: str, said: str
) -> None:
    done = switch(host, WIDE)
    assert done.returncode == 0, done.stderr
    host.run("sh", "-ec", made)
    try:
        done = switch(host, NARROW % (ALL + more))
    finally:
        host.run("sh", "-ec", unmade + UP)
    assert done.returncode == (4 if said else 0), done.stdout + done.stderr
    assert (
        f"lock out an admin: tcp/22 from {said}" if said else "guard: by lan0 who is not in"
    ) in done.stderr


def test_without_ipv6_nobody_comes_by_it(host: PrivateHost) -> None:
    off = "/proc/sys/net/ipv6/conf/lan0/disable_ipv6"
    host.run("sh", "-c", f"echo 1 > {off}")
    try:
        done = narrow(host, "192.168.15.0/24")
    finally:
        host.run("sh", "-c", f"echo 0 > {off}; ip addr add fd00:9::1/64 dev lan0 nodad" + UP)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "guard: " in line]
    assert len(told) == 1, done.stderr
    assert "by lan0 who is not in 192.168.15.0/24 no longer comes in" in told[0]


def test_a_tunnel_of_ipv4_alone_has_nobody_by_ipv6(host: PrivateHost) -> None:
    """As the kernel makes one of WireGuard: no link-local address, and none to come."""
    host.run("ip", "tuntap", "add", "tun7", "mode", "tun")
    try:
        host.run("sh", "-ec", "ip link set tun7 addrgenmode none; ip addr add 10.8.0.1/24 dev tun7")
        holding = host.popen(sys.executable, "-c", HOLD)
        host.run("sh", "-ec", "for at in $(seq 100); do [ -e /run/held ] && exit; sleep 0.1; done; exit 1")
        host.run("ip", "link", "set", "tun7", "up")
        done = switch(host, WIDE.replace("[lan0]", "[lan0, tun7]"))
        assert done.returncode == 0, done.stderr
        done = switch(host, WIDE.replace("[lan0]", "[lan0], sources: [10.8.0.0/24]"))
    finally:
        holding.kill()
        holding.communicate()
        host.run("ip", "link", "del", "tun7")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if "guard: " in line]
    assert len(told) == 1, done.stderr
    assert "by tun7 who is not in 10.8.0.0/24 no longer comes in" in told[0]


def test_whoever_is_here_from_beyond_by_another_router_is_not_left_out(host: PrivateHost) -> None:
    """Answers to 10.3.0.5 leave by eth0; what comes from there by lan0 was let in for its interface."""
    done = switch(host, WIDE)
    assert done.returncode == 0, done.stderr
    host.write(FILE, NARROW % ALL)
    known = host.run(sys.executable, "-c", REACH % "[]").stdout
    assert known.split() == ["192.168.15.0/24"]
    known = host.run(sys.executable, "-c", REACH % "['192.168.15.7']").stdout
    assert known.split() == ["192.168.15.0/24"]
    assert host.run(sys.executable, "-c", REACH % "['10.3.0.5']").stdout.strip() == "anybody"


def test_every_table_is_read(host: PrivateHost) -> None:
    """In several messages, too; what is for this host itself or for nobody leads nowhere."""
    many = [str(ipaddress.ip_network((0x14000000 + (at << 8), 24))) for at in range(3000)]
    host.write("/run/many", "".join(f"route add {each} dev lan0 table 77\n" for each in many))
    host.run("ip", "-batch", "/run/many")
    try:
        lines = host.run(sys.executable, "-c", ROUTES).stdout
    finally:
        host.run("ip", "route", "flush", "table", "77")
    found = {network: links for network, links in json.loads(lines)}
    assert set(many) < set(found)
    assert found["192.168.15.0/24"] == ["lan0"]
    assert found["fd00:9::/64"] == ["lan0"]
    assert found["0.0.0.0/0"] == ["eth0"]
    assert "192.168.15.1/32" not in found
