"""`tsstack fallback`: a host is never open because no generation has a firewall."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE, FALLBACK = "/etc/tsstack/tsstack.yaml", "/etc/tsstack/fallback.yaml"
SSH_ALONE = "host: {name: one}\nfirewall: {zones: {all: {interfaces: [eth0], tcp: [22]}}}\n"
ZONES = "host: {name: one}\nfirewall: {zones: {lan: {interfaces: [eth0], tcp: [22, 80]}}}\n"
NO_ZONES = "host: {name: one}\nkernel: {sysctl: {net.ipv4.tcp_fin_timeout: 30}}\n"
ASK = """
import socket, sys
for port in map(int, sys.argv[1:]):
    try:
        socket.create_connection(("192.0.2.1", port), timeout=0.4)
    except ConnectionRefusedError:
        print(port)
    except TimeoutError:
        pass
"""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    """With a neighbour on eth0. Nothing listens: a reset is an answer."""
    private = PrivateHost()
    private.write(FALLBACK, SSH_ALONE)
    private.run("ip", "netns", "add", "near")
    private.run("ip", "link", "add", "eth0", "type", "veth", "peer", "near0", "netns", "near")
    private.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    private.run("ip", "link", "set", "eth0", "up")
    private.run("ip", "-n", "near", "addr", "add", "192.0.2.2/24", "dev", "near0")
    private.run("ip", "-n", "near", "link", "set", "near0", "up")
    yield private
    private.close()


def open_ports(host: PrivateHost) -> list[int]:
    asked = ("22", "80", "8080")
    done = host.run("ip", "netns", "exec", "near", sys.executable, "-c", ASK, *asked)
    return [int(port) for port in done.stdout.split()]


def remarks(host: PrivateHost) -> list[str]:
    told = json.loads(host.run("ts-status", "--json", check=False).stdout)
    return [remark["code"] for remark in told["warnings"] if remark["about"] == "firewall"]


def test_before_the_first_generation_the_fallback_stands_and_is_told(host: PrivateHost) -> None:
    assert open_ports(host) == [22, 80, 8080]
    said = host.tsstack("fallback", "set", FALLBACK)
    assert said.stdout == "the fallback stands\n"
    assert open_ports(host) == [22]
    assert remarks(host) == ["TS733"]
    screen = host.run("fw-status", check=False)
    assert screen.returncode == 1
    assert "the fallback, as no generation's firewall is live" in screen.stdout
    assert "fallback.yaml:2" in screen.stdout


def test_a_first_switch_that_fails_leaves_the_fallback(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, ZONES + "kernel: {sysctl: {net.ipv4.tcp_rmem: 1 2}}\n")
    assert host.tsstack("switch", check=False).returncode == 4
    assert open_ports(host) == [22]


def test_a_first_switch_that_nobody_confirms_is_undone_to_the_fallback(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, ZONES)
    host.tsstack("switch", "--confirm", "2s")
    assert open_ports(host) == [22, 80]
    assert remarks(host) == []
    deadline = time.monotonic() + 10
    while host.path("/var/lib/tsstack/pending.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert open_ports(host) == [22]


def test_generations_with_and_without_a_firewall_take_turns_with_it(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, ZONES)
    host.tsstack("switch")
    assert open_ports(host) == [22, 80]
    assert "kept" in host.tsstack("fallback", "set", FALLBACK).stdout
    assert open_ports(host) == [22, 80]
    host.write(FILE, NO_ZONES)
    host.tsstack("switch")
    assert open_ports(host) == [22]
    assert "nothing to do" in host.tsstack("switch").stdout
    host.tsstack("rollback", "--to", "1")
    assert open_ports(host) == [22, 80]
    host.tsstack("rollback", "--to", "0")
    assert open_ports(host) == [22]
    host.tsstack("fallback", "remove")
    assert open_ports(host) == [22, 80, 8080]
    assert host.tsstack("fallback", "remove").stdout == "there is none\n"


def test_a_boot_has_it_before_any_interface_is_up(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.run("nft", "flush", "ruleset")
    host.run("rm", "-rf", "/run/tsstack")
    assert open_ports(host) == [22, 80, 8080]
    assert host.tsstack("recover", "--early").stdout == "the fallback stands\n"
    assert open_ports(host) == [22]
    host.tsstack("recover", "--boot")
    assert open_ports(host) == [22]


def test_a_flushed_fallback_is_an_alarm_and_a_switch_or_another_set_mends_it(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, NO_ZONES)
    host.tsstack("switch")
    host.run("nft", "flush", "ruleset")
    assert remarks(host) == ["TS731"]
    for mend in (("switch",), ("recover", "--boot"), ("fallback", "set", FALLBACK)):
        assert open_ports(host) == [22, 80, 8080]
        host.tsstack(*mend)
        assert open_ports(host) == [22], mend
        host.run("nft", "flush", "ruleset")


def test_an_altered_fallback_is_put_right_by_a_switch(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, NO_ZONES)
    host.tsstack("switch")
    host.run("nft", "insert", "rule", "inet", "tsstack", "input", "accept")
    assert open_ports(host) == [22, 80, 8080]
    assert remarks(host) == ["TS732"]
    host.tsstack("switch")
    assert open_ports(host) == [22]


SESSION = "SSH_CONNECTION=192.0.2.2 50000 192.0.2.1 22"


def test_whoever_sits_at_the_host_from_afar_is_not_locked_out_by_it(host: PrivateHost) -> None:
    """Neither when it is set, nor when a generation makes way for it."""
    host.write(FALLBACK, SSH_ALONE.replace("eth0", "ens9"))
    refused = host.run("env", SESSION, "tsstack", "fallback", "set", FALLBACK, check=False)
    assert refused.returncode == 4
    assert "would lock you out: tcp/22 from 192.0.2.2" in refused.stderr
    assert "first make a file with this firewall live by `tsstack switch --force-lockout" in refused.stderr
    assert open_ports(host) == [22, 80, 8080]
    assert not host.path("/var/lib/tsstack/fallback").exists()

    host.write(FILE, ZONES)
    host.tsstack("switch")
    # It does not stand now, so nobody is cut; what it would do is said.
    told = host.run("env", SESSION, "tsstack", "fallback", "set", FALLBACK)
    assert "where it has to stand" in told.stderr and "would lock you out" in told.stderr
    assert host.path("/var/lib/tsstack/fallback").exists(), "as the refusal's hint says"
    host.write(FILE, NO_ZONES)
    for verb in (("switch",), ("boot",), ("rollback", "--to", "0")):
        refused = host.run("env", SESSION, "tsstack", *verb, check=False)
        assert refused.returncode == 4, verb
        assert "would lock you out" in refused.stderr
        assert open_ports(host) == [22, 80]


def test_a_boot_generation_that_cannot_be_loaded_leaves_the_host_to_the_fallback(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, ZONES)
    host.tsstack("switch")
    generation = host.path("/var/lib/tsstack/generations/1")
    table = generation / "nftables" / "tsstack.nft"
    whole = table.read_text()
    for damage in (
        lambda: table.write_text("of another nft\n"),
        lambda: table.write_bytes(b"table inet tsstack {\xff\xfe\n"),
        lambda: table.write_text(""),
        (generation / "manifest.json").unlink,
    ):
        damage()
        host.run("nft", "flush", "ruleset")
        host.run("rm", "-rf", "/run/tsstack")
        assert host.tsstack("recover", "--early", check=False).returncode != 0
        assert open_ports(host) == [22]
        table.write_text(whole)


def test_a_damaged_fallback_keeps_no_generation_from_its_firewall(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FILE, ZONES)
    host.tsstack("switch")
    (kept,) = host.path("/var/lib/tsstack/fallbacks").iterdir()
    (kept / "nftables" / "tsstack.nft").write_bytes(b"\xff\xfe{")
    for verb in ("--early", "--boot"):
        host.run("nft", "flush", "ruleset")
        host.run("rm", "-rf", "/run/tsstack")
        host.tsstack("recover", verb)
        assert open_ports(host) == [22, 80]


def test_a_disk_that_cannot_be_written_leaves_no_open_host(host: PrivateHost) -> None:
    host.write(FILE, ZONES)
    host.tsstack("switch")
    host.run("nft", "flush", "ruleset")
    host.run("rm", "-rf", "/run/tsstack")
    host.run("sh", "-c", "mount --bind /var/lib/tsstack /var/lib/tsstack")
    host.run("mount", "-o", "remount,bind,ro", "/var/lib/tsstack")
    assert "stands" in host.tsstack("recover", "--early").stdout
    assert open_ports(host) == [22, 80]


def test_it_is_removed_by_the_file_that_it_was_made_of(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    assert (
        host.tsstack("fallback", "remove", "--made-of", "/etc/other.yaml").stdout == "there is none of it\n"
    )
    assert open_ports(host) == [22]
    host.tsstack("fallback", "remove", "--made-of", FALLBACK)
    assert open_ports(host) == [22, 80, 8080]


def test_what_an_interrupted_removal_has_left_goes_with_the_next_one(host: PrivateHost) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.path("/var/lib/tsstack/fallback").unlink()
    assert open_ports(host) == [22]
    host.tsstack("fallback", "remove")
    assert open_ports(host) == [22, 80, 8080]


def test_one_that_cannot_stand_leaves_what_stood(host: PrivateHost) -> None:
    """Another table drops what this host sends to itself, so the change is undone."""
    host.tsstack("fallback", "set", FALLBACK)
    rules = "table ip evil { chain guard { type filter hook input priority -10; iifname lo drop; }; }"
    host.run("nft", rules)
    host.write(FALLBACK, SSH_ALONE.replace("[22]", "[22, 80]"))
    assert host.tsstack("fallback", "set", FALLBACK, check=False).returncode == 5
    assert open_ports(host) == [22]
    host.run("nft", "delete", "table", "ip", "evil")
    host.run("nft", "flush", "ruleset")
    host.run("rm", "-rf", "/run/tsstack")
    host.tsstack("recover", "--early")
    assert open_ports(host) == [22]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host: {name: one}\n", "a fallback needs a firewall section"),
        (SSH_ALONE + "monitor: {targets: []}\n", "fallback.yaml:3:1: monitor: a fallback has"),
        (SSH_ALONE.replace("22", "220000"), "fallback.yaml:2:52: error TS104"),
        ("host: {name: one}\nfirewall: {enabled: false}\n", "a fallback needs a firewall section"),
    ],
)
def test_a_file_that_is_no_fallback_is_refused_and_the_one_before_stays(
    host: PrivateHost, text: str, said: str
) -> None:
    host.tsstack("fallback", "set", FALLBACK)
    host.write(FALLBACK, text)
    done = host.tsstack("fallback", "set", FALLBACK, check=False)
    assert done.returncode in {3, 4}
    assert said in done.stderr
    assert open_ports(host) == [22]
    host.tsstack("recover", "--early")
    assert open_ports(host) == [22]
