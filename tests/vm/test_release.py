"""A clean Debian 12 and a clean Debian 13: from package to proven switch, reboot, failover, upgrade, removal.

Whole machines with their own systemd, resolved and nginx, on a lab's tailnet. The commands are those of
docs/install.md; nothing on the machine comes from the checkout but the package.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monitor_bed import FIRST_ADDRESS, INTERNET, SECOND_ADDRESS, Bed
from powercut_host import differences
from vm_debian import SEATS, Seat
from vm_machine import Machine, plug_in
from vm_release import SUITES, Suite, prepare_release

from tsstack.lab.lab import Lab, take_down

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
PORT = 8099
_TOO_SLOW = "context deadline exceeded"
_BUSY_S = 30.0
"""So long an emulated machine is busy with its boot beyond its end: to ask it would keep it so."""
_ASLEEP_S = 60.0
_AWAKE_S = 20.0
_SLEEPS = 3
_SLEPT = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())"
FILE = """
host: {{name: {name}, tailnet: tail.test, uplink: eth0}}
tailscale:
  login_server: http://10.77.0.1:8080
  auth_key: {{file: /etc/tsstack/authkey}}
  advertise: {{routes: [192.168.{lan}.0/24]}}
  exit_node: {{use: [exit-b, client-1], otherwise: block, allow_lan_access: true}}
proxy:
  tls: local-ca
  names: path
  http3: {http3}
  services:
    wiki: {{upstream: 8000}}
firewall:
  zones:
    dmz: {{interfaces: [eth0], tcp: [2222]}}
    internal: {{interfaces: [tailscale0], services: [ssh, https, http3]}}
dns: {{split: {{corp.test: [100.100.100.100]}}}}
kernel: {{sysctl: {{net.ipv4.tcp_fin_timeout: 31}}}}
monitor: {{restore_after: 20s, targets: [{{icmp: 203.0.113.1}}]}}
"""
WIKI = """
[Service]
ExecStart=/usr/bin/python3 -m http.server -d /srv/wiki --bind 127.0.0.1 8000

[Install]
WantedBy=multi-user.target
"""
# What joining changes, and leaving it would cut off whoever is there by the tailnet.
JOINED = ("AutoUpdate", "ControlURL", "LoggedOut", "WantRunning")
# The package's and what it made; a purge leaves none of them.
OWN = ("/usr/lib/tsstack", "/var/lib/tsstack", "/run/tsstack")
UNITS = ("tsstack-early", "tsstack-boot")
# It is started when the tailnet's interface comes up, and ends.
IN_PASSING = "tsstack-dns.service"
RUNNING = ("tsstack-monitor.service", "tsstack-renew.timer", "tsstack-dns.path", "tsstack-dns.timer")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """With two exit nodes, exit-b and client-1."""
    name = f"rel{os.getpid()}-{secrets.token_hex(2)}"
    try:
        found = Lab.up(name=name, clients=1)
        Bed(found)
        yield found
    finally:
        take_down(name=name)


def build(out: Path) -> None:
    """`tsstack.deb`, and `newer.deb` of another revision."""
    words = [ROOT / "scripts" / "package-deb", "--out", out]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    made = Path(done.stdout.strip().splitlines()[-1])
    tree = out / "tree"
    subprocess.run(["dpkg-deb", "-R", str(made), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("-1\nArchitecture", "-2\nArchitecture"))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(out / "newer.deb")], check=True
    )
    shutil.rmtree(tree)
    made.rename(out / "tsstack.deb")


class Story:
    """One machine, and the time that each chapter took."""

    def __init__(self, lab: Lab, seat: Seat, suite: Suite, folder: Path) -> None:
        self.lab, self.seat, self.suite, self.folder = lab, seat, suite, folder
        build(folder)
        plug_in(lab, seat)
        self.machine = Machine(lab, seat, prepare_release(suite), folder / "machine", own_clock=False)
        self.run = self.machine.run

    def tsstack(self, *words: str) -> str:
        return self.run("tsstack", *words).out

    def picture(self) -> dict[str, Any]:
        """All that tsstack might change, without its own folders."""
        seen = self.machine.look(at_host=True)
        found = {key: seen[key] for key in ("table", "sysctls", "dns", "queues", "prefs")}
        found["etc"] = {name: text for name, text in seen["etc"].items() if not is_distributions(name)}
        found["nginx"] = self.run("nginx", "-T", check=False).out
        found["units"] = self.run("systemctl", "list-unit-files", "tsstack*", "--no-legend", check=False).out
        return found

    def look(self) -> dict[str, Any]:
        """The host with tsstack, without what its monitor writes as it goes."""
        seen = self.machine.look()
        seen["names"] = [name for name in seen["names"] if "/monitor" not in name]
        return seen

    def seen_from_world(self) -> str:
        """The address that this machine has out there: its exit node's."""
        return self.run("curl", "-s", "--max-time", "3", f"http://{INTERNET}/", check=False).out.strip()

    def states(self) -> list[str]:
        """Of its units."""
        return self.run("systemctl", "is-active", *UNITS, *RUNNING, check=False).out.split()

    def warnings(self) -> list[str]:
        """What its own status finds wrong, as code and words."""
        found = json.loads(self.run("ts-status", "--json", check=False).out)["warnings"]
        told = [f"{each['code']} {each['message']}" for each in found]
        # tailscaled remembers a time limit of its own that an emulated machine was too slow for.
        return [each for each in told if not (each.startswith("TS703") and each.endswith(_TOO_SLOW))]

    def events(self) -> list[str]:
        """What its monitor has told, oldest first."""
        said = self.tsstack("monitor", "events", "--json", "-n", "1000")
        found = map(json.loads, said.splitlines())
        return [f"{each['about']} {each['code']}: {each['text']}" for each in found]

    def monitor_pid(self) -> int:
        """0: it does not run."""
        return int(self.run("systemctl", "show", "--value", "-p", "MainPID", "tsstack-monitor").out)

    def slept_s(self) -> float:
        """How long it has slept since its boot."""
        return float(self.run("python3", "-c", _SLEPT).out)

    def await_(self, what: str, so: Callable[[], object], within_s: float) -> None:
        until = time.monotonic() + within_s
        while not so():
            assert time.monotonic() < until, f"{what}: {self.states()} {self.warnings()} {self.journal()}"
            time.sleep(1)

    def journal(self) -> str:
        words = ("journalctl", "-b", "-o", "short-monotonic", "--no-pager", "-n", "80")
        return self.run(*words, check=False).out[-6000:]


