"""A machine on the lab's tailnet with two files, and what it is when it is wholly of one of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm_agent import OPEN_PORT
from vm_debian import CHECKOUT, Image, Seat
from vm_machine import Machine, Silent, plug_in

from tsstack.errors import TsstackError
from tsstack.lab.lab import Lab

FILES = {"first": "/etc/tsstack/first.yaml", "second": "/etc/tsstack/second.yaml"}
_COMMON = """
host: {{name: {name}, tailnet: tail.test, uplink: eth0}}
tailscale:
  login_server: http://10.77.0.1:8080
  auth_key: {{file: /etc/tsstack/authkey}}
  accept_dns: false
"""
_FIRST = """
  advertise: {{routes: [192.168.{first}.0/24]}}
proxy:
  tls: off
  names: path
  http_port: 8088
  services:
    web: {{upstream: 8000}}
firewall:
  zones:
    dmz: {{interfaces: [eth0], tcp: [2222]}}
    internal: {{interfaces: [tailscale0], tcp: [8088]}}
dns: {{split: {{tail.test: [100.100.100.100]}}}}
kernel: {{sysctl: {{net.ipv4.tcp_fin_timeout: 31, net.ipv4.tcp_keepalive_time: 1200}}}}
bandwidth: {{tailscale0: {{egress: 100mbit, burst: 256kbit, latency: 400ms}}}}
"""
_SECOND = """
  accept_routes: true
  advertise: {{routes: [192.168.{first}.0/24, 192.168.{second}.0/24]}}
proxy:
  tls: off
  names: path
  http_port: 8088
  services:
    shop: {{upstream: [8001, "127.0.0.1:8002 backup"]}}
    db: {{upstream: 5432, protocol: tcp, port: 5433}}
firewall:
  zones:
    dmz: {{interfaces: [eth0], tcp: [2222, 9000], udp: [9001]}}
    internal: {{interfaces: [tailscale0], services: [ssh], tcp: [8088, 5433]}}
