"""Addresses of nobody, which stand for all of whom nothing is known but the interface they come by. Pure."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator

from tsstack.model.names import Address, Network
from tsstack.prove.expected import TAILNET
from tsstack.switch.behind import SHORTEST

# For an admin zone that is an interface: an address that belongs to nobody (RFC 5737, RFC 3849).
SOMEBODY = (ipaddress.ip_address("198.51.100.1"), ipaddress.ip_address("2001:db8::1"))
# Where those of strangers are, for a file that names these: lists of what to keep out do.
_STRANGERS = (ipaddress.ip_network("32.0.0.0/3"), ipaddress.ip_network("2000::/3"))
# What is routed between networks, first and last; and what of it is nobody's on the Internet.
_UNICAST = (
    (ipaddress.ip_address("1.0.0.0"), ipaddress.ip_address("223.255.255.255")),
    (_STRANGERS[1][0], _STRANGERS[1][-1]),
)
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    )
)


def somebody(networks: Iterable[Network]) -> list[Address]:
    """For IPv4 and IPv6, one of each part that short networks of the file's divide everybody into.

    In no longer network of the file's but where these leave nobody else.
    """
    known = list(networks)
    found: list[Address] = []
    for example, strangers, ends in zip(SOMEBODY, _STRANGERS, _UNICAST, strict=True):
        of_version = [each for each in known if each.version == example.version]
        found += _of_version(example, strangers, (int(ends[0]), int(ends[1]) + 1), of_version)
    return found


def peers(networks: Iterable[Network]) -> list[Address]:
    """Likewise one of each range of the tailnet's, where the file does not name all of it."""
    known = [each for each in networks if each.prefixlen >= SHORTEST[each.version]]
    found = []
    for tailnet in TAILNET:
        named = [each for each in known if each.version == tailnet.version and each.overlaps(tailnet)]
        taken = sorted((int(each[0]), int(each[-1]) + 1) for each in named)
        free = _first_free(int(tailnet[1]), int(tailnet[-1]), taken)
        found += [] if free is None else [tailnet[free - int(tailnet[0])]]
    return found


def _of_version(
    example: Address, strangers: Network, ends: tuple[int, int], networks: list[Network]
) -> Iterator[Address]:
    named = [each for each in networks if each.prefixlen >= SHORTEST[each.version]]
    short = [each for each in networks if each.prefixlen < SHORTEST[each.version]]
    edges = {at for each in short for at in (int(each[0]), int(each[-1]) + 1) if ends[0] < at < ends[1]}
    bounds = sorted({*ends, *edges})
    taken = sorted(
        (int(each[0]), int(each[-1]) + 1) for each in (*named, *_PRIVATE) if each.version == example.version
    )
    is_free = not any(example in each for each in named)
    parts = list(itertools.pairwise(bounds))
    for start, stop in sorted(parts, key=lambda part: not part[0] <= int(example) < part[1]):
        mid = max(start, int(strangers[0]))
        places = [(mid, min(stop, int(strangers[-1]) + 1)), (start, stop)]
        free = next(filter(None, (_first_free(first, last, taken) for first, last in places)), None)
        if start <= int(example) < stop and (is_free or free is None):
            yield example
        elif free is not None:
            yield type(example)(free)


def _first_free(start: int, stop: int, taken: list[tuple[int, int]]) -> int | None:
    found = start
    for first, end in taken:
        if first > found:
            break
        found = max(found, end)
    return found if found < stop else None
