"""The fault injector finds what it is there to find: each fault put into tsstack leaves torn hosts."""

from __future__ import annotations

import pytest
from crash_run import crash

pytestmark = pytest.mark.netns


def test_a_change_without_a_record_is_torn() -> None:
    found = crash(
        "--broken",
        "no record",
        "--points",
        "10",
        "--scene",
        "switch",
        "--tailnet",
        "none",
        "--then",
        "recover",
    )
    assert found["torn"], found


def test_a_change_that_is_not_synced_is_torn() -> None:
    found = crash(
        "--broken",
        "no fsync",
        "--points",
        "1",
        "--scene",
        "switch",
        "--tailnet",
        "none",
        "--match",
        "right after the end",
    )
    assert found["torn"], found
