"""What the kernel's trace says, and the rules it speaks of, read from nft's listing. Pure.

Trace messages: linux/netfilter/nf_tables.h, enum nft_trace_attributes. One for each rule that matched to its
end, for each policy, and for the end of each chain.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tsstack.explain.netlink import by_kind

TRACER = "tsstack-explain"
"""The table that switches the trace on; what it does itself is not told."""

Kind = Literal["rule", "policy", "end"]
RuleKey = tuple[str, str, str, int]
"""Family, table, chain, handle."""

_TRACE = 10 << 8 | 17
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _TRANSPORT, _OUT, _POLICY = 1, 2, 3, 4, 5, 9, 12, 16
_TYPES: dict[int, Kind] = {1: "policy", 2: "end", 3: "rule"}
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    0xFFFFFFFF: "continue",
    0xFFFFFFFE: "break",
    0xFFFFFFFD: "jump",
    0xFFFFFFFC: "goto",
    0xFFFFFFFB: "return",
}
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_NAME = r"(?:\"[^\"]+\"|\S+)"
_TABLE_LINE = re.compile(rf"table (\w+) ({_NAME}) \{{.*")
_DORMANT_LINE = re.compile(r"\tflags .*\bdormant\b.*")
_CHAIN_LINE = re.compile(rf"\tchain ({_NAME}) \{{.*")
_BASE_LINE = re.compile(r"\t\ttype (\w+) hook (\w+) (.*?)priority ([^;]+);(?: policy (\w+);)?")
_RULE_END = re.compile(r"^(.*) # handle (\d+)$", re.DOTALL)
_COMMENT = re.compile(r' comment "([^"]*)"$')
_SET_LINE = re.compile(rf"\t(set|map) ({_NAME}) \{{.*")
_DECIDING_LINE = re.compile(r"\t\ttype(?:of)? .* : verdict")
_DECIDING = re.compile(r'\s*((?:[^,"]|"[^"]*")+) : ((?:jump|goto) [^\s,}]+|\w+)')
_ELEMENT = re.compile(r'([^\s,]+(?: \. [^\s,]+)*)(?: comment "([^"]*)")?(?: : [^,]+)?\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the trace."""

    family: str
    table: str
    chain: str
    kind: Kind
    handle: int
    verdict: str
    target: str = ""
    """The chain that is gone to."""
    outgoing: str = ""
    """The interface that the packet is leaving by, where that is known yet."""
    port: int = 0
    """The port that TCP or UDP goes to by then (of others no port); 0 where the message does not say."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as nft prints it, and its comment apart."""

    text: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class BaseChain:
    """Where a chain is hooked in."""

    type: str
    hook: str
    priority: str
    policy: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A ruleset: rules by handle, base chains, and our sets' elements with their comments."""

    rules: Mapping[RuleKey, Rule]
    hooks: Mapping[tuple[str, str, str], BaseChain]
    elements: Mapping[tuple[str, str, str], tuple[tuple[str, str], ...]]
    verdicts: Mapping[tuple[str, str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Of maps that decide: keys with what they lead to."""

    @property
    def tables(self) -> frozenset[tuple[str, str]]:
        """Family and name of the tables that have a chain at a hook."""
        return frozenset((family, table) for family, table, _ in self.hooks)


def is_trace(kind: int) -> bool:
    """Whether a netlink message of this type is a trace message."""
    return kind == _TRACE


def is_last(message: bytes) -> bool:
    """Whether nothing comes behind this: the packet is dropped."""
    values = by_kind(message[4:])
    if _TYPE not in values:
        return False
    kind = _TYPES.get(int.from_bytes(values[_TYPE]), "end")
    if kind == "policy":
        return int.from_bytes(values.get(_POLICY, b"\1")) == 0
    return kind == "rule" and _verdict(values)[0] == "drop"


def read_event(message: bytes, names: Mapping[int, str]) -> Event:
    """A message's body (nfgenmsg and attributes). `names`: interfaces by their index."""
    values = by_kind(message[4:])
    kind = _TYPES.get(int.from_bytes(values.get(_TYPE, b"")), "end")
    if kind == "policy":
        verdict, target = _VERDICTS.get(int.from_bytes(values.get(_POLICY, b"\1")), "accept"), ""
    else:
        verdict, target = _verdict(values)
    handle = int.from_bytes(values.get(_HANDLE, b""))
    return Event(
        _FAMILIES.get(message[0], str(message[0])),
        _text(values.get(_TABLE, b"")),
        _text(values.get(_CHAIN, b"")),
        "end" if kind == "rule" and not handle else kind,
        handle,
        verdict,
        target,
        names.get(int.from_bytes(values.get(_OUT, b"")), ""),
        int.from_bytes(values.get(_TRANSPORT, b"")[2:4]),
    )


def read_events(messages: Iterable[bytes], names: Mapping[int, str]) -> tuple[Event, ...]:
    """The trace of a packet, without what the tracer does itself."""
    read = (read_event(message, names) for message in messages)
    return tuple(event for event in read if event.table != TRACER)


def _verdict(values: Mapping[int, bytes]) -> tuple[str, str]:
    inner = by_kind(values.get(_VERDICT, b""))
    code = struct.unpack("!I", inner.get(_VERDICT_CODE, bytes(4)))[0]
    # A verdict may carry a number above its lowest byte: an errno, a queue.
    name = _VERDICTS.get(code) or _VERDICTS.get(code & 0xFF, "continue")
    return name, _text(inner.get(_VERDICT_CHAIN, b""))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def read_listing(text: str) -> Listing:
    """What `nft -a list ruleset` prints."""
    rules: dict[RuleKey, Rule] = {}
    hooks: dict[tuple[str, str, str], BaseChain] = {}
    elements: dict[tuple[str, str, str], tuple[tuple[str, str], ...]] = {}
    verdicts: dict[tuple[str, str, str], tuple[tuple[str, str], ...]] = {}
    for table, lines in _tables(text):
        is_off = any(_DORMANT_LINE.fullmatch(line) for line in lines)
        for chain, body in _blocks(lines, _CHAIN_LINE, 1):
            at = (*table, chain)
            for line in _whole_rules(body):
                if base := _BASE_LINE.fullmatch(line):
                    if not is_off:  # else the kernel asks none of its chains
                        hooks[at] = BaseChain(base[1], base[2], base[4], base[5] or "accept")
                elif rule := _RULE_END.match(line):
                    rules[(*at, int(rule[2]))] = _rule(rule[1])
        for name, body in _blocks(lines, _SET_LINE, 2):
            elements[(*table, name)] = tuple(_elements("\n".join(body)))
            if any(_DECIDING_LINE.fullmatch(line) for line in body):
                verdicts[(*table, name)] = tuple(_verdicts("\n".join(body)))
    return Listing(rules, hooks, elements, verdicts)


def _tables(text: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    table: tuple[str, str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if start := _TABLE_LINE.fullmatch(line):
            table, lines = (start[1], start[2].strip('"')), []
        elif line == "}" and table is not None:
            yield table, lines
            table = None
        else:
            lines.append(line)


def _blocks(lines: list[str], opening: re.Pattern[str], group: int) -> Iterator[tuple[str, list[str]]]:
    name, body = "", list[str]()
    for line in lines:
        if start := opening.fullmatch(line):
            name, body = start[group].strip('"'), []
        elif line == "\t}" and name:
            yield name, body
            name = ""
        elif name:
            body.append(line)


def _whole_rules(lines: Iterable[str]) -> Iterator[str]:
    """Rules that nft has broken into lines (long sets, chains within a rule), each as one."""
    waiting = ""
    for line in lines:
        waiting = f"{waiting} {line.strip()}" if waiting else line
        if _RULE_END.match(waiting) or _BASE_LINE.fullmatch(waiting):
            yield waiting
            waiting = ""


def _rule(text: str) -> Rule:
    text = text.strip()
    if found := _COMMENT.search(text):
        return Rule(text[: found.start()], found[1])
    return Rule(text)


def _verdicts(body: str) -> Iterator[tuple[str, str]]:
    _, _, inner = body.partition("elements = {")
    return ((found[1].strip(), found[2]) for found in _DECIDING.finditer(inner))


def _elements(body: str) -> Iterator[tuple[str, str]]:
    """Key and comment of each element; what this does not understand is left out."""
    start = body.find("elements = {")
    if start < 0:
        return
    inner = body[start + len("elements = {") : body.rfind("}")]
    for found in _ELEMENT.finditer(inner):
        yield found[1].strip('"'), found[2] or ""
