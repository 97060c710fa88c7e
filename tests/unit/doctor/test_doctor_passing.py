"""Which rules of others may drop what passes through a host, or what it answers."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsstack import assets
from tsstack.doctor.flows import HERE, Way, Ways
from tsstack.doctor.gathering import ways as gathering
from tsstack.doctor.passing import may_drop
from tsstack.explain.question import Route, Surroundings
from tsstack.explain.tracing import read_listing
from tsstack.model.facts import Facts
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.names import Address

TAILNET = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))
LAN = ip_network("192.168.15.0/24")
ROUTED = Way(("tailscale0",), ("eth1",), sources=TAILNET, targets=(LAN, ip_network("fd00:15::/64")))
EXIT = Way(("tailscale0",), ("eth0",), sources=TAILNET)
OPENED = tuple(
    Way(("eth0", "tailscale0"), protocol="tcp", first=first, last=last)
    for first, last in ((443, 443), (8000, 8100))
)
NETWORKS = {
    "tailscale0": TAILNET,
    "eth0": (ip_network("10.44.0.0/24"), ip_network("fe80::/64")),
    "eth1": (LAN,),
}
WAYS = Ways(through=(ROUTED, EXIT), opened=OPENED, networks=NETWORKS)


SETS = """\tset lan { # handle 90
\t\ttype ifname
\t\telements = { "wg0",
\t\t\t     "eth1" }
\t}

\tset others { # handle 91
\t\ttype ifname
\t\telements = { "wg0", "eth7" }
\t}

