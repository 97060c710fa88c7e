"""The way out that the kernel has beside tailscaled's rules and table, on a network of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]
V4, V6 = "100.64.7.7", "fd7a:115c:a1e0::7"
ASK = """
import json
from tsstack.system.bypass import read_bypass
found = read_bypass(%r, wait=lambda _: None)
print(json.dumps([[each.version, each.interface, each.rule] for each in found]))
"""


class Net:
    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, words: str) -> None:
        subprocess.run(["ip", "-n", self.name, *words.split()], check=True, capture_output=True)

    def past(self, uid: int = 0, addresses: tuple[str, ...] = (V4, V6)) -> list[list[object]]:
        """As that user sees it."""
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-c", ASK % (addresses,)]
        as_user = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
        done = subprocess.run(
            [*argv[:4], *as_user, *argv[4:]],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found: list[list[object]] = json.loads(done.stdout)
        return found


@pytest.fixture
def net() -> Iterator[Net]:
    """A host with an uplink of both IP versions, and what tailscaled sets up for an exit node."""
    net = Net(f"tspast{os.getpid()}")
    subprocess.run(["ip", "netns", "add", net.name], check=True)
    try:
        for words in (
            "link add eth0 type bridge",
            "link set eth0 up",
            "addr add 10.1.1.2/24 dev eth0",
            "addr add fd01::2/64 dev eth0 nodad",
            "route add default via 10.1.1.1",
            "-6 route add default via fd01::1",
            "tuntap add tailscale0 mode tun",
            "link set tailscale0 up",
            f"addr add {V4}/32 dev tailscale0",
            f"addr add {V6}/128 dev tailscale0 nodad",
        ):
            net.ip(words)
        for version in (4, 6):
            net.ip(f"-{version} rule add pref 5210 fwmark 0x80000/0xff0000 lookup main")
            net.ip(f"-{version} rule add pref 5230 fwmark 0x80000/0xff0000 lookup default")
            net.ip(f"-{version} rule add pref 5250 fwmark 0x80000/0xff0000 type unreachable")
            net.ip(f"-{version} rule add pref 5270 lookup 52")
            net.ip(f"-{version} route add default dev tailscale0 table 52")
        yield net
    finally:
        subprocess.run(["ip", "netns", "del", net.name], check=True)


def test_all_is_well_also_with_a_lan_that_is_let_past(net: Net) -> None:
    assert net.past() == []
    for version, network in ((4, "192.0.2.0/24"), (6, "2001:db8::/64")):
        net.ip(f"-{version} route add throw {network} table 52")
        net.ip(f"-{version} route add {network} dev eth0")
    net.ip("rule add pref 5200 to 10.9.0.0/24 lookup main")
    net.ip("rule add pref 5201 fwmark 0x1 lookup main")
    net.ip("rule add pref 5202 from 10.1.1.2 lookup main")
    assert net.past() == []


@pytest.mark.parametrize("version", [4, 6])
def test_each_version_by_itself(net: Net, version: int) -> None:
    net.ip(f"-{version} route flush table 52")
    assert net.past() == [[version, "eth0", None]]
    assert net.past(uid=65534) == [[version, "eth0", None]]
    net.ip(f"-{version} route add default dev tailscale0 table 52")
    net.ip(f"-{version} rule add pref 5200 lookup main")
    net.ip(f"-{version} rule add pref 5199 fwmark 0x1 lookup main")
    assert net.past() == [[version, "eth0", 5200]]
    net.ip(f"-{version} rule del pref 5200")
    net.ip(f"-{version} rule del pref 5270")
    assert net.past() == [[version, "eth0", None]]


def test_the_tunnel_of_another_program(net: Net) -> None:
    """As wg-quick's rules, which the kernel puts before those that are there."""
    net.ip("link add wg0 type bridge")
    net.ip("link set wg0 up")
    net.ip("route add default dev wg0 table 51820")
    net.ip("rule add not fwmark 51820 lookup 51820")
    net.ip("rule add lookup main suppress_prefixlength 0")
    (found,) = net.past()
    assert found[:2] == [4, "wg0"]
    assert isinstance(found[2], int)
    assert found[2] < 5270


def test_an_interface_that_was_set_down_and_up(net: Net) -> None:
    net.ip("link set tailscale0 down")
    assert net.past() == [[4, "eth0", None], [6, "eth0", None]]
    net.ip("link set tailscale0 up")
    assert net.past() == [[4, "eth0", None], [6, "eth0", None]]


def test_a_user_of_another_way(net: Net) -> None:
    net.ip("rule add pref 5100 uidrange 65534-65534 lookup main")
    assert net.past() == []
    assert net.past(uid=65534) == [[4, "eth0", 5100]]


def test_where_nothing_leaves_nothing_goes_past(net: Net) -> None:
    net.ip("route del default")
    net.ip("-6 route del default")
    for version in (4, 6):
        net.ip(f"-{version} route flush table 52")
    assert net.past() == []


def test_a_tailnet_without_an_interface_here_is_not_judged(net: Net) -> None:
    net.ip("link del tailscale0")
    assert net.past() == []


def test_a_rule_that_keeps_the_lan_local_is_not_at_fault(net: Net) -> None:
    """It takes no default route of `main`; two halves of one (OpenVPN's redirect-gateway def1) it does."""
    net.ip("rule add pref 5200 lookup main suppress_prefixlength 0")
    assert net.past() == []
    net.ip("route flush table 52")
    assert net.past() == [[4, "eth0", None]]
    net.ip("route add default dev tailscale0 table 52")
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        net.ip(f"route add {half} via 10.1.1.3")
    assert net.past() == [[4, "eth0", 5200]]


def test_a_tailnet_of_ipv4_alone_on_an_interface_of_another_name(net: Net) -> None:
    """tailscaled --tun=ts1: by IPv6 the kernel takes an address of the uplink for what leaves by it."""
    net.ip("link set tailscale0 down")
    net.ip("link set tailscale0 name ts1")
    net.ip("link set ts1 up")
    for version in (4, 6):
        net.ip(f"-{version} route add default dev ts1 table 52")
    assert net.past(addresses=(V4,)) == []
    net.ip("route flush table 52")
    assert net.past(addresses=(V4,)) == [[4, "eth0", None]]
