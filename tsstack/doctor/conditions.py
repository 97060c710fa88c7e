"""How many of a flow's packets a rule's condition takes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from tsstack.doctor.flows import ANY, HERE, LAST_PORT, is_named
from tsstack.doctor.rules import OVERLOAD, split

if TYPE_CHECKING:
    from tsstack.doctor.flows import End, Flow
    from tsstack.doctor.rules import Match

# Who refuses more ports than these means no service.
_FEW_PORTS = 1000
_VERSIONS = {"ip": 4, "ip6": 6, "ipv4": 4, "ipv6": 6, "4": 4, "6": 6}
_NUMBERS = {"6": "tcp", "17": "udp"}
_PORTED = frozenset({"tcp", "udp", "udplite", "th", "sctp", "dccp"})
_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_LATER_FLAGS = (16, 24, 17)
"""Data and the end; resets are left out, which some drop on purpose."""
_COMPARING = frozenset({"<", ">", "<=", ">=", "&"})
# Asked of packets that nobody needs, of too many of them, or of what this host does by itself.
_RARE = frozenset(
    {
        *(
            "exthdr",
            "rt",
            "rt0",
            "rt2",
            "rt4",
            "frag",
            "hbh",
            "dst",
            "mh",
            "esp",
            "ah",
            "comp",
            "igmp",
            "icmp",
        ),
        *("icmpv6", "sctp", "dccp", "udplite", "osf", "arp", "socket", "skuid", "skgid", "cgroup", "length"),
        OVERLOAD,
    }
)
_RARE_FIELDS = frozenset(
    {
        *("option", "frag-off", "hdrlength", "length", "ttl", "hoplimit", "dscp", "ecn", "flowlabel", "id"),
        *("window", "urgptr", "doff", "checksum"),
    }
)
_RARE_EXTENSIONS = frozenset(
    {
        *(
            "set",
            "recent",
            "hashlimit",
            "connlimit",
            "rpfilter",
            "tcpmss",
            "length",
            "ttl",
            "hl",
            "frag",
            "rt",
            "physdev",
        ),
        *("ah", "esp", "ipv6header", "pkttype", "addrtype", "u32", "string", "geoip", "multiport", "icmp"),
        *("icmp6", "bpf", "iprange", "owner", "eui64", "dst", "hbh", "osf", "quota", "dscp", "ecn", "tos"),
        "sctp",
    }
)


class Share(IntEnum):
    """How many of a flow's packets."""

    NONE = 0
    FEW = 1
    """Some service's, some addresses', or those that nobody needs."""
    SOME = 2
    """Many or all of them, as far as that can be told."""
    ALL = 3

    def rest(self) -> Share:
        """Of those that are not among them."""
        return {Share.NONE: Share.ALL, Share.ALL: Share.NONE}.get(self, Share.SOME)


def share(match: Match, flow: Flow) -> Share:
    """How many of the flow's packets meet the condition."""
    at_most = most(match, flow)
    if at_most is Share.NONE:
        return Share.NONE
    met = _met(match, flow)
    return min(at_most, met.rest() if match.negated else met)


def most(match: Match, flow: Flow) -> Share:
    """How many can meet it at all: of the flow its IP version and protocol alone are looked at."""
    return min(_most(key, match, flow) for key in match.keys)


def _most(key: str, match: Match, flow: Flow) -> Share:
    """How many can be meant at all, whatever they are compared with."""
    head, _, rest = key.partition(" ")
    field = rest.partition(" ")[0]
    if head in {"ip", "ip6"} and flow.version != _VERSIONS[head]:
        return Share.NONE
    is_ban = head in {"ip", "ip6"} and "addr" in field and match.values is None and not match.negated
    is_rare = (head in _RARE and match.values != (("missing",),)) or (
        head in {"ip", "ip6", "tcp"} and field in _RARE_FIELDS
    )
    is_ban = is_ban or (head == "ether" and not match.negated)
    if is_ban or is_rare or (head == "xt" and rest in _RARE_EXTENSIONS):
        return Share.FEW
    if head in {"tcp", "udp"} and flow.protocol != head:
        return Share.NONE if flow.protocol else Share.SOME
    return Share.SOME if head == "xt" else Share.ALL


def _met(match: Match, flow: Flow) -> Share:
    if match.values is None:
        return Share.SOME
    if match.keys == ("tcp flags",):
        return _flags(match, flow)
    if len(match.keys) == 1:
        return _of_key(match.keys[0], match.test, tuple(each[0] for each in match.values), flow)
    elements = (zip(match.keys, each, strict=False) for each in match.values)
    return max(
        (min(_of_key(key, "", (value,), flow) for key, value in each) for each in elements),
        default=Share.NONE,
    )


def _of_key(key: str, test: str, values: tuple[str, ...], flow: Flow) -> Share:
    head, _, field = key.partition(" ")
    if head in _PORTED and field in {"sport", "dport"}:
        return _ported(field, test, values, flow)
    if test in _COMPARING:
        return Share.SOME
    if head in {"ip", "ip6"} and field in {"saddr", "daddr"}:
        return _addressed(values, flow.source if field == "saddr" else flow.target)
    judge = _JUDGES.get(head if head == "fib" else key)
    return judge(values, flow) if judge else Share.SOME


def _interface(end: End, values: tuple[str, ...]) -> Share:
    if end.interface in {ANY, HERE}:
        return Share.SOME
    return _all_if(is_named(end.interface, values))


