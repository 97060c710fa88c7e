"""Whether what leaves this host goes past the exit node that tailscaled says is in use.

tailscaled does not look after its routes: a flushed table, or a rule of another program before its own, and
all leaves by the uplink. The kernel alone knows, and rtnetlink(7) asks it: any user may, and nothing is sent.
"""

from __future__ import annotations

import os
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Attributes = Mapping[int, bytes]

TUNNEL = "tailscale0"
PATIENCE_S = 0.3
"""tailscaled names a new exit node a moment before its routes are there, and mends rules within that."""
# Documentation networks (RFC 5737, 3849 and 9637): no host's own, so what is routed there goes where the
# internet is. Several, since a lab may have one as its LAN, which may be let past the exit node.
_ANYWHERE = {
    4: ("192.0.2.1", "198.51.100.1", "203.0.113.1"),
    6: ("2001:db8::1", "3fff::1"),
}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# tailscale's wgengine/router: the table that it keeps its routes in, and what rules ask first for all.
_TABLE = 52
# linux/rtnetlink.h, linux/fib_rules.h and linux/netlink.h.
_ROUTE, _GET_ROUTE, _RULE, _GET_RULE = 24, 26, 32, 34
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
# What a packet meets, and the entry of the table that it is sent by.
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
_DST, _OIF, _PREFSRC, _RTA_TABLE = 1, 4, 7, 15
_FRA_DST, _FRA_SRC, _FRA_IIF, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 1, 2, 3, 6, 10, 15
_FRA_SUPPRESS_PREFIXLEN, _FRA_OIF, _FRA_L3MDEV, _FRA_UIDS = 14, 17, 19, 20
_INVERTED, _TO_TABLE = 0x2, 1
_UNICAST, _LOCAL = 1, 2
_HEAD, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_BODY = struct.Struct("=BBBBBBBBI")  # struct rtmsg; struct fib_rule_hdr has the same layout


class Bypass:
    """How packets of one IP version go past it: by which interface, and what sends them there."""

    __slots__ = ("interface", "rule", "version")

    def __init__(self, version: int, interface: str, rule: int | None) -> None:
        self.version = version
        self.interface = interface
        self.rule = rule
        """The preference of a rule asked before tailscaled's; None: its routes or rules are missing."""


class Way:
    """The way of a packet: by which interface, from which address, and the route that said so."""

    __slots__ = ("bits", "interface", "source", "table")

    def __init__(self, interface: str, source: str, table: int, bits: int = 0) -> None:
        self.interface = interface
        self.source = source
        self.table = table
        self.bits = bits
        """The length of the route's prefix."""


class Rule:
    """A rule of the kernel's that may send an unmarked packet of this host to a table."""

    __slots__ = ("preference", "suppressed_bits", "table")

    def __init__(self, preference: int, table: int, suppressed_bits: int = -1) -> None:
        self.preference = preference
        self.table = table
        self.suppressed_bits = suppressed_bits
        """Of this length or shorter a route is not taken (ip-rule(8), suppress_prefixlength); -1: all are."""


def is_past(ways: Sequence[Way], tunnel: str, addresses: Sequence[str]) -> bool:
    """Whether all these leave otherwise than by the tailnet. None at all: then nothing leaves."""
    return bool(ways) and not any(way.interface == tunnel or way.source in addresses for way in ways)


def rule_before(rules: Sequence[Rule], table: int, bits: int) -> int | None:
    """The preference of the rule that asks `table` before tailscaled's own, for a route of `bits`.

    None: its own are at fault.
    """
    own = [rule.preference for rule in rules if rule.table == _TABLE]
    others = [rule.preference for rule in rules if rule.table == table and rule.suppressed_bits < bits]
    return min((each for each in others if each < min(own, default=0)), default=None)


def in_words(past: Sequence[Bypass]) -> str:
    """By which way packets leave that should go by the exit node, and why."""
    ways: dict[tuple[str, int | None], list[str]] = {}
    for each in past:
        ways.setdefault((each.interface, each.rule), []).append(f"IPv{each.version}")
    told = []
    for (interface, rule), versions in ways.items():
        why = "tailscaled's routes or rules are missing"
        if rule is not None:
            why = f"rule {rule} stands before tailscaled's"
        leaves = "leave" if len(versions) > 1 else "leaves"
        told.append(f"{' and '.join(versions)} {leaves} this host by {interface} ({why})")
    return "; ".join(told)


def way_back(past: Sequence[Bypass]) -> str:
    """What leads out by the exit node again. A rule is another program's: whoever wants it has to decide."""
    rules = [each for each in past if each.rule is not None]
    commands = [f"ip -{each.version} rule show pref {each.rule}" for each in rules]
    if len(rules) < len(past):
        commands.append("systemctl restart tailscaled")
    words = " and ".join(f"ip -{each.version} rule del pref {each.rule}" for each in rules)
    return "; ".join(commands) + (f"    # who set it? {words} takes it away" if rules else "")


def read_bypass(
    addresses: Sequence[str], *, kernel: Kernel | None = None, wait: Callable[[float], None] = time.sleep
) -> list[Bypass]:
    """Of each IP version that goes past the exit node in use. `addresses` are this node's on the tailnet.

    Nothing where the tailnet has no interface here (userspace networking, another network namespace), and
    where the kernel cannot be asked.
    """
    try:
        kernel = kernel or Kernel()
        with kernel:
            tunnel = kernel.tunnel(addresses)
            if not tunnel or not any(_past(kernel, tunnel, addresses)):
                return []
            wait(PATIENCE_S)
            return list(_past(kernel, tunnel, addresses))
    except (OSError, struct.error):
        return []


