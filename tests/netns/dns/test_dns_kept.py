"""Split DNS that another program clears is set again, by the units that a boot has."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from systemd_root import SystemdHost, systemd_host

__all__ = ["systemd_host"]

pytestmark = pytest.mark.netns

TSSTACK = str(Path(sys.executable).with_name("tsstack"))
TS_STATUS = str(Path(sys.executable).with_name("ts-status"))
FILE = """
host: {name: h, tailnet: tail.test}
dns: {split: {corp.test: 100.100.100.100}}
"""


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:
    """A host with an interface of tailscaled's name, its split DNS, and the units."""
    new_interface(systemd_host)
    systemd_host.run("mkdir", "-p", "/etc/tsstack")
    systemd_host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE)
    systemd_host.run(TSSTACK, "switch")
    systemd_host.run(TSSTACK, "units", "install")
    assert "~corp.test" in domains(systemd_host)
    return systemd_host


def new_interface(host: SystemdHost) -> None:
    host.run("ip", "tuntap", "add", "tailscale0", "mode", "tun")
    host.run("ip", "link", "set", "tailscale0", "up")


def domains(host: SystemdHost) -> str:
    return host.run("resolvectl", "domain", "tailscale0", check=False).stdout


def await_domain(host: SystemdHost, domain: str) -> None:
    until = time.monotonic() + 20
    while domain not in domains(host):
        assert time.monotonic() < until, host.run("journalctl", "-u", "tsstack-dns*", "--no-pager").stdout
        time.sleep(0.1)


def test_what_tailscaled_clears_is_set_again_as_often_as_it_does(host: SystemdHost) -> None:
    for _ in range(3):
        host.run("resolvectl", "domain", "tailscale0", "")
        host.run("resolvectl", "dns", "tailscale0", "")
        await_domain(host, "~corp.test")
        assert "100.100.100.100" in host.run("resolvectl", "dns", "tailscale0").stdout
        time.sleep(1)
    failed = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "tsstack*").stdout
    assert failed == ""


def test_what_somebody_else_sets_stays(host: SystemdHost) -> None:
    host.run("resolvectl", "domain", "tailscale0", "~elsewhere.test")
    host.run("systemctl", "start", "tsstack-dns.service")
    assert "~elsewhere.test" in domains(host)
    assert "~corp.test" not in domains(host)


def test_ts_status_says_what_an_interface_has_lost(host: SystemdHost) -> None:
    def drift() -> list[str]:
        shown = json.loads(host.run(TS_STATUS, "--json", check=False).stdout)
        return shown["generation"]["drift"]

    assert drift() == []
    host.run("systemctl", "stop", "tsstack-dns.path")
    host.run("resolvectl", "domain", "tailscale0", "~elsewhere.test")
    assert drift() == ["DNS of tailscale0 no longer has ~corp.test"]
    host.run("resolvectl", "revert", "tailscale0")
    assert drift() == ["DNS of tailscale0 no longer has 100.100.100.100"]
    host.run("ip", "link", "delete", "tailscale0")
    assert drift() == []


def test_an_interface_that_went_is_no_fault_and_has_its_dns_when_it_is_back(host: SystemdHost) -> None:
    host.run("ip", "link", "delete", "tailscale0")
    assert "no interface" in host.run(TSSTACK, "recover", "--dns").stdout
    new_interface(host)
    # udev tells systemd of it on a whole machine (systemd.device(5)); here nobody does.
    host.run("systemctl", "start", "tsstack-dns.service")
    await_domain(host, "~corp.test")


def test_a_look_needs_no_lock(host: SystemdHost) -> None:
    """Each switch makes resolved write, and so starts a look; no command of the operator may meet it."""
    holder = ["flock", "/var/lib/tsstack/lock", "timeout", "5"]
    assert "no interface" in host.run(*holder, TSSTACK, "recover", "--dns").stdout
