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


def clear(host: SystemdHost) -> None:
    """As tailscaled does it. Not while the service runs, as the path unit sees nothing then."""
    until = time.monotonic() + 20
    while host.run("systemctl", "is-active", "tsstack-dns.service", check=False).stdout.strip() != "inactive":
        assert time.monotonic() < until
        time.sleep(0.05)
    host.run("resolvectl", "revert", "tailscale0")


def await_domain(host: SystemdHost, domain: str) -> None:
    until = time.monotonic() + 20
    while domain not in domains(host):
        assert time.monotonic() < until, host.run("journalctl", "-u", "tsstack-dns*", "--no-pager").stdout
        time.sleep(0.1)


def test_what_is_cleared_several_times_in_a_row_is_set_again(host: SystemdHost) -> None:
    """tailscaled writes its empty settings more than once when it starts."""
    for pause_s in (0.05, 0.2, 0.3):
        host.run("resolvectl", "revert", "tailscale0")
        time.sleep(pause_s)
    until = time.monotonic() + 20
    while "100.100.100.100" not in host.run("resolvectl", "dns", "tailscale0").stdout:
        assert time.monotonic() < until
        time.sleep(0.1)
    await_domain(host, "~corp.test")
    failed = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "tsstack*").stdout
    assert failed == ""


@pytest.mark.parametrize("what", ["dns", "domain"])
def test_half_of_it_is_not_enough(host: SystemdHost, what: str) -> None:
    """Whoever clears both came between our two calls once: half stayed, and was taken for somebody's own."""
    host.run("resolvectl", what, "tailscale0", "")
    until = time.monotonic() + 20
    while not {"100.100.100.100", "~corp.test"} <= set(
        (host.run("resolvectl", "dns", "tailscale0").stdout + domains(host)).split()
    ):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_one_link_that_is_away_or_anothers_keeps_no_other_from_its_dns(host: SystemdHost) -> None:
    """And none is chosen anew: with its link away a server is reached by another one, which gets nothing."""
    for link, net in (("corp0", "192.0.2"), ("up0", "198.51.100")):
        host.run("ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}-far")
        host.run("ip", "addr", "add", f"{net}.1/24", "dev", link)
        host.run("ip", "link", "set", link, "up")
    host.run("ip", "route", "add", "default", "dev", "up0")
    split = "{corp.test: 100.100.100.100, lab.test: 192.0.2.53}"
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE.replace("{corp.test: 100.100.100.100}", split))
    host.run(TSSTACK, "switch")
    host.run("ip", "link", "delete", "corp0")
    time.sleep(0.5)
    clear(host)
    await_domain(host, "~corp.test")
    assert "lab.test" not in host.run("resolvectl", "domain", "up0").stdout
    host.run("ip", "link", "add", "corp0", "type", "veth", "peer", "name", "corp0-far2")
    host.run("systemctl", "start", "tsstack-dns.service")
    assert "~lab.test" in host.run("resolvectl", "domain", "corp0").stdout
    host.run("resolvectl", "domain", "corp0", "~elsewhere.test")
    clear(host)
    await_domain(host, "~corp.test")
    assert "~elsewhere.test" in host.run("resolvectl", "domain", "corp0").stdout


def test_it_goes_on_watching_however_often_it_is_called(host: SystemdHost) -> None:
    """systemd stops watching for good what starts five times in ten seconds, if it is not told otherwise."""
    for _ in range(8):
        clear(host)
        await_domain(host, "~corp.test")
    assert host.run("systemctl", "is-active", "tsstack-dns.path").stdout.strip() == "active"
    clear(host)
    await_domain(host, "~corp.test")


def test_a_missing_unit_is_told(host: SystemdHost) -> None:
    assert "tsstack-dns" not in host.run(TSSTACK, "doctor", check=False).stdout
    host.run("systemctl", "disable", "tsstack-dns.path")
    assert "tsstack-dns.path not enabled" in host.run(TSSTACK, "doctor", check=False).stdout


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
    # resolved shows its folder to root alone: to others nothing is known to be lost.
    script = (
        "import os; from tsstack.status.drift import read_dns_drift\n"
        "os.setgroups([]); os.setuid(65534); print(read_dns_drift('/var/lib/tsstack'))"
    )
    assert host.python(script).stdout.strip() == "[]"
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
