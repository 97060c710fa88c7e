"""Zones' members without overlap, held against the rule itself, address by address."""

from __future__ import annotations

import ipaddress
import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from tsstack.model.firewall import Firewall, Zone
from tsstack.model.names import PortRange
from tsstack.parts.firewall.members import (
    TAILNET,
    address_ranges,
    disjoint_ports,
    interface_levels,
)

# Close together, so that they nest, and at the tailnet's border.
networks = st.builds(
    lambda base, offset, prefix: str(ipaddress.ip_network((base + (offset << 16), prefix), strict=False)),
    st.sampled_from([int(ipaddress.ip_address("100.62.0.0")), int(ipaddress.ip_address("100.126.0.0"))]),
    st.integers(0, 7),
    st.integers(0, 32),
)


@given(st.dictionaries(st.sampled_from(["one", "two", "three"]), st.lists(networks, max_size=5)), st.data())
def test_the_longest_prefix_owns_an_address(zones: dict[str, list[str]], data: st.DataObject) -> None:
    firewall = Firewall(zones={name: Zone.model_validate({"sources": nets}) for name, nets in zones.items()})
    ranges = address_ranges(firewall)
    for before, after in itertools.pairwise(ranges):
        assert before.last < after.first, "sorted and disjoint"
    borders = [
        edge for known in ranges for edge in (known.first, known.last, known.first - 1, known.last + 1)
    ]
    border = st.sampled_from(borders) if borders else st.nothing()
    number = data.draw(border | st.integers(0, 2**32 - 1)) % 2**32
    address = ipaddress.IPv4Address(number)
    holding = [
        (net.prefixlen, name)
        for name, zone in firewall.zones.items()
        for net in zone.sources
        if address in net
    ]
    longest = max((length for length, _ in holding), default=None)
    expected = next((name for length, name in holding if length == longest), None)
    found = [known for known in ranges if known.first <= number <= known.last]
    assert [known.zone for known in found] == ([expected] if expected else [])
    assert all(known.tailnet == (address in TAILNET[0]) for known in found)


def test_ranges_read_as_nft_writes_them_and_are_cut_at_the_tailnet() -> None:
    sources = ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8", "192.0.2.7/32", "100.0.0.0/8"]
    ranges = address_ranges(Firewall(zones={"one": Zone.model_validate({"sources": sources})}))
    assert [str(known) for known in ranges] == [
        "10.0.0.0/7",
        "100.0.0.0/10",
        "100.64.0.0/10",
        "100.128.0.0/9",
        "192.0.2.7",
        "fd00::-fd7a:115c:a1df:ffff:ffff:ffff:ffff:ffff",
        "fd7a:115c:a1e0::/48",
        "fd7a:115c:a1e1::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]


ports = st.builds(lambda a, b: PortRange(min(a, b), max(a, b)), st.integers(1, 60), st.integers(1, 60))


@given(st.lists(ports, max_size=8))
def test_ports_are_disjoint_and_the_first_entry_keeps_its_path(listed: list[PortRange]) -> None:
    taken = disjoint_ports((entry, str(at)) for at, entry in enumerate(listed))
    for port in range(1, 61):
        expected = next((str(at) for at, entry in enumerate(listed) if port in entry), None)
        found = [entry.path for entry in taken if entry.first <= port <= entry.last]
        assert found == ([expected] if expected else [])
    assert [entry.first for entry in taken] == sorted(entry.first for entry in taken)


def test_many_ranges_over_many_ports_take_no_more_than_so_many_times_as_long() -> None:
    """Each range went over all that were taken: of 32,000 ports a minute."""

    def cost_s(size: int) -> float:
        single = [(PortRange(port, port), str(port)) for port in range(1, size)]
        wide = [(PortRange(1, port), f"to {port}") for port in range(size // 2, size)]
        started_s = time.process_time()
        assert len(disjoint_ports([*single, *wide])) == size - 1
        return time.process_time() - started_s

    small_s, large_s = (min(cost_s(size) for _ in range(3)) for size in (3_000, 12_000))
    assert large_s < 6 * small_s + 0.2


def test_pitfall_06_literals_stand_before_wildcards_and_the_longer_wildcard_first() -> None:
    zones = {
        "one": Zone.model_validate({"interfaces": ["veth*", "eth0"]}),
        "two": Zone.model_validate({"interfaces": ["veth1*", "veth0", "eth0"]}),
    }
    levels = [(dict(level.zones), level.wildcard) for level in interface_levels(Firewall(zones=zones))]
    assert levels == [
        ({"eth0": "one", "veth0": "two"}, False),
        ({"veth1*": "two"}, True),
        ({"veth*": "one"}, True),
    ]
