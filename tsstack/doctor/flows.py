"""The packets that a file lets through or answers, as the hooks of nftables see them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tsstack.model.names import Network

ANY = "*"
"""In place of an interface: any."""
HERE = ""
"""In place of an interface: this host itself."""
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Way:
    """Connections that the file lets through this host, or to it."""

    came: tuple[str, ...]
    """The interfaces that they come by."""
    left: tuple[str, ...] = (HERE,)
    protocol: str = ""
    """Empty: all."""
    first: int = 0
    last: int = LAST_PORT
    sources: tuple[Network, ...] | None = None
    """None: whoever is at the interface; empty: somebody, of whom no network is known."""
    targets: tuple[Network, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ways:
    """What the file makes pass, and what it opens."""

    through: tuple[Way, ...] = ()
    opened: tuple[Way, ...] = ()
    """Connections to this host itself, which it answers."""
    networks: Mapping[str, tuple[Network, ...]] | None = None
    """By interface, those behind it; of HERE this host's own addresses."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow."""

    interface: str
    networks: tuple[Network, ...]
    known: bool
    """Whether these are all there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Packets of one direction of connections, as the hooks see them."""

    state: Literal["new", "later", "answer"]
    """The first of a connection, those that follow, and those that come back."""
    source: End
    target: End
    version: int
    protocol: str
    first: int
    last: int


def flows_of(ways: Ways, hook: str, patterns: Iterable[str]) -> list[Flow]:
    """Those that a chain at `forward` or `output` sees.

    Interfaces between which none of the patterns (those of the rules) makes a difference are one.
    """
    known = ways.networks or {}
    wanted = frozenset(patterns)

    @lru_cache(None)
    def alike(interface: str) -> frozenset[str]:
        return frozenset(each for each in wanted if is_named(interface, (each,)))

    def ends(interfaces: tuple[str, ...], own: tuple[Network, ...] | None, version: int) -> list[End]:
        found: dict[object, End] = {}
        for interface in interfaces:
            listed = known.get(interface, ()) if own is None else own
            # Every interface has a link-local network, and nothing of it is forwarded.
            networks = tuple(each for each in listed if each.version == version and not each.is_link_local)
            if own and not networks:
                continue
            end = End(interface, networks, known=bool(own))
            found.setdefault((interface in {ANY, HERE}, alike(interface), networks), end)
        return list(found.values())

    flows: list[Flow] = []
    for way in ways.through if hook == "forward" else ways.opened:
        for version in (4, 6):
            said = (version, way.protocol, way.first, way.last)
            both = product(ends(way.came, way.sources, version), ends(way.left, way.targets, version))
            for source, target in both:
                if hook == "forward":
                    flows += (Flow("new", source, target, *said), Flow("later", source, target, *said))
                flows.append(Flow("answer", target, source, *said))
    return flows


def is_named(interface: str, patterns: Iterable[str]) -> bool:
    """Whether one of the names of a rule is the interface's; `eth*` covers all that start so."""
    return any(
        interface.startswith(each[:-1]) if each.endswith("*") else interface == each for each in patterns
    )
