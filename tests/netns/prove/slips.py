"""Broken tables by what a renderer gets wrong in a word: a match left out, a name made a wildcard, a network
a bit off, a published port forgotten. Beside `mutants`, which leaves out, swaps and widens what is listed.

Chosen from some 3,000 that were tried: those that no packet of the proof once told from the whole table,
and none that are as good as it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from mutants import Mutant

_WORDS = (
    # Of which table (empty: of both), what is replaced, and by what.
    ("", r'iifname "lo" accept', 'iifname "lo*" accept'),
    ("", r'iifname "lo" accept', 'iifname "l*" accept'),
    ("", r'(ip saddr 100\S+ ip saddr \S+ \S+ iifname != \{ )"lo"', r'\1"lo*"'),
    ("", r'(ip6 saddr fd\S+ iifname != \{ )"lo"', r'\1"l*"'),
    ("", r"icmpv6 type nd-router-advert (ip6 saddr fe80::/10)", r"\1"),
    ("", r'iifname "tailscale0" meta l4proto 99 drop', 'iifname "tailscale0" meta l4proto 99 accept'),
    ("", r'iifname "tailscale0" meta l4proto 99 drop', 'iifname != "tailscale0" meta l4proto 99 drop'),
    ("everything", r'iifname "tailscale0" meta l4proto 99 drop', "meta l4proto 99 drop"),
    ("everything", r'iifname "tailscale0" meta l4proto 99 drop', 'iifname "tailscale*" meta l4proto 99 drop'),
    ("", r"ct original proto-dst @open\.dmz\.udp ", ""),
    ("example", r"ct original proto-dst @open\.internal\.udp ", ""),
    ("everything", r"ct status dnat (meta l4proto 6 ct original proto-dst @open\.dmz)", r"\1"),
    ("everything", r"ct status dnat (meta l4proto 17 ct original proto-dst @open\.lab)", r"\1"),
    ("everything", r"ct status dnat (meta l4proto 6 ct original proto-dst @open\.office)", r"\1"),
    ("everything", r'oifname "tailscale0" (ip daddr @members\.admin\.tailnet4 goto refuse\.dmz)', r"\1"),
    ("everything", r'oifname "tailscale0" (ip6 daddr @members\.admin\.tailnet6 goto refuse\.dmz)', r"\1"),
    ("everything", r'oifname "tailscale0" (ip daddr @members\.admin\.tailnet4 accept)', r"\1"),
    ("everything", r'oifname "tailscale0" (ip daddr @members\.admin\.tailnet4 return)', r"\1"),
    ("everything", r'(oifname )"tailscale0"( ip daddr @members\.admin\.tailnet4 goto)', r'\1"t*"\2'),
    ("everything", r'(iifname "tailscale0" oifname )"eth0"( counter name admin\.exit)', r'\1"eth*"\2'),
)
_LEAKS = (
    *(("input", f"ct status dnat {verdict}") for verdict in ("accept", "drop")),
    *((chain, 'iifname "lo*" accept') for chain in ("input", "forward", "prerouting", "refuse.isolated")),
    *((chain, 'iifname "lo0" accept') for chain in ("input", "forward")),
    ("input", 'iifname "tailscale*" accept'),
    ("input", 'iifname != "eth0" accept'),
    # Where an advertised route leads: published or not is all the same there.
    *(
        ("from.internal", f'iifname "tailscale0" ip daddr 192.168.15.0/24 ct status dnat{asked} drop')
        for asked in (
            "",
            " meta l4proto 17",
            " meta l4proto 6 ct original proto-dst @open.internal.tcp",
            " meta l4proto 6 ct original proto-dst != @open.internal.tcp",
        )
    ),
    ("from.internal", 'iifname "tailscale0" ip daddr 192.168.15.0/24 meta l4proto 6 th dport 7777 drop'),
    ("from.dmz", "ip daddr 192.168.15.0/24 ct status dnat accept"),
    ("from.dmz", "ip daddr 192.168.15.0/24 ct status dnat meta l4proto 17 accept"),
    ("from.isolated", "ip daddr 192.168.15.0/24 ct status dnat accept"),
)
_SENDING = ("meta l4proto 17 drop", "meta l4proto 6 drop", "meta nfproto ipv6 drop", "drop", "reject")
"""Of a chain that no table has: what this host sends."""


def _words(text: str, table: str) -> Iterator[Mutant]:
    for of, pattern, by in _WORDS:
        if of in {"", table}:
            yield Mutant(f"{pattern} is {by}", re.sub(pattern, by, text, count=1))


def _leaks(text: str) -> Iterator[Mutant]:
    for chain, leak in _LEAKS:
        head = re.compile(rf"(\tchain {re.escape(chain)} \{{\n(?:\t\ttype [^\n]*\n)?)")
        yield Mutant(f"{chain} starts with {leak}", head.sub(rf"\1\t\t{leak}\n", text, count=1))
    for rule in _SENDING:
        chain = f"\tchain output {{\n\t\ttype filter hook output priority filter;\n\t\t{rule}\n\t}}\n}}\n"
        yield Mutant(f"a chain for what this host sends: {rule}", text[: text.rindex("}")] + chain)


def _elements(text: str, sets: str) -> Iterator[tuple[str, list[str], int, str]]:
    """Each element of the sets of these names: set, all lines of the table, which line, the element."""
    every, owner = text.split("\n"), ""
    for at, line in enumerate(every):
        if line.startswith(("\tset ", "\tchain ")):
            owner = line.split()[1]
        elif line.startswith("\t\t\t") and re.fullmatch(sets, owner):
            yield owner, every, at, line.strip().rstrip(",")


def _wildcards(text: str) -> Iterator[Mutant]:
    """Names of interfaces made wildcards, and wildcards shorter: a zone's neighbour becomes a part of it."""
    for owner, every, at, element in _elements(text, r"(zoned|members\.\w+)\.(interfaces|wildcards\d)"):
        name = element.strip('"').rstrip("*")
        for wide in (f"{name}*", f"{name.rstrip('0123456789')}*", f"{name[:-1]}*"):
            # A set has no wildcard within another.
            if f'"{wide}"' != element and f'"{wide}"' not in text:
                lines = [*every[:at], every[at].replace(element, f'"{wide}"'), *every[at + 1 :]]
                head = max(back for back in range(at) if lines[back].startswith("\tset "))
                if "flags interval" not in lines[head + 2]:
                    lines[head + 1] += "\n\t\tflags interval"
                yield Mutant(f"{owner}: {name} is {wide}", "\n".join(lines))


def _networks(text: str) -> Iterator[Mutant]:
    """Networks of an advertised route, of a zone and of all zones one address wider, or half as wide."""
    for owner, every, at, element in _elements(text, r"routes\.ip\d|zoned\.ip\d|members\.office\.ip\d"):
        if "-" in element:
            continue
        network = ipaddress.ip_network(element)
        wider = (f"{network[0] - 1}-{network[-1]}", f"{network[0]}-{network[-1] + 1}")
        # Those of all zones lie next to each other: no set has an address twice.
        for other in (*(() if owner.startswith("zoned") else wider), *map(str, network.subnets())):
            changed = "\n".join([*every[:at], every[at].replace(element, other), *every[at + 1 :]])
            yield Mutant(f"{owner}: {element} is {other}", changed)


def all_slips(text: str, table: str) -> list[Mutant]:
    """Every slip of a table."""
    makers = (_words(text, table), _leaks(text), _wildcards(text), _networks(text))
    return [each for made in makers for each in made]
