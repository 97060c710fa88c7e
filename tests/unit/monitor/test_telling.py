"""What of a decision's reasons people are told."""

from __future__ import annotations

from tsstack.monitor.reasons import Reason
from tsstack.monitor.telling import Standing

STAYS = Reason("nothing-better", "exit-b")


def test_a_reason_that_comes_and_goes_is_said_once_a_minute() -> None:
    standing = Standing()
    told = [at for at in range(0, 130, 2) if [*standing.news([STAYS], at / 1.0)]]
    assert told == [0, 60, 120]


def test_it_is_news_again_of_another_node_and_after_a_move() -> None:
    standing = Standing()
    moved = Reason("moved", "client-1")
    assert [*standing.news([STAYS], 0.0)] == [STAYS]
    assert [*standing.news([Reason("nothing-better", "client-1")], 1.0)] != []
    assert [*standing.news([moved, STAYS], 2.0)] == [moved, STAYS]


def test_what_happens_is_always_told() -> None:
    standing = Standing()
    drift = Reason("drift", "exit-b")
    assert [[*standing.news([drift], at / 2)] for at in range(3)] == [[drift]] * 3
