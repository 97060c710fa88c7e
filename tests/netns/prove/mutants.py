"""Broken tables: each rule of a rendered table left out once, each set and range widened, orders swapped.

`EQUIVALENT` lists those that no packet can tell from the whole table, with the reason.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

_CHAIN = re.compile(r"\tchain (\S+) \{")
_SET = re.compile(r"\tset (\S+) \{")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A table with one thing broken."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of a chain."""

    at: int
    chain: str
    text: str

    def __str__(self) -> str:
        return f"{self.chain} | {self.text}"


def rules_of(text: str) -> list[Rule]:
    """All rules, without those that only write to the log."""
    return [
        Rule(at, owner, line.strip())
        for at, owner, line in _lines_within(text, _CHAIN)
        if not line.startswith("\t\ttype ") and " log prefix" not in line
    ]


def _lines_within(text: str, head: re.Pattern[str]) -> Iterator[tuple[int, str, str]]:
    owner = ""
    for at, line in enumerate(text.split("\n")):
        if match := head.match(line):
            owner = match[1]
        elif line == "\t}":
            owner = ""
        elif owner:
            yield at, owner, line


def _with_line(text: str, at: int, *lines: str) -> str:
    every = text.split("\n")
    return "\n".join([*every[:at], *lines, *every[at + 1 :]])


def without_a_rule(text: str) -> Iterator[Mutant]:
    """Each rule left out once."""
    for rule in rules_of(text):
        yield Mutant(f"without {rule}", _with_line(text, rule.at))


def swapped_rules(text: str) -> Iterator[Mutant]:
    """Each rule changed with the one that follows it, where one of both ends the matter for some packet."""
    rules, members = rules_of(text), _members(text)
    for first, second in itertools.pairwise(rules):
        if first.chain == second.chain and second.at == first.at + 1 and _meet(first, second, members):
            every = text.split("\n")
            every[first.at], every[second.at] = every[second.at], every[first.at]
            yield Mutant(f"swapped {first} / {second.text}", "\n".join(every))


_KINDS = (
    ({"ip": r"\bip [sd]addr|\bicmp type|nfproto ipv4", "ip6": r"\bip6 |\bicmpv6 type"}),
    (
        {
            "tcp": r"\btcp |l4proto 6\b",
            "udp": r"\budp |l4proto 17\b",
            "icmp": r"\bicmp type",
            "icmpv6": r"\bicmpv6 type",
        }
    ),
)
_VERDICT = re.compile(r"(accept|drop|return|masquerade|(?:goto|jump) \S+) comment")


def _members(text: str) -> dict[str, set[str]]:
    """What each set holds, without comments."""
    found: dict[str, set[str]] = {}
    for _, owner, line in _lines_within(text, _SET):
        if line.startswith("\t\t\t"):
            word = re.split(r" comment | : ", line.strip().rstrip(","))[0]
            found.setdefault(owner, set()).add(word.strip('"'))
    return found


def _meet(first: Rule, second: Rule, members: dict[str, set[str]]) -> bool:
    """Whether a packet may match both rules, and it matters which of them is first."""
    for kinds in _KINDS:
        one, other = (
            {name for name, sign in kinds.items() if re.search(sign, each.text)} for each in (first, second)
        )
        if one and other and not one & other:
            return False
    for side in ("oifname", "iifname", "ip daddr", "ip saddr", "ip6 daddr", "ip6 saddr"):
        one, other = (_matched(side, each.text, members) for each in (first, second))
        if one and other and not any(_overlap(each, that) for each in one for that in other):
            return False
    return _verdict(first.text) != _verdict(second.text)


def _matched(side: str, rule: str, members: dict[str, set[str]]) -> set[str]:
    """What a rule asks for on a side; empty for anything."""
    found = re.search(rf'\b{side} (?:@(\S+)|"(\S+)")', rule)
    if not found:
        return set()
    return members.get(found[1], set()) if found[1] else {found[2]}


def _overlap(one: str, other: str) -> bool:
    """Whether two interfaces (wildcards, maybe), networks or ranges have something in common."""
    if one[0].isdigit() or ":" in one:
        (first, last), (begin, end) = map(_range, (one, other))
        return first <= end and begin <= last
    shorter, longer = sorted((one, other), key=len)
    return one == other or (shorter.endswith("*") and longer.startswith(shorter[:-1]))


