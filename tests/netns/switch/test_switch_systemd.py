"""A switch on a host with a real systemd: nginx by its unit, the dead man as a transient unit, boot units."""

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
FIRST = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  names: path
  listen: [127.0.0.1]
  http_port: 8088
  services:
    web: {upstream: 8000}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [8088]}
    internal: {interfaces: [tailscale0]}
"""
SECOND = FIRST.replace("web:", "shop:").replace("tcp: [8088]", "tcp: [8088, 9000]")
FILE = "/etc/tsstack/tsstack.yaml"


def write(host: SystemdHost, text: str) -> None:
    host.run("mkdir", "-p", "/etc/tsstack")
    host.run("tee", FILE, stdin=text)


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:
    systemd_host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
    systemd_host.run("systemctl", "unmask", "nginx")
    write(systemd_host, FIRST)
    systemd_host.run(TSSTACK, "switch")
    return systemd_host


def install_units(host: SystemdHost) -> None:
    if Path(TSSTACK).is_relative_to("/tmp"):  # a checkout that the unit's own /tmp would hide
        folder = "/etc/systemd/system/tsstack-boot.service.d"
        host.run("mkdir", "-p", folder)
        host.run("tee", f"{folder}/seen.conf", stdin="[Service]\nPrivateTmp=no\n")
    host.run(TSSTACK, "units", "install")


def picture(host: SystemdHost) -> list[str]:
    return [
        host.run("nft", "-s", "list", "table", "inet", "tsstack").stdout,
        host.run("readlink", "/var/lib/tsstack/current", "/var/lib/tsstack/boot").stdout,
        host.run("cat", "/etc/nginx/conf.d/tsstack.conf", check=False).stdout,
    ]


def status_of(host: SystemdHost, path: str) -> str:
    url = f"http://127.0.0.1:8088{path}"
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: one.tail.test", url]
    return host.run(*words).stdout


def test_nginx_is_its_unit_and_the_dead_man_is_one(host: SystemdHost) -> None:
    assert host.run("systemctl", "is-active", "nginx").stdout.strip() == "active"
    assert (status_of(host, "/web/"), status_of(host, "/shop/")) == ("502", "404")
    before = picture(host)
    write(host, SECOND)
    # As on NixOS: the manager's own path leads to no engine.
    host.run("systemctl", "set-environment", "PATH=/nowhere")
    said = json.loads(host.run(TSSTACK, "--json", "switch", "--confirm", "3s").stdout)
    assert said["awaits_confirmation"]
    assert "tsstack-deadman-" in host.run("systemctl", "list-units", "--plain", "tsstack-deadman-*").stdout
    assert (status_of(host, "/web/"), status_of(host, "/shop/")) == ("404", "502")
    deadline = time.monotonic() + 5
    while host.run("test", "-e", "/var/lib/tsstack/pending.json", check=False).returncode == 0:
        assert time.monotonic() < deadline, host.run("cat", "/run/tsstack/deadman.log", check=False).stdout
        time.sleep(0.1)
    assert picture(host) == before
    assert (status_of(host, "/web/"), status_of(host, "/shop/")) == ("502", "404")


def test_a_confirmation_sends_the_dead_man_home(host: SystemdHost) -> None:
    write(host, SECOND)
    host.run(TSSTACK, "switch", "--confirm", "60s")
    host.run(TSSTACK, "confirm")
    deadline = time.monotonic() + 5
    while "tsstack-deadman-" in host.run("systemctl", "list-units", "--plain", "tsstack-deadman-*").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status_of(host, "/shop/") == "502"


def test_the_boot_units_bring_the_host_up(host: SystemdHost) -> None:
    """After a boot there is no table and no /run: first the firewall stands, then all of it."""
    before = picture(host)
    install_units(host)
    for unit in ("tsstack-early.service", "tsstack-boot.service", "tsstack-renew.timer"):
        host.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}")
        assert host.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    host.run("nft", "delete", "table", "inet", "tsstack")
    host.run("systemctl", "stop", "nginx")
    host.run("rm", "-rf", "/run/tsstack")
    host.run("systemctl", "start", "tsstack-early.service")
    assert picture(host) == [*before[:2], ""]
    assert host.run("systemctl", "is-active", "nginx", check=False).stdout.strip() == "inactive"
    host.run("systemctl", "start", "tsstack-boot.service")
    assert status_of(host, "/web/") == "502"
    assert picture(host) == before
    assert "nothing to do" in host.run(TSSTACK, "switch").stdout


def test_an_nginx_of_our_own_comes_up_at_boot(systemd_host: SystemdHost) -> None:
    """Where no main file of the distribution takes ours in, as on NixOS: there is nothing in /run then."""
    systemd_host.run("mv", "/etc/nginx/nginx.conf", "/etc/nginx/unused")
    write(systemd_host, FIRST)
    systemd_host.run(TSSTACK, "switch")
    install_units(systemd_host)
    owner = systemd_host.run("stat", "-c", "%U", "/run/tsstack/nginx-body").stdout
    for _ in range(2):
        systemd_host.run("systemctl", "stop", "tsstack-nginx")
        systemd_host.run("rm", "-rf", "/run/tsstack")
        systemd_host.run("systemctl", "restart", "tsstack-boot.service")
        assert status_of(systemd_host, "/web/") == "502"
        assert systemd_host.run("stat", "-c", "%U", "/run/tsstack/nginx-body").stdout == owner != "root\n"
    systemd_host.run("systemctl", "restart", "tsstack-boot.service")
    assert "nothing to do" in systemd_host.run(TSSTACK, "switch").stdout


def test_the_hosts_own_sites_wait_for_no_address_of_ours(host: SystemdHost) -> None:
    """tailscaled may be late at a boot, or not come up at all; and nginx is theirs when tsstack goes."""
    # On all addresses of our very port too, as a distribution's default site is: that socket is nginx's own.
    own = "server { listen 127.0.0.1:8099; listen 8088 default_server; return 200 mine; }\n"
    host.run("tee", "/etc/nginx/conf.d/own.conf", stdin=own)
    host.run("ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
    host.run(TSSTACK, "rollback", "--to", "0")
    host.run("systemctl", "enable", "--now", "nginx")
    write(host, FIRST.replace("127.0.0.1", "192.0.2.7"))
    host.run(TSSTACK, "switch")
    install_units(host)
    ours = "/etc/nginx/conf.d/tsstack.conf"
    # A boot without the address.
    host.run("systemctl", "stop", "nginx")
    host.run("rm", "-rf", "/run/tsstack")
    host.run("ip", "addr", "del", "192.0.2.7/32", "dev", "lo")
    host.run("systemctl", "start", "tsstack-early")
    host.run("systemctl", "start", "nginx")
    assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"
    assert host.run("systemctl", "start", "tsstack-boot", check=False).returncode != 0
    host.run("systemctl", "restart", "nginx")
    assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"
    # It comes, and the unit is tried again.
    host.run("ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
    done = host.run("systemctl", "restart", "tsstack-boot", check=False)
    assert done.returncode == 0, host.run("journalctl", "-u", "tsstack-boot", "-n", "20").stdout
    asked = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: one.tail.test")
    assert host.run(*asked, "http://192.0.2.7:8088/web/").stdout == "502"
    # `tsstack recover --early` by hand does not take it away from those who use it.
    host.run("systemctl", "restart", "tsstack-early")
    host.run("test", "-L", ours)
    host.run(TSSTACK, "rollback", "--to", "0")
    assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"
    assert host.run("test", "-L", ours, check=False).returncode == 1


def test_whoever_holds_our_port_at_a_boot_ends_no_site_of_the_hosts_own(host: SystemdHost) -> None:
    """Behind the boot unit's walls nobody's sockets may be looked at, so nginx itself finds it taken."""
    own = "server { listen 127.0.0.1:8099; return 200 mine; }\n"
    host.run("tee", "/etc/nginx/conf.d/own.conf", stdin=own)
    install_units(host)
    host.run("systemctl", "stop", "nginx")
    host.run("rm", "-rf", "/run/tsstack")
    listens = "import socket, time; it = socket.create_server(('127.0.0.1', 8088)); time.sleep(3600)"
    host.run("systemd-run", "--unit=holder", sys.executable, "-c", listens)
    host.run("systemctl", "start", "tsstack-early")
    host.run("systemctl", "start", "nginx")
    masters = []
    for _ in range(3):  # by hand, and as the unit is tried again
        assert host.run("systemctl", "restart", "tsstack-boot", check=False).returncode != 0
        assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"
        assert "8088" in host.run("journalctl", "-u", "tsstack-boot", "-n", "8").stdout
        masters.append(host.run("cat", "/run/nginx.pid").stdout)
    assert masters[0] == masters[1] == masters[2], "known to be taken, it ends nothing a second time"
    host.run("systemctl", "restart", "nginx")
    host.run("systemctl", "stop", "holder")
    host.run("systemctl", "restart", "tsstack-boot")
    assert status_of(host, "/web/") == "502"
    assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"


def test_a_renewal_while_nginx_runs_without_us_is_taken_in_with_the_services(host: SystemdHost) -> None:
    write(host, FIRST.replace("tls: off", "tls: local-ca").replace("http_port: 8088", "https_port: 8443"))
    host.run(TSSTACK, "switch")
    install_units(host)
    host.run("systemctl", "stop", "nginx")
    host.run("rm", "-rf", "/run/tsstack")
    host.run("systemctl", "start", "tsstack-early")
    host.run("systemctl", "start", "nginx")
    said = host.run(TSSTACK, "certificates", "renew", "--force")
    assert "takes the certificates with them" in said.stdout + said.stderr
    host.run("systemctl", "start", "tsstack-boot")
    asked = (
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--resolve",
        "one.tail.test:8443:127.0.0.1",
    )
    assert host.run(*asked, "https://one.tail.test:8443/web/").stdout == "502"


def test_who_takes_us_away_has_the_nginx_back_that_failed_with_us(host: SystemdHost) -> None:
    own = "server { listen 127.0.0.1:8099; return 200 mine; }\n"
    host.run("tee", "/etc/nginx/conf.d/own.conf", stdin=own)
    host.run(TSSTACK, "rollback", "--to", "0")
    host.run("systemctl", "enable", "--now", "nginx")
    host.run("ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
    write(host, FIRST.replace("127.0.0.1", "192.0.2.7"))
    host.run(TSSTACK, "switch")
    host.run("ip", "addr", "del", "192.0.2.7/32", "dev", "lo")
    assert host.run("systemctl", "restart", "nginx", check=False).returncode != 0
    host.run(TSSTACK, "rollback", "--to", "0")
    assert host.run("curl", "-s", "http://127.0.0.1:8099/").stdout == "mine"


def test_rules_of_the_distribution_that_begin_with_a_flush_leave_ours(host: SystemdHost) -> None:
    """Both belong to one boot, and theirs take their time: ours wait until they are done."""
    host.run(TSSTACK, "units", "install")
    host.run("systemctl", "unmask", "nftables")
    assert "flush ruleset" in host.run("cat", "/etc/nftables.conf").stdout
    put = {
        "nftables.service.d/slow.conf": "[Service]\nExecStartPre=/bin/sleep 1\n",
        "both.target": "[Unit]\nWants=nftables.service tsstack-early.service\n"
        "After=nftables.service tsstack-early.service\n",
    }
    for name, text in put.items():
        host.run("install", "-D", "/dev/stdin", f"/etc/systemd/system/{name}", stdin=text)
    host.run("systemctl", "daemon-reload")
    host.run("nft", "delete", "table", "inet", "tsstack")
    host.run("systemctl", "start", "both.target")
    tables = host.run("nft", "list", "tables").stdout
    assert "table inet filter" in tables, "theirs, which Debian ships"
    assert "table inet tsstack" in tables

    def moment_us(unit: str, name: str) -> int:
        words = ("systemctl", "show", "--value", "-p", f"ExecMain{name}TimestampMonotonic", unit)
        return int(host.run(*words).stdout)

    # On a busy machine ours may come late by chance.
    assert 0 < moment_us("nftables", "Exit") <= moment_us("tsstack-early", "Start")


def test_a_switch_says_when_no_boot_would_bring_it_up(host: SystemdHost) -> None:
    write(host, SECOND)
    assert "tsstack units install" in host.run(TSSTACK, "switch").stderr
    assert host.run(TSSTACK, "units", "status", check=False).returncode == 1
    assert "a boot would not" in host.run(TSSTACK, "doctor", check=False).stdout
    shown = host.run(TSSTACK, "units", "install").stdout
    assert "tsstack-boot.service" in shown
    assert host.run(TSSTACK, "units", "status").returncode == 0
    write(host, FIRST)
    assert "tsstack units install" not in host.run(TSSTACK, "switch").stderr
    assert "a boot brings the host up" in host.run(TSSTACK, "doctor", check=False).stdout


def test_units_go_without_a_trace(host: SystemdHost) -> None:
    folders = ("find", "/etc/systemd/system", "-name", "tsstack*")
    host.run(TSSTACK, "units", "install")
    assert "tsstack-boot.service" in host.run(*folders).stdout
    assert "tsstack-renew.timer" in host.run("systemctl", "list-timers", "--all").stdout
    host.run(TSSTACK, "units", "remove")
    assert host.run(*folders).stdout == ""
    assert "tsstack" not in host.run("systemctl", "list-timers", "--all").stdout
    assert picture(host)[0]