def _all_if(is_met: bool) -> Share:
    return Share.ALL if is_met else Share.NONE


def _words(values: tuple[str, ...]) -> set[str]:
    return {word.strip() for value in values for each in value.split(",") for word in each.split("|")}


def _state(values: tuple[str, ...], flow: Flow) -> Share:
    return _all_if(("new" if flow.state == "new" else "established") in _words(values))


def _direction(values: tuple[str, ...], flow: Flow) -> Share:
    return _all_if(("reply" if flow.state == "answer" else "original") in values)


def _version(values: tuple[str, ...], flow: Flow) -> Share:
    return _all_if(flow.version in {_VERSIONS.get(each) for each in values})


def _packet_type(values: tuple[str, ...], _: Flow) -> Share:
    return _all_if(bool({"host", "unicast"} & {*values}))


def _route(values: tuple[str, ...], _: Flow) -> Share:
    """What has no way back, or is for many."""
    return Share.SOME if {"unicast", "exists"} & {*values} else Share.FEW


def _protocol(values: tuple[str, ...], flow: Flow) -> Share:
    said = {_NUMBERS.get(each, each) for each in values}
    if flow.protocol:
        return _all_if(flow.protocol in said)
    wanted = len(said & {"tcp", "udp"})
    return (Share.FEW, Share.SOME, Share.ALL)[wanted]


def _addressed(values: tuple[str, ...], end: End) -> Share:
    met = _spans_of(values)
    if met is None:
        return Share.SOME
    if any(low == 0 and high == (1 << bits) - 1 for low, high, bits in met):
        return Share.ALL
    whole = partly = 0
    for own in end.networks:
        first, last = int(own.network_address), int(own.broadcast_address)
        there = [
            each for each in met if each[2] == own.max_prefixlen and each[0] <= last and first <= each[1]
        ]
        partly += bool(there)
        whole += any(low <= first and last <= high for low, high, _ in there)
    if not end.known:  # of a network that is refused in part others are let be
        return Share.SOME if whole else Share.FEW
    return Share.ALL if whole == len(end.networks) else Share.SOME if partly else Share.NONE


@lru_cache(256)
def _spans_of(values: tuple[str, ...]) -> tuple[tuple[int, int, int], ...] | None:
    """First and last address of each, and how many bits they have; None: not understood."""
    found: list[tuple[int, int, int]] = []
    for text in values:
        first, _, last = text.partition("-")
        try:
            if last:
                low, high = ip_address(first), ip_address(last)
                found.append((int(low), int(high), low.max_prefixlen))
            else:
                network = ip_network(first, strict=False)
                ends = int(network.network_address), int(network.broadcast_address)
                found.append((*ends, network.max_prefixlen))
        except ValueError:
            return None
    return tuple(found)


def _ported(field: str, test: str, values: tuple[str, ...], flow: Flow) -> Share:
    spans: list[tuple[int, int]] = []
    for each in values:
        first, _, last = each.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            return Share.SOME
        at = int(first)
        spans.append(
            {"<": (0, at - 1), "<=": (0, at), ">": (at + 1, LAST_PORT), ">=": (at, LAST_PORT)}.get(
                test, (at, int(last or first))
            )
        )
    if (field == "sport") != (flow.state == "answer"):
        return _few_or_some(spans)  # the other side's port, which may be any
    if flow.protocol:
        if any(low <= flow.first and flow.last <= high for low, high in spans):
            return Share.ALL
        is_met = any(low <= flow.last and flow.first <= high for low, high in spans)
        return Share.SOME if is_met else Share.NONE
    # Of all that this host offers every port is open.
    return Share.SOME if flow.source.interface == HERE else _few_or_some(spans)


def _few_or_some(spans: list[tuple[int, int]]) -> Share:
    return Share.FEW if sum(high - low + 1 for low, high in spans) <= _FEW_PORTS else Share.SOME


def _flags(match: Match, flow: Flow) -> Share:
    """What the flags of packets that do their work answer."""
    usual = {"new": (2,), "later": _LATER_FLAGS, "answer": (18, *_LATER_FLAGS)}[flow.state]
    mask = _bits(match.of) if match.of else 255
    wanted = [_bits(each) for value in match.values or () for each in split(value[0])]
    if match.test == "!" or (not match.test and not match.of):
        # `! syn` is none of these and `syn` is any of these; `negated` turns the first about.
        met = [any(each & bits for bits in wanted) for each in usual]
    else:
        met = [any(each & mask == bits for bits in wanted) for each in usual]
    return Share.ALL if all(met) else Share.SOME if any(met) else Share.NONE


def _bits(text: str) -> int:
    found = 0
    for word in text.strip("()").replace("|", ",").split(","):
        name = word.strip()
        try:
            found |= _FLAGS.get(name) or int(name, 0)
        except ValueError:
            return 1 << 16  # no packet has it
    return found


_JUDGES: dict[str, Callable[[tuple[str, ...], Flow], Share]] = {
    **{key: lambda values, flow: _interface(flow.source, values) for key in ("iif", "iifname")},
    **{key: lambda values, flow: _interface(flow.target, values) for key in ("oif", "oifname")},
    **dict.fromkeys(("l4proto", "ip protocol", "ip6 nexthdr"), _protocol),
    **dict.fromkeys(("nfproto", "protocol", "ip version", "ip6 version"), _version),
    "ct state": _state,
    "ct direction": _direction,
    "pkttype": _packet_type,
    "fib": _route,
}
