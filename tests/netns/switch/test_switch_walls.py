"""The dead man behind his walls, under a real systemd: what he undoes there, and when they are in his way."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from systemd_root import SystemdHost, systemd_host

import tsstack

__all__ = ["systemd_host"]

pytestmark = pytest.mark.netns

TSSTACK = str(Path(sys.executable).with_name("tsstack"))
FILE = "/etc/tsstack/tsstack.yaml"
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
"""
SECOND = (
    FIRST.replace("web:", "shop:").replace("tcp: [8088]", "tcp: [8088, 9000]")
    + """
kernel: {sysctl: {net.ipv4.ip_forward: 1, net.ipv4.conf.all.rp_filter: 2}}
bandwidth: {eth0: {egress: 50mbit, ingress: 40mbit}}
dns: {split: {corp.example: [192.0.2.2]}}
"""
)
# A host behind eth0, from which a connection comes that the second file alone lets in.
FAR = """
ip netns add far
ip link add eth0 type veth peer name far0 netns far
ip addr add 192.0.2.1/24 dev eth0 && ip link set eth0 up
ip -n far addr add 192.0.2.2/24 dev far0 && ip -n far link set far0 up
"""
SERVER = """
import socket
server = socket.create_server(("192.0.2.1", 9000))
server.accept()[0].recv(1)
"""
CLIENT = """
import socket, time
kept = socket.create_connection(("192.0.2.1", 9000), timeout=5)
time.sleep(60)
"""


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:
    systemd_host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
    systemd_host.run("systemctl", "unmask", "nginx")
    systemd_host.run("sh", "-ec", FAR)
    systemd_host.run("mkdir", "-p", "/etc/tsstack", "/data/logs")
    write(systemd_host, FIRST)
    systemd_host.run(TSSTACK, "switch")
    return systemd_host


def write(host: SystemdHost, text: str) -> None:
    host.run("tee", FILE, stdin=text)


def picture(host: SystemdHost) -> dict[str, str]:
    """All that the second file changes, as the machine itself says it."""
    looks = {
        "rules": "nft -s list table inet tsstack",
        "links": "readlink /var/lib/tsstack/current /var/lib/tsstack/boot",
        "nginx": "cat /etc/nginx/conf.d/tsstack.conf",
        "served": "curl -s -o /dev/null -w %{http_code} -H Host:one.tail.test http://127.0.0.1:8088/web/",
        "sysctl": "sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.conf.eth0.forwarding",
        "queues": "tc qdisc show dev eth0",
        "ifb": "ip -br link show type ifb",
        "dns": "resolvectl dns eth0; resolvectl domain eth0",
    }
    return {name: host.run("sh", "-c", look, check=False).stdout for name, look in looks.items()}


def start(host: SystemdHost, name: str, script: str, *options: str) -> None:
    host.run("tee", f"/run/{name}.py", stdin=script)
    host.run("systemd-run", f"--unit={name}", *options, sys.executable, f"/run/{name}.py")


def connections(host: SystemdHost) -> str:
    return host.run("ss", "-Htn", "state", "established", "sport = :9000").stdout


def dead_men(host: SystemdHost) -> list[str]:
    """The units of all dead men that there are."""
    listed = host.run("systemctl", "list-units", "--plain", "--no-legend", "tsstack-deadman-*").stdout
    return [line.split()[0] for line in listed.splitlines()]


def log(host: SystemdHost) -> str:
    return host.run("cat", "/run/tsstack/deadman.log", check=False).stdout


