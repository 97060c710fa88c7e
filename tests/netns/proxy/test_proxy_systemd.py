"""The proxy on a host with a real systemd: the identity daemon and a standalone nginx are transient units."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from systemd_root import SystemdHost, systemd_host

__all__ = ["systemd_host"]

pytestmark = pytest.mark.netns

TSSTACK = str(Path(sys.executable).with_name("tsstack"))
FREE = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  names: path
  listen: [127.0.0.1]
  http_port: 8088
  services:
    web: {upstream: 8000}
"""
GUARDED = (
    FREE.replace("8000}", "8000, allow: [alice@example.com]}")
    .replace("[alice", '["alice')
    .replace("com]", 'com"]')
)
URL = "http://127.0.0.1:8088/web/"


def switch(host: SystemdHost, text: str) -> str:
    """What the plan said before it was carried out."""
    host.run("mkdir", "-p", "/etc/tsstack")
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=text)
    planned = host.run(TSSTACK, "dry-activate").stdout
    host.run(TSSTACK, "switch")
    return planned


def state(host: SystemdHost, unit: str) -> tuple[str, int]:
    """Whether the unit is active, and its main process."""
    show = host.run("systemctl", "show", "--property=ActiveState,MainPID", unit).stdout
    shown = dict(line.split("=", 1) for line in show.split())
    return shown["ActiveState"], int(shown["MainPID"])


def status(host: SystemdHost) -> str:
    words = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: one.tail.test", URL)
    return host.run(*words, check=False).stdout


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:
    systemd_host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
    systemd_host.run("systemctl", "unmask", "nginx")
    return systemd_host


def test_the_identity_daemon_is_a_unit_that_comes_and_goes_with_the_allow_lists(host: SystemdHost) -> None:
    switch(host, GUARDED)
    active, first = state(host, "tsstack-identity")
    assert active == "active" and first
    # There is no tailscaled, so nobody is anybody.
    assert status(host) == "403"
    assert (
        "tailscaled cannot be asked" in host.run("journalctl", "-u", "tsstack-identity", "-o", "cat").stdout
    )
    # Killed, it is back by itself, and a switch has nothing to do.
    host.run("kill", "-9", str(first))
    deadline = time.monotonic() + 10
    while state(host, "tsstack-identity")[1] in {0, first} or status(host) != "403":
        assert time.monotonic() < deadline, host.run("systemctl", "status", "tsstack-identity").stdout
        time.sleep(0.1)
    assert "nothing to do" in switch(host, GUARDED)
    # Stopped behind our back, the next switch sees that and starts it.
    host.run("systemctl", "stop", "tsstack-identity")
    assert status(host) == "500"
    assert "+ identity daemon: running" in switch(host, GUARDED)
    assert status(host) == "403"
    # Without an allow list it goes; a rollback brings it back.
    switch(host, FREE)
    assert state(host, "tsstack-identity") == ("inactive", 0)
    assert status(host) == "502"
    host.run(TSSTACK, "rollback")
    assert state(host, "tsstack-identity")[0] == "active"
    assert status(host) == "403"


def test_a_daemon_with_other_words_is_replaced(host: SystemdHost) -> None:
    """An upgrade moves the interpreter: the transient unit of before must not be started again."""
    switch(host, GUARDED)
    first = state(host, "tsstack-identity")[1]
    words = host.run("systemctl", "show", "--value", "--property=ExecStart", "tsstack-identity").stdout
    host.run("systemctl", "stop", "tsstack-identity")
    host.run("systemd-run", "--quiet", "--collect", "--unit=tsstack-identity", "sleep", "1000")
    host.run("sh", "-c", "echo '{}' >/run/tsstack/identity.state")
    switch(host, GUARDED)
    again = host.run("systemctl", "show", "--value", "--property=ExecStart", "tsstack-identity").stdout
    assert again.split("start_time")[0] == words.split("start_time")[0]
    assert state(host, "tsstack-identity")[1] not in {0, first} and status(host) == "403"


def test_nginx_without_a_distributions_file_is_a_unit_of_ours(host: SystemdHost) -> None:
    host.run("mv", "/etc/nginx/nginx.conf", "/etc/nginx/nginx.conf.away")
    switch(host, GUARDED)
    active, first = state(host, "tsstack-nginx")
    assert active == "active" and status(host) == "403"
    assert (
        host.run("cat", "/run/tsstack/nginx.pid").stdout.strip()
        == host.run("systemctl", "show", "--value", "--property=MainPID", "tsstack-nginx").stdout.strip()
    )
    switch(host, FREE)
    assert state(host, "tsstack-nginx") == ("active", first) and status(host) == "502"
    assert "nothing to do" in switch(host, FREE)
    switch(host, "host: {name: one, tailnet: tail.test}\n")
    assert state(host, "tsstack-nginx") == ("inactive", 0)
    host.run(TSSTACK, "rollback")
    assert state(host, "tsstack-nginx")[0] == "active" and status(host) == "502"


def test_certificates_are_renewed_within_the_units_walls(host: SystemdHost) -> None:
    """By the timer's own unit, with nothing of root's powers that it does not need."""
    switch(host, FREE.replace("tls: off", "tls: local-ca\n  https_port: 8443"))
    host.run(TSSTACK, "units", "install")
    folder = "/etc/systemd/system/tsstack-renew.service.d"
    host.run("mkdir", "-p", folder)
    seen = (
        "PrivateTmp=no\n" if Path(TSSTACK).is_relative_to("/tmp") else ""
    )  # a checkout there would be hidden
    forced = f"[Service]\n{seen}ExecStart=\nExecStart={TSSTACK} certificates renew --force\n"
    host.run("tee", f"{folder}/forced.conf", stdin=forced)
    host.run("systemctl", "daemon-reload")

    def served() -> str:
        words = "openssl s_client -connect 127.0.0.1:8443 -servername one.tail.test </dev/null 2>/dev/null"
        return host.run("sh", "-c", f"{words} | openssl x509 -noout -serial").stdout

    before = served()
    assert before.startswith("serial=")
    started = host.run("systemctl", "start", "tsstack-renew.service", check=False)
    assert started.returncode == 0, host.run("journalctl", "-u", "tsstack-renew", "--no-pager").stdout
    assert served() not in {before, ""}
    assert "nothing to do" in host.run(TSSTACK, "switch").stdout


def test_who_takes_ours_away_keeps_an_nginx_that_came_to_include_ours_meanwhile(host: SystemdHost) -> None:
    """nginx.conf was written by hand and gets its `conf.d` back: what served ours is not theirs."""
    host.run("mv", "/etc/nginx/nginx.conf", "/etc/nginx/unused")
    switch(host, FREE)
    assert state(host, "tsstack-nginx")[0] == "active"
    host.run("mv", "/etc/nginx/unused", "/etc/nginx/nginx.conf")
    host.run("systemctl", "start", "nginx")
    host.run(TSSTACK, "rollback", "--to", "0")
    assert state(host, "nginx")[0] == "active"
    assert state(host, "tsstack-nginx")[0] == "inactive"