def _range(word: str) -> tuple[int, int]:
    if "-" in word:
        first, last = word.split("-")
        return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))
    network = ipaddress.ip_network(word)
    return int(network[0]), int(network[-1])


def _verdict(rule: str) -> str:
    found = _VERDICT.search(rule)
    # The default policy of these files is to drop.
    return "drop" if "drop comment" in rule or "goto refuse" in rule else found[1] if found else rule


def widened_ports(text: str) -> Iterator[Mutant]:
    """Each port and range one wider at either end."""
    for at, owner, line in _lines_within(text, _SET):
        match = re.match(r"\t\t\t(\d+)(?:-(\d+))?( comment .*)$", line)
        if not match or not owner.startswith(("open.", "forward.")):
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        for low, high in ((first - 1, last), (first, last + 1)):
            # A range needs the flag that single ports do without.
            wide = _with_line(text, at, f"\t\t\t{low}-{high}{match[3]}")
            plain = rf"(set {re.escape(owner)} \{{\n\t\ttype inet_service\n)(?!\t\tflags)"
            yield Mutant(f"{owner}: {low}-{high}", re.sub(plain, r"\1\t\tflags interval\n", wide))


def narrowed_sets(text: str) -> Iterator[Mutant]:
    """Each element of a set left out once, unless it is the only one (a set needs one here)."""
    for at, owner, line in _lines_within(text, _SET):
        if line.startswith("\t\t\t"):
            every = text.split("\n")
            alone = every[at - 1].endswith("{") and every[at + 1].strip() == "}"
            if not alone:
                short = _with_line(text, at)
                yield Mutant(f"{owner} without {line.strip()}", re.sub(r",\n\t\t\}", "\n\t\t}", short))


