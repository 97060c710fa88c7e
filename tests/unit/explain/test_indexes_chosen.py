"""The indexes of a copied host's interfaces: its own, and for others what no rule asks for."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tsstack.explain.indexes import choose
from tsstack.explain.kernel_copy import Copy

NOTHING = Copy(())
LAST = (1 << 31) - 1
indexes = st.one_of(st.integers(2, 12), st.integers(2, LAST), st.just(LAST))


def copy_with(*asked: int) -> Copy:
    return Copy(tuple((6, b"\2\0\0\0" + struct.pack("=I", each)) for each in asked))


def test_the_live_hosts_own_are_taken() -> None:
    live = {"lo": 1, "eth0": 100_000, "wg0": 7, "docker0": 3}
    assert choose(["wg0", "eth0"], live, (), NOTHING) == [7, 100_000]


def test_what_is_not_there_comes_behind_all_and_is_asked_for_by_none() -> None:
    live = {"lo": 1, "eth0": 5, "unmade": 9}
    assert choose(["tailscale0", "eth0", "eth9"], live, (), copy_with(3, 10, 12)) == [11, 5, 13]


def test_there_is_one_where_the_last_is_taken() -> None:
    assert choose(["eth9"], {"lo": 1, "eth0": LAST, "eth1": 3}, (2,), copy_with(4)) == [5]


def test_what_the_kernel_has_given_out_is_not_to_be_had() -> None:
    assert choose(["eth0", "eth1"], {"lo": 1, "eth0": 2, "eth1": 4}, (2, 3), NOTHING) == [5, 4]


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), indexes),
    st.lists(indexes, max_size=4),
    st.lists(indexes, max_size=4),
)
def test_no_two_share_one_and_no_strange_one_is_asked_for(
    drawn: dict[str, int], own: list[int], asked: list[int]
) -> None:
    live = {
        "lo": 1,
        **{name: index for index, name in {index: name for name, index in drawn.items()}.items()},
    }
    names = [*"abcdefgh", "eth9"]
    chosen = choose(names, live, own, copy_with(*asked))
    assert len({1, *chosen, *own}) == 1 + len(chosen) + len({*own})
    for name, index in zip(names, chosen, strict=True):
        assert 1 < index <= LAST
        if name in live:
            assert index == live[name] or live[name] in own
        if index != live.get(name):
            assert index not in {*asked, *live.values()}
