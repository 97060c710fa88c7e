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
    "by the interface's index": chain("input", 'iif "eth0" tcp dport 443 drop'),
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


SERVING = "proxy: {tls: off, listen: [192.0.2.1, '2001:db8:1::1'], services: {web: {upstream: 8000}}}\n"


@pytest.fixture
def serving(host: PrivateHost) -> Iterator[PrivateHost]:
    """It serves port 80; port 443 is open for a container that may publish it."""
    host.write(FILE, ZONES.replace("{name: one}", "{name: one, tailnet: tail.test}") + SERVING)
    host.tsstack("switch", "--no-prove")
    yield host
    for name in ("ip evil", "ip6 evil"):
        host.run("nft", "delete", "table", *name.split(), check=False)
    host.write(FILE, ZONES)
    host.tsstack("switch", "--no-prove")


def nat(rule: str, family: str = "ip") -> str:
    return f"table {family} evil {{ chain guard {{ type nat hook prerouting priority -100; {rule}; }}; }}"


def test_a_port_of_the_proxy_that_another_table_takes_away_is_told(serving: PrivateHost) -> None:
    for family, address, how in (
        ("ip", "192.0.2.1", "dnat to 198.51.100.9:8080"),
        ("ip", "192.0.2.1", "redirect to :9999"),
        ("ip6", "2001:db8:1::1", "dnat to [2001:db8:9::9]:8080"),
    ):
        load(serving, nat(f'iifname "eth0" tcp dport 80 {how}', family))
        code, found = fw_status(serving)
        assert (code, found["foreign_level"]) == (2, "critical"), address
        assert ["is sent elsewhere" in each and how in each for each in found["foreign"]] == [True]
        (error,) = [each for each in findings(serving) if each["level"] != "ok"]
        assert error["level"] == "error"
        assert "sends elsewhere what the file serves: tcp/80 on eth0" in error["evidence"]
        assert how in serving.run("sh", "-c", error["fix"]).stdout
        serving.run("nft", "delete", "table", family, "evil")


def test_a_published_port_that_the_proxy_does_not_serve_is_no_alarm(serving: PrivateHost) -> None:
    load(serving, nat('iifname "eth0" tcp dport 443 dnat to 198.51.100.9:8443'))
    code, found = fw_status(serving)
    assert (code, found["foreign"]) == (0, [])
    assert "were tried, all pass" in found["foreign_tried"]
    assert {each["level"] for each in findings(serving)} == {"ok"}


