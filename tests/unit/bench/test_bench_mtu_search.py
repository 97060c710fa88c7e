"""The search for the largest packet that passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.bench.mtu_search import Search, fits_tailnet, tries_for


def drive(search: Search, passes: Callable[[int], bool]) -> tuple[int | None, list[int]]:
    tried = []
    while (size := search.next_size()) is not None:
        tried.append(size)
        assert len(tried) < 40
        search = search.after(size, passes(size))
    return search.found, tried


@given(st.integers(1, 65535), st.integers(0, 65535), st.integers(0, 70000))
def test_it_finds_the_limit_of_any_path(floor: int, more: int, limit: int) -> None:
    found, tried = drive(Search(floor, floor + more), lambda size: size <= limit)
    expected = min(limit, floor + more)
    assert found == (expected if expected >= floor else None)
    assert len(tried) == len(set(tried)) <= 19


def test_a_path_without_a_narrow_place_takes_one_probe() -> None:
    assert drive(Search(576, 1500), lambda size: True) == (1500, [1500])


def test_a_path_that_carries_nothing_takes_two() -> None:
    assert drive(Search(576, 1500), lambda size: False) == (None, [1500, 576])


@given(st.lists(st.booleans(), min_size=40, max_size=40))
def test_answers_that_contradict_each_other_end_it_too(answers: list[bool]) -> None:
    found, tried = drive(Search(576, 9000), lambda size: answers.pop())
    assert found is None or found in tried


def test_a_contradiction_changes_nothing() -> None:
    search = Search(576, 1500).after(1500, False).after(576, True).after(1000, True)
    assert search.after(1500, True) == search == search.after(900, False)


def test_no_packet_is_larger_than_itself() -> None:
    with pytest.raises(ValueError, match="no packet"):
        Search(1500, 576)


def test_what_the_tailnet_needs_of_the_path_below() -> None:
    assert fits_tailnet(1340, 4)
    assert not fits_tailnet(1339, 4)
    assert fits_tailnet(1360, 6)
    assert not fits_tailnet(1359, 6)


@pytest.mark.parametrize(
    ("sent", "lost", "tries", "certain"),
    [
        (0, 0, 3, True),
        (20, 0, 3, True),
        (20, 5, 8, True),
        (20, 9, 12, True),
        (20, 16, 16, False),
        (4, 4, 16, False),
    ],
)
def test_the_more_is_lost_the_more_often_a_size_is_tried(
    sent: int, lost: int, tries: int, certain: bool
) -> None:
    assert tries_for(sent, lost) == (tries, certain)