# What every table has: networks, protocols, types; and what it must do for no packet.
_BASE = (
    ("ip saddr 100.64.0.0/10", "ip saddr 100.0.0.0/9"),
    ("ip saddr 100.64.0.0/10", "ip saddr 100.64.0.0/11"),
    ("ip saddr 100.64.0.0/10", "ip saddr 100.64.0.1-100.127.255.255"),
    ("ip saddr != 100.115.92.0/23", "ip saddr != 100.115.92.0/22"),
    ("ip saddr != 100.115.92.0/23", "ip saddr != 100.115.80.0/20"),
    ("ip saddr != 100.115.92.0/23", "ip saddr != 100.115.92.0/24"),
    ("ip6 saddr fd7a:115c:a1e0::/48", "ip6 saddr fd7a:115c:a1e0::/47"),
    ("ip6 saddr fd7a:115c:a1e0::/48", "ip6 saddr fd7a:115c:a1e0::/49"),
    ("ip daddr 100.64.0.0/10", "ip daddr 100.0.0.0/9"),
    ("ip daddr 100.64.0.0/10", "ip daddr 100.96.0.0/11"),
    ("ip daddr 100.64.0.0/10", "ip daddr 100.64.0.0/11"),
    ("ip daddr 100.64.0.0/10", "ip daddr 100.127.255.254"),
    ("ip daddr != 100.115.92.0/23", "ip daddr != 100.115.92.0/22"),
    ("ip daddr != 100.115.92.0/23", "ip daddr != 100.115.92.0/24"),
    ("ip6 daddr fd7a:115c:a1e0::/48", "ip6 daddr fd7a:115c:a1e0::/47"),
    ("ip6 daddr fd7a:115c:a1e0::/48", "ip6 daddr fd7a:115c:a1e0:ffff::/64"),
    ("icmp type { destination", "icmp type { redirect, destination"),
    ("icmp type { destination", "icmp type { router-advertisement, destination"),
    ("icmp type { destination", "icmp type { address-mask-request, destination"),
    ("icmp type { destination", "icmp type { source-quench, destination"),
    ("nd-router-solicit }", "nd-router-solicit, nd-redirect }"),
    ("nd-router-solicit }", "nd-router-solicit, router-renumbering }"),
    ("icmpv6 type { destination", "icmpv6 type { echo-reply, destination"),
    ("mld-listener-query, ", ""),
    ("mld-listener-done, ", ""),
    ("nd-neighbor-advert, ", ""),
    ("nd-router-solicit } ip6 hoplimit 255", "nd-router-solicit } ip6 hoplimit > 253"),
    ("nd-router-advert ip6 saddr fe80::/10 ip6 hoplimit 255", "nd-router-advert ip6 saddr fe80::/10"),
    ("udp sport 67 udp dport 68", "udp sport 67"),
    ("udp sport 547 udp dport 546", "udp sport 547"),
    *(
        (f"udp sport {server} udp dport {client}", f"udp sport {wide} udp dport {client}")
        for server, client in ((67, 68), (547, 546))
        for wide in (f"{server - 1}-{server}", f"{server}-{server + 1}")
    ),
    *(
        (f"udp sport {server} udp dport {client}", f"udp sport {server} udp dport {wide}")
        for server, client in ((67, 68), (547, 546))
        for wide in (f"{client - 1}-{client}", f"{client}-{client + 1}")
    ),
    *(
        (f"{before}fe80::/10{after}", f"{before}{other}{after}")
        for before, after in (
            ("ip6 daddr ", " udp sport"),
            ("nd-router-advert ip6 saddr ", ""),
            ("mld2-listener-report } ip6 saddr ", ""),
        )
        for other in ("fe80::/9", "fe80::/11", "fe7f::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    ),
    *(("udp dport 41641", f"udp sport {narrowed} udp dport 41641") for narrowed in ("1024-65535", "1-49151")),
    ("udp dport 41641", "udp dport 41640-41641"),
    ("udp dport 41641", "udp dport 41641-41642"),
    ("ip6 daddr fe80::/10 udp sport", "udp sport"),
    ("ct state established,related", "ct state established"),
    ("hook prerouting priority raw", "hook prerouting priority 10"),
    ("iif != 0 goto hidden", "iif >= 0 goto hidden"),
    ("table inet tsstack\ndelete table inet tsstack\n", ""),
    ("table inet tsstack\n", "flush ruleset\ntable inet tsstack\n"),
    ("table inet tsstack\n", "table inet elsewhere\ndelete table inet elsewhere\ntable inet tsstack\n"),
)
# Rules that nobody wrote, and the chains that they are put before the rest of.
_LEAKS = {
    "input": (
        *(
            "meta l4proto 47 accept",
            "meta l4proto 50 accept",
            "meta l4proto 132 accept",
            "meta l4proto 4 accept",
        ),
        *("tcp flags & (syn | ack) == ack accept", "tcp flags & (syn | ack) == (syn | ack) accept"),
        *("tcp flags & (fin | syn | rst | ack) == rst accept", "tcp flags & fin == fin accept"),
        *("udp sport 53 accept", "tcp sport 20 accept", "meta mark & 0xff0000 == 0x40000 accept"),
        *("ip daddr 224.0.0.0/4 accept", "ip daddr 255.255.255.255 accept", "ip6 daddr ff00::/8 accept"),
        *('iifname "eth0" udp dport 68 accept', "udp sport 67 accept", "ct state invalid accept"),
        *("ct state untracked accept", "icmp type redirect accept", "icmpv6 type >= 137 accept"),
    ),
    "zone.isolated": (
        *(
            "ip ttl 63 accept",
            "limit rate 1/minute accept",
            "tcp dport 20000-60000 accept",
            "meta l4proto 47 accept",
        ),
        *("ct status dnat accept", "ct state invalid accept", "meta nfproto ipv6 accept"),
    ),
    "from.isolated": (
        *("ct status dnat accept", "meta l4proto 47 accept", "icmp type time-exceeded accept"),
        *("tcp sport { 20, 53, 443 } accept", "ct state invalid accept", "udp dport 1024-65535 accept"),
    ),
    "forward": (
        *("ct state invalid accept", "meta l4proto { 47, 50 } accept", "ct status dnat accept"),
        *("meta mark & 0xff0000 == 0x40000 accept", "meta mark != 0 drop"),
    ),
}


def broken_base(text: str) -> Iterator[Mutant]:
    """What every table has, broken by hand, and holes that no file asks for."""
    for before, after in _BASE:
        if before in text:
            yield Mutant(f"{before!r} is {after!r}", text.replace(before, after, 2 if "ct " in before else 1))
    for chain, leaks in _LEAKS.items():
        head = re.compile(rf"(\tchain {re.escape(chain)} \{{\n(?:\t\ttype [^\n]*\n)?)")
        for leak in leaks:
            if head.search(text):
                yield Mutant(f"{chain} begins with {leak}", head.sub(rf"\1\t\t{leak}\n", text, count=1))


def all_mutants(text: str) -> list[Mutant]:
    """Every mutant of a table."""
    makers = (without_a_rule, swapped_rules, widened_ports, narrowed_sets, broken_base)
    return [each for make in makers for each in make(text) if each.text != text]


_END = "it stands last, and its verdict is that of the hook's policy: only a counter is missing"
_LATER = "a later rule says the same"
_EXIT = "the exit node lets it pass before"
_BOTH = "both rules say the same of what matches both"
_ALONE = "the zone has one such address, and nobody sends to itself"
_WITHIN = "veth1* is within veth*, which follows"
_SHOWN = "nothing behind it would hide the packet"
EQUIVALENT: tuple[tuple[str, str, str], ...] = (
    ("", r"^without zone\.\w+ \| goto refuse", _END),
    ("", r"^without always\.misdirected \|", _END),
    ("", r"^without input \| counter name unzoned drop", _END),
    ("", r"^without forward \| oifname (\"tailscale0\"|@zoned|@members\.(lab|dmz)).* accept", _LATER),
    ("", r"^without forward \| accept", _END),
    ("", r"^swapped input \| .*meta l4proto 99", _BOTH),
    ("", r"^without input \| iifname @members\.isolated", "default_policy refuses all of it too"),
    ("", r"^swapped input \| meta l4proto 1 ", "no packet is of both protocols"),
    ("", r"^without from\.(dmz|lab|office) \| oifname \"tailscale0\".*goto refuse", _LATER),
    ("", r"^without from\.isolated \| ct state invalid", _LATER),
    ("", r"^without zone\.isolated \| oif != 0 goto from\.isolated", _LATER),
    ("", r"^without zone\.(isolated|lab) \| icmp(v6)? type echo-request goto refuse", _LATER),
    ("", r"^without zone\.admin \| icmp(v6)? type echo-request", _LATER),
    ("", r"^swapped zone\.isolated \| oif != 0", _BOTH),
    ("", r"^swapped input \| iifname \"lo\"", _BOTH),
    ("", r"^swapped input \| ct state invalid .* / udp dport", "no datagram is invalid but a damaged one"),
    ("", r"hook prerouting priority 10", "it is still asked before the two other hooks"),
    ("example", r"^(without|swapped) pair\.internal\.dmz|^forward\.0\.tcp: 44", _EXIT),
    ("example", r"^without .* goto pair\.internal\.dmz", _EXIT),
    ("example", r"^(zoned|to\.internal)\.interfaces without \"eth0\"", _EXIT),
    ("example", r"^without from\.admin \| oifname .*tailnet4 accept", _ALONE),
    ("everything", r"^without from\.admin \| oifname .*tailnet6 accept", _ALONE),
    ("everything", r"^without from\.(internal|admin) \| oifname @members\.lab\.wildcards1", _WITHIN),
    ("everything", r"^without pair\.office\.dmz \| goto refuse", "the rule before it accepts all"),
    ("everything", r"^without from\.office \| iifname .*exit_node", "the rule to dmz accepts all of it"),
    ("everything", r"^swapped from\.office \| .*exit_node", _BOTH),
    ("everything", r"^swapped from\.(dmz|office) \| oifname @members\.dmz\.wildcards2 .* / ct status", _BOTH),
    ("everything", r"^without hide\.office \| oifname .*return", _SHOWN),
    ("everything", r"^without hidden\.sources \|.*return", _SHOWN),
    ("everything", r"^swapped hide\.office \| oifname @members\.lab", "no rule leads from office there"),
    ("everything", r"'iif >= 0 goto hidden'", "this host has no address of the zone that is hidden"),
)
"""Of which table (empty: of both), patterns of names, and why no packet tells such a mutant apart."""


def reason_of(mutant: Mutant, table: str) -> str:
    """Why it is as good as the whole table; empty if it is not."""
    return next(
        (
            reason
            for of, pattern, reason in EQUIVALENT
            if of in {"", table} and re.search(pattern, mutant.name)
        ),
        "",
    )
