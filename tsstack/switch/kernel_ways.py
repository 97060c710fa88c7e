"""Which kernel parameters and limits would cut a way into this host, and which might. Pure.

The rules are few: each asks about the parameters as they are and as they are to be, and speaks where that
makes a way worse. docs/switch.md has them as a table. Sources: the kernel's
Documentation/networking/ip-sysctl.rst and nf_conntrack-sysctl.rst, and the code named beside a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tsstack.model.names import Address
from tsstack.prove.expected import TAILNET_INTERFACE

Read = Callable[[str], str | None]
"""The value of a parameter by its canonical name; None where this host has no such one."""

# The least that a host lives on: a handful of connections of its own beside the one that comes in.
_FEW_CONNECTIONS, _MODEST_CONNECTIONS = 16, 1024
_MODEST_NEIGHBOURS = 128
_MODEST_HOPS = 32
# RFC 9293 section 3.7.1: what everybody takes; and what Ethernet carries at most.
_MODEST_SEGMENT, _ETHERNET_SEGMENT = 536, 1460
_SHORT_S = 5
# RFC 4861 section 6.2.1: no router says that it is one for longer.
_LONGEST_ROUTER_S = 9_000
# sshd_config(5): LoginGraceTime is 120 s; opening a session takes some 8 kB each way.
_HOPELESS_BPS, POOR_BPS = 8 * 8_000 // 120, 9_600


class Path(NamedTuple):
    """What packets of a way go through: a link, our own address on it, and maybe a router beyond."""

    interface: str
    version: int
    gateway: bool
    learnt: bool = False
    """Whether the way back is a route that came by a router advertisement."""
    server: Address | None = None
    protocol: str = "tcp"


@dataclass(frozen=True)
class Ground:
    """What the rules need to know of the host."""

    read: Read
    resolves: Callable[[str], bool]
    """Whether an interface finds its neighbours by ARP or neighbour discovery (not `lo`, not a tunnel)."""
    holders: Mapping[Address, str]
    """The interface of each of our own addresses."""
    passing: frozenset[Address]
    """Those that a router advertisement gave, and that run out without one."""
    underlays: Sequence[Path]
    """What carries the tailnet: the default routes."""
    below: Callable[[str], Sequence[str]] = lambda _: ()
    """The interfaces that one is made of: a bridge's ports, a bond's, a VLAN's parent."""
    in_vrf: frozenset[str] = frozenset()
    """The VRFs, and the interfaces that belong to one."""


class Cut(NamedTuple):
    """A parameter that cuts a way (`certain`), or may."""

    name: str
    value: str
    why: str
    certain: bool


class _Found(NamedTuple):
    names: tuple[str, ...]
    why: str
    certain: bool = True


class Change:
    """New values of parameters and of limits (bits per second, by interface)."""

    def __init__(self, ground: Ground, values: Mapping[str, str], limits: Mapping[str, int]) -> None:
        self._ground, self._values, self._limits = ground, dict(values), dict(limits)

    def judge(self, path: Path) -> Iterator[Cut]:
        """What of the change closes a way by this path, or may; of the tailnet, by all that carries it."""
        yield from self._judge_link(path)
        if path.interface != TAILNET_INTERFACE or not self._ground.underlays:
            return
        each = [list(self._judge_link(under)) for under in self._ground.underlays]
        all_cut = all(any(cut.certain for cut in cuts) for cuts in each)
        for cut in dict.fromkeys(cut for cuts in each for cut in cuts):
            yield cut._replace(certain=cut.certain and all_cut, why=f"{cut.why}, which the tailnet goes by")

    def _judge_link(self, path: Path) -> Iterator[Cut]:
        for rule in _RULES:
            now, then = rule(path, self._ground.read, self._ground), rule(path, self._after, self._ground)
            if then is None or (now is not None and (now.certain or not then.certain)):
                continue
            name = next((name for name in then.names if name in self._values), "")
            if name:
                yield Cut(name, self._values[name], then.why, then.certain)
        yield from self._limit(path.interface)

    def _limit(self, interface: str, deep: int = 4) -> Iterator[Cut]:
        """A limit on it, or on what it is made of; of several parts packets may go by another."""
        rate_bps = self._limits.get(interface)
        if rate_bps is not None and rate_bps < POOR_BPS:
            why = f"at {rate_bps} bit/s the log-in on {interface} is over before it is done"
            yield Cut(f"bandwidth.{interface}", f"{rate_bps}bit", why, rate_bps < _HOPELESS_BPS)
        parts = self._ground.below(interface) if deep else ()
        for part in parts:
            for cut in self._limit(part, deep - 1):
                why = f"{cut.why}, which {interface} goes by"
                yield cut._replace(why=why, certain=cut.certain and len(parts) == 1)

    def _after(self, name: str) -> str | None:
        """The value to be. Some parameters of `all` are written to every interface (net/ipv6/addrconf.c)."""
        if name in self._values:
            return self._values[name]
        head, _, key = name.rpartition(".")
        if head.startswith("net.ipv6.conf.") and key in {"disable_ipv6", "forwarding", "addr_gen_mode"}:
            for_all = self._values.get(f"net.ipv6.conf.all.{key}")
            if for_all is not None:
                return for_all
        return self._ground.read(name)


