"""After `down` nothing is left: not of a whole lab, not of one that died while it came up."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import pytest

from tsstack.errors import CheckFailed, LockedError, UsageError
from tsstack.lab import processes
from tsstack.lab.lab import Lab, read_status, take_down
from tsstack.lab.record import ROOT, Folder
from tsstack.system import command

pytestmark = pytest.mark.lab

# Run in a network and mount namespace of its own, which stands for the machine: there, every link and
# mount can be compared exactly, whatever else this machine does meanwhile.
_UP_AND_DOWN = """
import json, sys
from pathlib import Path
from tsstack.lab.lab import Lab, take_down
from tsstack.lab.record import Folder
from tsstack.lab import processes

def machine():
    mounts = [line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {"links": sorted(p.name for p in Path("/sys/class/net").iterdir()), "mounts": mounts}

name = sys.argv[1]
before = machine()
lab = Lab.up(name=name)
token = Folder(name).read().token
lab.fault("delay", "laptop")
lab.node("kernelcore").start(["sleep", "1000"])
during = machine()
take_down(name=name)
after = machine()
print(json.dumps({"before": before, "during": during, "after": after, "left": list(processes.owned(token))}))
"""


@pytest.fixture
def name() -> str:
    return f"t{os.getpid()}-{secrets.token_hex(3)}"


def up_words(name: str) -> list[str]:
    code = "import sys; from tsstack.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, "lab", "up", "--name", name]


def start_up(name: str, log: Path) -> int:
    return command.start(up_words(name), log=log)


def leftovers(token: str) -> list[int]:
    return list(processes.owned(token))


def test_down_leaves_no_link_mount_process_or_file(name: str) -> None:
    script = [sys.executable, "-c", _UP_AND_DOWN, name]
    fresh_sys = ["sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"]
    try:
        said = command.run(
            ["unshare", "--net", "--mount", "--propagation=private", *fresh_sys, *script], timeout_s=60
        )
    finally:
        take_down(name=name)
    seen = json.loads(said.stdout)
    assert seen["before"]["links"] == seen["after"]["links"] == seen["during"]["links"]
    for when in ("during", "after"):
        # One that another test has made may go meanwhile, here too: with the folder that it is mounted on.
        assert set(seen[when]["mounts"]) <= set(seen["before"]["mounts"]), when
    assert seen["left"] == []
    assert not (ROOT / name).exists()
    assert not (ROOT / f"{name}.lock").exists()
    named = command.run(["ip", "netns", "list"]).stdout
    assert name not in named


# What `up` says when it is there; and as far as before the first word.
@pytest.mark.parametrize("moment", ["", "7 nodes", "Headscale and tailscaled", "enrolling"])
def test_up_killed_half_way_leaves_nothing_after_down(name: str, tmp_path: Path, moment: str) -> None:
    log = tmp_path / "log"
    pid = start_up(name, log)
    folder = Folder(name)
    deadline = time.monotonic() + 30
    while (record := folder.read()) is None or moment not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert read_status(name=name).up is False
        with pytest.raises(UsageError, match="not up"):
            Lab.attach(name=name)
    finally:
        assert take_down(name=name)
    time.sleep(0.2)
    assert leftovers(record.token) == []
    assert not folder.path.exists()
    assert take_down(name=name) is False


def test_up_after_a_crash_clears_and_comes_up_beside_another_lab(lab: Lab, name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = start_up(name, log)
    while "Headscale and tailscaled" not in log.read_text():
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    old = Folder(name).read()
    assert old is not None
    lines: list[str] = []
    with Lab.up(name=name, clients=1, report=lines.append) as second:
        assert lines[0] == f"clearing what is left of the lab {name!r}"
        assert leftovers(old.token) == []
        states = {node.name: node.state for node in second.status().nodes}
        assert states["client-1"] == states["laptop"] == "Running"
        # The same addresses, and neither sees the other.
        assert second.node("laptop").tailnet_addresses() == lab.node("laptop").tailnet_addresses()
        pids = {node.pid for node in second.nodes()}
    assert {node.name for node in lab.status().nodes if node.pid} == set(lab.topology.nodes)
    assert all(processes.start_ticks(pid) == 0 for pid in pids)


def test_only_processes_that_see_the_token_are_killed(lab: Lab) -> None:
    record = Folder(lab.name).read()
    assert record is not None
    stranger = command.popen(["sleep", "60"])
    try:
        assert not processes.belongs(stranger.pid, record.token)
        assert processes.send(stranger.pid, record.token, signal.SIGKILL) is False
        assert processes.belongs(lab.node("laptop").pid, record.token)
        assert not processes.belongs(lab.node("laptop").pid, "tsstack-lab-other")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_busy_lab_is_said_to_be_busy(name: str, tmp_path: Path) -> None:
    folder = Folder(name, tmp_path)
    with (
        folder.locked(),
        pytest.raises(LockedError, match="busy"),
        Folder(name, tmp_path).locked(timeout_s=0.1),
    ):
        raise AssertionError("locked twice")


def test_without_root_nothing_is_made(name: str) -> None:
    said = command.run(["unshare", "--user", "--map-user=1000", "--", *up_words(name)], check=False)
    assert said.returncode == CheckFailed.exit_code
    assert "needs root" in said.stderr
    assert not (ROOT / name).exists()


def test_without_tun_nothing_is_made(name: str) -> None:
    without_tun = ["sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"]
    said = command.run(["unshare", "--mount", "--", *without_tun, *up_words(name)], check=False)
    assert said.returncode == CheckFailed.exit_code
    assert "/dev/net/tun" in said.stderr
    assert not (ROOT / name).exists()


def test_a_lab_that_lost_a_node_is_said_to_be_broken(name: str) -> None:
    try:
        first = Lab.up(name=name)
        os.kill(first.node("guest").pid, signal.SIGKILL)
        os.waitpid(first.node("guest").pid, 0)
        status = read_status(name=name)
        assert not status.up
        assert [node.name for node in status.nodes if node.pid == 0] == ["guest"]
        with pytest.raises(UsageError, match="gone"):
            Lab.attach(name=name)
    finally:
        take_down(name=name)


def test_another_number_of_clients_for_a_lab_that_is_up_is_not_swallowed(
    shared_lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    from tsstack.cli.main import run

    assert run(["lab", "up", "--name", shared_lab.name, "--nodes", "4"]) == 0
    assert f"it has {shared_lab.clients} clients more, not 4" in capsys.readouterr().err
    assert run(["lab", "up", "--name", shared_lab.name]) == 0
    assert "clients more" not in capsys.readouterr().err
