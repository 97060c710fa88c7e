"""nft's listing, as the trace's handles are looked up in it."""

from __future__ import annotations

from tsstack.explain.owners import OURS, UNKNOWN, owner_of
from tsstack.explain.tracing import read_listing

LISTING = """table inet tsstack { # handle 2
\tset open.dmz.tcp { # handle 41
\t\ttype inet_service
\t\tflags interval
\t\telements = { 80 comment "firewall.zones.dmz.tcp[0]", 443 comment "firewall.zones.dmz.tcp[1]",
\t\t\t     8000-8010 comment "firewall.zones.dmz.tcp[2]" }
\t}

\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "lo" accept comment "always: loopback" # handle 7
\t\tip saddr { 192.0.2.1, 192.0.2.2,
\t\t\t   192.0.2.3 } drop # handle 8
\t}
}
table ip6 odd { # handle 3
\tchain x { # handle 1
\t\tlog prefix "a # handle 9 comment \\"" # handle 2
\t}
}
"""


def test_rules_sets_and_hooks_are_read() -> None:
    listing = read_listing(LISTING)
    rules = {key[1:]: (rule.text, rule.comment) for key, rule in listing.rules.items()}
    assert rules["tsstack", "input", 7] == ('iifname "lo" accept', "always: loopback")
    assert rules["tsstack", "input", 8] == ("ip saddr { 192.0.2.1, 192.0.2.2, 192.0.2.3 } drop", "")
    assert ("odd", "x", 2) in rules
    assert listing.hooks["inet", "tsstack", "input"].policy == "drop"
    assert listing.tables == {("inet", "tsstack")}
    assert listing.elements["inet", "tsstack", "open.dmz.tcp"] == (
        ("80", "firewall.zones.dmz.tcp[0]"),
        ("443", "firewall.zones.dmz.tcp[1]"),
        ("8000-8010", "firewall.zones.dmz.tcp[2]"),
    )


def test_a_table_that_is_switched_off_has_no_hooks() -> None:
    off = LISTING.replace(
        "table inet tsstack { # handle 2\n", "table inet tsstack { # handle 2\n\tflags dormant\n\n"
    )
    listing = read_listing(off)
    assert (listing.tables, listing.hooks) == (frozenset(), {})
    assert listing.elements == read_listing(LISTING).elements


def test_owners() -> None:
    assert owner_of("inet", "tsstack", "input") == OURS
    assert owner_of("ip", "tsstack", "input") == UNKNOWN
    assert owner_of("ip", "filter", "ts-input") == "tailscaled"
    assert owner_of("ip", "nat", "DOCKER") == "Docker"
    assert owner_of("ip", "docker-bridges", "filter-FORWARD") == "Docker"
    assert owner_of("inet", "firewalld", "filter_INPUT") == "firewalld"
    assert owner_of("ip", "filter", "FORWARD") == "iptables"
