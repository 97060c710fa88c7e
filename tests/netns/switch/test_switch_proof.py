"""Every switch is proven with packets before the host is touched, and closes nobody's way in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
FIRST = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  listen: [127.0.0.1]
  services:
    web: {upstream: 8000}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    internal: {interfaces: [eth1]}
    admin: {sources: [10.0.0.0/8, 100.64.0.10/32], allow: all}
"""
WIDER = FIRST.replace("[80]", "[80, 8080]")

# The command line with a renderer that makes a mistake: one port is not the one that the file says.
BROKEN = """
import sys
from tsstack.cli.main import run
from tsstack.parts.firewall.host import Firewall
honest = Firewall.desired
def broken(self, stack, facts):
    tree = honest(self, stack, facts)
    return {path: text.replace("8080 comment", "8081 comment") for path, text in tree.items()}
Firewall.desired = broken
sys.exit(run(sys.argv[1:]))
"""

# One whose nginx would send a service's clients to another program.
ASTRAY = BROKEN.replace("firewall.host import Firewall", "proxy.host import ProxyPart as Firewall").replace(
    '"8080 comment", "8081 comment"', '"server 127.0.0.1:8001;", "server 127.0.0.1:8000;"'
)

# Killed while the packets are under way.
KILLED = """
import os, signal, sys
from tsstack.cli.main import run
from tsstack.prove.proof import Experiment
Experiment.run = lambda self: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateHost]:
    private = PrivateHost()
    yield private
    private.close()


@pytest.fixture
def host(shared: PrivateHost) -> PrivateHost:
    shared.write(FILE, FIRST)
    shared.tsstack("switch", "--force-lockout", "--confirm", "60s")
    shared.tsstack("confirm", check=False)
    return shared


def picture(host: PrivateHost) -> dict[str, object]:
    state = host.path("/var/lib/tsstack")
    return {
        "table": host.run("nft", "-s", "list", "ruleset").stdout,
        "links": [host.run("readlink", f"/var/lib/tsstack/{name}").stdout for name in ("current", "boot")],
        "generations": sorted(path.name for path in (state / "generations").iterdir()),
        "pending": (state / "pending.json").exists(),
    }


def broken(host: PrivateHost, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run(sys.executable, "-c", BROKEN, *words, check=False)


def steps(host: PrivateHost, *words: str) -> set[str]:
    return set(json.loads(host.tsstack("--json", *words).stdout)["durations_s"])


@pytest.mark.parametrize("verb", ["switch", "test", "boot"])
def test_what_the_packets_disprove_changes_nothing(host: PrivateHost, verb: str) -> None:
    before = picture(host)
    host.write(FILE, WIDER)
    refused = broken(host, verb)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "tcp/8080 from " in refused.stderr
    assert f"{FILE}:10:" in refused.stderr
    assert "firewall.zones.dmz.tcp[1] says accept, the kernel does drop" in refused.stderr
    assert picture(host) == before
    told = json.loads(broken(host, "--json", verb).stdout)["error"]
    assert told["exit_code"] == 4
    assert "says accept, the kernel does drop" in told["message"]
    assert picture(host) == before


def test_a_switch_without_a_proof_says_so(host: PrivateHost) -> None:
    host.write(FILE, WIDER)
    done = broken(host, "switch", "--no-prove")
    assert done.returncode == 0, done.stderr
    assert "warning: NOT PROVEN" in done.stderr
    host.write(FILE, FIRST)
    told = json.loads(host.tsstack("--json", "switch", "--no-prove").stdout)
    assert told["warnings"][0].startswith("NOT PROVEN")
    assert "prove" not in told["durations_s"]


def test_only_what_changes_is_proven(host: PrivateHost) -> None:
    assert steps(host, "switch") == {"plan"}
    host.write(FILE, FIRST + "kernel: {sysctl: {net.ipv4.tcp_fin_timeout: 33}}\n")
    assert "prove" not in steps(host, "switch"), "neither rules nor vhosts changed"
    host.write(FILE, WIDER)
    done = host.tsstack("switch")
    assert " packets: the rules do what the file says" in done.stderr
    host.write(FILE, FIRST)
    assert "prove" in steps(host, "switch")
    host.run("nft", "delete", "table", "inet", "tsstack")
    assert "prove" in steps(host, "switch"), "whatever goes into the kernel is proven"


def test_a_table_that_somebody_has_changed_is_proven_and_put_right(host: PrivateHost) -> None:
    """To read it opens sockets of nft's own, which the proof's fork must not take for its own."""
    before = picture(host)
    for number in range(3):
        host.run("nft", "add", "chain", "inet", "tsstack", f"stranger{number}")
        assert "prove" in steps(host, "switch")
        assert picture(host) == before


def test_a_service_that_would_lead_astray_changes_nothing(host: PrivateHost) -> None:
    before = picture(host)
    host.write(FILE, FIRST.replace("upstream: 8000}", "upstream: 8000}\n    app: {upstream: 8001}"))
    refused = host.run(sys.executable, "-c", ASTRAY, "switch", check=False)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert (
        f"http://app.one.tail.test/ at 127.0.0.1: {FILE}:8:5: proxy.services.app says 127.0.0.1:8001, "
        in (refused.stderr)
    )
    assert "seen is 127.0.0.1:8000" in refused.stderr
    assert picture(host) == before
    done = host.tsstack("switch")
    assert "requests: nginx answers as the file says" in done.stderr
    assert "packets" not in done.stderr, "the rules are as they were"


def test_a_machine_without_tun_devices_is_told_how_to_go_on(host: PrivateHost) -> None:
    before = picture(host)
    host.write(FILE, WIDER)
    host.run("mount", "--bind", "/dev/null", "/dev/net/tun")
    try:
        refused = host.tsstack("switch", check=False)
        assert refused.returncode == 4
        assert "cannot be proven on this machine" in refused.stderr
        assert "/dev/net/tun" in refused.stderr
        assert "--no-prove" in refused.stderr
        assert picture(host) == before
        assert "8080" not in str(before["table"])
        host.tsstack("rollback", "--to", "1")
        host.tsstack("switch", "--no-prove")
        assert "8080" in str(picture(host)["table"])
    finally:
        host.run("umount", "/dev/net/tun")


def test_an_interrupted_proof_leaves_no_world_and_no_lock(host: PrivateHost) -> None:
    before = picture(host)
    host.write(FILE, WIDER)
    command = host.popen(
        sys.executable,
        "-c",
        KILLED,
        "switch",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert command.wait(timeout=60) == -9
    host.tsstack("recover")
    assert picture(host) == before
    host.tsstack("switch")


@pytest.mark.parametrize(
    ("change", "packet"),
    [
        (("allow: all", "allow: all}\n    guests: {sources: [10.3.0.0/16]"), "tcp/22 from 10.3.0.1 on "),
        (("10.0.0.0/8", "10.0.0.0/9"), "tcp/22 from 10.128.0.1 on "),
        ((", 100.64.0.10/32", ""), "tcp/22 from 100.64.0.10 on tailscale0"),
        (("allow: all", "preset: dmz"), "tcp/22 from 10.0.0.1 on "),
        (("[eth1]", "[eth1], sources: [10.3.0.0/16], services: [ssh]"), ""),
    ],
)
def test_no_admin_source_is_cut(host: PrivateHost, change: tuple[str, str], packet: str) -> None:
    before = picture(host)
    assert change[0] in FIRST
    host.write(FILE, FIRST.replace(*change))
    done = host.tsstack("switch", check=False)
    if not packet:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 4, done.stderr
    assert "would lock out an admin" in done.stderr
    assert packet in done.stderr
    assert picture(host) == before
    assert host.tsstack("switch", "--force-lockout", check=False).returncode == 2
    host.tsstack("switch", "--force-lockout", "--confirm", "60s")
    host.tsstack("rollback")
    assert picture(host)["table"] == before["table"]
