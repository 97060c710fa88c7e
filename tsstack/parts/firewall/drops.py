"""What the firewall refused lately, as the kernel logged it. Pure: `kernel_log` reads the lines.

The rules log with `tsstack ZONE drop: ` (`rulebook.log_statement`), at most five packets a second for each
rule after twenty at once: of a flood only a part is logged, so counts say how many were logged, at least
so many were dropped. What a network namespace other than the machine's first one drops is not logged at
all, unless the first one has `net.netfilter.nf_log_all_netns` = 1.

What stands in a line comes from whoever sent the packet, and every program of root can write lines: nothing
here raises, whatever a line holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

# net/netfilter/nf_log_syslog.c: dump_ipv4_packet(), dump_ipv6_packet(); the prefix, then IN=, OUT=, ...
_PREFIX = re.compile(r"tsstack ([A-Za-z0-9_.-][A-Za-z0-9 _.-]{0,63}) drop: (?=IN=)")
_FIELD = re.compile(r"(?:^| )([A-Z]{2,8})=(\S*)")
# The same file spells out TCP, UDP, UDPLITE, ICMP, ICMPv6, AH, ESP; all others are numbers.
_WITH_PORTS = {"tcp", "udp", "udplite"}
_MOST_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Refused:
    """One logged packet."""

    unix_s: float
    zone: str
    """The zone, or `no zone`, `spoofed tailnet source`, `misdirected tailnet address`."""
    source: str
    destination: str
    protocol: str
    """Lower case: `tcp`, `udp`, `icmp`, `icmpv6`, or a number such as `47`."""
    source_port: int | None
    port: int | None
    """The destination port; None for protocols without ports."""
    incoming: str
    """Interface it came in by; empty for what this host sent."""
    outgoing: str
    """Interface it would have left by; empty for a packet to this host."""


@dataclass(frozen=True, slots=True)
class Drops:
    """The logged packets of one source to one port that one zone refused."""

    zone: str
    source: str
    protocol: str
    port: int | None
    count: int
    first_unix_s: float
    last_unix_s: float
    incoming: str
    """Interface of the latest."""
    outgoing: str
    destination: str


def parse_drop(text: str, unix_s: float) -> Refused | None:
    """What a kernel message says, None when it is none of our firewall's. Never raises."""
    found = _PREFIX.match(text)
    if found is None:
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text[found.end() : found.end() + _MOST_CHARACTERS]):
        # The first of each name: behind them an ICMP error quotes, in brackets, the packet that it is about.
        fields.setdefault(name, value)
    source, destination = _address(fields.get("SRC", "")), _address(fields.get("DST", ""))
    protocol = fields.get("PROTO", "").lower()
    if not source or not destination or not re.fullmatch(r"[a-z0-9]{1,8}", protocol):
        return None
    with_ports = protocol in _WITH_PORTS
    return Refused(
        unix_s,
        found[1],
        source,
        destination,
        protocol,
        _port(fields.get("SPT", "")) if with_ports else None,
        _port(fields.get("DPT", "")) if with_ports else None,
        _interface(fields.get("IN", "")),
        _interface(fields.get("OUT", "")),
    )


def group_drops(packets: Iterable[Refused], *, most: int = 1000) -> tuple[Drops, ...]:
    """By zone, source, protocol and port; the most frequent first, then the latest. At most `most` groups."""
    groups: dict[tuple[str, str, str, int | None], tuple[int, float, float, Refused]] = {}
    for each in packets:
        key = (each.zone, each.source, each.protocol, each.port)
        if (known := groups.get(key)) is None:
            groups[key] = (1, each.unix_s, each.unix_s, each)
            continue
        count, first_s, last_s, latest = known
        groups[key] = (
            count + 1,
            min(first_s, each.unix_s),
            max(last_s, each.unix_s),
            each if each.unix_s >= last_s else latest,
        )
    found = [
        Drops(*key, count, first_s, last_s, latest.incoming, latest.outgoing, latest.destination)
        for key, (count, first_s, last_s, latest) in groups.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.count, -one.last_unix_s, one.source))[:most])


def _address(text: str) -> str:
    """As people write it: the kernel writes IPv6 in full. Empty for what is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < 65536 else None


def _interface(text: str) -> str:
    # dev_valid_name(): 15 bytes; the kernel's log writes what is not printable as \xNN.
    return text[:64]
