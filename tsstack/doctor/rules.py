"""What a rule of another owner asks of a packet, and its verdicts, read from nft's listing. Pure.

Only what says which packets are meant is taken apart; the judgement of it is in `conditions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["accept", "drop", "return", "continue", "jump", "goto"]

UNKNOWN = "?"
"""The key of what is not understood."""
OVERLOAD = "overload"
"""The key of limits that drop what goes beyond them."""
_SET = r'\{(?:[^{}"]|"[^"]*")*\}'
_WORD = r'(?:[^\s{}"()|/]+(?:/[^\s{}"()|/]+)*)'
_VALUE = rf'(?:{_SET}|"[^"]*"(?:-"[^"]*")?|\([^)]*\)|{_WORD}(?: \| {_WORD})*)'
_KEY = (
    r"(?:(?:meta )?[io]if(?:name|group|type|kind)?\b"
    r"|fib (?:\w+ \. )*\w+ (?:oifname|oif|type)\b"
    r"|ct (?:original |reply )?(?:ip6? )?[a-z][a-z0-9-]*"
    r"|(?:tcp|ip) option \S+(?: (?!exists|missing)[a-z-]+)?"
    r"|(?:meta|ip6?|tcp|udp|udplite|th|sctp|dccp|icmp|icmpv6|igmp|esp|ah|comp|ether|vlan|arp|exthdr|rt[024]?"
    r"|frag|hbh|dst|mh|socket|osf) [a-z][a-z0-9-]*)"
)
_MATCH = re.compile(
    rf"(?P<keys>{_KEY}(?: \. {_KEY})*)(?P<mask> [&|^] {_VALUE})*"
    rf"(?: (?P<test>!=|==|<=|>=|<|>|!|vmap|over))? (?P<value>{_VALUE})(?: / (?P<of>\S+))?(?= |$)"
)
_STATEMENT = re.compile(
    r'(?:counter(?: name \S+| packets \d+ bytes \d+)?|notrack|xt match "comment"'
    r'|log(?: prefix "[^"]*"| level \w+| group \d+| snaplen \d+| queue-threshold \d+'
    r"| flags (?:all|skuid|ether|tcp sequence(?:,options)?|tcp options|ip options))*"
    rf"|{_KEY} set .*?(?=$| (?:counter|log)\b)"
    rf"|(?:add|update|delete) @\S+ (?!{{[^}}]* over ){_SET})(?= |$)"
)
_GUARD = re.compile(
    r"(?:limit rate over \S+(?: \w+/\w+)?(?: burst \d+ \w+)?|ct count over \d+|quota over \d+ \w+"
    r"|(?:limit|quota) name \S+"
    rf"|(?:(?:add|update) @\S+|meter \S+(?: size \d+)?) {_SET})(?= |$)"
)
_XT_MATCH = re.compile(r'xt match "([^"]*)"')
_ONE = re.compile(rf'(?:{_SET}|"[^"]*"|[^\s{{}}"]+)')
_ENDS = re.compile(
    r"(?:^|\s)(?:(?P<plain>accept|drop|return|continue)|(?P<jump>jump|goto) (?P<to>[^\s{}]+)"
    r'|(?P<refuse>reject(?: with [\w -]+)?|xt target "(?:REJECT|DROP)"))$'
)
_WITHIN = re.compile(r"(?:^|\s)(?:jump|goto) \{(.*)\}$")
_REFUSES = re.compile(r"\b(?:drop|reject)\b")
_EXTRAS = re.compile(r" (?:counter|timeout|expires|comment|limit)\b.*")


@dataclass(frozen=True, slots=True)
class Match:
    """One condition: what is looked at, and for which values it is met."""

    keys: tuple[str, ...]
    """`oifname`; several of a concatenation."""
    values: tuple[tuple[str, ...], ...] | None
    """Each with one for every key. None: those of a set that is not known, or not understood."""
    negated: bool = False
    test: str = ""
    """`<`, `&` and the like, in place of equality."""
    of: str = ""
    """The bits that are compared: `syn / fin,syn`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What becomes of the packets that meet all conditions."""

    matches: tuple[Match, ...]
    verdict: Verdict
    target: str = ""
    """The chain that is gone to."""


Elements = Callable[[str], tuple[tuple[str, str], ...] | None]
"""By the name of a set or map: keys, each with its verdict or nothing."""


def read_rule(text: str, elements: Elements) -> tuple[Arm, ...]:
    """The arms of a rule, several where a map decides; none where it has no verdict."""
    if found := _ENDS.search(text):
        verdict, target = _verdict(found)
        return (Arm(_matches(text[: found.start()], verdict, elements), verdict, target),)
    if found := _WITHIN.search(text):
        # nft lists the rules of a nameless chain without a mark between them.
        unknown = Match((UNKNOWN,), None)
        before = _matches(text[: found.start()], "drop", elements)
        return (Arm((*before, unknown), "drop"),) if _REFUSES.search(found[1]) else ()
    return tuple(_of_map(text, elements)) if " vmap " in text else ()


def split(text: str) -> Iterator[str]:
    """The elements of a set in braces, or the one value that it is."""
    if not text.startswith("{"):
        yield text
        return
    for each in re.findall(r'(?:[^,"]|"[^"]*")+', text[1:-1]):
        if each.strip():
            yield each.strip()


def _verdict(found: re.Match[str]) -> tuple[Verdict, str]:
    if found["jump"]:
        return ("jump" if found["jump"] == "jump" else "goto"), found["to"].strip('"')
    plain = found["plain"]
    if plain in {"accept", "return", "continue"}:
        return plain, ""  # type: ignore[return-value]
    return "drop", ""


def _of_map(text: str, elements: Elements) -> Iterator[Arm]:
    for found in _MATCH.finditer(text):
        if found["test"] == "vmap":
            break
    else:
        if _REFUSES.search(text):
            yield Arm((Match((UNKNOWN,), None),), "drop")
        return
    before = _matches(text[: found.start()].strip(), "drop", elements)
    keys = tuple(each.removeprefix("meta ") for each in _keys(found["keys"]))
    value = found["value"]
    if value.startswith("@"):
        listed = elements(value[1:])
    else:
        pairs = (each.rpartition(" : ") for each in split(value))
        listed = tuple((key, verdict) for key, _, verdict in pairs)
    if listed is None:
        yield Arm((*before, Match(keys, None)), "drop")
        return
    # What is for all others stands last.
    for key, word in sorted(listed, key=lambda pair: pair[0] == "*"):
        if ends := _ENDS.search(word):
            here = () if key == "*" else (Match(keys, (_parts(key),)),)
            yield Arm((*before, *here), *_verdict(ends))


def _matches(text: str, verdict: str, elements: Elements) -> tuple[Match, ...]:
    found: list[Match] = []
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
        elif statement := _STATEMENT.match(text, at):
            at = statement.end()
        elif guard := _GUARD.match(text, at):
            found.append(Match((OVERLOAD,), None))
            at = guard.end()
        elif extension := _XT_MATCH.match(text, at):
            found.append(_of_xtables(extension[1], verdict))
            at = extension.end()
        elif match := _MATCH.match(text, at):
            found.append(_match(match, elements))
            at = match.end()
        else:
            word = _ONE.match(text, at)
            at = word.end() if word else at + 1
            found.append(Match((UNKNOWN,), None))
    return tuple(found)


def _match(found: re.Match[str], elements: Elements) -> Match:
    keys = tuple(each.removeprefix("meta ") for each in _keys(found["keys"]))
    test, value = found["test"] or "", found["value"]
    negated = test in {"!=", "!"}
    if test in {"==", "!="}:
        test = "==" if keys == ("tcp flags",) else ""
    of = found["of"] or ""
    if found["mask"] and keys == ("tcp flags",):
        test, of = "==", found["mask"].removeprefix(" & ")
    elif found["mask"]:
        test = "&"
    values: tuple[tuple[str, ...], ...] | None
    if value.startswith("@"):
        # Other sets are mostly long, and lists of bans.
        listed = elements(value[1:]) if any(key[:3] in {"iif", "oif"} for key in keys) else None
        values = tuple(_parts(key) for key, _ in listed) if listed else None
    else:
        test = "==" if value.startswith("{") and not test else test
        values = tuple(_parts(each) for each in split(value))
    return Match(keys, values, negated, test, of)


def _of_xtables(name: str, verdict: str) -> Match:
    """An extension of iptables that nft does not translate: of what it asks nothing but the name is told."""
    if name in {"conntrack", "state"} and verdict in {"accept", "drop"}:
        # What they are for nearly always.
        return Match(("ct state",), (("established",),) if verdict == "accept" else (("invalid",),))
    return Match((f"xt {name}",), None)


def _keys(text: str) -> Iterator[str]:
    return (each[0] for each in re.finditer(_KEY, text))


def _parts(element: str) -> tuple[str, ...]:
    return tuple(each.strip().strip('"') for each in _EXTRAS.sub("", element).split(" . "))