\tmap pairs { # handle 92
\t\ttype ifname . ifname : verdict
\t\telements = { "wg0" . "eth1" : jump deep,
\t\t\t     "tailscale0" . "eth1" : drop }
\t}
"""


_WORDS = (
    'tcp udp ip ip6 saddr daddr sport dport { } , : . - 22 80-90 0x0 & | ! == != < > ( ) / " '
    "vmap map @lan @pairs @none ct state established new invalid direction reply accept drop "
    'reject return jump goto deep iifname oifname "eth*" "tailscale0" lo meta mark l4proto icmp '
    "flags syn fib type local exthdr rt missing limit rate over 5/second burst xt match "
    '"conntrack" counter packets bytes -1 99999999999 fe80::/10 10.0.0.0/33 1.2.3.4-5 pkttype '
    "queue update @s numgen mod comment"
)


def told(
    hook: str, *rules: str, family: str = "inet", name: str = "r i", more: str = "", ways: Ways = WAYS
) -> list[str]:
    table, chain = name.split()
    body = "".join(f"\t\t{rule} # handle {at}\n" for at, rule in enumerate(rules, 2))
    text = (
        f"table {family} {table} {{ # handle 9\n{more}\tchain {chain} {{ # handle 1\n"
        f"\t\ttype filter hook {hook} priority filter + 10; policy accept;\n{body}\t}}\n}}\n"
    )
    return [each.rule for each in may_drop(read_listing(text), ways)]


@pytest.mark.parametrize(
    "rule",
    [
        'oifname "eth1" drop',
        'iifname "tailscale0" oifname "eth*" counter packets 1 bytes 2 reject with icmpx admin-prohibited',
        'iifname { "tailscale0", "wg0" } drop',
        "ip daddr 192.168.0.0/16 drop",
        "ip6 saddr fd7a:115c:a1e0::7 drop",
        'iifname != "eth7" drop',
        'iifname "eth1" drop',
        "ct state { new, untracked } drop",
        'meta l4proto tcp counter packets 0 bytes 0 xt target "REJECT"',
        'meta l4proto udp oifname "eth0" drop',
        "tcp dport != { 80, 443 } drop",
        "tcp dport 1024-65535 drop",
        "tcp flags syn / fin,syn,rst,ack drop",
        "ip saddr != 192.168.15.0/24 drop",
        'iifname vmap { "tailscale0" : drop, "eth7" : accept }',
        'iifname . oifname { "wg0" . "eth1", "tailscale0" . "eth1" } drop',
        'iifname . oifname vmap { "wg0" . "eth1" : accept, "tailscale0" . "eth1" : drop }',
        "oifname @unlisted drop",
        "oifname @lan drop",
        "iifname . oifname vmap @pairs",
        'jump { oifname "eth1" drop }',
        "meta mark & 0x000000ff == 0x00000001 drop",
    ],
)
def test_a_rule_that_may_drop_what_passes(rule: str) -> None:
    assert told("forward", rule, more=SETS) == [rule]


@pytest.mark.parametrize(
    "rule",
    [
        "ct state invalid drop",
        'oifname "docker0" drop',
        'iifname "virbr0" counter packets 0 bytes 0 reject',
        "ip saddr @banned drop",
        "ip saddr { 203.0.113.0/24, 198.51.100.1-198.51.100.9 } drop",
        'oifname "eth1" accept comment "no drop"',
        'iifname "eth0" oifname "eth1" drop',
        'tcp flags syn xt target "TCPMSS"',
        "ct state vmap { invalid : drop, established : accept, related : accept }",
        "ct state { invalid, untracked } counter drop",
        "ct state invalid,untracked drop",
        'xt match "conntrack" counter drop',
        "tcp flags ! fin,syn,rst,psh,ack,urg drop",
        "tcp flags & (fin | syn | rst | psh | ack | urg) == 0x0 drop",
        "tcp flags fin,syn / fin,syn drop",
        "ct state new tcp flags != syn / fin,syn,rst,ack counter drop",
        "meta pkttype { broadcast, multicast } drop",
        "exthdr rt exists drop",
        "rt type 0 drop",
        "ip frag-off & 8191 != 0 drop",
        "tcp option maxseg size 1-535 drop",
        "ip6 saddr fe80::/10 drop",
        "fib saddr . iif oif missing drop",
        "limit rate over 10/second burst 5 packets drop",
        "add @banned { ip saddr limit rate over 10/second } drop",
        "ip protocol icmp drop",
        'oifname "eth0" tcp dport 25 counter drop',
        "meta l4proto { tcp, udp } th dport 53 reject with icmpx admin-prohibited",
        "tcp dport vmap { 443 : drop }",
        'iifname "tailscale0" oifname != { "eth0", "eth1" } drop',
        'iifname vmap { "eth7" : drop, "tailscale0" : accept }',
        'iifname . oifname { "wg0" . "eth1", "tailscale0" . "eth9" } drop',
        "oifname @others drop",
        "ip saddr . tcp dport @banned drop",
        'log prefix "no } { drop " accept',
        'log prefix "would drop"',
    ],
)
def test_a_rule_that_does_not(rule: str) -> None:
    assert told("forward", rule, more=SETS) == []


@pytest.mark.parametrize(
    "above",
    [
        'iifname "tailscale0" oifname "eth1" counter packets 3 bytes 4 accept',
        'iifname "tailscale0" accept',
        'ct state new iifname "tailscale0" log prefix "new " accept',
        "ip saddr 100.64.0.0/10 accept; ip6 saddr fd7a:115c:a1e0::/48 accept",
        "ip daddr 192.168.15.0/24 accept; ip6 daddr fd00:15::/64 accept",
        'iifname . oifname vmap { "tailscale0" . "eth1" : accept }',
        "oifname @lan accept",
        "jump accepting",
        "goto accepting",
        'iifname "tailscale0" return',
        'oifname != "eth7" accept',
    ],
)
def test_what_is_accepted_above_is_not_dropped_below(above: str) -> None:
    rules = ["ct state established,related accept", *above.split("; ")]
    deep = '\tchain accepting { # handle 5\n\t\tiifname "tailscale0" accept # handle 6\n\t}\n'
    assert told("forward", rules[0], 'oifname "eth1" drop', more=SETS) == ['oifname "eth1" drop']
    assert told("forward", *rules, 'oifname "eth1" drop', more=SETS + deep) == []


@pytest.mark.parametrize(
    "above",
    [
        'iifname "wg0" oifname "eth1" accept',
        'iifname "tailscale0" tcp dport 22 accept',
        'iifname "tailscale0" ct status dnat accept',
        'iifname "tailscale0" limit rate 5/second accept',
        "ip saddr 100.64.0.0/10 accept",
        "tcp dport 22 jump accepting",
        "meta mark 0x00000007 goto accepting",
    ],
)
def test_an_accept_that_covers_a_part_leaves_the_rest_to_the_drop_below(above: str) -> None:
    deep = "\tchain accepting { # handle 5\n\t\taccept # handle 6\n\t}\n"
    drop = 'oifname "eth1" drop'
    assert told("forward", "ct state established,related accept", above, drop, more=deep) == [drop]


def test_what_one_rule_drops_for_certain_is_not_told_of_another_below() -> None:
    deep = "\tchain deep { # handle 5\n\t\tdrop # handle 6\n\t}\n"
    established = "ct state established,related accept"
    rules = ('iifname "tailscale0" drop', "jump deep")
    assert told("forward", established, *rules, more=deep) == [rules[0]]
    assert told("forward", established, 'iifname "wg0" drop', rules[1], more=deep) == ["drop"]


@pytest.mark.parametrize(
    "rule",
    [
        "numgen random mod 10 vmap { 0 : drop, 1-9 : accept }",
        "@nh,96,8 vmap { 100 : drop }",
        'xt match "conntrack" counter packets 0 bytes 0 jump deep',
        "iifname . oifname vmap @typed",
    ],
)
def test_what_is_not_understood_is_told(rule: str) -> None:
    deep = "\tchain deep { # handle 60\n\t\tdrop # handle 61\n\t}\n"
    typed = (
        "\tmap typed { # handle 93\n\t\ttypeof iifname . oifname : verdict\n"
        '\t\telements = { "tailscale0" . "eth1" comment "a, b" : drop }\n\t}\n'
    )
    assert len(told("forward", rule, more=typed + deep)) == 1


@pytest.mark.parametrize(
    "rule",
    [
        'limit name "l" drop',
        "ether saddr 00:11:22:33:44:55 drop",
        'xt match "physdev" counter packets 0 bytes 0 drop',
    ],
)
def test_what_is_for_a_few_packets_is_not_told(rule: str) -> None:
    assert told("forward", rule) == []


def test_an_accept_ends_its_own_base_chain_alone() -> None:
    other = (
        "\tchain other { # handle 50\n\t\ttype filter hook forward priority filter; policy accept;\n"
        '\t\tiifname "tailscale0" accept # handle 51\n\t}\n'
    )
    drop = 'oifname "eth1" drop'
    assert told("forward", drop, more=other) == [drop]


def test_what_is_for_all_but_the_tailnet_may_drop_answers_alone() -> None:
    rule = 'iifname != "tailscale0" drop'
    assert told("forward", rule) == [rule]
    assert told("forward", "ct state established,related accept", rule) == []
    assert told("forward", "ct direction reply accept", rule) == []


def test_a_port_that_a_forward_rule_lists_is_told() -> None:
    ways = Ways(through=(Way(("eth0",), ("eth1",), "tcp", 445, 445),), networks=NETWORKS)
    for rule, is_told in (
        ("tcp dport 445 drop", True),
        ("tcp dport vmap { 22 : accept, 445 : drop }", True),
        ("tcp dport { 25, 440-450 } drop", True),
        ("tcp sport 445 drop", True),
        ("tcp dport 25 drop", False),
        ("udp dport 445 drop", False),
        ("ct state new tcp dport != 445 drop", False),
        ("ct state new tcp dport != 446 drop", True),
        ('iifname "eth1" tcp sport != 25 drop', True),
        ("meta l4proto udp drop", False),
    ):
        assert told("forward", rule, ways=ways) == [rule] * is_told, rule
    assert told("forward", "tcp dport 445 accept", 'iifname "eth0" drop', ways=ways) == []


@pytest.mark.parametrize(("family", "is_told"), [("ip", False), ("ip6", False), ("inet", True)])
def test_a_table_sees_its_own_family_alone(family: str, is_told: bool) -> None:
    drop = 'iifname "tailscale0" oifname "eth1" drop'
    accept = {"ip6": "ip6 saddr fd7a:115c:a1e0::/48 accept"}.get(family, "ip saddr 100.64.0.0/10 accept")
    assert told("forward", accept, drop, family=family) == [drop] * is_told


def test_what_tailscaled_accepts_first_is_not_dropped_below() -> None:
    """It marks what comes from the tailnet, and accepts that."""
    own = (
        "\tchain ts-forward { # handle 5\n"
        '\t\tiifname "tailscale0*" counter meta mark set meta mark & 0xff00ffff | 0x00040000 # handle 6\n'
        "\t\tmeta mark & 0x00ff0000 == 0x00040000 counter accept # handle 7\n"
        '\t\toifname "tailscale0*" ip saddr 100.64.0.0/10 counter drop # handle 8\n'
        '\t\toifname "tailscale0*" counter accept # handle 9\n\t}\n'
    )
    drop = 'oifname "eth1" drop'
    assert (
        told("forward", "counter jump ts-forward", drop, family="ip", name="filter FORWARD", more=own) == []
    )
    assert told("forward", drop, "jump ts-forward", family="ip", name="filter FORWARD", more=own) == [drop]


def test_where_nothing_is_routed_or_forwarded_nothing_is_said() -> None:
    assert told("forward", 'oifname "eth1" drop', ways=Ways(opened=OPENED, networks=NETWORKS)) == []


def test_answers_that_have_passed_are_not_dropped_by_what_stands_below() -> None:
    lan_to_tailnet = 'iifname "eth1" oifname "tailscale0" drop'
    assert told("forward", lan_to_tailnet) == [lan_to_tailnet]
    assert told("forward", "ct state established,related accept", lan_to_tailnet) == []
    assert told("output", "ct state established,related accept", "tcp sport 443 drop") == []
    for answered in (
        "ct state vmap { invalid : drop, established : accept, related : accept }",
        "counter packets 7 bytes 8 jump base",
        "jump base",
        'xt match "conntrack" counter accept',
    ):
        base = "\tchain base { # handle 5\n\t\tct state related,established counter accept # handle 6\n\t}\n"
        assert told("output", answered, 'oifname "eth0" counter drop', more=base) == [], answered
        assert told("forward", answered, lan_to_tailnet, more=base) == [], answered


UFW = """\tchain ufw-before-output { # handle 5
\t\toifname "lo" counter accept # handle 6
\t\tct state related,established counter accept # handle 7
\t\tcounter jump ufw-user-output # handle 8
\t}
\tchain ufw-user-output { # handle 9
\t\toifname "eth0" counter drop # handle 10
\t}
"""


def test_a_rule_of_ufw_for_what_leaves_does_not_stop_answers() -> None:
    found = told("output", "counter jump ufw-before-output", family="ip", name="filter OUTPUT", more=UFW)
    assert found == []
    bare = UFW.replace("\t\tct state related,established counter accept # handle 7\n", "")
    found = told("output", "counter jump ufw-before-output", family="ip", name="filter OUTPUT", more=bare)
    assert found == ['oifname "eth0" counter drop']


def test_answers_that_leave_by_a_port_that_is_accepted_above() -> None:
    ways = Ways(opened=(Way(("eth0", "tailscale0"), protocol="tcp", first=22, last=22),), networks=NETWORKS)
    drop = "ip daddr 10.44.0.0/16 drop"
    assert told("output", 'oifname "tailscale0" accept', drop, ways=ways) == [drop]
    assert told("output", 'oifname "tailscale0" accept', "tcp sport 22 accept", drop, ways=ways) == []


def test_a_chain_that_is_jumped_to_has_the_conditions_of_the_jump() -> None:
    deep = "\tchain deep { # handle 5\n\t\tdrop # handle 6\n\t}\n"
    assert told("forward", 'oifname "eth1" jump deep', more=deep) == ["drop"]
    assert told("forward", 'oifname "docker0" jump deep', more=deep) == []


@pytest.mark.parametrize("chain", ["DOCKER-ISOLATION-STAGE-2", "ts-forward", "LIBVIRT_FWI", "KUBE-FORWARD"])
def test_what_programs_put_there_by_default_is_left_out(chain: str) -> None:
    own = f"\tchain {chain} {{ # handle 5\n\t\tcounter packets 0 bytes 0 drop # handle 6\n\t}}\n"
    assert told("forward", f"jump {chain}", family="ip", name="filter FORWARD", more=own) == []
    by_hand = own.replace(chain, "DOCKER-USER")
    found = told("forward", "jump DOCKER-USER", family="ip", name="filter FORWARD", more=by_hand)
    assert found == ["counter packets 0 bytes 0 drop"]
    assert told("forward", "drop", family="ip", name="docker-bridges filter-FORWARD") == []


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        ("tcp sport 443 drop", True),
        ("tcp sport { 22, 8050 } drop", True),
        ('oifname "tailscale0" drop', True),
        ("tcp sport 25 drop", False),
        ("udp sport 443 drop", False),
        ("tcp dport 25 drop", False),
        ("meta skuid 1000 drop", False),
        ('oifname "wg7" drop', False),
        ("ip daddr 203.0.113.7 drop", False),
        ("ct state new drop", False),
    ],
)
def test_what_this_host_answers(rule: str, is_told: bool) -> None:
    assert told("output", rule) == [rule] * is_told


ROUTER = """
host: {name: one, tailnet: tail.test}
tailscale: {advertise: {routes: [192.168.15.0/24, "fd00:15::/64"], exit_node: true}}
firewall:
  zones:
    inner: {interfaces: ["eth1*"], tcp: [80]}
    peers: {interfaces: [tailscale0], services: [ssh]}
    far: {sources: [10.9.0.0/16, 192.168.15.128/25], udp: [53]}
  forward: [{from: far, to: peers, tcp: [445]}]