def _past(kernel: Kernel, tunnel: str, addresses: Sequence[str]) -> Iterator[Bypass]:
    for version in _FAMILIES:
        ways = []
        for address in _ANYWHERE[version]:
            ways += [way] if (way := kernel.way_to(address)) is not None else []
            if ways and not is_past(ways, tunnel, addresses):
                break
        if is_past(ways, tunnel, addresses):
            rule = rule_before(kernel.rules(version), ways[0].table, ways[0].bits)
            yield Bypass(version, ways[0].interface, rule)


class Kernel:
    """A socket to the kernel's routes and rules. Its methods raise OSError where it answers nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(1.0)
        self._sequence = 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def tunnel(self, addresses: Sequence[str]) -> str:
        """The tailnet's interface here, whatever its name, and be it down; empty: it has none."""
        for address in addresses:
            found = self._look_up(address, _FIB_MATCH)
            name = _interface(found[1]) if found is not None and found[0] == _LOCAL else ""
            if name:
                return name
        try:
            socket.if_nametoindex(TUNNEL)
        except OSError:
            return ""
        return TUNNEL

    def way_to(self, address: str) -> Way | None:
        """How an unmarked packet of this process would leave; None: not at all."""
        found = self._look_up(address)
        if found is None or found[0] != _UNICAST or not (interface := _interface(found[1])):
            return None
        source = found[1].get(_PREFSRC, b"")
        written = socket.inet_ntop(_family(address), source) if source else ""
        matched = self._look_up(address, _FIB_MATCH)
        bits = matched[2] if matched is not None else 0
        return Way(interface, written, _number(found[1].get(_RTA_TABLE, b"")), bits)

    def rules(self, version: int) -> list[Rule]:
        """Those that apply to an unmarked packet from here to anywhere, if one looks at them roughly."""
        found = []
        for body, attributes in self._ask(_GET_RULE, _DUMP, _BODY.pack(_FAMILIES[version], *(0,) * 8)):
            table, action, flags = body[4], body[7], body[8]
            if action == _TO_TABLE and (flags & _INVERTED or not _is_narrow(attributes)):
                table = _number(attributes[_FRA_TABLE]) if _FRA_TABLE in attributes else table
                suppressed = struct.unpack("=i", attributes.get(_FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4))[0]
                found.append(Rule(_number(attributes.get(_FRA_PRIORITY, b"")), table, suppressed))
        return found

    def _look_up(self, address: str, flags: int = 0) -> tuple[int, Attributes, int] | None:
        """What the kernel says of the way there: its kind (RTN_*), more, and the bits of its prefix."""
        family, packed = _family(address), socket.inet_pton(_family(address), address)
        body = _BODY.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, _LOOKUP_TABLE | flags)
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DST) + packed
        try:
            for answer, attributes in self._ask(_GET_ROUTE, 0, body):
                return answer[7], attributes, answer[1]
        except TimeoutError:
            raise
        except OSError:  # it is unreachable, prohibited, or there is no such family
            return None
        return None

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[tuple[int, ...], Attributes]]:
        self._sequence += 1
        head = _HEAD.pack(_HEAD.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.sendto(head + body, (0, 0))
        while True:
            data, at = self._socket.recv(1 << 17), 0
            while at + _HEAD.size <= len(data):
                length, said, _, sequence, _ = _HEAD.unpack_from(data, at)
                inner = data[at + _HEAD.size : at + length]
                at += max(length + 3 & ~3, _HEAD.size)
                if sequence != self._sequence:
                    continue  # of a list that was not read to its end
                if said == _ERROR:
                    number = -struct.unpack_from("=i", inner)[0]
                    raise OSError(number, os.strerror(number))
                if said == _DONE:
                    return
                if said in {_ROUTE, _RULE}:
                    yield _BODY.unpack_from(inner), _attributes(inner[_BODY.size :])
            if not flags:
                return


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _interface(attributes: Attributes) -> str:
    """The name of the interface that it leaves by; empty: of none, or it is gone meanwhile."""
    try:
        return socket.if_indextoname(_number(attributes.get(_OIF, b"")))
    except OSError:
        return ""


def _is_narrow(attributes: Attributes) -> bool:
    """Whether a rule asks for more than an unmarked packet of any user from here has."""
    marked = _number(attributes.get(_FRA_FWMARK, b"")) != 0
    ways_in = attributes.get(_FRA_IIF, b"lo\0").rstrip(b"\0") != b"lo"  # `lo` is what begins here
    others = {_FRA_DST, _FRA_SRC, _FRA_OIF} & attributes.keys()
    users = attributes.get(_FRA_UIDS)
    first, last = struct.unpack("=II", users) if users else (0, 0xFFFFFFFF)
    own = first <= os.getuid() <= last
    l3mdev = _FRA_L3MDEV in attributes and attributes[_FRA_L3MDEV] != b"\0"
    return marked or ways_in or bool(others) or not own or l3mdev


def _attributes(data: bytes) -> Attributes:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _number(data: bytes) -> int:
    return int(struct.unpack("=I", data)[0]) if len(data) == 4 else 0
