"""--confirm: the dead man undoes what no one confirmed, whatever became of the command."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FIRST = """
host: {name: one}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    internal: {interfaces: [eth1]}
"""
SECOND = FIRST.replace("[80]", "[80, 8080]")
FILE = "/etc/tsstack/tsstack.yaml"


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.write(FILE, FIRST)
    yield private
    private.close()


def picture(host: PrivateHost) -> dict[str, str]:
    """All that a switch may touch, to the byte."""
    links = {name: host.run("readlink", f"/var/lib/tsstack/{name}").stdout for name in ("current", "boot")}
    return {"table": host.run("nft", "-s", "list", "table", "inet", "tsstack").stdout, **links}


def wait_for(so: Callable[[], bool], limit_s: float = 5) -> None:
    until_s = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def wait_for_undo(host: PrivateHost, before: dict[str, str], limit_s: float) -> float:
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        if not host.path("/var/lib/tsstack/pending.json").exists():
            assert picture(host) == before
            return time.monotonic() - started
        time.sleep(0.05)
    log = host.run("cat", "/run/tsstack/deadman.log", check=False).stdout
    raise AssertionError(f"not undone within {limit_s} s; the dead man says: {log!r}")


def test_an_unconfirmed_switch_is_undone_within_two_seconds(host: PrivateHost) -> None:
    host.tsstack("switch")
    before = picture(host)
    host.write(FILE, SECOND)
    started = time.monotonic()
    said = json.loads(host.tsstack("--json", "switch", "--confirm", "3s").stdout)
    assert said["awaits_confirmation"] is True
    assert picture(host) != before
    wait_for_undo(host, before, 3 + 2)
    assert time.monotonic() - started >= 2.9


def test_a_confirmed_switch_stays(host: PrivateHost) -> None:
    host.tsstack("switch")
    host.write(FILE, SECOND)
    started = time.monotonic()
    host.tsstack("switch", "--confirm", "10s")
    host.tsstack("confirm")
    after = picture(host)
    time.sleep(max(0.0, started + 12 - time.monotonic()))
    assert picture(host) == after
    assert "8080" in after["table"]
    assert "generations/2" in after["boot"]


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
def test_pitfall_13_the_revert_survives_the_death_of_the_command(
    host: PrivateHost, how: signal.Signals
) -> None:
    """The command is ended between the first change and its end; the dead man undoes it."""
    host.tsstack("switch")
    before = picture(host)
    host.write(FILE, SECOND)
    command = host.popen(
        "tsstack", "switch", "--confirm", "4s", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    record = host.path("/var/lib/tsstack/pending.json")
    deadline = time.monotonic() + 20
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert record.exists(), "the change was over before it could be cut off"
    command.send_signal(how)
    command.wait(timeout=20)
    wait_for_undo(host, before, 4 + 2 + 2)


def test_pitfall_13_a_switch_goes_on_when_its_terminal_is_gone(host: PrivateHost) -> None:
    host.tsstack("switch")
    host.write(FILE, SECOND)
    command = host.popen("tsstack", "switch", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    record = host.path("/var/lib/tsstack/pending.json")
    deadline = time.monotonic() + 20
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert record.exists(), "the change was over before its terminal could go"
    command.send_signal(signal.SIGHUP)
    assert command.wait(timeout=20) == 0
    assert not record.exists()
    assert "8080" in picture(host)["table"]


def test_a_reboot_undoes_what_was_not_confirmed(host: PrivateHost) -> None:
    host.tsstack("switch")
    before = picture(host)
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "300s")
    # A reboot: the kernel's tables are gone, and the boot id is another.
    host.run("nft", "delete", "table", "inet", "tsstack")
    record = json.loads(host.path("/var/lib/tsstack/pending.json").read_text())
    host.write("/var/lib/tsstack/pending.json", json.dumps({**record, "boot_id": "before the reboot"}))
    said = host.tsstack("recover", "--boot")
    assert "rebooted before it was confirmed" in said.stderr
    assert picture(host) == before


def test_a_unit_does_not_try_again_what_nobody_confirmed(host: PrivateHost) -> None:
    host.tsstack("switch")
    before = picture(host)
    host.write(FILE, SECOND)
    host.tsstack("switch", "--unattended", "--confirm", "1s")
    wait_for_undo(host, before, 1 + 2)
    wait_for(lambda: host.path("/var/lib/tsstack/undone").exists())
    refused = host.tsstack("switch", "--unattended", "--confirm", "60s", check=False)
    assert refused.returncode == 4
    assert "was not confirmed and was undone; with --unattended it is not tried again" in refused.stderr
    assert picture(host) == before
    host.write(FILE, FIRST.replace("[80]", "[80, 8443]"))
    host.tsstack("switch", "--unattended")
    host.write(FILE, SECOND)
    assert host.tsstack("switch", "--unattended", check=False).returncode == 4, "also after another one"


def nothing(_: PrivateHost) -> None:
    pass


def repaired(host: PrivateHost) -> None:
    host.run("nft", "delete", "table", "inet", "tsstack")
    assert "is live" in host.tsstack("rollback", "--to", "1").stdout


def failing(host: PrivateHost) -> None:
    host.write(FILE, FIRST + "kernel: {sysctl: {net.ipv4.tcp_rmem: 1 2}}\n")
    assert host.tsstack("switch", check=False).returncode != 0


def fallback(host: PrivateHost) -> None:
    host.write("/etc/tsstack/fallback.yaml", FIRST)
    host.tsstack("fallback", "set", "/etc/tsstack/fallback.yaml")


def again(host: PrivateHost) -> None:
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "300s")
    host.tsstack("rollback")


# What comes between the undoing and the unit, and is no wish for the file that was undone.
@pytest.mark.parametrize("between", [nothing, repaired, failing, fallback, again])
def test_what_was_rolled_back_while_it_waited_is_not_tried_again_whatever_comes_between(
    host: PrivateHost, between: Callable[[PrivateHost], None]
) -> None:
    host.tsstack("switch")
    before = picture(host)["table"]
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "300s")
    host.tsstack("rollback")
    between(host)
    host.write(FILE, SECOND)
    assert host.tsstack("switch", "--unattended", check=False).returncode == 4
    assert picture(host)["table"] == before


def test_a_rollback_that_comes_too_late_does_not_go_one_further(host: PrivateHost) -> None:
    host.tsstack("switch")
    before = picture(host)
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "1s")
    wait_for_undo(host, before, 1 + 2)
    wait_for(lambda: host.path("/var/lib/tsstack/undone").exists())
    late = host.tsstack("rollback", check=False)
    assert late.returncode == 4
    assert "generation 2 was undone" in late.stderr and "`tsstack rollback --to N`" in late.stderr
    assert picture(host) == before
    host.tsstack("rollback", "--to", "0")


def test_what_is_staged_for_the_boot_by_hand_is_wanted(host: PrivateHost) -> None:
    host.tsstack("switch")
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "300s")
    host.tsstack("rollback")
    host.tsstack("boot")
    host.path("/run/tsstack/begun").unlink()  # as a reboot does
    host.tsstack("recover", "--boot")
    assert "nothing to do" in host.tsstack("switch", "--unattended").stdout


def test_by_hand_it_is_tried_again(host: PrivateHost) -> None:
    host.tsstack("switch")
    host.write(FILE, SECOND)
    host.tsstack("switch", "--confirm", "300s")
    record = json.loads(host.path("/var/lib/tsstack/pending.json").read_text())
    host.write("/var/lib/tsstack/pending.json", json.dumps({**record, "boot_id": "before the reboot"}))
    host.tsstack("recover", "--boot")
    assert host.tsstack("switch", "--unattended", check=False).returncode == 4
    host.tsstack("switch")
    host.tsstack("switch", "--unattended")


def test_two_switches_at_once(host: PrivateHost) -> None:
    host.tsstack("switch")
    before = picture(host)
    holder = host.popen("flock", "/var/lib/tsstack/lock", "sleep", "30")
    while host.run("flock", "--nonblock", "/var/lib/tsstack/lock", "true", check=False).returncode == 0:
        time.sleep(0.01)
    host.write(FILE, SECOND)
    refused = host.tsstack("switch", check=False)
    holder.kill()
    holder.wait()
    assert refused.returncode == 4
    assert "another tsstack command" in refused.stderr
    assert picture(host) == before


def test_the_operators_session_is_not_cut(host: PrivateHost) -> None:
    """SSH from a LAN whose zone would not open the port: refused before anything is touched."""
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    refused = host.run("env", "SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22", "tsstack", "switch", check=False)
    assert refused.returncode == 4
    assert "would lock you out" in refused.stderr
    assert "192.0.2.7" in refused.stderr
    assert not host.run("nft", "list", "tables").stdout.strip()
    half = host.run(
        "env",
        "SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22",
        "tsstack",
        "switch",
        "--force-lockout",
        check=False,
    )
    assert half.returncode == 2
    opened = host.write(FILE, FIRST.replace("[80]", "[80, 22]"))
    host.run("env", "SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22", "tsstack", "-c", Path(opened), "switch")


def test_pitfall_14_only_a_new_session_confirms(host: PrivateHost) -> None:
    """An established session survives a bad ruleset: it cannot say that new ones work."""
    host.tsstack("switch")
    host.write(FILE, SECOND)
    old = "SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22"
    new = "SSH_CONNECTION=192.0.2.7 50001 192.0.2.1 22"
    host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer1")
    host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth1")
    host.run("ip", "link", "set", "eth1", "up")
    host.run("env", old, "tsstack", "switch", "--confirm", "60s")
    refused = host.run("env", old, "tsstack", "confirm", check=False)
    assert refused.returncode == 4
    assert "NEW session" in refused.stderr
    host.run("env", new, "tsstack", "confirm")
    assert not host.path("/var/lib/tsstack/pending.json").exists()


def test_a_session_to_the_tailnet_address_from_the_lan_is_not_cut(host: PrivateHost) -> None:
    """The LAN's zone opens SSH, but tailnet addresses answer on tailscale0 only."""
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    host.write(FILE, FIRST.replace("[80]", "[80, 22]"))
    to_tailnet = "SSH_CONNECTION=192.0.2.7 50000 100.64.0.3 22"
    refused = host.run("env", to_tailnet, "tsstack", "switch", check=False)
    assert refused.returncode == 4
    assert "would lock you out" in refused.stderr
    mapped = "SSH_CONNECTION=::ffff:192.0.2.7 50000 ::ffff:192.0.2.1 22"
    host.run("env", mapped, "tsstack", "switch")


def test_the_device_of_an_interface_that_vanishes_meanwhile_goes_with_the_undoing(host: PrivateHost) -> None:
    """And where it stayed, the next switch sees it, though the file speaks of no limit."""
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "near0")
    host.tsstack("switch", "--no-prove")
    before = picture(host)
    host.write(FILE, f"{FIRST}bandwidth: {{eth0: {{ingress: 4mbit}}}}\n")
    host.tsstack("switch", "--no-prove", "--confirm", "60s")
    (device,) = [name for name in host.run("ls", "/sys/class/net").stdout.split() if name.startswith("tsin-")]
    host.run("ip", "link", "del", "eth0")
    host.tsstack("rollback")
    assert picture(host) == before
    assert device not in host.run("ls", "/sys/class/net").stdout
    host.write(FILE, FIRST)
    host.run("ip", "link", "add", device, "type", "ifb")
    assert f"- {device}: left over" in host.tsstack("dry-activate").stdout
    host.tsstack("switch", "--no-prove")
    assert device not in host.run("ls", "/sys/class/net").stdout
    assert "nothing to do" in host.tsstack("switch").stdout