"""


@given(
    st.sampled_from(["forward", "output"]), st.lists(st.sampled_from(_WORDS.split()), min_size=1, max_size=14)
)
@example("forward", ["tcp", "flags", "&", "(", "syn", "|", "==", "0x0", "drop"])
def test_a_rule_that_nobody_understands_is_told_or_not(hook: str, words: list[str]) -> None:
    """Modules of nft that are not known here, and what it may print one day."""
    assert len(told(hook, " ".join(words))) <= 1


def _route(address: Address) -> Route | None:
    """The first address of the network is this host's own."""
    if str(address) in {"192.168.15.1", "fd00:15::1"}:
        return Route("lo", local=True)
    return Route("eth1") if str(address).startswith(("192.168.15.", "fd00:15:")) else None


def gathered(text: str, monkeypatch: pytest.MonkeyPatch, route: Callable[[Address], Route | None]) -> Ways:
    stack = parse_stack(text.encode(), Path("t.yaml"), load_presets(assets.folder("zones"))).stack
    around = Surroundings(
        interfaces=("eth0", "eth1", "tailscale0"),
        addresses={"eth1": ((ip_address("192.168.15.1"), 24),)},
        route=route,
    )
    monkeypatch.setattr(gathering, "look_around", lambda *_: around)
    return gathering.ways_of(stack, Facts(default_interface="eth0"))


