"""What the host cannot do is told by every verb that reports, and `check` asks the host as a switch does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
SPLIT = "host: {name: told}\ndns: {split: {corp.example: [192.0.2.53]}}\n"


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    private = PrivateHost()
    try:
        yield private
    finally:
        private.close()


@pytest.fixture(autouse=True)
def _fresh(host: PrivateHost) -> None:
    host.run("rm", "-rf", "/var/lib/tsstack")


def told(host: PrivateHost, verb: str, file: str = FILE) -> list[str]:
    done = host.tsstack("-c", file, verb, "--json")
    return list(json.loads(done.stdout)["warnings"])


def test_split_dns_without_systemd_resolved_is_told_by_every_verb(host: PrivateHost) -> None:
    host.write(FILE, SPLIT)
    for verb in ("check", "dry-activate", "boot", "switch", "switch", "test", "check", "dry-activate"):
        lines = [line for line in told(host, verb) if line.startswith("dns: ")]
        assert len(lines) == 1, verb
        assert "corp.example is not routed to 192.0.2.53: systemd-resolved does not run" in lines[0]
    text = host.tsstack("switch")
    assert "nothing to do" in text.stdout
    assert "corp.example is not routed" in text.stderr
    assert "corp.example is not routed" in host.tsstack("check").stdout


def test_a_parameter_of_the_machine_outside_is_told_where_nothing_differs(host: PrivateHost) -> None:
    host.write(FILE, "host: {name: told}\nkernel: {sysctl: {net.core.rmem_max: 12345678}}\n")
    for verb in ("check", "dry-activate", "switch", "switch"):
        assert any("net.core.rmem_max = 12345678" in line for line in told(host, verb)), verb


REFUSED = [
    ("kernel: {sysctl: {net.ipv4.tcp_fin_timeot: 30}}", "2:19", "did you mean net.ipv4.tcp_fin_timeout?"),
    ("kernel: {sysctl: {net.ipv4.tcp_fin_timeout: a b}}", "2:19", "the kernel refuses this value"),
    ("kernel: {sysctl: {net.ipv4.tcp_congestion_control: nosuch}}", "2:19", "no such congestion control"),
    ("kernel: {sysctl: {net/ipv4/conf/lo/rp_filter: x}}", "2:10", "the kernel refuses this value"),
    ("kernel: {sysctl: {net/ipv4/neigh/lo/mcast_solicit: x}}", "2:10", "the kernel refuses this value"),
    ("kernel: {sysctl: {net.ipv6.neigh.lo.app_solicit: -1}}", "2:19", "the kernel refuses this value"),
    ("kernel: {sysctl: {net.ipv4.tcp_rmem: 1 2}}", "2:19", "the kernel makes 1 2 "),
    ("bandwidth: {eth7: {egress: 10mbit}}", "2:13", "there is no interface eth7"),
    ("tailscale: {}", "", "tailscale"),
]


@pytest.mark.parametrize(("line", "place", "said"), REFUSED)
def test_check_refuses_what_a_switch_would_refuse(
    host: PrivateHost, line: str, place: str, said: str
) -> None:
    host.write(FILE, f"host: {{name: told}}\n{line}\n")
    for verb in ("check", "switch"):
        done = host.tsstack(verb, check=False)
        assert done.returncode == 4, (verb, done.stdout, done.stderr)
        assert said in done.stderr
        assert (f"tsstack.yaml:{place}: " if place else "tailscaled") in done.stderr
    assert host.tsstack("check", "--file-only").returncode == 0


def test_a_file_about_another_host_is_not_held_against_this_one(host: PrivateHost) -> None:
    host.write("/root/other.yaml", "host: {name: elsewhere}\nbandwidth: {eth7: {egress: 10mbit}}\n")
    done = host.tsstack("-c", "/root/other.yaml", "check")
    assert "host.name is elsewhere" in done.stderr
    host.run("hostname", "elsewhere")
    done = host.tsstack("-c", "/root/other.yaml", "check", check=False)
    assert done.returncode == 4


def test_a_refusal_of_the_kernel_in_the_midst_names_the_key(host: PrivateHost) -> None:
    """A queue discipline cannot be tried beforehand; it is the whole machine's, absent in this namespace."""
    host.write(FILE, "host: {name: told}\nkernel: {sysctl: {net.ipv4.tcp_fin_timeout: 30}}\n")
    host.tsstack("switch")
    host.write(FILE, "host: {name: told}\nkernel: {sysctl: {kernel.ns_last_pid: nonsense}}\n")
    done = host.tsstack("switch", check=False)
    assert done.returncode in (4, 5)
    assert "tsstack.yaml:2:19: " in done.stderr
    assert "kernel.sysctl.kernel.ns_last_pid" in done.stderr


