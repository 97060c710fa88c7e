"""The service unit under a real systemd: ready, fed by probes, reloaded, restarted, and within its walls."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from systemd_root import CHECKOUT, SystemdHost, systemd_host

__all__ = ["systemd_host"]
pytestmark = pytest.mark.netns

UNIT = CHECKOUT / "monitor" / "tsstack-monitor.service"
FILE = (
    "host: {name: h, tailnet: t.test}\nmonitor: {interval: 1s, targets: [{icmp: 127.0.0.1}, {icmp: '::1'}]}\n"
)
# The package is installed in a checkout here; the interpreter lies in root's home.
# It may lie in /tmp, of which a unit has its own.
SEEN = f"ProtectHome=read-only\nBindReadOnlyPaths={CHECKOUT}\n"
RUN = f'{sys.executable} -B -P -c "import sys; sys.path.insert(0, \\"{CHECKOUT}\\"); %s"'
FREE = RUN % "from tsstack.cli.main import main; sys.argv[1:] = [\\'monitor\\', \\'free-flows\\']; main()"
DAEMON = RUN % "from tsstack.cli.main import main; sys.argv[1:] = [\\'monitor\\']; main()"


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:
    """With the unit installed and the file written; nothing runs yet."""
    put(systemd_host, "/etc/tsstack/tsstack.yaml", FILE)
    put(systemd_host, "/etc/systemd/system/tsstack-monitor.service", UNIT.read_text())
    change = f"[Service]\n{SEEN}WatchdogSec=4s\nExecStart=\nExecStart={DAEMON}\n"
    put(systemd_host, "/etc/systemd/system/tsstack-monitor.service.d/test.conf", change)
    for name in ("tsstack-flows.socket", "tsstack-flows@.service"):
        put(systemd_host, f"/etc/systemd/system/{name}", (UNIT.parent / name).read_text())
    put(
        systemd_host,
        "/etc/systemd/system/tsstack-flows@.service.d/test.conf",
        f"[Service]\n{SEEN}ExecStart=\nExecStart={FREE}\n",
    )
    systemd_host.run("systemctl", "daemon-reload")
    return systemd_host


def put(host: SystemdHost, name: str, text: str) -> None:
    path = host.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def shown(host: SystemdHost, name: str) -> str:
    return host.run("systemctl", "show", "-P", name, "tsstack-monitor").stdout.strip()


def journal(host: SystemdHost) -> str:
    return host.run("journalctl", "-u", "tsstack-monitor", "-o", "cat", "--no-pager").stdout


def eventually(host: SystemdHost, holds: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, (
            journal(host) + host.run("systemctl", "status", "tsstack-monitor", check=False).stdout
        )
        time.sleep(0.1)


def test_the_life_of_the_service(host: SystemdHost) -> None:
    def pings() -> list[str]:
        return host.run("cat", "/proc/sys/net/ipv4/ping_group_range").stdout.split()

    host.run("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")  # nobody's, as Debian 13 has it
    host.run("systemctl", "start", "tsstack-monitor")
    assert shown(host, "ActiveState") == "active"  # it was waited for until it said that it is ready
    assert "watches 2 paths" in journal(host)
    asked = 'import json; from tsstack.monitor.client import Client; print(json.dumps(Client().ask("state")))'

    def levels() -> set[str]:
        return {path["level"] for path in json.loads(host.python(IMPORT + asked).stdout)["paths"]}

    # Both pings work behind the walls, whatever ping_group_range says.
    eventually(host, lambda: levels() == {"good"})
    assert "2 paths" in shown(host, "StatusText")

    # The watchdog ends one that does not probe.
    pid = shown(host, "MainPID")
    host.run("kill", "-STOP", pid)
    eventually(
        host, lambda: shown(host, "MainPID") not in {"0", pid} and shown(host, "ActiveState") == "active"
    )
    assert shown(host, "NRestarts") == "1"
    assert pings() == ["0", "0"]
    time.sleep(6)  # longer than the watchdog's patience: one that probes is left alone
    assert shown(host, "NRestarts") == "1"

    # A faulty file changes nothing.
    put(host, "/etc/tsstack/tsstack.yaml", FILE + "montor: {}\n")
    host.run("systemctl", "reload", "tsstack-monitor")
    eventually(host, lambda: "tsstack.yaml:3:1: error" in journal(host))
    assert shown(host, "ActiveState") == "active"
    put(host, "/etc/tsstack/tsstack.yaml", FILE.replace("1s", "2s"))
    host.run("systemctl", "reload", "tsstack-monitor")
    eventually(host, lambda: "[reloaded]" in journal(host))

    # What others keep in /run/tsstack outlives it; its own socket does not.
    put(host, "/run/tsstack/other", "")
    assert host.path("/run/tsstack/monitor.sock").exists()
    host.run("systemctl", "stop", "tsstack-monitor")
    assert shown(host, "Result") == "success"
    assert pings() == ["1", "0"], "as it was before"
    assert (host.path("/run/tsstack/other").exists(), host.path("/run/tsstack/monitor.sock").exists()) == (
        True,
        False,
    )
    assert re.search(r"the monitor ends", journal(host))
    assert {path.name for path in host.path("/var/lib/tsstack/monitor").iterdir()} >= {
        "history.db",
        "state.json",
    }


IMPORT = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); "
# What the daemon does only when something happens: conntrack, interfaces, alerts' libraries, a program.
WITHIN = """
import asyncio, os, socket, json
from tsstack.monitor.freeing import free_flows, surroundings
from tsstack.system.conntrack import list_connections
from tsstack.monitor.tailscaled import Seen
from tsstack.system.command import run
denied = []
try:
    list_connections()