def test_what_the_file_makes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = gathered(ROUTER, monkeypatch, _route)
    routes = (ip_network("192.168.15.0/24"), ip_network("fd00:15::/64"))
    assert ways.through == (
        Way(("tailscale0",), ("eth1",), sources=TAILNET, targets=routes),
        Way(("tailscale0",), ("eth0",), sources=TAILNET),
        Way(("eth0", "eth1"), ("tailscale0",), "tcp", 445, 445),
    )
    assert ways.opened == (
        Way(("eth1",), (HERE,), "tcp", 80, 80),
        Way(("tailscale0",), (HERE,), "tcp", 22, 22),
        Way(("eth0", "eth1"), (HERE,), "udp", 53, 53),
    )
    assert ways.networks is not None
    assert ip_network("192.168.15.1") in ways.networks[HERE]
    assert {ip_network("192.168.15.0/24"), ip_network("192.168.15.128/25")} <= {*ways.networks["eth1"]}


def test_the_kernel_is_not_asked_for_each_of_a_thousand_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []

    def route(address: Address) -> Route:
        asked.append(address)
        return Route("eth1" if address < ip_address("10.2.0.0") else "eth0")

    sources = ", ".join(f"10.{at >> 8}.{at & 255}.0/24" for at in range(1000))
    rules = ", ".join(f"{{from: far, to: peers, tcp: [{1000 + at}]}}" for at in range(20))
    text = (
        "host: {name: one}\nfirewall:\n  zones:\n    peers: {interfaces: [tailscale0]}\n"
        f"    far: {{sources: [{sources}]}}\n  forward: [{rules}]\n"
    )
    ways = gathered(text, monkeypatch, route)
    assert len(asked) <= 32
    assert [(each.came, each.first) for each in ways.through] == [
        (("eth1", "eth0"), 1000 + at) for at in range(20)
    ]