dns: {{split: {{tail.test: [100.100.100.100], corp.test: [100.100.100.100]}}}}
kernel: {{sysctl: {{net.ipv4.tcp_fin_timeout: 37, net.ipv4.tcp_syn_retries: 4}}}}
bandwidth: {{tailscale0: {{egress: 50mbit, burst: 256kbit, latency: 400ms}}}}
"""
# What the tailnet sees of the proxy: a vhost without its upstream says 502, an unknown path 404.
_ANSWERS = {"first": ("502", "404"), "second": ("404", "502")}
# May be there or not: what the live generation was rendered from, room set aside, diaries, pids.
_OPTIONAL = (
    "/inputs.json",
    "/reserve",
    "/lock",
    "/deadman.log",
    "/proxy.json",
    "/proxy-held",
    "/firewall.json",
    "/undone",
)
_SAME = ("tree", "table", "sysctls", "etc", "masters", "prefs", "dns", "queues")
_REACH_LIMIT_S = 120.0
_DNS_LIMIT_S = 60.0


@dataclass
class Verdict:
    """What a boot made of the machine: the file that it is wholly of (empty: of none), and what is wrong."""

    name: str = ""
    faults: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    flood: dict[str, Any] = field(default_factory=dict)
    journal: str = ""
    """What the boot said, if something is wrong."""


class Host:
    """One machine. `prepare` enrols it, makes generations of both files and takes their pictures."""

    def __init__(self, lab: Lab, seat: Seat, image: Image, folder: Path, *, own_clock: bool = True) -> None:
        self.lab, self.seat = lab, seat
        plug_in(lab, seat)
        self.machine = Machine(lab, seat, image, folder, own_clock=own_clock)
        self.pictures: dict[str, dict[str, Any]] = {}
        self.durations_s: dict[str, float] = {}
        """How long things took here when nothing disturbed them, by scene."""
        self.steps: list[str] = []
        """What a switch says on its way."""
        self.name = ""
        """The file that the machine is of."""
        self.address = ""
        self._counts = folder / "flood.json"
        self._flood: Any = None

    @property
    def other(self) -> str:
        return "second" if self.name == "first" else "first"

    def prepare(self) -> None:
        """From the bare image to a host that has been of both files; it is kept at each, to go on from."""
        machine = self.machine
        began_s = time.monotonic()
        machine.power_on()
        machine.await_boot()
        self.durations_s["boot"] = time.monotonic() - began_s
        texts = {"first": _COMMON + _FIRST, "second": _COMMON + _SECOND}
        number = 100 + 2 * self.seat.number
        for name, text in texts.items():
            machine.write(FILES[name], text.format(name=self.seat.name, first=number, second=number + 1))
        machine.write("/etc/tsstack/authkey", self.lab.auth_key(), mode=0o600)
        machine.warm(FILES["second"])
        for name in texts:
            began_s = time.monotonic()
            done = machine.verb("-c", FILES[name], "switch", "--no-prove").wait()
            assert done.code == 0, done.lines
            self.durations_s["switch"] = time.monotonic() - began_s
            self.steps = [step for line in done.lines if (step := step_of(line))]
            self.name = name
            if not self.address:
                (self.address,) = (a for a in self._own_addresses() if ":" not in a)
            self.pictures[name] = machine.look()
            faults = self.judge({name}, booted=False).faults
            assert not faults, faults
            machine.run("sync")
            machine.save(name)
        assert self.pictures["first"]["tree"] != self.pictures["second"]["tree"]

    def resume(self, name: str) -> None:
        """Go on from where `prepare` had just made the host of this file, disk and all."""
        self.cut()
        self.machine.power_on(snapshot=name)
        self.machine.run("date", "-s", f"@{time.time():.0f}")  # it has slept since
        self.name = name

    def power_on(self) -> None:
        """Switch it on, with somebody knocking at its closed ports from the first moment."""
        self._stop_flood()
        self._counts.unlink(missing_ok=True)
        words = [sys.executable, str(CHECKOUT / "benchmarks/vm_flood.py")]
        words += [f"{self.seat.address},{self.seat.address6}", str(self._counts)]
        self._flood = self.lab.node("world").popen(words)
        self.machine.power_on()

    def boot(self) -> str:
        """Switch it on and wait until it has come up; returns systemd's word."""
        self.power_on()
        said = self.machine.await_boot()
        self.settle()
        return said

    def cut(self) -> None:
        self.machine.cut()
        self._stop_flood()

    def stop(self) -> None:
        self.cut()

    def _stop_flood(self) -> None:
        if self._flood is not None:
            self._flood.kill()
            self._flood.communicate()
            self._flood = None

    def settle(self, limit_s: float = 600.0) -> None:
        """Wait until the boot unit has done its work, if need be at the second try."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            words = ("systemctl", "show", "--value", "-p", "ActiveState", "tsstack-boot.service")
            if self.machine.run(*words).out.strip() in {"active", "failed", "inactive"}:
                return
            time.sleep(0.5)

    def generation_of(self, name: str) -> int:
        """The newest generation of this file on the disk of a machine that goes on from `second`."""
        found = self.pictures["second"]["generations"]
        return max(int(number) for number, tree in found.items() if tree == self.pictures[name]["tree"])

    def _own_addresses(self) -> list[str]:
        said = self.machine.run("tailscale", "status", "--json", "--peers=false").out
        found: list[str] = json.loads(said)["TailscaleIPs"]
        return found

    def judge(self, allowed: Iterable[str], *, booted: bool = True) -> Verdict:
        """Hold the machine against the pictures; `allowed` are the files that it may be of.

        With `booted` the firewall must have been there before the first interface, and nothing may have
        answered to whoever knocked since the power came.
        """
        verdict = Verdict()
        faults = verdict.faults
        try:
            seen = verdict.seen = self.machine.look()
        except Silent as error:
            faults.append(str(error))
            return verdict
        verdict.name = next((n for n, one in self.pictures.items() if one["tree"] == seen["tree"]), "")
        if verdict.name not in set(allowed):
            faults.append(
                f"it is of the file {verdict.name or 'of nobody'}, not {' or '.join(sorted(allowed))}"
            )
        if verdict.name:
            seen = verdict.seen = self._await_dns(verdict.name, seen)
            faults += differences(seen, self.pictures[verdict.name])
            faults += self._unreachable(verdict.name)
        faults += loose_ends(seen, {one["tree"] for one in self.pictures.values()})
        if booted:
            verdict.flood = json.loads(self._counts.read_text())
            if verdict.flood["answered"] or not verdict.flood["sent"]:
                faults.append(f"a closed port answered: {verdict.flood}")
            faults += boot_faults(seen)
        if faults:
            words = ("journalctl", "-b", "-o", "short-monotonic", "--no-pager")
            verdict.journal = self.machine.run(*words, check=False).out
        return verdict

    def _await_dns(self, name: str, seen: dict[str, Any]) -> dict[str, Any]:
        """tailscaled clears its link's DNS when it has joined, and a unit sets it again a moment later."""
        until = time.monotonic() + _DNS_LIMIT_S
        while seen["dns"] != self.pictures[name]["dns"] and time.monotonic() < until:
            time.sleep(1)
            seen = {**seen, "dns": self.machine.look()["dns"]}
        return seen

    def _unreachable(self, name: str) -> list[str]:
        """New connections: from another node of the tailnet to the proxy, from the LAN to the open port."""
        until = time.monotonic() + _REACH_LIMIT_S
        while True:
            faults = self._reach(name)
            if not faults or time.monotonic() > until:
                return faults
            time.sleep(1)

    def _reach(self, name: str) -> list[str]:
        laptop, faults = self.lab.node("laptop"), []
        codes = []
        for path in ("/web/", "/shop/"):
            words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]
            words += ["-H", f"Host: {self.seat.name}.tail.test", f"http://{self.address}:8088{path}"]
            codes.append(laptop.run(words, check=False).stdout)
        if tuple(codes) != _ANSWERS[name]:
            faults.append(f"over the tailnet the proxy answers {codes}, not {_ANSWERS[name]}")
        try:
            greet = (
                f"import socket; socket.create_connection(('{self.seat.address}', {OPEN_PORT}), 5).recv(5)"
            )
            self.lab.node("world").run([sys.executable, "-c", greet])
        except TsstackError as error:
            faults.append(f"from the LAN the open port is not reached: {error.message}")
        return faults


