"""What is no longer as the live generation says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tsstack.status.drift import read_drift

WANTED = {
    "AdvertiseRoutes": ["192.168.15.0/24", "10.0.0.0/8"],
    "CorpDNS": True,
    "ExitNodeID": "",
    "Hostname": "one",
    "OperatorUser": "",
}


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    for name, value in {
        "tailscale/prefs.json": {"prefs": WANTED},
        "kernel/sysctl.json": {
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.eth0/1.rp_filter": "2 2",
            "a.bbr": "bbr",
        },
        "kernel/origins.json": {"net.ipv4.ip_forward": "tailscale.advertise", "a.bbr": "kernel.profile"},
    }.items():
        path = tmp_path / "generation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    for name, text in {
        "net/ipv4/ip_forward": "1\n",
        "net/ipv4/conf/eth0.1/rp_filter": "2\t2\n",
        "a/bbr": "cubic\n",
    }.items():
        path = tmp_path / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "generation"


def drift(generation: Path, *withdrawn: str, **changed: Any) -> list[str]:
    live = {**WANTED, "OperatorUser": None, "ExitNodeID": "n7", **changed}
    return read_drift(str(generation), live, withdrawn, proc=str(generation.parent / "proc"))


def test_where_nothing_drifted_nothing_is_said(generation: Path) -> None:
    assert drift(generation, AdvertiseRoutes=["10.0.0.0/8", "192.168.15.0/24"]) == []


def test_a_route_that_the_monitor_took_back_is_no_drift(generation: Path) -> None:
    assert drift(generation, "10.0.0.0/8", AdvertiseRoutes=["192.168.15.0/24"]) == []


def test_what_somebody_changed_is_said(generation: Path) -> None:
    (generation.parent / "proc" / "net" / "ipv4" / "ip_forward").write_text("0\n")
    assert drift(generation, CorpDNS=False, AdvertiseRoutes=None) == [
        "tailscaled's AdvertiseRoutes is none, not 192.168.15.0/24, 10.0.0.0/8",
        "tailscaled's CorpDNS is False, not True",
        "net.ipv4.ip_forward is 0, not 1",
    ]


def test_what_cannot_be_read_is_no_drift(generation: Path, tmp_path: Path) -> None:
    (generation / "kernel" / "sysctl.json").write_text("[")
    assert drift(generation) == []
    assert read_drift(str(tmp_path / "none"), {}, ()) == []
    assert read_drift(str(generation), None, (), proc="/nonexistent") == []


@pytest.mark.parametrize(
    ("origin", "live", "said"),
    [
        ("tailscale.advertise", "0", []),  # networkd's, which listens to routers itself
        ("tailscale.advertise", "1", ["net.ipv6.conf.eth0.accept_ra is 1, not 2"]),
        ("kernel.sysctl.net.ipv6.conf.eth0.accept_ra", "0", ["net.ipv6.conf.eth0.accept_ra is 0, not 2"]),
    ],
)
def test_an_interface_that_hears_no_routers_is_left_so(
    tmp_path: Path, origin: str, live: str, said: list[str]
) -> None:
    name = "net.ipv6.conf.eth0.accept_ra"
    for path, text in {
        "g/kernel/sysctl.json": json.dumps({name: "2"}),
        "g/kernel/origins.json": json.dumps({name: origin}),
        f"proc/{name.replace('.', '/')}": f"{live}\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert read_drift(str(tmp_path / "g"), None, (), proc=str(tmp_path / "proc")) == said
    (tmp_path / "kernel-before.json").write_text(json.dumps({"sysctl": {name: "1"}}))
    touched = [f"{name} is {live}, not 2"]
    assert read_drift(str(tmp_path / "g"), None, (), proc=str(tmp_path / "proc")) == touched


def test_a_node_that_has_the_machine_s_name_needs_no_pref(
    generation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", type("Uname", (), {"nodename": "one.lan"}))
    assert drift(generation, "10.0.0.0/8", AdvertiseRoutes=["192.168.15.0/24"], Hostname="") == []
    monkeypatch.setattr("os.uname", type("Uname", (), {"nodename": "two"}))
    assert drift(generation, "10.0.0.0/8", AdvertiseRoutes=["192.168.15.0/24"], Hostname="") == [
        "tailscaled's Hostname is none, not one"
    ]
