"""What a packet is for: `tcp/443`, `icmp/echo-request`, `ssh`. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tsstack.errors import UsageError
from tsstack.model.services import WELL_KNOWN
from tsstack.model.stack import Stack
from tsstack.prove.expected import LISTENERS, NEIGHBOURS, ROUTER_ADVERTISEMENT, Kind

# IANA, ICMP type numbers and ICMPv6 parameters, with nft's names; replies belong to what they answer.
ICMP_TYPES = {
    4: {
        "destination-unreachable": 3,
        "source-quench": 4,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "info-request": 15,
        "address-mask-request": 17,
    },
    6: {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "nd-router-solicit": 133,
        "nd-router-advert": 134,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "nd-redirect": 137,
        "node-information-query": 139,
        "mld2-listener-report": 143,
    },
}
_REPLIES = {4: (0, 14, 16, 18), 6: (129, 140)}
_ECHO = {4: 8, 6: 128}
_FORM = re.compile(r"([a-z0-9-]+)(?:/([a-z0-9-]+))?")
_FORMS = "write tcp/443, udp/53, icmp, icmp/echo-request, icmp/13, icmpv6/packet-too-big or a service's name"
_LAST_PORT = 65535
_LAST_TYPE = 255


@dataclass(frozen=True, slots=True)
class Service:
    """Protocol and port, or ICMP and its type: a name or number as written, empty for an echo request."""

    text: str
    kind: Kind
    port: int = 0
    icmp_type: str = ""
    version: int = 0
    """6 for what only ICMPv6 has, 0 where the addresses decide."""


def parse_service(text: str, stack: Stack | None) -> Service:
    """Read PROTO/PORT. Raises UsageError with the accepted forms."""
    found = _FORM.fullmatch(text.lower())
    word, rest = (found[1], found[2] or "") if found else ("", "")
    if word in {"tcp", "udp"} and rest:
        return _port(text, "tcp" if word == "tcp" else "udp", rest)
    if word in {"icmp", "icmpv6", "ping"}:
        if word == "ping" and rest:
            raise UsageError(f"{text!r}: ping has no port", hint=_FORMS)
        return _icmp(text, 6 if word == "icmpv6" else 0, rest)
    if word in {"tcp", "udp"}:
        raise UsageError(f"{text!r} lacks a port", hint=f"write {word}/443")
    if word.isdigit() and not rest:
        raise UsageError(f"{text!r} lacks a protocol", hint=f"did you mean tcp/{word} or udp/{word}?")
    if word and not rest:
        return _named(text, word, stack)
    raise UsageError(f"{text!r} is no protocol and port", hint=_FORMS)


def _port(text: str, kind: Kind, rest: str) -> Service:
    if rest.isdigit() and 1 <= int(rest) <= _LAST_PORT:
        return Service(f"{kind}/{int(rest)}", kind, int(rest))
    named = [each for each in WELL_KNOWN.get(rest, ()) if each.protocol == kind]
    if named and named[0].ports.first == named[0].ports.last:
        return Service(f"{kind}/{named[0].ports.first}", kind, named[0].ports.first)
    raise UsageError(f"{text!r}: a port is a number from 1 to {_LAST_PORT}", hint=_FORMS)


def _icmp(text: str, version: int, rest: str) -> Service:
    if rest in {"", "echo-request"}:
        return Service("icmpv6" if version else "icmp", "icmp", version=version)
    if rest.isdigit() and int(rest) <= _LAST_TYPE:
        return Service(text.lower(), "icmp", icmp_type=str(int(rest)), version=version)
    known = ICMP_TYPES[6] if version else {**ICMP_TYPES[6], **ICMP_TYPES[4]}
    if rest.endswith("-reply"):
        raise UsageError(_reply_words(text), hint="replies to an open connection always pass")
    if rest not in known:
        near = difflib.get_close_matches(rest, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{text!r}: no such ICMP type", hint=f"{guess}known are {', '.join(known)}")
    return Service(text.lower(), "icmp", icmp_type=rest, version=version or 6 * (rest not in ICMP_TYPES[4]))


def _reply_words(text: str) -> str:
    return f"{text!r} is a reply; only the first packet of a connection can be asked about"


def _named(text: str, word: str, stack: Stack | None) -> Service:
    own = dict(stack.firewall.services) if stack is not None and stack.firewall else {}
    listed = own.get(word) or WELL_KNOWN.get(word)
    if not listed:
        near = difflib.get_close_matches(word, [*own, *WELL_KNOWN], n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{text!r} is neither PROTO/PORT nor a service", hint=guess + _FORMS)
    if len(listed) > 1 or listed[0].ports.first != listed[0].ports.last:
        ports = ", ".join(f"{each.protocol}/{each.ports}" for each in listed)
        raise UsageError(f"{word} has several ports", hint=f"ask for one of {ports}")
    (each,) = listed
    return Service(f"{each.protocol}/{each.ports.first}", each.protocol, each.ports.first)


def icmp_of_version(service: Service, version: int) -> tuple[int, int]:
    """The ICMP type for an IP version (0: an echo request, or no ICMP), and the hop limit it comes with.

    What only a neighbour sends has the hop limit that it has on the link (RFC 4861, RFC 2710).
    Raises UsageError for a type that this version has not.
    """
    if service.version and service.version != version:
        raise UsageError(
            f"{service.text} is IPv6, but the packet is IPv{version}", hint="write icmp, or use -6"
        )
    if not service.icmp_type:
        return 0, 64
    names = ICMP_TYPES[version]
    if not service.icmp_type.isdigit() and service.icmp_type not in names:
        raise UsageError(f"{service.text}: IPv{version} has no such ICMP type", hint=", ".join(names))
    number = int(service.icmp_type) if service.icmp_type.isdigit() else names[service.icmp_type]
    if number in _REPLIES[version]:
        raise UsageError(_reply_words(service.text), hint="replies to an open connection always pass")
    if version == 6 and number in LISTENERS:
        return number, 1
    near = version == 6 and number in (*NEIGHBOURS, ROUTER_ADVERTISEMENT, 137)
    return (0 if number == _ECHO[version] else number), 255 if near else 64
