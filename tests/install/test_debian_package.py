"""The Debian package on a Debian 12 with its own systemd and nginx: in, used, upgraded, out, and to 13."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from systemd_root import SystemdHost, prepare_root  # noqa: E402

pytestmark = pytest.mark.install

BUILDER = ROOT / "scripts" / "package-deb"
# The release's own Python. Nothing of the checkout's environment may be needed.
PACKAGES = ("python3", "man-db")
# The package's and what it made; a purge leaves none of them.
OWN = ("/usr/lib/tsstack", "/var/lib/tsstack", "/run/tsstack")
MIRROR = os.environ.get("TSSTACK_DEBIAN_MIRROR", "http://deb.debian.org/debian")
FALLBACK = "host: {name: box}\nfirewall: {zones: {lan: {interfaces: [eth0], services: [ssh]}}}\n"
FILE = """
host: {name: one, tailnet: tail.test}
kernel: {sysctl: {net.ipv4.ip_forward: 1}}
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


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of them, the second newer; the second is the first with another revision."""
    out = tmp_path_factory.mktemp("deb")
    words = [str(BUILDER), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    first = Path(done.stdout.strip().splitlines()[-1])
    unpacked = tmp_path_factory.mktemp("again") / "tree"
    subprocess.run(["dpkg-deb", "-R", str(first), str(unpacked)], check=True)
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("-1\nArchitecture", "-2\nArchitecture"))
    second = out / "newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(unpacked), str(second)], check=True)
    return first, second


@pytest.fixture
def host(packages: tuple[Path, Path]) -> Iterator[SystemdHost]:
    host = SystemdHost(prepare_root(extra=PACKAGES))
    try:
        for number, package in enumerate(packages, 1):
            shutil.copy(package, host.path(f"/root/{number}.deb"))
        host.run("systemctl", "unmask", "nginx")
        host.run("systemctl", "enable", "--now", "nginx")
        yield host
    finally:
        host.stop()


def picture(host: SystemdHost) -> dict[str, str]:
    """All that the package and its use might leave: files, units, rules, parameters, what nginx serves."""
    nginx = host.run("nginx", "-T", check=False).stdout
    find = ["find", "/etc", "/usr", "/var/lib", "/opt", "/root", "-xdev", "!", "-path", "/var/lib/dpkg*"]
    find += [
        "!",
        "-path",
        "/var/lib/systemd*",
        "!",
        "-path",
        "*/__pycache__*",
        "!",
        "-path",
        "/usr/share/man*",
    ]
    find += ["!", "-name", "ld.so.cache", "-printf", "%p %y %l\n"]
    return {
        "files": host.run("sh", "-c", 'cd / && "$0" "$@" | sort', *find).stdout,
        "rules": host.run("nft", "list", "ruleset").stdout,
        "forward": host.run("sysctl", "net.ipv4.ip_forward").stdout,
        "nginx": nginx,
        "units": host.run("systemctl", "list-unit-files", "tsstack*", "--no-legend", check=False).stdout,
    }


def status_of(host: SystemdHost, path: str) -> str:
    url = f"http://127.0.0.1:8088{path}"
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: one.tail.test", url]
    return host.run(*words, check=False).stdout


def test_in_used_replaced_and_out_again(host: SystemdHost) -> None:
    before = picture(host)
    host.run("dpkg", "-i", "/root/1.deb", timeout_s=300)
    assert host.run("dpkg", "--audit").stdout == ""

    # As installed: everything is there, nothing is on.
    assert host.run("tsstack", "--version").stdout.startswith("tsstack")
    assert "NAME" in host.run("sh", "-c", "man tsstack-switch | cat").stdout
    enabled = host.run("systemctl", "list-unit-files", "tsstack*", "--no-legend").stdout
    assert "tsstack-boot.service" in enabled
    assert " enabled " not in enabled.replace("enabled\n", "preset\n")
    assert picture(host)["rules"] == before["rules"]

    # Used, with the two units of the README.
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE)
    host.run("systemctl", "enable", "tsstack-early", "tsstack-boot")
    said = json.loads(host.run("tsstack", "--json", "switch").stdout)
    assert said["generation"] == 1
    assert status_of(host, "/web/") == "502", "it is served, and nobody is behind it"
    used = picture(host)
    assert "table inet tsstack" in used["rules"]

    # A reboot: the kernel has forgotten all, the units bring it up by the package's own program.
    host.run("nft", "delete", "table", "inet", "tsstack")
    host.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    host.run("rm", "-rf", "/run/tsstack")
    host.run("systemctl", "start", "tsstack-early")
    host.run("systemctl", "start", "tsstack-boot")
    assert picture(host) == used

    # A newer one changes nothing by itself.
    host.run("dpkg", "-i", "/root/2.deb", timeout_s=300)
    assert picture(host) == used
    assert "nothing to do" in host.run("tsstack", "switch").stdout

    # Out: the host is as it was, but for what the admin wrote; no fallback stays in its place either.
    host.run("tee", "/etc/tsstack/fallback.yaml", stdin=FALLBACK)
    host.run("tsstack", "fallback", "set", "/etc/tsstack/fallback.yaml")
    host.run("dpkg", "-r", "tsstack", timeout_s=300)
    assert status_of(host, "/web/") == "000"
    gone = picture(host)
    assert [gone[key] for key in ("rules", "forward", "units")] == [
        before[key] for key in ("rules", "forward", "units")
    ]
    assert host.run("find", "/var/log/nginx", "-name", "tsstack*").stdout != ""
    host.run("dpkg", "-P", "tsstack")
    assert host.run("find", *OWN, "-maxdepth", "0", check=False).stdout == ""
    assert host.run("find", "/var/log/nginx", "-name", "tsstack*").stdout == ""
    host.run("rm", "-r", "/etc/tsstack")
    left = picture(host)
    assert left == before


def test_a_removal_that_would_cut_the_admin_off_is_none(host: SystemdHost) -> None:
    """What cannot be undone is not thrown away: dpkg says why, and tsstack is still there."""
    host.run("dpkg", "-i", "/root/1.deb", timeout_s=300)
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE)
    host.run("tsstack", "switch")
    host.run("sh", "-c", "echo 'no_such_thing;' >> /etc/nginx/nginx.conf")
    refused = host.run("dpkg", "-r", "tsstack", check=False, timeout_s=300)
    assert refused.returncode != 0
    assert "table inet tsstack" in host.run("nft", "list", "ruleset").stdout
    assert host.run("tsstack", "--version").returncode == 0


def fetch_next_release(host: SystemdHost) -> None:
    """What `apt full-upgrade` to Debian 13 needs, by the machine's network: the host itself has none."""
    host.run("tee", "/etc/apt/sources.list", stdin=f"deb {MIRROR} trixie main\n")
    stub = host.run("readlink", "/etc/resolv.conf").stdout.strip()
    host.run("rm", "/etc/resolv.conf")
    host.run("tee", "/etc/resolv.conf", stdin=Path("/etc/resolv.conf").read_text())
    outside = ["nsenter", "-m", "-r", "-t", str(host.pid), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    for words in (["update"], ["-y", "--download-only", "full-upgrade"]):
        done = subprocess.run(
            [*outside, "apt-get", "-q", "-o", "APT::Sandbox::User=root", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    host.run("ln", "-sf", stub, "/etc/resolv.conf")


def table_of(host: SystemdHost) -> str:
    """The table's handle: another one after each load of it. Its listing is another with another nft."""
    listed = host.run("nft", "-a", "list", "table", "inet", "tsstack", check=False).stdout
    return listed.partition("\n")[0]


def test_an_upgrade_of_the_release_leaves_the_host_alone(host: SystemdHost) -> None:
    host.run("dpkg", "-i", "/root/1.deb", timeout_s=300)
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE + "monitor: {targets: [{icmp: 127.0.0.1}]}\n")
    host.run("tsstack", "switch")
    host.run("systemctl", "enable", "tsstack-early", "tsstack-boot")
    host.run("systemctl", "start", "tsstack-monitor")
    table = table_of(host)
    assert "handle" in table
    fetch_next_release(host)
    upgrade = ["apt-get", "-y", "--no-download", "-o", "Dpkg::Options::=--force-confold", "full-upgrade"]
    host.run("env", "DEBIAN_FRONTEND=noninteractive", *upgrade, timeout_s=900)

    assert host.run("readlink", "/usr/bin/python3").stdout.strip() == "python3.13"
    assert host.run("dpkg", "--audit").stdout == ""
    assert table_of(host) == table, "it stood all the time"
    assert "nothing to do" in host.run("tsstack", "switch").stdout
    assert status_of(host, "/web/") == "502"
    assert host.run("systemctl", "is-enabled", "tsstack-boot").stdout.strip() == "enabled"
    pid = host.run("systemctl", "show", "--value", "-p", "MainPID", "tsstack-monitor").stdout.strip()
    assert host.run("readlink", f"/proc/{pid}/exe").stdout.strip() == "/usr/bin/python3.13"

    # The dead man and his walls, as the new systemd has them.
    host.run("tee", "/etc/tsstack/tsstack.yaml", stdin=FILE.replace("web:", "shop:"))
    host.run("tsstack", "switch", "--confirm", "8s")
    listed = host.run("systemctl", "list-units", "--plain", "--no-legend", "tsstack-deadman-*").stdout
    analysed = host.run("systemd-analyze", "security", listed.split()[0]).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", analysed)
    assert found is not None
    assert float(found[1]) <= 2.5, analysed
    deadline = time.monotonic() + 20
    while host.path("/var/lib/tsstack/pending.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "walls" not in host.run("cat", "/run/tsstack/deadman.log").stdout
    assert status_of(host, "/web/") == "502"

    host.run("apt-get", "purge", "-y", "tsstack")
    assert host.run("find", *OWN, "-maxdepth", "0", check=False).stdout == ""
