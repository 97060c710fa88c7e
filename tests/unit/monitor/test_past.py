"""The monitor looks at what leaves past the exit node: twice in succession, and only where all is still."""

from __future__ import annotations

from dataclasses import replace

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.past import PastExit
from tsstack.monitor.tailscaled import Seen
from tsstack.monitor.troubles import Troubles
from tsstack.system.bypass import Bypass

SEEN = Seen(actual="exit-a", state="Running", addresses=("100.64.0.2",), told_s=0.0)
PAST = [Bypass(4, "eth0", None)]


class Bed:
    def __init__(self) -> None:
        self.found: list[Bypass] = PAST
        self.looks = 0
        self.troubles = Troubles()
        self.watch = PastExit(self.troubles, self.look)

    def look(self, addresses: object) -> list[Bypass]:
        assert addresses == SEEN.addresses
        self.looks += 1
        return self.found

    def at(self, now_s: float, seen: Seen = SEEN, *, still: bool = True) -> list[str]:
        self.watch.turn(seen, now_s, 5.0, still=still)
        return [each.message for each in self.troubles.standing()]


def test_two_looks_begin_it_and_one_ends_it() -> None:
    bed = Bed()
    assert bed.at(100) == []
    assert bed.at(102) == []
    assert bed.looks == 1
    (said,) = bed.at(105)
    assert said == (
        "IPv4 leaves this host by eth0 (tailscaled's routes or rules are missing), past the exit node in use"
    )
    (trouble,) = bed.troubles.standing()
    assert trouble.hint == "systemctl restart tailscaled"
    bed.found = []
    assert bed.at(110) == []
    bed.found = PAST
    assert bed.at(115) == []


def test_nothing_is_asked_while_something_changes_or_none_is_in_use() -> None:
    bed = Bed()
    assert bed.at(100) == []
    assert bed.at(105, still=False) == []
    assert bed.at(110) == []  # the look before the move counts no more
    assert bed.at(115) != []
    assert bed.at(120, still=False) != []  # it stands until somebody has looked
    for other in ({"actual": DIRECT}, {"actual": None}, {"told_s": None}):
        assert bed.at(121, replace(SEEN, **other)) == []
    young = replace(SEEN, told_s=125.0)
    assert bed.at(126, young) == []
    assert bed.at(132, young) == []
    assert bed.looks == 3
    assert bed.at(141, young) == []
    assert bed.at(146, young) != []
