"""Small, seeded runs of the fault injector, apart so that they run side by side.

`benchmarks/crash` makes the large ones.
"""

from __future__ import annotations

import pytest
from crash_run import assert_whole, crash, scenes

pytestmark = pytest.mark.netns


@pytest.mark.parametrize(
    ("names", "points"),
    [
        (("switch", "first switch"), 16),
        (("rollback", "rollback to nothing", "boot", "early firewall"), 14),
        (("first switch, with a fallback", "rollback to the fallback", "boot of a fallback"), 9),
        (("switch --confirm", "confirm", "recover", "dead man"), 11),
        (("rollback of what waits", "rollback to a number while one waits"), 6),
        (("test", "switch for the next boot"), 6),
    ],
)
def test_a_host_that_is_hurt_anywhere_is_wholly_old_or_wholly_new(
    names: tuple[str, ...], points: int
) -> None:
    """Files, kernel table, parameters and nginx agree afterwards, whatever was killed or failed."""
    found = crash("--points", str(points), "--seed", "4", "--tailnet", "none", *scenes(*names))
    assert_whole(found, at_least=points // 2)
    assert {name for name, counts in found["scenes"].items() if sum(counts.values())} == set(names)


def test_the_worst_moments_of_nginx_the_dead_man_and_the_clock() -> None:
    found = crash("--points", "1", "--scene", "moments", "--tailnet", "none")
    assert_whole(found, at_least=10)
