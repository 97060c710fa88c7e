"""The guard against random files on random hosts: no admin who can be there loses the way in unsaid, no admin
interface is left to nobody, nothing is refused where nobody loses it, and the same file closes nothing.

TSSTACK_WAYS_EXAMPLES asks for more than a usual run does.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "firewall"))

from firewall_stack import stack_of

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.prove.expected import TAILNET, Oracle, Packet
from tsstack.switch.behind import reachable
from tsstack.switch.guard import check_ways
from tsstack.switch.ways import Way, is_admin, ways_of_admins

EXAMPLES = int(os.environ.get("TSSTACK_WAYS_EXAMPLES", "0"))
FACTS = Facts(interfaces=("eth0", "eth1", "lo", "tailscale0"), default_interface="eth0")
OWN = {ipaddress.ip_address("192.168.15.1"), ipaddress.ip_address("10.9.0.1")}
SOURCES = (
    *("192.168.15.0/24", "192.168.15.0/25", "192.168.15.128/25", "192.168.15.7/32", "192.168.15.53/32"),
    *("10.9.0.0/24", "10.9.0.64/26", "10.9.0.5/32", "100.64.0.10/32", "198.51.100.0/24", "0.0.0.0/0"),
    *("10.20.0.0/16", "10.0.0.0/8", "172.16.5.0/24", "fe80::/10", "fd00:9::/64", "::/0", "2000::/3"),
    *("0.0.0.0/1", "128.0.0.0/1", "45.0.0.0/8", "100.64.0.0/10"),
)
# What is behind eth1 wholly, as an admin zone may come to name instead of the interface.
LAN = ("10.9.0.0/24", "10.20.0.0/16", "172.16.5.0/24", "fe80::/10", "fd00:9::/64")
HOLDS = ({"allow": "all"}, {"services": ["ssh"]}, {"services": ["ssh"]}, {"tcp": [80]}, {})


def network(text: str) -> Network:
    return ipaddress.ip_network(text)


DEFAULTS = (network("0.0.0.0/0"), network("::/0"))
# Whom no router lets pass, and whom only the tailnet's interface has.
NOT_ABROAD = (*map(network, ("127.0.0.0/8", "169.254.0.0/16")), *TAILNET)
ABROAD = (
    (int(ipaddress.ip_address("1.0.0.0")), int(ipaddress.ip_address("224.0.0.0")), 4),
    (int(ipaddress.ip_address("2000::")), int(ipaddress.ip_address("4000::")), 6),
    (int(ipaddress.ip_address("fc00::")), int(ipaddress.ip_address("fe00::")), 6),
)


class Host(NamedTuple):
    """Which networks this host's routes lead to, and by which links; by none: it is not said which."""

    usual: tuple[tuple[Network, str], ...]
    """By the usual table."""
    others: tuple[tuple[Network, tuple[str, ...]], ...]
    """By the tables of routing rules alone."""

    @property
    def routes(self) -> list[tuple[Network, tuple[str, ...]]]:
        return [*((each, (link,)) for each, link in self.usual), *self.others]

    def reach(self, interface: str, version: int) -> Collection[Network] | None:
        """Without a network of IPv6 there is no IPv6."""
        known = reachable(self.routes, interface)
        return None if known is None else [each for each in known if each.version == version]


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    usual = [("192.168.15.0/24", "eth0"), ("10.9.0.0/24", "eth1"), ("0.0.0.0/0", "eth0"), ("::/0", "eth0")]
    usual += [("fe80::/64", "eth0"), ("fe80::/64", "tailscale0")]
    may_be = [("10.20.0.0/16", "eth1"), ("fe80::/64", "eth1"), ("fd00:9::/64", "eth1"), ("::/0", "eth1")]
    may_be += [("0.0.0.0/0", "eth1"), ("0.0.0.0/1", "eth1"), ("100.64.7.0/24", "eth1")]
    usual += [each for each in may_be if draw(st.integers(0, 3)) == 0]
    rare = [("172.16.5.0/24", ("eth1",)), ("0.0.0.0/0", ("eth1", "eth0")), ("10.30.0.0/16", ())]
    others = [each for each in rare if draw(st.integers(0, 4)) == 0]
    return Host(
        tuple((network(each), link) for each, link in usual),
        tuple((network(each), links) for each, links in others),
    )