def is_distributions(name: str) -> bool:
    """What any installation changes: apt's and ld's own books, and units' links of other programs."""
    return name.startswith(("/etc/ld.so.cache", "/etc/apt/", "/etc/.pwd.lock"))


@pytest.mark.parametrize(("suite", "seat"), list(zip(SUITES, SEATS, strict=True)), ids=SUITES)
def test_from_package_to_removal(lab: Lab, suite: Suite, seat: Seat, tmp_path: Path) -> None:
    story = Story(lab, seat, suite, tmp_path)
    words = [sys.executable, "-m", "http.server", str(PORT), "--bind", seat.gateway, "-d", str(tmp_path)]
    server = lab.node("world").popen(words)
    try:
        story.machine.power_on()
        story.machine.await_boot()
        story.machine.write("/srv/wiki/index.html", "the wiki\n")
        story.machine.write("/etc/systemd/system/wiki.service", WIKI)
        story.run("systemctl", "enable", "--now", "wiki")
        before = story.picture()
        assert "default_server" in before["nginx"], "its own nginx, as the distribution has it"
        for chapter in (install, switch, ask, reboot, fail_over, sleep, upgrade):
            began_s = time.monotonic()
            chapter(story)
            sys.stdout.write(f"{suite} {chapter.__name__}: {time.monotonic() - began_s:.0f} s\n")
        remove(story, before)
    finally:
        server.kill()
        server.communicate()
        story.machine.stop()


def install(story: Story) -> None:
    for name in ("tsstack.deb", "newer.deb"):
        story.run("curl", "-sSf", "-o", f"/root/{name}", f"http://{story.seat.gateway}:{PORT}/{name}")
    story.run("apt-get", "install", "-y", "/root/tsstack.deb")
    assert story.run("dpkg", "--audit").out == ""
    assert "tail" in story.tsstack("init")


def switch(story: Story) -> None:
    """By a proven switch that is confirmed."""
    machine, seat = story.machine, story.seat
    text = FILE.format(
        name=seat.name, lan=150 + seat.number, http3="true" if story.suite == "trixie" else "false"
    )
    machine.write("/etc/tsstack/tsstack.yaml", text)
    machine.write("/etc/tsstack/authkey", story.lab.auth_key(), mode=0o600)
    done = story.run("tsstack", "switch", "--confirm", "900s")
    said = done.out + "\n".join(done.lines)
    assert "the rules do what the file says" in said
    assert "nginx answers as the file says" in said
    story.tsstack("confirm")
    story.run("systemctl", "enable", *UNITS, IN_PASSING)
    story.run("systemctl", "enable", "--now", *RUNNING)


