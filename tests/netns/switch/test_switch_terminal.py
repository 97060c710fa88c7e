"""Where nothing tells from where a terminal is used, the guard says that it asked for nobody's session."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
TEXT = "host: {name: one}\nfirewall: {zones: {dmz: {interfaces: [eth0], services: [ssh], tcp: [%d]}}}\n"
SAID = "guard: nothing tells from where this terminal is used"
# As a console in a browser does: a terminal, and a command that nobody's session began.
TERMINAL = "import pty, sys; pty.spawn(sys.argv[1:])"
CALLED = """
export %s
%s -c '%s' tsstack switch --no-prove %s > /run/said 2>&1 < /dev/null
mv /run/said /run/told
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.run("sh", "-ec", "ip link add eth0 type veth peer name peer0; ip link set eth0 up")
    yield private
    private.close()


PORTS = iter(range(1000, 2000))


def switch(host: PrivateHost, *words: str, terminal: str = TERMINAL, variable: str = "NOTHING=told") -> str:
    """What a switch says that is a child of init's."""
    host.write(FILE, TEXT % next(PORTS))
    called = CALLED % (variable, sys.executable, terminal, " ".join(words))
    host.run("rm", "-f", "/run/told")
    clean = ("env", "-u", "DISPLAY", "-u", "WAYLAND_DISPLAY")
    host.run(*clean, "setsid", "-f", "sh", "-c", called)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not host.path("/run/told").exists():
        time.sleep(0.05)
    said = host.path("/run/told").read_text()
    assert "is live" in said, said
    return said


def test_a_terminal_of_which_nothing_is_known_is_told(host: PrivateHost) -> None:
    said = switch(host)
    assert said.count(SAID) == 1
    assert "--confirm undoes a change after which you do not come in again" in said


def test_a_switch_that_nobody_attends_says_nothing_of_it(host: PrivateHost) -> None:
    assert SAID not in switch(host, "--unattended")


def test_without_a_terminal_nothing_is_said_of_it(host: PrivateHost) -> None:
    assert SAID not in switch(host, terminal="import subprocess, sys; subprocess.run(sys.argv[1:])")


@pytest.mark.parametrize("variable", ["DISPLAY=:0", "WAYLAND_DISPLAY=wayland-0"])
def test_on_a_desktop_of_this_machine_nothing_is_said_of_it(host: PrivateHost, variable: str) -> None:
    assert SAID not in switch(host, variable=variable)


@pytest.mark.parametrize("told", ["XRDP_SESSION=1", "VNCDESKTOP=box:1"])
def test_a_desktop_that_is_looked_at_from_elsewhere_is_none_of_this_machine(
    host: PrivateHost, told: str
) -> None:
    assert SAID in switch(host, variable=f"DISPLAY=:10 {told}")


def test_a_session_that_is_told_is_asked_about_instead(host: PrivateHost) -> None:
    """One that is over, as of a tmux that was left: that is another warning."""
    over = 'SSH_CONNECTION="203.0.113.9 50000 203.0.113.1 22"'
    host.run("sh", "-ec", "ip addr add 203.0.113.1/24 dev eth0")
    assert SAID not in switch(host, variable=over)