@st.composite
def zone(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = dict(draw(st.sampled_from(HOLDS)))
    interfaces = draw(st.lists(st.sampled_from(["eth0", "eth1", "tailscale0"]), max_size=2, unique=True))
    sources = draw(st.lists(st.sampled_from(SOURCES), max_size=3, unique=True))
    return {
        **made,
        **({"interfaces": interfaces} if interfaces else {}),
        **({"sources": sources} if sources else {}),
    }


ZONES = st.fixed_dictionaries({"admin": zone()}, optional={name: zone() for name in ("cam", "dmz", "world")})


@st.composite
def narrowed(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """An admin interface, and then its networks instead, or besides, or most of them."""
    more = {name: draw(zone()) for name in ("cam", "world") if draw(st.integers(0, 3)) == 0}
    held = draw(st.sampled_from(HOLDS[:3]))
    sources = [each for each in LAN if draw(st.integers(0, 5))]
    sources += draw(st.lists(st.sampled_from(SOURCES), max_size=1))
    then = draw(st.sampled_from([{"interfaces": ["eth1"], "sources": sources}, {"sources": sources}]))
    lan = {"lan": {"interfaces": ["eth1"], "tcp": [80]}} if draw(st.booleans()) else {}
    clean = {key: each for key, each in then.items() if each}
    lan = {} if "interfaces" in clean else lan
    return {"admin": {**held, "interfaces": ["eth1"]}, **more}, {"admin": {**held, **clean}, **more, **lan}


@st.composite
def change(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file, and what follows it: mostly one zone is another."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(narrowed())
    before = draw(ZONES)
    if kind == 1:
        return before, draw(ZONES)
    return before, {**before, draw(st.sampled_from(["admin", "cam", "dmz", "kiosk"])): draw(zone())}


def stack(zones: dict[str, Any]) -> Stack:
    return stack_of(f"firewall: {json.dumps({'zones': zones})}\n")


def one_of_each(start: int, stop: int, version: int, edges: Iterable[int]) -> Iterator[Address]:
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    bounds = sorted({start, stop, *(edge for edge in edges if start < edge < stop)})
    for first, end in itertools.pairwise(bounds):
        inner = range(first + 1 if end - first > 2 else first, min(end, first + 4))
        yield from itertools.islice((kind(at) for at in inner if kind(at) not in OWN), 1)


def people(host: Host) -> Iterator[tuple[Address, str, bool]]:
    """Who can be there, by which link, one of each part that a source may tell from others.

    And whether the usual table says so: of others nobody knows but that somebody is there.
    """
    known = [*host.routes, *((each, ("tailscale0",)) for each in TAILNET)]
    anybody = [link for link in ("eth0", "eth1", "tailscale0") if reachable(host.routes, link) is None]
    known += [(each, tuple(anybody)) for each in DEFAULTS if anybody]
    networks = [*map(network, SOURCES), *(each for each, _ in known)]
    edges = {
        version: {
            at for each in networks if each.version == version for at in (int(each[0]), int(each[-1]) + 1)
        }
        for version in (4, 6)
    }
    for each, links in known:
        here = "abroad" if is_abroad(each) else "near"
        for link in links or ("eth1",):
            said = (each, link) in host.usual or each in TAILNET
            parts = [(int(each[0]), int(each[-1]) + 1, each.version)]
            if here == "abroad":
                version_parts = [part for part in ABROAD if part[2] == each.version]
                parts = [(max(a, parts[0][0]), min(b, parts[0][1]), v) for a, b, v in version_parts]
            for start, stop, version in parts:
                for address in one_of_each(start, stop, version, edges[version]) if start < stop else ():
                    if is_there(address, link, each, host) and not (here == "abroad" and is_home(address)):
                        yield address, link, said and is_by_longest(address, link, host)


def is_home(address: Address) -> bool:
    return any(address in each for each in NOT_ABROAD if each.version == address.version)


def is_there(address: Address, link: str, its: Network, host: Host) -> bool:
    """Whether no longer route leads to it by another link; a peer of the tailnet is one all the same.

    Of the Internet, and of parts of it, nobody knows by which of its links somebody comes, nor of what
    routing rules lead to.
    """
    if link == "tailscale0":
        return its in TAILNET or is_abroad(its)
    near = [
        (each, at)
        for each, at in host.usual
        if each.version == address.version and address in each and not is_abroad(each)
    ]
    longest = max((each.prefixlen for each, _ in near), default=0)
    return not near or link in {at for each, at in near if each.prefixlen == longest}


def is_by_longest(address: Address, link: str, host: Host) -> bool:
    """Half a default route elsewhere leads away those of that half, as far as this host is asked."""
    holding = [(each, at) for each, at in host.usual if each.version == address.version and address in each]
    longest = max((each.prefixlen for each, _ in holding), default=0)
    return link == "tailscale0" or (longest, link) in {(each.prefixlen, at) for each, at in holding}


def is_abroad(network: Network) -> bool:
    return network.prefixlen < 8 and not network.is_link_local


def is_admins(oracle: Oracle, source: Address, link: str, *, by_link: bool = False) -> bool:
    """`by_link`: also who comes by an admin interface, and is in another zone by the own address."""
    members = oracle.members
    name = (by_link and members.by_interface(link)) or members.zone(source, link)
    return bool(name) and is_admin(name, oracle.firewall.zones[name])


def losers(
    before: Stack | None, after: Stack, host: Host, *, by_link: bool = False
) -> list[tuple[Address, str, bool]]:
    """Who came in as an admin, or would by the new file, and comes no more, by the model."""
    now, then = Oracle(before or stack_of("host: {name: a}"), FACTS), Oracle(after, FACTS)
    near = [each for each, _ in host.usual if not is_abroad(each)]

    def is_asked(source: Address, link: str) -> bool:
        """An admin source beyond a default route is asked by the uplink alone."""
        inside = any(source in each for each in near if each.version == source.version)
        return link != "eth1" or inside or not now.members.by_address(source, link)

    return [
        (source, link, said and is_asked(source, link))
        for source, link, said in people(host)
        if any(is_admins(each, source, link, by_link=way) for each in (now, then) for way in (False, by_link))
        if now.judge(Packet(source, link, "tcp", 22)).accepted
        and not then.judge(Packet(source, link, "tcp", 22)).accepted
    ]


def left_to_nobody(before: Stack, after: Stack, host: Host) -> set[str]:
    """The admin interfaces by which of the Internet nobody comes in any more, where somebody may be there."""
    now, then, found = Oracle(before, FACTS), Oracle(after, FACTS), set()
    for link, version in itertools.product(("eth0", "eth1"), (4, 6)):
        name = now.members.by_interface(link)
        if (
            not name
            or not is_admin(name, now.firewall.zones[name])
            or reachable(host.routes, link) is not None
        ):
            continue
        asked = (
            Packet(source, link, "tcp", 22)
            for source, at, _ in people(host)
            if at == link and source.version == version and source.is_global
        )
        opened = [packet for packet in asked if now.judge(packet).accepted]
        if opened and not any(then.judge(packet).accepted for packet in opened):
            found.add(link)
    return found


def ways_of(before: Stack | None, after: Stack, host: Host) -> list[Way]:
    return ways_of_admins(before, after, FACTS, [22], own=OWN, behind=host.usual, reach=host.reach)


def more(examples: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=EXAMPLES or examples, deadline=None, suppress_health_check=checks)


@more(400)
@given(change(), hosts(), st.integers(0, 5))
def test_no_admin_who_can_be_there_loses_the_way_in_unsaid(
    change: tuple[dict[str, Any], dict[str, Any]], host: Host, rules: int
) -> None:
    """One host in six is new: no rules of ours keep anybody out."""
    before, after = stack(change[0]) if rules else None, stack(change[1])
    ways, lost = ways_of(before, after, host), losers(before, after, host)
    try:
        doubts = check_ways(after, FACTS, ways)
    except CheckFailed as error:
        event("refused")
        assert losers(before, after, host, by_link=True), f"nobody loses anything: {error}"
        return
    event("told" if doubts else "nothing to say")
    assert before is None or not left_to_nobody(before, after, host)
    for link in {link for _, link, said in lost if said}:
        assert any(f" on {link}" in doubt for doubt in doubts)


@more(150)
@given(ZONES, hosts())
def test_the_same_file_closes_nothing(zones: dict[str, Any], host: Host) -> None:
    same = stack(zones)
    assert check_ways(same, FACTS, ways_of(same, same, host)) == []