def test_the_port_of_a_real_bridge_is_seen_and_its_packets_are_the_bridges(host: PrivateHost) -> None:
    for words in (
        "link add br-guest type bridge",
        "link add guest0 type veth peer name far0",
        "link set guest0 master br-guest",
        "addr add 192.0.2.1/24 dev br-guest",
        "link set br-guest up",
        "link set guest0 up",
        "netns add bridged",
        "link set far0 netns bridged",
        "-n bridged addr add 192.0.2.2/24 dev far0",
        "-n bridged link set far0 up",
    ):
        host.run("ip", *words.split())
    file = Path("/root/bridge.yaml")
    zone = "host: {{name: elsewhere}}\nfirewall: {{zones: {{g: {{interfaces: [{}], services: [ssh]}}}}}}\n"
    host.write(file, zone.format("guest0"))
    said = json.loads(host.tsstack("-c", file, "check", "--json").stdout)["findings"]
    (finding,) = [each for each in said if each["code"] == "TS218"]
    assert finding["hint"] == "write br-guest instead"
    starter = host.tsstack("init").stdout
    assert "interfaces: [br-guest]" in starter
    assert "guest0 is a port of br-guest" in starter
    # The reason of it all: what the kernel's hooks see.
    rules = (
        "add table inet seen; add chain inet seen in { type filter hook input priority 0; }; "
        + "; ".join(
            f"add rule inet seen in iifname {name} icmp type echo-request counter"
            for name in ("guest0", "br-guest")
        )
    )
    host.run("nft", rules)
    host.run("ip", "netns", "exec", "bridged", "ping", "-c", "1", "-W", "5", "192.0.2.1")
    listed = json.loads(host.run("nft", "-j", "list", "chain", "inet", "seen", "in").stdout)["nftables"]
    counted = [
        each["counter"]["packets"]
        for entry in listed
        for each in entry.get("rule", {}).get("expr", ())
        if "counter" in each
    ]
    host.run("nft", "delete", "table", "inet", "seen")
    assert counted == [0, 1]


def test_doctor_at_generation_0_says_what_is_kept(host: PrivateHost) -> None:
    assert "none yet" in host.tsstack("doctor", check=False).stdout
    host.write(FILE, "host: {name: told}\nkernel: {sysctl: {net.ipv4.tcp_fin_timeout: 33}}\n")
    host.tsstack("switch")
    host.tsstack("rollback", "--to", "0")
    said = host.tsstack("doctor", check=False).stdout
    assert "0 is live, the host without tsstack; 1 are kept, the newest is 1" in said


def test_our_own_devices_are_not_offered_as_interfaces(host: PrivateHost) -> None:
    host.run("ip", "link", "add", "lim0", "type", "veth", "peer", "name", "lim1")
    host.write(FILE, "host: {name: told}\nbandwidth: {lim0: {ingress: 10mbit}}\n")
    host.tsstack("switch")
    assert "tsin-" in host.run("ip", "-br", "link").stdout
    for line in ("bandwidth: {lim9: {egress: 10mbit}}", "host: {name: told, uplink: lim9}"):
        text = f"{line}\n" if line.startswith("host") else f"host: {{name: told}}\n{line}\n"
        host.write(FILE, text)
        done = host.tsstack("check", check=False)
        assert "lim1" in done.stdout + done.stderr
        assert "tsin-" not in done.stdout + done.stderr
