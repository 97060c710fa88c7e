"""What is called past the exit node: the decision, on ways and rules as the kernel gives them."""

from __future__ import annotations

from typing import Any

import pytest

from tsstack.system.bypass import PATIENCE_S, Rule, Way, is_past, read_bypass, rule_before

ADDRESSES = ["100.64.0.2", "fd7a:115c:a1e0::2"]
MAIN, OWN = 254, 52
OUT, IN = Way("eth0", "10.0.0.2", MAIN), Way("tailscale0", "100.64.0.2", OWN)


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ([OUT], True),
        ([OUT, OUT, OUT], True),
        ([IN], False),
        ([OUT, IN], False),  # a LAN that is let past, and lies in a documentation network
        ([], False),  # nothing leaves at all
        ([Way("tailscale0", "10.0.0.2", OWN)], False),  # a node without IPv4 borrows an address
        ([Way("ts1", "100.64.0.2", OWN)], False),  # by an interface that it has from another one
    ],
)
def test_past_is_what_leaves_and_never_by_the_tailnet(ways: list[Way], expected: bool) -> None:
    assert is_past(ways, "tailscale0", ADDRESSES) is expected


def test_an_interface_of_another_name_is_the_tailnet_too() -> None:
    """tailscaled --tun=ts1, on a tailnet without IPv6: the kernel takes an address of the uplink."""
    assert not is_past([Way("ts1", "2001:db8:5::2", OWN)], "ts1", ADDRESSES[:1])


@pytest.mark.parametrize(
    ("rules", "table", "expected"),
    [
        ([(0, 255), (5270, OWN), (32766, MAIN)], MAIN, None),  # table 52 is empty
        ([(0, 255), (32766, MAIN)], MAIN, None),  # tailscaled's rules are gone
        ([(32766, MAIN), (5270, OWN), (5200, MAIN)], MAIN, 5200),
        ([(5200, MAIN), (5270, OWN), (100, 51820)], 51820, 100),
        ([(5200, 51820), (5270, OWN), (32766, MAIN)], MAIN, None),  # one that had no answer
    ],
)
def test_who_is_asked_first_is_named(rules: list[tuple[int, int]], table: int, expected: int | None) -> None:
    assert rule_before([Rule(*each) for each in rules], table, 0) == expected


@pytest.mark.parametrize(("bits", "expected"), [(0, None), (1, 5200)])
def test_a_rule_that_takes_no_default_route_sends_nothing_out(bits: int, expected: int | None) -> None:
    """`lookup main suppress_prefixlength 0` keeps the LAN local; two halves of 0.0.0.0/0 it does take."""
    rules = [Rule(5200, MAIN, suppressed_bits=0), Rule(5270, OWN), Rule(32766, MAIN)]
    assert rule_before(rules, MAIN, bits) == expected


class Told:
    """A kernel that answers each round of questions with the next of these ways; of IPv6 it has none."""

    def __init__(self, *rounds: Way, tunnel: str = "tailscale0") -> None:
        self.rounds = [*rounds]
        self.name = tunnel

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None: ...

    def tunnel(self, addresses: object) -> str:
        return self.name

    def way_to(self, address: str) -> Way | None:
        return None if ":" in address else self.rounds[0]

    def rules(self, version: int) -> list[Rule]:
        return [Rule(5270, OWN), Rule(32766, MAIN)]

    def wait(self, seconds: float) -> None:
        assert seconds == PATIENCE_S
        self.rounds.pop(0)


def asked(kernel: Any) -> list[tuple[int, str, int | None]]:
    found = read_bypass(ADDRESSES, kernel=kernel, wait=kernel.wait)
    return [(each.version, each.interface, each.rule) for each in found]


def test_what_stays_so_is_told_and_what_was_of_a_moment_is_not() -> None:
    assert asked(Told(OUT, OUT)) == [(4, "eth0", None)]
    assert asked(Told(OUT, IN)) == []
    assert asked(Told(IN)) == []


def test_without_an_interface_of_the_tailnet_nothing_is_claimed() -> None:
    """Userspace networking, and a tailscaled in another network namespace."""
    assert asked(Told(OUT, OUT, tunnel="")) == []
