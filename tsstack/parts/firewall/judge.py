"""Reads our own table as text and says what it does with one new connection.

It knows exactly the rules that `desired` writes, as written there or as nft lists them. It serves to find
the flows that a replaced table would no longer accept; whether the kernel does what the file means is
proven elsewhere, with packets.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from dataclasses import dataclass, field

from tsstack.parts.firewall.text import PROTOCOL_NUMBERS, blocks_of

_ELEMENTS = re.compile(r"elements = \{(.*)\}", re.DOTALL)
_COMMENT = re.compile(r'\s*comment "[^"]*"')
_TOKEN = re.compile(r'"[^"]*"|\{[^}]*\}|\S+')
# A set, alternatives, a name, a number or an address: what ours are matched with; and the words that are.
_OPERAND = re.compile(r'@\S+|\{[^}]*\}|"[^"]*"|\d+(?:-\d+)?|[0-9a-f.:]*[.:][0-9a-f.:]*(?:/\d+)?')
_WORDS = frozenset(
    {"established,related", "invalid", "dnat", "ipv4", "echo-request", "nd-router-advert", *PROTOCOL_NUMBERS}
)
_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Flow:
    """The first packet of a connection, as the filter hooks see it (after DNAT)."""

    protocol: str
    """`tcp`, `udp`, `icmp` or `icmpv6` (an echo request)."""
    source: str
    destination: str
    incoming: str
    """Interface it comes in by."""
    outgoing: str = ""
    """Interface it leaves by; empty for a packet to this host."""
    port: int = 0
    asked_port: int = 0
    """The destination port before DNAT."""
    dnat: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """`accept` or `refuse`, and the comment of the rule that decided."""

    verdict: str
    path: str


@dataclass(slots=True)
class Ruleset:
    """A table that was read; sets are sorted when they are first asked."""

    chains: dict[str, list[list[str]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def judge(self, flow: Flow) -> Judgement:
        """What becomes of the flow's first packet. Raises ValueError for a rule that is not ours."""
        spoofed = self._walk("prerouting", flow, 0)
        if spoofed is not None:
            return spoofed
        found = self._walk("forward" if flow.outgoing else "input", flow, 0)
        return found or Judgement("refuse", "")

    def _walk(self, chain: str, flow: Flow, depth: int) -> Judgement | None:
        if depth > _DEPTH:
            raise ValueError("chains in a circle")
        for tokens in self.chains[chain]:
            verdict, path = self._apply(list(tokens), flow)
            word, _, target = verdict.partition(" ")
            if word == "accept":
                return Judgement("accept", path)
            if word in {"drop", "reject"}:
                return Judgement("refuse", path)
            if word in {"goto", "jump"}:
                found = self._walk(target, flow, depth + 1)
                if found is not None or word == "goto":
                    return found
        return None

    def _apply(self, tokens: list[str], flow: Flow) -> tuple[str, str]:
        """The verdict of one rule for the flow, empty when it does not match, and its comment."""
        path = tokens[-1].strip('"') if len(tokens) > 1 and tokens[-2] == "comment" else ""
        while tokens:
            word = tokens.pop(0)
            if word in {"accept", "drop", "reject"}:
                return word, path
            if word in {"goto", "jump"}:
                return f"{word} {tokens.pop(0)}", path
            if word == "counter":
                del tokens[:2]
            elif word in {"limit", "comment", "type"} or not self._match(word, tokens, flow):
                return "", path
        return "", path

    def _match(self, word: str, tokens: list[str], flow: Flow) -> bool:
        """Take one match off the tokens and say whether it holds."""
        if word in {"ip", "ip6", "tcp", "udp", "icmp", "icmpv6", "meta", "ct"}:
            word = f"{word} {tokens.pop(0)}"
        if word == "ct original":
            word = f"{word} {tokens.pop(0)}"
        value = _value(word, flow)
        negated = tokens[0] == "!="
        if negated:
            tokens.pop(0)
        operand = tokens.pop(0)
        held = self._holds(operand, value if value is not None else "")
        return value is not None and held != negated

    def _holds(self, operand: str, value: int | str) -> bool:
        if not _OPERAND.fullmatch(operand) and operand not in _WORDS:
            raise ValueError(f"not a rule of ours: {operand}")
        if operand.startswith("@"):
            name = operand[1:]
            if name not in self.ranges:
                self.ranges[name] = _ranges(self.texts[name])
        else:
            name = operand
            if name not in self.ranges:
                self.ranges[name] = _ranges(operand.strip("{} "))
        entries = self.ranges[name]
        number = value if isinstance(value, int) else _name_number(value)[0]
        at = bisect_right(entries, number, key=lambda entry: entry[0]) - 1
        return at >= 0 and entries[at][1] >= number


