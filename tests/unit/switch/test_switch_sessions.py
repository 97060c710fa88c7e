"""Which sessions are at stake: what processes remember, what the kernel has, and who is logged in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsstack.switch.logins import logins, parse_connection
from tsstack.switch.ways import Session

# Plays a program by its name and title: takes a connection, or a UDP port, and starts the one that asks, and
# tells that one where it comes from.
STAND_IN = """
import ctypes, os, socket, subprocess, sys, time
name, title, kind, port, child = sys.argv[1:6]
ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
if kind == "tcp":
    taken = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(taken.getsockname())
    held, peer = taken.accept()
    client_fd = client.detach()
    os.environ["SSH_CONNECTION"] = f"127.0.0.1 {peer[1]} 127.0.0.1 {taken.getsockname()[1]}"
elif kind == "udp":
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.bind(("127.0.0.1", 0))
    print(held.getsockname()[1], flush=True)
if child:
    told = {"SSH_CONNECTION": sys.argv[6]} if sys.argv[6:] else {}
    sys.exit(subprocess.run([sys.executable, "-c", child], env={**os.environ, **told}).returncode)
print(os.environ.get("SSH_CONNECTION", ""), flush=True)
sys.stdin.read()
"""
ASK = """
from tsstack.switch.sessions import operator_sessions, sessions_at_stake
print([tuple(map(str, each)) for each in operator_sessions()])
print([tuple(map(str, each)) for each in sessions_at_stake()])
"""
ASK_BACK = """
from tsstack.switch.sessions import sessions_at_stake
print([tuple(map(str, each)) for each in sessions_at_stake(others=False)])
"""
ASK_BEFORE = "from tsstack.switch.sessions import sessions_before; print(sessions_before())"
IDLE = "import sys; print(flush=True); sys.stdin.read()"
GONE = "192.0.2.7 50000 192.0.2.1 22"


def play(name: str, kind: str = "", child: str = ASK, connection: str = "") -> list[str]:
    env = {key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"}
    if connection:
        env["SSH_CONNECTION"] = connection
    words = [sys.executable, "-c", STAND_IN, name, "", kind, "0", child]
    done = subprocess.run(
        words, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Callable[[str], Session]]:
    """Starts a program that is called sshd, with this title, and has one connection; gives that."""
    started: list[subprocess.Popen[str]] = []

    def start(title: str) -> Session:
        # The title is what proc_pid_cmdline(5) shows: here the name that the program is called by.
        words = [title, "-c", STAND_IN, "sshd", "", "tcp", "0", ""]
        process = subprocess.Popen(
            words,
            executable=sys.executable,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},  # not to be found by that name
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        session = parse_connection(process.stdout.readline().strip())
        assert session is not None
        return session

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("192.0.2.7 50000 192.0.2.1 22", ("192.0.2.7", "192.0.2.1", 22, "")),
        ("::ffff:192.0.2.7 50000 ::ffff:192.0.2.1 2222", ("192.0.2.7", "192.0.2.1", 2222, "")),
        ("fe80::9%eth1 50000 fe80::1%eth1 22", ("fe80::9", "fe80::1", 22, "eth1")),
        ("fe80::9 50000 fe80::1%3 22", ("fe80::9", "fe80::1", 22, "3")),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("192.0.2.7 50000 192.0.2.1 0", None),
        ("192.0.2.7 50000 192.0.2.1 65536", None),
        ("192.0.2.7 50000 192.0.2.1", None),
        ("192.0.2.7%eth0 50000 192.0.2.1 22", ("192.0.2.7", "192.0.2.1", 22, "")),
        ("2001:db8::5 50000 fe80::1%eth0 22", ("2001:db8::5", "fe80::1", 22, "")),
        ("fe80::9%_wan 50000 fe80::1 22", ("fe80::9", "fe80::1", 22, "_wan")),
        # What Python calls reserved is in use: loopback, a mesh network's 200::/7, NAT64, class E.
        ("::1 50000 ::1 22", ("::1", "::1", 22, "")),
        ("200:1234::5 50000 201:aaaa::1 22", ("200:1234::5", "201:aaaa::1", 22, "")),
        ("64:ff9b::c000:207 50000 2001:db8::1 22", ("64:ff9b::c000:207", "2001:db8::1", 22, "")),
        ("240.1.2.3 50000 10.0.0.1 22", ("240.1.2.3", "10.0.0.1", 22, "")),
        ("fe80::9%lo 50000 fe80::1 22", None),
        ("192.0.2.7 50000 2001:db8::1 22", None),
        ("fe80::9%.. 50000 fe80::1 22", None),
        ("224.0.0.1 50000 192.0.2.1 22", None),
        ("0.0.0.0 50000 192.0.2.1 22", None),
        ("192.0.2.7 50000 192.0.2.1 " + "9" * 5000, None),
        ("192.0.2.7 " + "9" * 5000 + " 192.0.2.1 22", None),
        ("fe80::9%\x1b]0;owned\x07 50000 fe80::1 22", None),
        ("", None),
    ],
)
def test_what_sshd_writes(value: str, said: tuple[str, str, int, str] | None) -> None:
    session = parse_connection(value)
    if session is None or said is None:
        assert session is said
        return
    assert (str(session.client), str(session.server), session.port, session.zone) == said


def test_an_ancestors_session_is_found_though_sudo_has_dropped_it() -> None:
    forgets = (
        "import os, subprocess, sys\ndel os.environ['SSH_CONNECTION']\n"
        f"subprocess.run([sys.executable, '-c', {ASK!r}])"
    )
    for line in play("bash", child=forgets, connection=GONE):
        assert line.startswith("[('192.0.2.7', '50000', '192.0.2.1', '22',")


def test_what_a_multiplexer_remembers_counts_while_the_connection_is_there() -> None:
    for name in ("tmux: server", "screen"):
        remembered, at_stake = play(name, connection=GONE)
        assert "192.0.2.7" in remembered, "a confirmation from there is none of a new session"
        assert "192.0.2.7" not in at_stake
    assert "'127.0.0.1'" not in play("tmux: server", "tcp")[1], "nobody looks at it from there"
    assert "'127.0.0.1'" in play("tmux: server", "tcp", child=ASK_BACK)[0], "all that a way back asks about"


def test_tailscaled_as_the_ssh_server() -> None:
    for name, told in (("tailscaled", "True"), ("sshd", "False")):
        at_stake = play(name, connection=GONE)[1]
        assert f"'tcp', '{told}', 'False'" in at_stake


def test_the_port_of_mosh_is_a_way_in() -> None:
    port, _, at_stake = play("mosh-server", "udp", connection=GONE)
    assert "('192.0.2.7', '50000', '192.0.2.1', '22', '', 'tcp'" in at_stake
    assert f"('192.0.2.7', '0', '192.0.2.1', '{port}', '', 'udp'" in at_stake


def test_who_is_logged_in_by_ssh(sshd: Callable[[str], Session]) -> None:
    mine = sshd("sshd: root@pts/0")
    others = [sshd(title) for title in ("sshd: alice [priv]", "sshd: [net]", "sshd: bob [preauth]", "other")]
    found = logins()
    assert mine._replace(live=True) in found
    assert not {(each.client_port, each.port) for each in others} & {(s.client_port, s.port) for s in found}


def test_who_runs_nothing_is_logged_in_too(sshd: Callable[[str], Session]) -> None:
    """`ssh -N -R 8080:localhost:80`: the title has no terminal."""
    session = sshd("sshd: alice")
    assert session._replace(live=True) in logins()


@pytest.mark.parametrize(
    ("name", "kind", "child", "told"),
    [
        ("mosh-server", "udp", "", "'udp', 'False', 'True'"),
        ("tailscaled", "", IDLE, "'tcp', 'True', 'True'"),
    ],
)
def test_a_terminal_that_began_in_a_session_that_goes_on_otherwise(
    name: str, kind: str, child: str, told: str
) -> None:
    """tmux is a child of neither mosh's server nor tailscaled; who is attached comes by one of them."""
    env = {key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"}
    if not child:
        env["SSH_CONNECTION"] = GONE
    words = [sys.executable, "-c", STAND_IN, name, "", kind, "0", child, GONE]
    with subprocess.Popen(
        words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        remembered, at_stake = play("tmux: server", connection=GONE)
        before = play("bash", child=ASK_BEFORE)[0]
        process.communicate()
    assert "192.0.2.7" in remembered
    assert f", '', {told})" in at_stake
    assert "192.0.2.7 50000 22" in before, "a confirmation from there proves nothing"


def test_what_tailscaled_itself_was_started_from_is_no_session_of_its() -> None:
    env = {**os.environ, "SSH_CONNECTION": GONE}
    words = [sys.executable, "-c", STAND_IN, "tailscaled", "", "", "0", IDLE]
    with subprocess.Popen(
        words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert str(parse_connection(GONE)) not in map(str, logins())
        process.communicate()


@pytest.mark.parametrize(("name", "kind", "child"), [("mosh-server", "udp", ""), ("tailscaled", "", IDLE)])
def test_a_containers_sessions_are_not_this_hosts(name: str, kind: str, child: str) -> None:
    """Its processes stand in /proc, too, and its network is another."""
    env = {key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"}
    if not child:
        env["SSH_CONNECTION"] = GONE
    own_network = "import ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\n"
    words = [sys.executable, "-c", own_network + STAND_IN, name, "", kind, "0", child, GONE]
    with subprocess.Popen(
        words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            assert os.geteuid(), "root makes a network namespace"
            pytest.skip("no network namespace without root")
        assert str(parse_connection(GONE)) not in map(str, logins())
        process.communicate()


def test_a_second_terminal_that_was_open_confirms_nothing(sshd: Callable[[str], Session]) -> None:
    session = sshd("sshd: root@pts/1")
    before = play("bash", child=ASK_BEFORE, connection=GONE)[0]
    assert "192.0.2.7 50000 22" in before
    assert str(session) in before


def test_without_any_session_of_ones_own_all_count(sshd: Callable[[str], Session]) -> None:
    """From a console, or in a tmux that was left and taken up again."""
    session = sshd("sshd: root@notty")
    for name, connection in (("bash", ""), ("tmux: server", GONE)):
        at_stake = play(name, connection=connection)[1]
        assert (
            f"'127.0.0.1', '{session.client_port}', '127.0.0.1', '{session.port}', '', 'tcp', 'False', 'True'"
            in at_stake
        )
    assert str(session.client_port) not in play("bash", connection=GONE)[1], "one's own is known"
