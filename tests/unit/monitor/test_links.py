"""Links: which are meant, in which order, and how many of each kind are how."""

from __future__ import annotations

from dataclasses import replace

import pytest
from watched_links import quality

from tsstack.errors import CheckFailed
from tsstack.monitor.archive import BadTime
from tsstack.monitor.book import kind_of
from tsstack.monitor.links import MOST, Link, chosen, counts, shown, worst_first, worst_level
from tsstack.monitor.verdict import Level


def link(key: str, level: Level = "good", rtt_s: float | None = 0.02, loss: float = 0.0) -> Link:
    return Link(key, kind_of(key), level, quality(60, rtt_s, loss))


LINKS = [
    link("service:Wiki#0"),
    link("exit:exit-a"),
    link("exit:exit-b", "suspect"),
    link("target:icmp:1.1.1.1", "unknown"),
    link("peer-of-exit"),
    link("route:10.0.0.0/8", "dead"),
]


def keys(links: list[Link]) -> list[str]:
    return [each.key for each in links]


def test_words_choose_by_part_of_the_name_or_kind() -> None:
    assert keys(chosen(LINKS, ["wiki", "1.1.1"])) == ["service:Wiki#0", "target:icmp:1.1.1.1"]
    assert keys(chosen(LINKS, ["exit:"])) == ["exit:exit-a", "exit:exit-b"]
    assert keys(chosen(LINKS, ["service"])) == ["service:Wiki#0"]
    assert keys(chosen(LINKS, ["exit-a", "exit:exit-a", "EXIT-A"])) == ["exit:exit-a"], "each once"
    assert chosen(LINKS, []) == LINKS


@pytest.mark.parametrize(
    ("word", "hint"),
    [("exit-c", "exit:exit-b"), ("wikki", "service:Wiki#0"), ("1.1.1.2", "target:icmp:1.1.1.1")],
)
def test_a_word_that_names_none_is_told_with_the_nearest(word: str, hint: str) -> None:
    with pytest.raises(CheckFailed, match=word) as error:
        chosen(LINKS, ["exit-a", word])
    assert hint in error.value.hint


def test_without_a_near_one_some_are_named() -> None:
    with pytest.raises(CheckFailed) as error:
        chosen(LINKS, ["zzzzzzzz"])
    assert error.value.hint.startswith("there are service:Wiki#0, exit:exit-a")
    with pytest.raises(CheckFailed) as error:
        chosen([], ["a"])
    assert error.value.hint == "nothing is watched"


def test_the_worst_is_first_then_by_kind_as_in_the_file() -> None:
    assert keys(worst_first(LINKS)) == [
        "route:10.0.0.0/8",
        "exit:exit-b",
        "target:icmp:1.1.1.1",
        "exit:exit-a",
        "service:Wiki#0",
        "peer-of-exit",
    ]


def test_by_figures_the_lossiest_then_the_slowest() -> None:
    links = [
        link("exit:a"),
        link("service:b", loss=0.1),
        link("peer-c", rtt_s=0.3),
        link("exit:d", "dead", None),
    ]
    assert keys(worst_first(links, by_figures=True)) == ["exit:d", "service:b", "peer-c", "exit:a"]


def test_over_a_span_what_is_bad_now_then_what_was_for_longest() -> None:
    links = [
        replace(link("exit:a"), worst="good", bad=BadTime()),
        replace(link("exit:b"), worst="dead", bad=BadTime(dead_s=10)),
        replace(link("exit:c"), worst="poor", bad=BadTime(poor_s=3000)),
        replace(link("exit:d", "dead"), worst="dead", bad=BadTime(dead_s=5)),
        replace(link("exit:e", "unknown"), worst="suspect", bad=BadTime(suspect_s=9000)),
    ]
    assert keys(worst_first(links)) == ["exit:d", "exit:c", "exit:b", "exit:e", "exit:a"]


def test_levels_are_counted_by_kind() -> None:
    assert counts(LINKS) == {
        "exit": {"suspect": 1, "good": 1},
        "target": {"unknown": 1},
        "route": {"dead": 1},
        "service": {"good": 1},
        "peer": {"good": 1},
    }
    assert list(counts(LINKS)["exit"]) == ["suspect", "good"]
    assert (worst_level(LINKS), worst_level(LINKS[:2]), worst_level([])) == ("dead", "good", "good")


def test_of_many_those_that_are_not_well_are_shown() -> None:
    many = [link(f"service:{number}") for number in range(100)]
    assert len(shown(many, None)) == MOST
    assert len(shown(many, None, every=True)) == 100
    assert len(shown(many, 3)) == 3
    bad = [link(f"peer{number}", "poor") for number in range(60)]
    assert keys(shown([*many, *bad], None)) == keys(bad)