def _number(read: Read, name: str, default: int = 0) -> int:
    try:
        return int(read(name) or "", 0)
    except ValueError:
        return default


def _names(path: Path, key: str, *, by_all: bool = True) -> tuple[str, ...]:
    start = f"net.ipv{path.version}.conf"
    own = f"{start}.{path.interface.replace('.', '/')}.{key}"
    return (own, f"{start}.all.{key}") if by_all else (own,)


def _arp(path: Path, read: Read, ground: Ground) -> _Found | None:
    """arp_ignore: the larger of `all` and the interface's own counts (net/ipv4/arp.c: arp_ignore)."""
    if path.version != 4 or not ground.resolves(path.interface):
        return None
    names = _names(path, "arp_ignore")
    mode = max(_number(read, name) for name in names)
    if mode == 8:
        return _Found(names, f"nobody on {path.interface} is told where this host is any more")
    holder = ground.holders.get(path.server) if path.server else None
    if mode in {1, 2} and holder is not None and holder != path.interface:
        why = (
            f"{path.server} is an address of {holder}, and who asks for it on {path.interface} gets no answer"
        )
        return _Found(names, why, certain=False)
    return None


def _reverse_path(path: Path, read: Read, ground: Ground) -> _Found | None:
    """rp_filter: the larger of `all` and the interface's own counts. 1 drops what is answered elsewhere."""
    holder = ground.holders.get(path.server) if path.server else None
    if path.version != 4 or holder in {None, path.interface, "lo"}:
        return None
    names = tuple(f"net.ipv4.conf.{each}.rp_filter" for each in (str(holder).replace(".", "/"), "all"))
    if max(_number(read, name) for name in names) != 1:
        return None
    why = f"answers leave by {path.interface}: what comes in by {holder}, whose address it is for, is dropped"
    return _Found(names, why, certain=False)


def _no_ipv6(path: Path, read: Read, _: Ground) -> _Found | None:
    own, for_all = _names(path, "disable_ipv6")
    if path.version != 6 or _number(read, own) == 0:
        return None
    return _Found((own, for_all), f"{path.interface} has no IPv6 any more")


def _router_advertisement(path: Path, read: Read, ground: Ground) -> _Found | None:
    """accept_ra: 1 counts only where this host does not forward. Routes and addresses then run out.

    Where something else than the kernel listens to routers (networkd), it is 0 before as well.
    """
    passing = path.server is not None and path.server in ground.passing
    if path.version != 6 or not (path.learnt or passing):
        return None
    (accept_ra,) = _names(path, "accept_ra", by_all=False)
    if _hears_routers(path, read):
        keys = [
            key for key, needed in _FROM_ROUTERS.items() if (path.learnt and path.gateway, passing)[needed]
        ]
        names = tuple(name for key in keys for name in _names(path, key, by_all=False))
        shut = tuple(name for name in names if read(name) == "0")
        if not shut:
            return None
        return _Found(shut, f"what routers on {path.interface} say is used no longer, and runs out")
    what = "the way back" if path.learnt else f"{path.server}"
    why = f"routers on {path.interface} are heard no longer, and {what} came from one"
    return _Found((accept_ra, *_names(path, "forwarding")), why)


