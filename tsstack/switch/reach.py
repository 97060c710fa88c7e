"""Who can be behind an interface: its networks alone, or anybody. Read from /sys and by rtnetlink(7)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from tsstack.model.facts import Facts
from tsstack.model.names import Address, Network
from tsstack.switch.behind import reachable
from tsstack.switch.logins import logins
from tsstack.switch.routes import every_route, own_addresses
from tsstack.switch.ways import Session

_OFF = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
_GIVEN = "/proc/sys/net/ipv6/conf/{}/addr_gen_mode"
_NONE = "1"
"""Linux, include/uapi/linux/if_link.h: IN6_ADDR_GEN_MODE_NONE."""
_TRIES = 3
_ANYBODY = ipaddress.ip_network("0.0.0.0/0")


class Reach:
    """Answers once asked, as the host is then; the routes are read for the first question."""

    def __init__(self, facts: Facts) -> None:
        self._ipv6 = facts.ipv6
        # What comes by a port or by a member of a VRF is seen as its master's; of a VRF the members have
        # the routes.
        self._apart = {port for port, _ in facts.ports} | {
            name for pair in facts.vrf_members for name in pair
        }

    def __call__(self, interface: str, version: int) -> list[Network] | None:
        """The networks of an IP version that are all there is behind an interface.

        None where that is not known: the Internet is beyond it, it is down, or it has no address yet.
        Raises OSError.
        """
        if interface in self._apart or not _is_running(interface):
            return None
        known = reachable(self._routes, interface)
        if known is None:
            return None
        found = [network for network in known if network.version == version]
        if version == 6 and (not self._ipv6 or _read(_OFF.format(interface)) == "1"):
            return found
        if any(
            not any(client in network for network in found) for client in self._clients(interface, version)
        ):
            return None
        # A tunnel of IPv4 alone has no link-local address, and is given none.
        if version == 6 and known and not found and _read(_GIVEN.format(interface)) == _NONE:
            return found
        # An address of 169.254.0.0/16 alone is what a host gives itself without an answer of DHCP's.
        is_there = any(network.version == 6 or not network.is_link_local for network in found)
        return found if is_there else None

    def _clients(self, interface: str, version: int) -> Iterator[Address]:
        """Who has a session with an address of it now: routes do not tell of who comes by another router."""
        own = {address for address, name, _ in own_addresses() if name == interface}
        for session in self._sessions:
            if session.server in own and session.client.version == version:
                yield session.client

    @cached_property
    def _sessions(self) -> tuple[Session, ...]:
        return logins()

    @cached_property
    def _routes(self) -> Sequence[tuple[Network, Sequence[str]]]:
        for _ in range(_TRIES):
            with suppress(InterruptedError):
                return list(every_route())
        return [(_ANYBODY, ())]  # a route that nobody told of may have come


def _is_running(interface: str) -> bool:
    """Linux, Documentation/ABI/testing/sysfs-class-net. A tunnel's operstate is mostly unknown."""
    carrier, state = (_read(f"/sys/class/net/{interface}/{key}") for key in ("carrier", "operstate"))
    return carrier == "1" and state in {"up", "unknown"}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:  # it is gone; of one that is down the kernel tells no carrier
        return ""