MISSES = {
    "what the zones do not open": chain("input", 'iifname "eth0" tcp dport 25 drop'),
    "another interface": chain("input", 'iifname "eth7" drop'),
    "another interface's index": chain("input", 'iif "near0" drop'),
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


@pytest.mark.parametrize("mend", ["switch", "rollback"])
def test_our_own_table_that_is_switched_off_is_told_by_all_and_put_right(
    host: PrivateHost, mend: str
) -> None:
    before = host.run("nft", "-s", "list", "ruleset").stdout
    host.run("nft", "add table inet tsstack { flags dormant; }")
    for program in ("ts-status", "fw-status"):
        done = host.run(program, "--json", check=False)
        told = json.loads(done.stdout)
        firewall = told.get("firewall", told)
        assert (done.returncode, firewall["loaded"], firewall["dormant"]) == (2, False, True), program
        assert "switched off (flags dormant): nothing is closed" in host.run(program, check=False).stdout
    told = json.loads(host.tsstack("doctor", "--json", check=False).stdout)["findings"]
    assert [each["level"] for each in told if each["code"] == "TS731"] == ["error"]
    asked = host.tsstack("--json", "explain", "--live", "192.0.2.9", "eth0", "tcp/22")
    assert json.loads(asked.stdout)["verdict"] == "accepted"
    assert "none in force here" in host.tsstack("explain", "--live", "192.0.2.9", "eth0", "tcp/22").stdout
    current = json.loads(host.run("ts-status", "--json", check=False).stdout)["generation"]["current"]
    words = ("switch", "--no-prove") if mend == "switch" else ("rollback", "--to", str(current))
    assert "nothing to do" not in host.tsstack(*words).stdout
    assert host.run("nft", "-s", "list", "ruleset").stdout == before
    assert fw_status(host)[0] == 0


ROUTING = """host: {name: one}
firewall:
  zones: {lan: {interfaces: [eth0], tcp: [80, 443], udp: [443]}, inner: {interfaces: [eth1]}}
  forward: [{from: lan, to: inner, tcp: [445]}]
"""
# As Docker, libvirt and tailscaled leave them, and what everybody writes.
HARMLESS = """
table ip filter {
  chain ts-forward {
    oifname "tailscale0" ip saddr 100.64.0.0/10 counter drop
  }
  chain DOCKER-ISOLATION-STAGE-2 {
    oifname "docker0" counter drop
    counter drop
  }
  chain LIBVIRT_FWI {
    oifname "virbr0" counter reject
  }
  chain FORWARD {
    type filter hook forward priority filter; policy accept;
    counter jump ts-forward
    counter jump DOCKER-ISOLATION-STAGE-2
    counter jump LIBVIRT_FWI
    ct state vmap { established : accept, related : accept, invalid : drop }
    ct state { invalid, untracked } counter drop
    tcp flags & (fin|syn|rst|psh|ack|urg) == 0x0 drop
    ct state new tcp flags & (fin|syn|rst|ack) != syn drop
    meta pkttype { broadcast, multicast } drop
    fib saddr . iif oif missing drop
    iifname . oifname { "eth0" . "eth7", "eth7" . "eth1" } drop
    iifname "eth0" oifname != { "eth1", "eth2" } drop
    oifname "eth1" tcp dport 25 drop
    oifname "docker0" counter drop
    iifname "eth0" oifname "eth1" counter accept
    oifname "eth1" counter drop
  }
  chain OUTPUT {
    type filter hook output priority filter; policy accept;
    tcp dport 25 counter reject
  }
}
"""


@pytest.fixture
def routing(host: PrivateHost) -> Iterator[PrivateHost]:
    host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "near1")
    host.run("ip", "link", "set", "eth1", "up")
    host.write(FILE, ROUTING)
    host.tsstack("switch", "--no-prove")
    yield host
    host.run("ip", "link", "del", "eth1")
    host.run("nft", "delete", "table", "ip", "filter", check=False)
    host.write(FILE, ZONES)
    host.tsstack("switch", "--no-prove")


def test_a_rule_with_a_condition_that_may_drop_what_passes_is_told(routing: PrivateHost) -> None:
    load(routing, HARMLESS)
    assert (fw_status(routing)[0], fw_status(routing)[1]["foreign"]) == (0, [])
    assert {each["level"] for each in findings(routing)} == {"ok"}
    for hook, rule in (("forward", 'oifname "eth1" drop'), ("output", "tcp sport 443 drop")):
        load(routing, chain(hook, rule, family="inet", priority=10))
        code, found = fw_status(routing)
        assert (code, found["foreign_level"]) == (1, "warning"), found
        assert len(found["foreign"]) == 1, (found["foreign_tried"], found["foreign_trouble"])
        (told,) = found["foreign"]
        assert "table inet evil, chain guard" in told
        assert f"which was not tried: `{rule}`" in told
        (warning,) = [each for each in findings(routing) if each["level"] != "ok"]
        assert (warning["level"], warning["evidence"]) == ("warning", told)
        assert rule in routing.run("sh", "-c", warning["fix"]).stdout
        routing.run("nft", "delete", "table", "inet", "evil")
    load(routing, chain("forward", 'oifname "eth1" drop', family="inet"))
    assert fw_status(routing)[0] == 1
    at = ("inet", "evil", "guard")
    routing.run("nft", "insert", "rule", *at, "ct", "state", "established,related", "accept")
    assert fw_status(routing)[0] == 1, "new connections are still dropped"
    routing.run("nft", "insert", "rule", *at, "iifname", "eth0", "oifname", "eth1", "accept")
    assert fw_status(routing)[0] == 0
    routing.run("nft", "delete", "table", "inet", "evil")
    routing.write(FILE, ZONES)
    routing.tsstack("switch", "--no-prove")
    load(routing, chain("forward", 'oifname "eth1" drop', family="inet"))
    assert fw_status(routing)[0] == 0, "nothing is forwarded here"


def test_a_chain_without_a_name_is_read_by_every_screen(host: PrivateHost) -> None:
    """nft 1.0 has no JSON for the jump to one."""
    before = fw_status(host)[0]
    load(host, chain("input", 'iifname "eth7" jump { tcp dport 443 drop; }'))
    load(host, chain("forward", 'iifname "eth7" jump { drop; }', family="inet"))
    code, told = fw_status(host)
    assert code in {before, 1}, told
    assert findings(host)