def step_of(line: str) -> str:
    """The step that a line of a verb's chatter names: `   4.13 s  activate dns` is `activate dns`."""
    seconds, _, step = line.strip().partition(" s  ")
    return step if seconds.replace(".", "").isdigit() else ""


def differences(seen: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is not as in the picture, a line each."""
    faults = []
    for key in _SAME:
        mine, its = seen[key], wanted[key]
        if mine == its:
            continue
        if isinstance(mine, dict):
            names = sorted(name for name in {*mine, *its} if mine.get(name) != its.get(name))
            faults += [f"{key}: {name} is {mine.get(name)!r}, not {its.get(name)!r}" for name in names]
        elif isinstance(mine, list):
            extra = [line for line in mine if line not in its]
            missing = [line for line in its if line not in mine]
            faults.append(f"{key}: has {extra[:3]}, lacks {missing[:3]}")
        else:
            faults.append(f"{key} is {mine!r}, not {its!r}")
    known = set(wanted["names"])
    faults += [f"left over: {name}" for name in seen["names"] if name not in known and not _is_optional(name)]
    return faults


def _is_optional(name: str) -> bool:
    return name.endswith(_OPTIONAL)


def loose_ends(seen: dict[str, Any], trees: set[str]) -> list[str]:
    """What no finished change leaves behind, whatever file the host is of."""
    faults = list(seen["loose_ends"])
    if seen["dead_men"] or seen["dead_units"]:
        faults.append(f"a dead man is left: {seen['dead_men']} processes, units {seen['dead_units']}")
    strange = [number for number, tree in seen["generations"].items() if number != "0" and tree not in trees]
    if strange:
        faults.append(f"generations of neither file: {strange}")
    return faults


def boot_faults(seen: dict[str, Any]) -> list[str]:
    """Whether the units did their work, and the firewall before the first link came up."""
    faults = []
    for unit, wanted in (("early", "tsstack-early"), ("late", "tsstack-boot")):
        found = seen[unit]
        if (found["Result"], found["ActiveState"]) != ("success", "active"):
            faults.append(f"{wanted}: {found['Result']}, {found['ActiveState']}")
    stood_us = int(seen["early"]["ExecMainExitTimestampMonotonic"])
    if not seen["links_us"] or not 0 < stood_us < min(seen["links_us"]):
        faults.append(f"the firewall stood after {stood_us} us, the links came up at {seen['links_us']}")
    return faults