def _hears_routers(path: Path, read: Read) -> bool:
    heard = _number(read, _names(path, "accept_ra", by_all=False)[0])
    return heard == 2 or (heard == 1 and not _number(read, _names(path, "forwarding")[0]))


# What is taken from an advertisement, and whether it is the address (else the default route).
_FROM_ROUTERS = {"accept_ra_defrtr": False, "accept_ra_pinfo": True, "autoconf": True}


def _lasting(path: Path, read: Read, ground: Ground) -> _Found | None:
    """accept_ra_min_lft: what a router says for less long is not taken, the route or the address."""
    route = path.learnt and path.gateway
    if path.version != 6 or not (route or path.server in ground.passing) or not _hears_routers(path, read):
        return None
    (name,) = _names(path, "accept_ra_min_lft", by_all=False)
    least_s = _number(read, name)
    if least_s <= 0:
        return None
    why = f"what routers on {path.interface} say for less than {least_s} s is not taken, and runs out"
    return _Found((name,), why, certain=route and least_s > _LONGEST_ROUTER_S)


def _narrower(path: Path, read: Read, ground: Ground) -> _Found | None:
    """What is no longer taken of an advertisement where it was: which one it was nobody knows."""
    if path.version != 6 or not _hears_routers(path, read):
        return None
    passing, names = path.server in ground.passing, []
    for key, (sign, of_route, of_address) in _NARROWER.items():
        (name,) = _names(path, key, by_all=False)
        concerned = (of_route and path.learnt and path.gateway) or (of_address and passing)
        if concerned and sign * _number(read, name) > sign * _number(ground.read, name):
            names.append(name)
    why = f"of what routers on {path.interface} say less is taken, and the rest runs out"
    return _Found(tuple(names), why, certain=False) if names else None


# 1: a larger value takes less, -1: a smaller one; whether routes, and whether addresses hang on it.
_NARROWER = {
    "accept_ra_rt_info_min_plen": (1, True, False),
    "accept_ra_rt_info_max_plen": (-1, True, False),
    "accept_ra_from_local": (-1, True, True),
    "ra_honor_pio_pflag": (1, False, True),
}


def _interface_id(path: Path, read: Read, ground: Ground) -> _Found | None:
    """addr_gen_mode: an address that is made anew is another, and the one in use runs out.

    0 and 1 differ for link-local addresses alone (net/ipv6/addrconf.c: addrconf_prefix_rcv).
    """
    if path.server is None or path.server not in ground.passing or not _hears_routers(path, read):
        return None
    own, for_all = _names(path, "addr_gen_mode")
    now, then = (max(1, _number(each, own)) for each in (ground.read, read))
    if now == then:
        return None
    # One that is not made of the hardware's address (RFC 4291, appendix A) where such are is DHCPv6's, maybe.
    certain = now != 1 or path.server.packed[11:13] == b"\xff\xfe"
    why = f"routers' prefixes on {path.interface} make another address, and {path.server} runs out"
    return _Found((own, for_all), why, certain)


def _vrf(path: Path, read: Read, ground: Ground) -> _Found | None:
    """tcp_l3mdev_accept, of IPv6 too: a server that is not bound to a VRF has what comes by one, or not."""
    name = f"net.ipv4.{path.protocol}_l3mdev_accept"
    holder = ground.holders.get(path.server, "") if path.server else ""
    if not {path.interface, holder} & ground.in_vrf or read(name) is None or _number(read, name):
        return None
    return _Found((name,), "a server that is not bound to the VRF is not reached by it", certain=False)


def _hops(path: Path, read: Read, _: Ground) -> _Found | None:
    if not path.gateway:
        return None
    own = _names(path, "hop_limit", by_all=False)[0]
    name = "net.ipv4.ip_default_ttl" if path.version == 4 else own
    hops = _number(read, name, 64)
    if not 0 < hops < _MODEST_HOPS:
        return None
    why = f"answers get no further than {hops} hop{'' if hops == 1 else 's'}"
    return _Found((name,), why, certain=hops == 1)


