"""A host whose kernel has no IPv6 (`ipv6.disable=1`): what can be is proven, and it says what was not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
FIREWALL = """host: {name: one, tailnet: tail.test, uplink: eth0}
firewall:
  zones:
    dmz: {interfaces: [eth0], services: [ssh]}
    internal: {interfaces: [tailscale0], sources: ["fd00:1::/64"], allow: all}
    lan: {interfaces: [eth1], tcp: [80, 8081]}
  forward: [{from: lan, to: dmz, services: [https]}]
"""
PROXY = "proxy: {listen: all, tls: off, names: port, services: {web: {upstream: 8000, port: 8081}}}\n"
NO_IPV6 = Path(__file__).resolve().parents[2] / "fakes" / "no_ipv6.py"
ALONE = "this kernel has no IPv6, so nothing of it was sent"


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.run("sh", "-ec", "ip link add eth0 type veth peer name peer0; ip link set eth0 up")
    private.run("ip", "addr", "add", "203.0.113.1/24", "dev", "eth0")
    yield private
    private.close()


def tsstack(host: PrivateHost, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run(sys.executable, NO_IPV6, *words, check=False)


def test_a_switch_proves_ipv4_and_loads_all_rules(host: PrivateHost) -> None:
    # Debian's own site listens on [::]:80: with it no nginx starts on such a host.
    host.path("/etc/nginx/sites-enabled/default").unlink(missing_ok=True)
    host.write(FILE, FIREWALL + PROXY)
    done = tsstack(host, "switch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ALONE in done.stderr
    rules = host.run("nft", "list", "table", "inet", "tsstack").stdout
    assert "fd00:1::/64" in rules
    listening = host.run("ss", "-Hltn", "sport", "=", "8081").stdout.split()
    assert [each for each in listening if each.endswith(":8081")] == ["0.0.0.0:8081"]
    assert tsstack(host, "boot").returncode == 0


def test_the_proof_says_what_was_not_sent(host: PrivateHost) -> None:
    host.write(FILE, FIREWALL)
    answer = json.loads(tsstack(host, "prove", "--json").stdout)
    assert answer["ipv6"] is False
    assert answer["mismatches"] == 0
    assert answer["checks"] > 300
    assert not [row for row in answer["matrix"] if row["packet"].count(":") > 1]
    assert ALONE in tsstack(host, "prove").stdout
    assert json.loads(host.tsstack("prove", "--json").stdout)["ipv6"] is True


def test_a_packet_is_explained_there(host: PrivateHost) -> None:
    host.write(FILE, FIREWALL)
    told = tsstack(host, "explain", "203.0.113.9", "eth0", "ssh")
    assert told.returncode == 0, told.stdout + told.stderr
    refused = tsstack(host, "explain", "2001:db8::9", "eth0", "ssh")
    assert refused.returncode == 4
    assert "no packet of IPv6 can be tried: this kernel has none" in refused.stderr


@pytest.mark.parametrize("verb", ["switch", "prove"])
def test_other_trouble_is_not_blamed_on_the_tun_device(host: PrivateHost, verb: str) -> None:
    host.write(FILE, FIREWALL.replace("8081", "8082"))
    full = (
        "import sys\nfrom tsstack.cli.main import run\nfrom tsstack.prove import netlink\n"
        "def full(*_): raise OSError(105, 'No buffer space available')\n"
        "netlink.apply_messages = full\nsys.exit(run(sys.argv[1:]))\n"
    )
    refused = host.run(sys.executable, "-c", full, verb, check=False)
    assert refused.returncode == 4
    assert "no world to prove in: No buffer space available" in refused.stderr
    assert "modprobe" not in refused.stderr
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "sh")
    refused = host.run(*hidden, "tsstack", verb, check=False)
    assert refused.returncode == 4
    assert "/dev/net/tun: No such file or directory" in refused.stderr
    assert "modprobe tun" in refused.stderr
