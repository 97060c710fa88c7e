"""Which networks lie behind an interface, by what this host's routes say; parts of networks. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from tsstack.model.names import Address, Network

MOST_NETWORKS = 1_000
# What is shorter is the Internet in parts, as VPNs lead to it (0.0.0.0/1, 2000::/3), and not a network.
SHORTEST = {4: 8, 6: 16}


class Behind:
    """The networks that this host leads to, each with an interface; a link-local one has many.

    Of thousands behind one interface (the Internet's routing table) the largest are asked, since each costs
    some verdicts of both files; those that this host has an `own` address in are asked in any case. A single
    host within a network on the same link is one of that, as systemd-networkd leads to the router and the DNS
    servers of DHCP besides.
    """

    def __init__(self, known: Iterable[tuple[Network, str]], own: Collection[Address] = ()) -> None:
        self._holders: dict[tuple[int, int], dict[int, dict[str, Network]]] = {}
        networks: dict[str, dict[Network, None]] = {}
        for network, interface in _without_members(known):
            networks.setdefault(interface, {})[network] = None
            shift = network.max_prefixlen - network.prefixlen
            holders = self._holders.setdefault((network.version, shift), {})
            holders.setdefault(int(network.network_address) >> shift, {})[interface] = network
        self._by_length = sorted(self._holders)  # the smaller the shift, the longer the prefix
        near = {network for address in own for network in next(iter(self._of(address)), {}).values()}
        self._asked: dict[str, Mapping[Network, None]] = {}
        self.too_many: dict[str, int] = {}
        """How many there are behind an interface where not all are asked."""
        for interface, each in networks.items():
            # Of past some hundreds of ways no route is asked: what is nearest goes first.
            first = sorted(each, key=lambda network: (network not in near, network.prefixlen))
            self._asked[interface] = dict.fromkeys(first[:MOST_NETWORKS])
            if len(each) > MOST_NETWORKS:
                self.too_many[interface] = len(each)

    @property
    def networks(self) -> Iterable[Network]:
        """All that are asked."""
        return (network for each in self._asked.values() for network in each)

    def of(self, interface: str) -> Sequence[Network]:
        """Those behind an interface."""
        return list(self._asked.get(interface, ()))

    def network_of(self, address: Address, interface: str) -> Network | None:
        """The longest one that is asked; None where the longest of all is behind another interface."""
        asked = self._asked.get(interface, {})
        for at, holders in enumerate(self._of(address)):
            network = holders.get(interface)
            if network is None and not at:
                return None
            if network in asked:
                return network
        return None

    def links(self, network: Network) -> list[str]:
        """Behind which interfaces all of a network is; none beyond a default route."""
        for holders in self._of(network.network_address):
            length = next(iter(holders.values())).prefixlen
            if length <= network.prefixlen:
                return list(holders) if length >= SHORTEST[network.version] else []
        return []

    def within(self, network: Network) -> Iterator[tuple[Network, str]]:
        """Those that are asked and are a part of a network, each with its interface."""
        first, last = int(network[0]), int(network[-1])
        for interface, asked in self._asked.items():
            for each in asked:
                inside = each.version == network.version and each.prefixlen > network.prefixlen
                if inside and first <= int(each.network_address) <= last:
                    yield each, interface

    def _of(self, address: Address) -> Iterable[Mapping[str, Network]]:
        """For each network that holds the address, the longest first, by which interfaces it is."""
        number = int(address)
        for version, shift in self._by_length:
            if version == address.version:
                holders = self._holders[version, shift].get(number >> shift)
                if holders is not None:
                    yield holders


def reachable(routes: Iterable[tuple[Network, Sequence[str]]], interface: str) -> list[Network] | None:
    """All networks behind an interface, by the routes of every table; None where anybody may be there.

    The Internet is, or a part of it, beyond a default route; a route that does not say by which interfaces
    it leads may be one.
    """
    found: dict[Network, None] = {}
    for network, links in routes:
        if links and interface not in links:
            continue
        if network.is_multicast and network.prefixlen:
            continue
        short = network.prefixlen < SHORTEST[network.version] and not network.is_link_local
        if short or not links:
            return None
        found[network] = None
    return list(found)


def _without_members(known: Iterable[tuple[Network, str]]) -> Iterator[tuple[Network, str]]:
    each = dict.fromkeys(known)
    links: dict[tuple[int, int], dict[int, set[str]]] = {}
    for network, interface in each:
        if SHORTEST[network.version] <= network.prefixlen < network.max_prefixlen:
            shift = network.max_prefixlen - network.prefixlen
            holders = links.setdefault((network.version, shift), {})
            holders.setdefault(int(network.network_address) >> shift, set()).add(interface)
    by_length = sorted(links)
    for network, interface in each:
        if network.prefixlen == network.max_prefixlen:
            number = int(network.network_address)
            lengths = (key for key in by_length if key[0] == network.version)
            holding = (links[key].get(number >> key[1]) for key in lengths)
            # Of the longest alone: where that is another link's, the host is none of what it is in.
            if interface in next(filter(None, holding), ()):
                continue
        yield network, interface


def largest(networks: Iterable[Network]) -> list[Network]:
    """As many as are asked."""
    return sorted(networks, key=lambda network: network.prefixlen)[:MOST_NETWORKS]


def edges_of(networks: Iterable[Network], version: int) -> list[int]:
    """Where one network begins or ends: between two edges all addresses are treated alike."""
    found = set()
    for network in networks:
        if network.version == version:
            found |= {int(network[0]), int(network[-1]) + 1}
    return sorted(found)


def parts(network: Network, edges: list[int], own: Collection[Address]) -> Iterator[Address]:
    """An address of each part of the network that no edge divides, none of them `own`."""
    first, end = int(network[0]), int(network[-1]) + 1
    inner = edges[bisect_right(edges, first) : bisect_left(edges, end)]
    starts = [first, *inner]
    for start, stop in zip(starts, [*inner, end], strict=True):
        # The first address of a network is its name rather than anybody's.
        first_host = start + 1 if stop - start > 2 else start
        addresses = (network[number - first] for number in range(first_host, stop))
        found = next((address for address in addresses if address not in own), None)
        if found is not None:
            yield found