def _connections(_: Path, read: Read, __: Ground) -> _Found | None:
    """nf_conntrack_max: a new connection is dropped where the table is full; 0 is no limit."""
    names = ("net.netfilter.nf_conntrack_max", "net.nf_conntrack_max")  # one number, by two names
    most = min((number for name in names if (number := _number(read, name))), default=0)
    now = _number(read, "net.netfilter.nf_conntrack_count")
    # Little more than what is open now is soon full, too.
    if not 0 < most < max(_MODEST_CONNECTIONS, now + now // 4):
        return None
    why = f"the kernel then follows {most} connections at most, {now} are open now, and drops every other"
    return _Found(names, why, certain=most < max(_FEW_CONNECTIONS, now + 1))


def _neighbours(path: Path, read: Read, ground: Ground) -> _Found | None:
    """gc_thresh3: past it nobody new on a link is found (net/core/neighbour.c: neigh_alloc)."""
    name = f"net.ipv{path.version}.neigh.default.gc_thresh3"
    if not ground.resolves(path.interface) or read(name) is None:
        return None
    most = _number(read, name)
    if most >= _MODEST_NEIGHBOURS:
        return None
    return _Found((name,), f"this host then knows {most} neighbours at most", certain=most <= 0)


def _asks(path: Path, read: Read, ground: Ground) -> _Found | None:
    """mcast_solicit, app_solicit: with neither nobody new is asked for (net/core/neighbour.c)."""
    if not ground.resolves(path.interface):
        return None
    start = f"net.ipv{path.version}.neigh.{path.interface.replace('.', '/')}"
    names = (f"{start}.mcast_solicit", f"{start}.app_solicit")
    if read(names[0]) is None or any(_number(read, name) for name in names):
        return None
    return _Found(names, f"nobody new on {path.interface} is asked for any more")


def _segments(_: Path, read: Read, __: Ground) -> _Found | None:
    """tcp_min_snd_mss: what is sent is not cut smaller than this (net/ipv4/tcp_output.c: tcp_sync_mss)."""
    name = "net.ipv4.tcp_min_snd_mss"
    least = _number(read, name)
    if least <= _MODEST_SEGMENT:
        return None
    why = f"TCP then sends no less than {least} bytes at a time, which many links do not carry"
    return _Found((name,), why, certain=least > _ETHERNET_SEGMENT)


def _handshakes(_: Path, read: Read, __: Ground) -> _Found | None:
    """A handshake that is forgotten before it is over is no connection, unless one is taken up half-way."""
    loose = "net.netfilter.nf_conntrack_tcp_loose"
    if read(loose) is None or _number(read, loose, 1):
        return None
    start = "net.netfilter.nf_conntrack_tcp_timeout"
    names = tuple(f"{start}_{stage}" for stage in ("syn_sent", "syn_recv", "established"))
    short = tuple(name for name in names if _number(read, name, _SHORT_S) < _SHORT_S)
    if not short:
        return None
    shortest_s = min(_number(read, name) for name in short)
    why = f"connections are forgotten after {shortest_s} s, and none is taken up half-way ({loose} is 0)"
    return _Found((*short, loose), why, certain=shortest_s == 0)


_RULES = (
    _arp, _reverse_path, _no_ipv6, _router_advertisement, _lasting, _narrower, _interface_id, _vrf, _hops,
    _connections, _neighbours, _asks, _segments, _handshakes,
)  # fmt: skip
# What else there is of the family cuts nobody. max_addresses holds for new addresses: those there are
# renewed. A temporary one (use_tempaddr, temp_valid_lft) runs out whatever is set. accept_ra_rtr_pref and
# ra_defrtr_metric choose among ways out; accept_ra_min_hop_limit and accept_ra_mtu leave a number as it is.
# Routers are heard unasked too (router_solicitations). stable_secret is none that a file may set.

CONCERNED = frozenset(
    {
        "arp_ignore", "rp_filter", "disable_ipv6", "accept_ra", "forwarding", "hop_limit", "ip_default_ttl",
        "nf_conntrack_max", "gc_thresh3", "mcast_solicit", "app_solicit", "tcp_min_snd_mss",
        "nf_conntrack_tcp_loose", "nf_conntrack_tcp_timeout_syn_sent", "nf_conntrack_tcp_timeout_syn_recv",
        "nf_conntrack_tcp_timeout_established", "accept_ra_min_lft", "addr_gen_mode", "tcp_l3mdev_accept",
        "udp_l3mdev_accept", *_FROM_ROUTERS, *_NARROWER,
    }
)  # fmt: skip
"""The last words of the parameters that a rule asks about: of others nothing has to be looked at."""
