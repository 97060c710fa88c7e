"""The Debian package on a Debian 12 with its own systemd and nginx: in, used, upgraded, out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from systemd_root import SystemdHost, prepare_root  # noqa: E402

pytestmark = pytest.mark.install

BUILDER = ROOT / "scripts" / "package-deb"
# The release's own Python, as 3.11 of Debian 12. Nothing of the checkout's environment may be needed.
PACKAGES = ("python3", "man-db")
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
    words = [str(BUILDER), "--out", str(out), "--python", "3.11"]
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

    # Out: the host is as it was, but for what the admin wrote.
    host.run("dpkg", "-r", "tsstack", timeout_s=300)
    assert status_of(host, "/web/") == "000"
    gone = picture(host)
    assert [gone[key] for key in ("rules", "forward", "units")] == [
        before[key] for key in ("rules", "forward", "units")
    ]
    host.run("dpkg", "-P", "tsstack")
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
