"""The uplinks, from what the kernel writes (proc_net(5), RFC 2863's operstates)."""

from __future__ import annotations

import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from status_bed import a_status

from tsstack.status.judge import judge
from tsstack.status.network import _ipv4_routes, leading_out, read_forwarding_off, read_uplinks

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t014D4D0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LAN = "eth1\t000FA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
NOWHERE = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"
DEFAULT6 = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000005 00000000 00000003     wan6\n"


def seen(tmp_path: Path, routes: str, routes6: str | None, **states: str) -> object:
    (tmp_path / "route").write_text(HEAD + routes)
    if routes6 is not None:
        (tmp_path / "ipv6_route").write_text(routes6)
    for name, state in states.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(f"{state}\n")
    return read_uplinks(str(tmp_path), str(tmp_path))


@pytest.mark.parametrize(
    ("state", "up"), [("up", True), ("unknown", True), ("down", False), ("dormant", True)]
)
def test_the_interface_of_a_default_route_and_its_link(tmp_path: Path, state: str, up: bool) -> None:
    assert seen(tmp_path, LAN + DEFAULT, NOWHERE, eth0=state) == [{"interface": "eth0", "up": up}]


def test_one_of_ipv6_alone_counts(tmp_path: Path) -> None:
    assert seen(tmp_path, LAN, NOWHERE + DEFAULT6, wan6="up") == [{"interface": "wan6", "up": True}]


def test_the_way_into_the_tailnet_is_no_way_out(tmp_path: Path) -> None:
    """The table of an exit node is among the IPv6 routes."""
    exit_route = DEFAULT6.replace("wan6", "tailscale0")
    assert seen(tmp_path, DEFAULT, exit_route, eth0="down") == [{"interface": "eth0", "up": False}]


def test_a_route_that_refuses_leads_nowhere(tmp_path: Path) -> None:
    assert seen(tmp_path, LAN, NOWHERE) == []


def test_without_ipv6_and_without_proc(tmp_path: Path) -> None:
    assert seen(tmp_path, DEFAULT, None) == [{"interface": "eth0", "up": None}]
    assert read_uplinks(str(tmp_path / "none")) is None


def a_route(name: str, network: str, metric: int = 0, flags: int = 1) -> str:
    """As the kernel writes it on a machine of this byte order."""
    net = IPv4Network(network)
    to, mask = (int.from_bytes(each.packed, sys.byteorder) for each in (net.network_address, net.netmask))
    return f"{name}\t{to:08X}\t00000000\t{flags:04X}\t0\t0\t{metric}\t{mask:08X}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("192.168.15.0/24", ["eth1"]),
        ("192.168.15.128/25", ["eth1"]),
        ("10.0.0.0/8", ["eth2", "eth3"]),  # parts of it, by two ways; the rest of it leads nowhere of ours
        ("10.2.0.0/16", ["eth3"]),
        ("172.16.0.0/12", ["wlan0"]),  # only the default route leads there, and the best of two
        ("0.0.0.0/0", ["wlan0"]),
        ("198.51.100.0/24", []),  # refused
        ("100.64.0.0/10", ["wlan0"]),
    ],
)
def test_the_interfaces_that_a_network_is_reached_by(tmp_path: Path, network: str, expected: object) -> None:
    lines = [
        DEFAULT.replace("eth0\t", "wwan0\t").replace("0\t0\t0\t00000000", "0\t0\t600\t00000000"),
        a_route("wlan0", "0.0.0.0/0", 100, 3),
        a_route("eth1", "192.168.15.0/24"),
        a_route("eth2", "10.1.0.0/24"),
        a_route("eth3", "10.2.0.0/15", flags=3),
        a_route("eth1", "198.51.0.0/16"),
        a_route("*", "198.51.100.0/24", flags=0x201),
        a_route("tailscale0", "100.64.0.0/10"),
    ]
    (tmp_path / "route").write_text(HEAD + "".join(lines))
    assert leading_out(network, [*_ipv4_routes(str(tmp_path / "route"))]) == expected


def test_forwarding_that_an_interface_alone_has_off(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(HEAD + DEFAULT + a_route("eth1.5", "192.168.15.0/24"))

    def off(*names: str, offered: tuple[str, ...] = ("192.168.15.0/24",)) -> list[str]:
        for name in ("all", "tailscale0", "eth0", "eth1.5"):
            (tmp_path / "conf" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "conf" / name / "forwarding").write_text("0\n" if name in names else "1\n")
        return read_forwarding_off(offered, proc=str(tmp_path), conf=str(tmp_path / "conf"))

    assert off() == []
    assert off("eth0") == []
    assert off("eth0", offered=("192.168.15.0/24", "0.0.0.0/0")) == ["eth0"]
    assert off("eth1.5", "tailscale0") == ["tailscale0", "eth1.5"]
    assert off("eth1.5", "tailscale0", offered=()) == []
    assert off("all", "eth1.5", "tailscale0", "eth0") == []  # that is the one switch
    (tmp_path / "conf" / "tailscale0" / "forwarding").unlink()
    assert read_forwarding_off(["0.0.0.0/0"], proc=str(tmp_path), conf=str(tmp_path / "conf")) == []
    assert read_forwarding_off(["0.0.0.0/0"], proc="/none", conf=str(tmp_path / "conf")) == []


@pytest.mark.parametrize(
    ("uplinks", "said"),
    [
        ([], "no default route: nothing beyond this host's own networks is reached"),
        ([{"interface": "eth0", "up": False}], "eth0 has no link"),
        ([{"interface": "eth0", "up": False}, {"interface": "wwan0", "up": True}], ""),
        ([{"interface": "eth0", "up": None}], ""),
        (None, ""),
    ],
)
def test_a_host_without_a_way_out_is_told(uplinks: object, said: str) -> None:
    status = a_status(uplinks=uplinks, tailnet={"online": False})
    found = [each["message"] for each in judge(status) if each["code"] == "TS714"]
    assert found == ([said] if said else [])


@pytest.mark.parametrize("online", [True, None])
def test_who_is_heard_by_the_control_server_has_a_way_out(online: bool | None) -> None:
    """By another table and a rule, say; and a host without a tailnet may well need none."""
    status = a_status(uplinks=[], tailnet={"online": online})
    assert "TS714" not in {each["code"] for each in judge(status)}
