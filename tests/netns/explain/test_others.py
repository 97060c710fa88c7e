"""What other programs' tables do with what the zones open is tried with packets, and told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
ZONES = (
    "host: {name: one}\n"
    "firewall: {zones: {lan: {interfaces: [eth0], tcp: [80, 443], udp: [443]}, away: {interfaces: [eth9]}}}\n"
)


@pytest.fixture(scope="module")
def switched() -> Iterator[PrivateHost]:
    private = PrivateHost()
    private.write(FILE, ZONES)
    private.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "near0")
    private.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    private.run("ip", "-6", "addr", "add", "2001:db8:1::1/64", "dev", "eth0", "nodad")
    for device in ("eth0", "near0"):
        private.run("ip", "link", "set", device, "up")
    private.tsstack("switch", "--no-prove")
    yield private
    private.close()


@pytest.fixture
def host(switched: PrivateHost) -> Iterator[PrivateHost]:
    yield switched
    for name in ("ip evil", "ip6 evil", "inet evil"):
        switched.run("nft", "delete", "table", *name.split(), check=False)


def load(host: PrivateHost, rules: str) -> None:
    subprocess.run(host.argv("nft", "-f", "-"), input=rules, text=True, check=True)


def fw_status(host: PrivateHost) -> tuple[int, dict]:
    done = host.run("fw-status", "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def findings(host: PrivateHost) -> list[dict]:
    told = json.loads(host.tsstack("doctor", "--json", check=False).stdout)
    return [each for each in told["findings"] if each["code"] == "TS864"]


def chain(hook: str, rules: str, family: str = "ip", priority: int = -10, policy: str = "accept") -> str:
    head = f"type filter hook {hook} priority {priority}; policy {policy};"
    return f"table {family} evil {{ chain guard {{ {head} {rules}; }}; }}"


def test_without_other_tables_nothing_is_asked(host: PrivateHost) -> None:
    code, found = fw_status(host)
    assert (code, found["foreign"], found["foreign_tried"]) == (0, [], "")
    assert [each["level"] for each in findings(host)] == ["ok"]


HITS = {
    "one port of one interface": chain("input", 'iifname "eth0" tcp dport 443 drop'),
    "a network": chain("input", "ip saddr 0.0.0.0/0 drop"),
    "before the input hook": chain("prerouting", "tcp dport 80 drop", priority=-200),
    "in a chain that is jumped to": "table ip evil { chain deep { tcp dport 443 drop; }; "
    "chain guard { type filter hook input priority -10; jump deep; }; }",
    "by a map": chain("input", "tcp dport vmap { 443 : drop }"),
    "by its policy": chain("input", "tcp dport 22 accept", policy="drop"),
    "IPv6 alone": chain("input", "tcp dport 80 drop", family="ip6"),
    "another port of IPv6 alone": chain("input", "tcp dport 443 drop", family="ip6"),
    "UDP": chain("input", "udp dport 443 drop", family="inet"),
    "a reject": chain("input", "tcp dport 80 reject with tcp reset"),
}


@pytest.mark.parametrize("rules", HITS.values(), ids=HITS)
def test_a_table_that_refuses_what_a_zone_opens_is_told_and_the_fix_mends_it(
    host: PrivateHost, rules: str
) -> None:
    load(host, rules)
    code, found = fw_status(host)
    assert (code, found["foreign_level"]) == (2, "critical"), "as the doctor's error"
    assert all("zone lan" in each and "evil" in each for each in found["foreign"])
    for _ in range(3):  # one chain's fix may uncover the next
        errors = [each for each in findings(host) if each["level"] == "error"]
        for each in errors:
            host.run("sh", "-c", each["fix"])
    assert errors == []
    assert fw_status(host)[0] == 0


MISSES = {
    "what the zones do not open": chain("input", 'iifname "eth0" tcp dport 25 drop'),
    "another interface": chain("input", 'iifname "eth7" drop'),
    "a policy with all of it accepted": chain(
        "input",
        'iifname "eth0" tcp dport { 80, 443 } accept; udp dport 443 accept',
        policy="drop",
        family="inet",
    ),
}


@pytest.mark.parametrize("rules", MISSES.values(), ids=MISSES)
def test_a_table_that_drops_something_else_is_no_alarm_and_it_is_said_that_it_was_tried(
    host: PrivateHost, rules: str
) -> None:
    load(host, rules)
    code, found = fw_status(host)
    assert (code, found["foreign"]) == (0, [])
    assert "packets that the zones open were tried, all pass" in found["foreign_tried"]
    (told,) = findings(host)
    assert told["level"] == "ok"


def test_a_packet_that_our_own_table_refuses_is_told_and_not_called_passed(host: PrivateHost) -> None:
    """Somebody has altered it."""
    load(host, chain("input", "tcp dport 9 drop"))
    host.run("nft", "insert", "rule", "inet", "tsstack", "zone.lan", "tcp", "dport", "80", "drop")
    try:
        code, found = fw_status(host)
        assert code == 2
        assert any(each.startswith("tcp/80 from") for each in found["foreign"]), found["foreign"]
        assert {each["level"] for each in findings(host)} == {"warning"}
    finally:
        host.tsstack("switch", "--no-prove")


def test_zones_of_which_nothing_can_be_sent_here_are_not_called_tried(host: PrivateHost) -> None:
    host.write(FILE, ZONES.replace("eth0", "eth8"))
    host.tsstack("switch", "--no-prove")
    try:
        load(host, chain("input", "", policy="drop"))
        code, found = fw_status(host)
        assert code == 1
        assert "not tried: no packet of the zones can be made here" in found["foreign_tried"]
        assert any("policy drop" in each for each in found["foreign"])
        assert {each["level"] for each in findings(host)} == {"warning"}
    finally:
        host.run("nft", "delete", "table", "ip", "evil")
        host.write(FILE, ZONES)
        host.tsstack("switch", "--no-prove")