def read_ruleset(text: str) -> Ruleset:
    """Our table from its text: the rendered file or nft's listing."""
    ruleset = Ruleset()
    for kind, name, body in blocks_of(text):
        if kind == "chain":
            lines = [line.strip() for line in body.splitlines()]
            ruleset.chains[name] = [_TOKEN.findall(line) for line in lines if line]
        else:
            found = _ELEMENTS.search(body)
            ruleset.texts[name] = found[1] if found else ""
    return ruleset


def _value(word: str, flow: Flow) -> int | str | None:
    """The flow's value for a field of a rule, or None where it has none. Raises ValueError if unknown."""
    version = 6 if ":" in flow.source else 4
    known: dict[str, int | str | None] = {
        "iifname": flow.incoming,
        "oifname": flow.outgoing,
        "oif": 1 if flow.outgoing else None,
        "ct state": "new",
        "ct status": "dnat" if flow.dnat else None,
        "ct original proto-dst": flow.asked_port,
        "meta l4proto": PROTOCOL_NUMBERS[flow.protocol],
        "meta nfproto": f"ipv{version}",
        "tcp dport": flow.port if flow.protocol == "tcp" else None,
        "udp dport": flow.port if flow.protocol == "udp" else None,
        "udp sport": None,
        "icmp type": "echo-request" if flow.protocol == "icmp" else None,
        "icmpv6 type": "echo-request" if flow.protocol == "icmpv6" else None,
        "ip6 hoplimit": None,
        "ip saddr": _number(flow.source) if version == 4 else None,
        "ip daddr": _number(flow.destination) if version == 4 else None,
        "ip6 saddr": _number(flow.source) if version == 6 else None,
        "ip6 daddr": _number(flow.destination) if version == 6 else None,
    }
    if word not in known:
        raise ValueError(f"not a rule of ours: {word}")
    return known[word]


def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def _ranges(elements: str) -> list[tuple[int, int]]:
    """Elements as sorted (first, last)."""
    keys = (element.strip() for element in _COMMENT.sub("", elements).split(","))
    return sorted(_bounds(key) for key in keys if key)


def _bounds(key: str) -> tuple[int, int]:
    if key in PROTOCOL_NUMBERS:  # nft's listing has names where /etc/protocols is there
        return PROTOCOL_NUMBERS[key], PROTOCOL_NUMBERS[key]
    if "/" in key:
        network = ipaddress.ip_network(key)
        first = int(network.network_address)
        return first, first + network.num_addresses - 1
    first_text, dash, last_text = key.partition("-")
    if first_text.isdigit():
        return int(first_text), int(last_text if dash else first_text)
    try:
        return _number(first_text), _number(last_text if dash else first_text)
    except ValueError:
        return _name_number(key)


def _name_number(name: str) -> tuple[int, int]:
    """A word or an interface as a range of numbers, so that a wildcard is a range as the kernel has it."""
    plain = name.strip('"')
    size = 32
    if plain.endswith("*"):
        raw = plain[:-1].encode()
        return int.from_bytes(raw.ljust(size, b"\0")), int.from_bytes(raw.ljust(size, b"\xff"))
    number = int.from_bytes(plain.encode().ljust(size, b"\0"))
    return number, number