def await_undone(host: SystemdHost, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while host.path("/var/lib/tsstack/pending.json").exists() or dead_men(host):
        assert time.monotonic() < deadline, log(host) + host.run("journalctl", "-n", "50").stdout
        time.sleep(0.1)


def log_where_walls_are(host: SystemdHost) -> None:
    """The admin's nginx.conf logs to where the walls let nobody write: `nginx -t` fails there."""
    host.run("sed", "-i", "s|access_log .*;|access_log /data/logs/access.log;|", "/etc/nginx/nginx.conf")
    host.run("systemctl", "reload", "nginx")


@contextmanager
def without_package(host: SystemdHost) -> Iterator[None]:
    """As in the midst of an upgrade: what Python could load is not there."""
    folders = [str(Path(tsstack.__file__).parent), *map(sysconfig.get_path, ("purelib", "stdlib"))]
    for folder in folders:
        host.run("mount", "-t", "tmpfs", "tmpfs", folder)
    assert host.run(TSSTACK, "--help", check=False).returncode != 0
    yield
    for folder in folders:
        host.run("umount", folder)


def systemd_run_that(host: SystemdHost, does: str) -> None:
    """Another systemd-run, first on the path, for what stands behind walls."""
    text = f'#!/bin/sh\ncase "$*" in *--walled*) {does} ;; esac\nexec /usr/bin/systemd-run "$@"\n'
    host.run("tee", "/usr/local/bin/systemd-run", stdin=text)
    host.run("chmod", "+x", "/usr/local/bin/systemd-run")


def test_all_of_a_switch_is_undone_behind_walls(host: SystemdHost) -> None:
    before = picture(host)
    start(host, "server", SERVER)
    write(host, SECOND)
    assert json.loads(host.run(TSSTACK, "--json", "switch", "--confirm", "8s").stdout)["awaits_confirmation"]
    changed = picture(host)
    assert [name for name in before if before[name] == changed[name]] == []
    start(host, "client", CLIENT, "--property=NetworkNamespacePath=/run/netns/far")
    deadline = time.monotonic() + 4
    while not connections(host):
        assert time.monotonic() < deadline, host.run("journalctl", "-u", "client").stdout
        time.sleep(0.1)

    (unit,) = dead_men(host)
    analysed = host.run("systemd-analyze", "security", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", analysed)
    assert found is not None
    assert float(found[1]) <= 2.5, analysed
    assert connections(host)

    await_undone(host)
    assert picture(host) == before
    assert "was not confirmed in time" in log(host)
    assert "walls" not in log(host)
    assert connections(host) == "", "a connection that came in meanwhile is cut"


def test_what_cannot_be_undone_behind_walls_is_undone_without(host: SystemdHost) -> None:
    log_where_walls_are(host)
    before = picture(host)
    write(host, SECOND)
    host.run(TSSTACK, "switch", "--confirm", "3s")
    await_undone(host)
    assert picture(host) == before
    assert "/data/logs/access.log" in log(host)
    assert "one without walls goes on" in log(host)
    assert log(host).endswith("it was not confirmed in time\n")


def test_whom_nobody_relieves_goes_on_behind_his_walls(host: SystemdHost) -> None:
    """What he can undo there he undoes, what he cannot as soon as there is somebody to hand over to."""
    log_where_walls_are(host)
    before = picture(host)
    write(host, SECOND)
    host.run(TSSTACK, "switch", "--confirm", "15s")
    (unit,) = dead_men(host)
    with without_package(host):
        deadline = time.monotonic() + 120
        while "nobody takes over: the dead man did not come up" not in log(host):
            assert time.monotonic() < deadline, log(host) + host.run("journalctl", "-n", "50").stdout
            time.sleep(0.1)
        now = picture(host)
        assert {name for name in before if now[name] != before[name]} <= {"served"}
        assert unit in dead_men(host)
    await_undone(host, 120)
    assert picture(host) == before
    assert "one without walls goes on" in log(host)


def test_who_is_killed_while_the_package_is_gone_is_back_with_it(host: SystemdHost) -> None:
    before = picture(host)
    write(host, SECOND)
    host.run(TSSTACK, "switch", "--confirm", "15s")
    (unit,) = dead_men(host)
    with without_package(host):
        host.run("systemctl", "kill", "--signal=KILL", unit)
        time.sleep(16)
        assert host.path("/var/lib/tsstack/pending.json").exists()
    await_undone(host, 60)
    assert picture(host) == before


@pytest.mark.parametrize(
    "does",
    [
        'echo "Unknown assignment: ProtectClock=yes" >&2; exit 1',
        'exec /usr/bin/systemd-run --property=BindPaths=/no/such/folder "$@"',
    ],
    ids=["an older systemd that does not know one", "a container where none can be built"],
)
def test_where_there_can_be_no_walls_he_stands_without(host: SystemdHost, does: str) -> None:
    before = picture(host)
    systemd_run_that(host, does)
    write(host, SECOND)
    assert "without walls" in host.run(TSSTACK, "switch", "--confirm", "3s").stderr
    assert dead_men(host)
    await_undone(host)
    assert picture(host) == before
