"""Power cuts on a whole machine. `benchmarks/powercut` makes many; here are a few, and why they count."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from powercut_host import FILES, Host, boot_faults, differences
from powercut_session import Session, summarize

pytestmark = pytest.mark.vm

CUTS = 2
PENDING = "/var/lib/tsstack/pending.json"
# The session of the command that has just flipped the link gets the signal $0.
KILLED = f"""
before=$(readlink /var/lib/tsstack/current)
until [ -e {PENDING} ] && [ "$(readlink /var/lib/tsstack/current)" != "$before" ]; do sleep 0.05; done
pid=$(sed -n 's/.*"holder_pid": \\([0-9]*\\),.*/\\1/p' {PENDING})
/bin/kill -$0 -- -$(ps -o pgid= -p $pid | tr -d ' ')
"""
# Says /proc/uptime (CLOCK_BOOTTIME) when the link goes back, with which an undoing begins, and at its end.
UNDONE = f"""
live() {{{{ [ "$(readlink /var/lib/tsstack/current)" = generations/{{target}} ]; }}}}
until live || ! [ -e {PENDING} ]; do sleep 0.1; done
while live; do sleep 0.1; done
cat /proc/uptime
while [ -e {PENDING} ]; do sleep 0.1; done
cat /proc/uptime
"""


def pending(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.machine.read(PENDING) or "{}")
    return found


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(host: Host) -> None:
    """Without this, a kill of the emulator would prove nothing."""
    machine = host.machine
    machine.write("/var/tmp/synced", "kept", sync=True)
    machine.write("/var/tmp/unsynced", "lost")
    assert machine.read("/var/tmp/unsynced") == "lost"
    host.cut()
    host.boot()
    assert machine.read("/var/tmp/synced") == "kept"
    assert not machine.read("/var/tmp/unsynced")


def test_an_unconfirmed_switch_is_undone_by_a_reboot(host: Host) -> None:
    """A real reboot of the machine: its table, files and prefs are those of before, to the byte."""
    job = host.machine.verb("-c", FILES["second"], "switch", "--no-prove", "--confirm", "3600s")
    assert job.wait().code == 0, job.lines
    assert host.machine.look()["tree"] == host.pictures["second"]["tree"]
    boot_id = host.machine.read("/proc/sys/kernel/random/boot_id")
    host.machine.reboot()
    host.settle()
    assert host.machine.read("/proc/sys/kernel/random/boot_id") != boot_id
    verdict = host.judge({"first"}, booted=False)
    assert not verdict.faults
    assert not boot_faults(verdict.seen)


def test_an_expired_switch_is_undone_although_its_session_was_killed(powercuts: Session) -> None:
    """SIGHUP on one machine, SIGKILL on the other, to the whole session; the dead man is in none."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(expire, powercuts.hosts, ("HUP", "KILL")):
            pass


def expire(host: Host, how: str) -> None:
    host.resume("first")
    machine = host.machine
    machine.verb("-c", FILES["second"], "switch", "--no-prove", "--confirm", "25s")
    machine.run("sh", "-c", KILLED, how)
    record = pending(host)
    said = machine.run("sh", "-c", UNDONE.format(target=record["target"])).out.split()
    began_s, ended_s = float(said[0]), float(said[2])
    assert record["deadline_s"] <= began_s <= record["deadline_s"] + 2, how
    assert ended_s <= began_s + 60, "plain emulation is slow, but not that slow"
    machine.run(
        "sh", "-c", "while systemctl list-units --plain | grep -q tsstack-deadman; do sleep 0.2; done"
    )
    seen = machine.look()
    assert differences(seen, host.pictures["first"]) == [], how
    assert seen["loose_ends"] == [], how
    host.cut()


def test_cuts_leave_no_host_torn(powercuts: Session) -> None:
    cuts = powercuts.run(range(CUTS), seed=1)
    found = summarize(cuts, 1)
    assert found["cuts"] == CUTS
    assert found["torn_cuts"] == []
    assert found["knocks"] > 0
    assert found["firewall_before_link_s"] > 0


def test_the_judge_sees_a_torn_host(host: Host) -> None:
    """One link, one parameter, one rule of the other generation, and it says so."""
    machine, second = host.machine, host.pictures["second"]
    machine.run("sysctl", "-q", "-w", "net.ipv4.tcp_fin_timeout=37")
    machine.run("nft", "add", "rule", "inet", "tsstack", "input", "tcp", "dport", "9000", "accept")
    faults = " ".join(differences(machine.look(), host.pictures["first"]))
    assert "tcp_fin_timeout" in faults
    assert "table" in faults
    machine.run("ln", "-sfn", f"generations/{second['current']}", "/var/lib/tsstack/current")
    faults = " ".join(differences(machine.look(), host.pictures["first"]))
    assert "tree is" in faults