except PermissionError:
    denied.append("conntrack")
freed = asyncio.run(free_flows("exit-a", Seen(addresses=("100.64.0.9",)), "lo"))
from tsstack.status.firewall import read_table
from tsstack.status.gather import Sources, gather
from tsstack.status.metrics import table_by_helper
try:
    read_table("/run/tsstack")
except PermissionError:
    denied.append("nftables")
counters, _ = table_by_helper("/run/tsstack")
warnings = gather(Sources(), table=table_by_helper)["warnings"]
around = surroundings(Seen(), "lo")
import apprise, prometheus_client, ssl, ctypes
ssl.create_default_context()
assert run(["true"]).returncode == 0
for name in ("/etc/x", "/usr/x", "/root/x", "/var/lib/tsstack/x"):
    try:
        open(name, "w")
    except OSError:
        denied.append(name)
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except OSError:
    denied.append("packet")
try:
    os.setuid(4711)
except OSError:
    denied.append("setuid")
open("/var/lib/tsstack/monitor/probe", "w")
print("WITHIN " + json.dumps([sorted(around.local), denied, freed, counters, warnings]))
"""


def test_all_that_it_ever_does_works_within_its_walls_and_nothing_else(host: SystemdHost) -> None:
    # One connection of an exit node, and one of the tailnet itself.
    host.run("ip", "addr", "add", "100.64.0.9/32", "dev", "lo")
    host.run("ip", "route", "add", "203.0.113.0/24", "dev", "lo")
    host.run("ip", "route", "add", "100.64.0.0/10", "dev", "lo")
    host.run(
        "nft",
        "-f",
        "-",
        stdin="table inet f {\nchain o {\ntype filter hook output priority 0\nct state new accept\n}\n}\n"
        "table inet tsstack {\ncounter seen { packets 7 bytes 420; }\n}\n",
    )
    say = "import socket\nfor far in ('203.0.113.1', '100.64.0.7'):\n"
    say += " s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    say += " s.bind(('100.64.0.9', 0)); s.sendto(b'x', (far, 9))\n"
    host.python(say)
    put(host, "/opt/within.py", IMPORT + WITHIN)
    text = UNIT.read_text().replace("Type=notify", "Type=oneshot")
    text = re.sub(r"(?m)^(WatchdogSec|Restart|RestartSec)=.*\n", "", text)
    text = re.sub(r"(?m)^ExecStart=.*", f"ExecStart={sys.executable} -B /opt/within.py", text)
    put(host, "/etc/systemd/system/within.service", text.replace("ProtectHome=yes\n", SEEN))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "within", check=False)
    said = host.run("journalctl", "-u", "within", "-o", "cat", "--no-pager").stdout
    assert "WITHIN" in said, said
    local, denied, freed, counters, warnings = json.loads(said.split("WITHIN ")[1].splitlines()[0])
    assert "127.0.0.1" in local
    assert freed == 1
    assert counters == {"seen": [7, 420]}, "read by the helper, for the metrics"
    assert {each["code"] for each in warnings} == {"TS701"}, "there is no tailscaled; all else can be told"
    left = host.python(IMPORT + "from tsstack.system.conntrack import *; print(list_connections())")
    assert ("203.0.113.1" in left.stdout, "100.64.0.7" in left.stdout) == (False, True)
    files = ["/etc/x", "/usr/x", "/root/x", "/var/lib/tsstack/x"]
    assert denied == ["conntrack", "nftables", *files, "packet", "setuid"]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("tsstack-monitor.service", 1.5),
        ("tsstack-flows@.service", 1.5),
        ("tsstack-boot.service", 2.5),
        ("tsstack-early.service", 2.5),
        ("tsstack-renew.service", 2.5),
        ("tsstack-dns.service", 2.5),
    ],
)
def test_the_units_exposure(name: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(UNIT.parent / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= most


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/tsstack", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])
