"""Addresses of this host, its own networks and the tailnet, which say nothing of the way out in use."""

from __future__ import annotations

import functools
import ipaddress

_NEARBY = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)


@functools.lru_cache(maxsize=1024)
def is_nearby(address: str) -> bool:
    """Whether an address is one of these. Raises ValueError for what is no address."""
    found = ipaddress.ip_address(address)
    return any(found in network for network in _NEARBY)
