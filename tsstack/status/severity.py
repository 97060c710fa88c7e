"""How bad each fact is that more than one screen shows: in one place, and each takes it from here.

Pure, and light: `ts-status` starts with it. docs/status.md has the table for people.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.status.shape import Firewall, Level

RANK: dict[Level, int] = {"ok": 0, "warning": 1, "critical": 2}
LEVEL_OF_PATH: Mapping[str, Level] = {
    "good": "ok",
    "unknown": "ok",
    "suspect": "warning",
    "poor": "warning",
    "dead": "critical",
}
"""By the monitor's verdict. What is not measured yet is no fault."""
TROUBLE: Level = "warning"
"""What stands in the monitor's way (TS744)."""
SERVED_BY_OTHERS: Level = "warning"
"""An upstream is dead, and others of its service are not (TS727)."""
TABLE_MISSING: Level = "critical"
TABLE_CHANGED: Level = "critical"
TABLE_NOT_COMPARED: Level = "warning"
"""Nobody can tell whether it is as it was loaded, or whether it is there at all (TS734)."""
FALLBACK_STANDS: Level = "warning"
EXIT_BYPASSED: Level = "critical"
"""What should leave by the exit node in use leaves by the uplink, or another's tunnel (TS718)."""
FORWARDING_OFF: Level = "critical"
"""Nobody reaches the routes, or the internet by the exit node, that this host offers (TS861)."""
OTHERS_DROP_OURS: Level = "critical"
"""Another program's table drops what a zone opens (TS864)."""
OTHERS_MAY_DROP: Level = "warning"
"""It may, which was not tried; or it drops what goes through this host."""
NEEDS_ROOT = "reading the packet filter needs root"
"""A matter of who asks: it makes nothing worse, and no all-clear either."""


def level_of(verdict: str, *, others_serve: bool = False) -> Level:
    """How bad a verdict is. `others_serve`: it is one of several upstreams, and not all are dead."""
    return SERVED_BY_OTHERS if verdict == "dead" and others_serve else LEVEL_OF_PATH[verdict]


def of_table(firewall: Firewall) -> Level | None:
    """How bad the state of our own table is; None for who may not read it."""
    if not firewall["enabled"]:
        return "ok"
    if firewall["loaded"] is None:
        return None if firewall["error"] == NEEDS_ROOT else TABLE_NOT_COMPARED
    if not firewall["loaded"]:
        return TABLE_MISSING
    if firewall["changed"] is None:
        return TABLE_NOT_COMPARED
    if firewall["changed"]:
        return TABLE_CHANGED
    return FALLBACK_STANDS if firewall["fallback"] else "ok"


def worst_of(levels: list[Level]) -> Level:
    """The worst; ok for none."""
    return max(levels, key=RANK.__getitem__, default="ok")