def ask(story: Story) -> None:
    """From another node of the tailnet, by TCP, and where its nginx can by QUIC."""
    laptop, name = story.lab.node("laptop"), f"{story.seat.name}.tail.test"
    address = story.run("tailscale", "ip", "-4").out.strip()
    laptop.write("/tmp/ca.crt", story.tsstack("certificates", "root"))
    words = ["curl", "-sS", "-i", "--cacert", "/tmp/ca.crt", "--resolve", f"{name}:443:{address}"]
    answer = laptop.run([*words, f"https://{name}/wiki/"]).stdout
    assert answer.endswith("the wiki\n")
    if story.suite == "bookworm":
        assert "alt-svc" not in answer.lower()
        return
    assert 'h3=":443"' in answer
    client = [sys.executable, str(Path(__file__).with_name("http3_client.py")), address, "443", name]
    found = json.loads(laptop.run([*client, "/wiki/", "/tmp/ca.crt"]).stdout)
    assert (found[":status"], found["body"]) == ("200", "the wiki\n")


def reboot(story: Story) -> None:
    story.run("systemctl", "disable", "--now", "systemd-timesyncd", check=False)
    used = story.look()
    story.machine.reboot()
    story.await_("exit-b", lambda: story.seen_from_world() == FIRST_ADDRESS, 120)
    # A part that came too early is brought up by the unit's second start.
    story.await_("the units", lambda: set(story.states()) == {"active"}, 120)
    seen = story.look()
    assert differences(seen, used) == []
    assert seen["early"]["Result"] == seen["late"]["Result"] == "success"
    assert 0 < int(seen["early"]["ExecMainExitTimestampMonotonic"]) < min(seen["links_us"])


def fail_over(story: Story) -> None:
    """Its exit node's uplink is cut while the node stays online: the running unit moves, and goes home."""
    time.sleep(_BUSY_S)
    story.await_("no warning", lambda: story.warnings() == [], 120)
    story.lab.fault("uplink", "exit-b")
    story.await_("client-1", lambda: story.seen_from_world() == SECOND_ADDRESS, 120)
    story.lab.heal()
    story.await_("home", lambda: story.seen_from_world() == FIRST_ADDRESS, 240)
    events = story.tsstack("monitor", "events")
    assert "client-1 reaches the internet" in events


def sleep(story: Story) -> None:
    """Suspended to memory, as a closed lid does: what nobody answered meanwhile is nobody's fault.

    An emulated machine may be too slow for its probes, asleep or not: one of some sleeps goes without a word.
    """
    pid = story.monitor_pid()
    told = [slept_and_told(story)]
    while told[-1] and len(told) < _SLEEPS:
        time.sleep(_BUSY_S)
        told.append(slept_and_told(story))
    assert told[-1] == [], told
    # Else nobody was there to tell anything.
    assert story.monitor_pid() == pid != 0
    story.await_("no warning", lambda: story.warnings() == [], 60)
    assert story.seen_from_world() == FIRST_ADDRESS


def slept_and_told(story: Story) -> list[str]:
    """What the monitor told of one sleep."""
    told, slept_s = len(story.events()), story.slept_s()
    story.machine.suspend()
    time.sleep(_ASLEEP_S)
    story.machine.wake()
    assert story.slept_s() - slept_s >= _ASLEEP_S - 2
    story.await_("exit-b", lambda: story.seen_from_world() == FIRST_ADDRESS, 240)
    time.sleep(_AWAKE_S)
    return story.events()[told:]


def upgrade(story: Story) -> None:
    used = story.look()
    pid = story.monitor_pid()
    story.run("apt-get", "install", "-y", "/root/newer.deb")
    assert differences(story.look(), used) == []
    assert story.monitor_pid() != pid
    assert "nothing to do" in story.tsstack("switch")


def remove(story: Story, before: dict[str, Any]) -> None:
    """The host is as it was, but that the node stays on its tailnet, and what a kernel module brought."""
    story.run("apt-get", "purge", "-y", "tsstack")
    assert story.run("find", *OWN, "-maxdepth", "0", check=False).out == ""
    story.run("rm", "-r", "/etc/tsstack")
    left = story.picture()
    assert "corp.test" not in str(left["dns"])
    left["sysctls"] = {name: value for name, value in left["sysctls"].items() if name in before["sysctls"]}
    for found in (before, left):
        found["prefs"] = {name: value for name, value in found["prefs"].items() if name not in JOINED}
        del found["dns"]  # tailscaled's own, which serves the tailnet's names
    for key, wanted in before.items():
        assert left[key] == wanted, key
