"""The zones of the live generation with what the kernel has counted for each."""

from __future__ import annotations

import json
import os

from tsstack.status.severity import NEEDS_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    # Without counters and changed: the table is there and switched off.
    Table = tuple[Mapping[str, Sequence[int]] | None, bool | None]
    from tsstack.status.shape import Counter, Firewall, Rule, Zone

ABOVE_ZONES = ("unzoned", "invalid", "spoofed", "misdirected")
"""Counters of what is dropped by no zone's own rules, as `parts/firewall/desired.py` names them."""
_FILE = "nftables/zones.json"
# The last word of the other counters' names; what is neither is accepted for this host itself.
_REFUSING = frozenset({"refused"})
_FORWARDING = frozenset({"published", "exit", "routes"})


def standing_folder(state: str) -> tuple[str, bool]:
    """Whose firewall is to stand: the live generation's folder, or the fallback's; and whether it is that."""
    live, fallback = f"{state}/current", f"{state}/fallback"
    # By os.path: pathlib would be a tenth of ts-status' time.
    is_whole = os.path.exists(live) or not os.path.lexists(live)  # noqa: PTH110
    has_none = is_whole and not os.path.exists(f"{live}/{_FILE}")  # noqa: PTH110
    stands_in = has_none and os.path.exists(f"{fallback}/{_FILE}")  # noqa: PTH110
    return (fallback, True) if stands_in else (live, False)


def read_table(run: str) -> Table:
    """The counters of this network namespace's table, None without one, and whether it was changed.

    A table that is dormant closes nothing: of it no counters are told, and that it was changed.
    Raises OSError (PermissionError without CAP_NET_ADMIN).
    """
    from tsstack.parts.firewall.counters import is_dormant, read_counters

    read = read_counters()
    if read is not None and is_dormant():
        return None, True
    changed = None
    if read is not None:
        try:  # noqa: SIM105  contextlib costs the screen its speed
            changed = _is_changed(run)
        except OSError:
            pass  # others change their tables without pause: it is not known
    return read, changed


def read_firewall(
    folder: str, run: str, *, fallback: bool = False, table: Callable[[str], Table] = read_table
) -> Firewall:
    """Of a generation's folder or the fallback's, and the table of this network namespace. Never raises."""
    found: Firewall = {
        "enabled": False,
        "fallback": fallback,
        "loaded": None,
        "dormant": False,
        "changed": None,
        "error": "",
        "default_policy": "",
        "zones": [],
        "dropped": {},
    }
    counters: Mapping[str, Sequence[int]] = {}
    try:
        with open(f"{folder}/{_FILE}", "rb") as file:  # noqa: PTH123
            described = json.load(file)
    except FileNotFoundError:
        if not os.path.isdir(folder) and os.path.islink(folder):  # noqa: PTH112, PTH114
            return {**found, "enabled": True, "error": "the live generation is not there"}
        return found
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "they are damaged"
        return _unreadable(found, why)
    try:
        read, found["changed"] = table(run)
        found["loaded"] = read is not None
        found["dormant"] = read is None and found["changed"] is True
        counters = read or {}
    except PermissionError:
        found["error"] = NEEDS_ROOT
    except OSError as error:
        found["error"] = f"the packet filter cannot be read: {error.strerror or error}"
    try:
        return {
            **found,
            "enabled": True,
            "default_policy": described["default_policy"],
            "zones": [_zone(zone, described["counters"], counters) for zone in described["zones"]],
            "dropped": {
                name: count for name in ABOVE_ZONES if (count := _counter(counters, name)) is not None
            },
        }
    except (LookupError, TypeError):
        return _unreadable(found, "they are damaged")


def _unreadable(found: Firewall, why: str) -> Firewall:
    return {**found, "enabled": True, "error": f"the generation's zones cannot be read: {why}"}


def _is_changed(run: str) -> bool | None:
    """Whether the table is another than the one that was loaded; None when nothing was noted of that."""
    from tsstack.parts.firewall.fingerprint import fingerprint, present_moment

    try:
        with open(f"{run}/firewall.json", "rb") as file:  # noqa: PTH123
            noted = json.load(file)
        mark, moment = noted["fingerprint"], noted["moment"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Others may have changed their own tables since: then ours is read whole.
    return bool((moment is None or present_moment() != moment) and fingerprint("tsstack") != mark)


def _zone(
    zone: Mapping[str, Any], described: Sequence[Mapping[str, str]], counters: Mapping[str, Sequence[int]]
) -> Zone:
    rules: list[Rule] = [
        {"name": each["name"], "path": each["path"], "packets": counts[0], "bytes": counts[1]}
        for each in described
        if each["zone"] == zone["name"] and (counts := counters.get(each["name"])) is not None
    ]
    kinds = [(rule, rule["name"].rpartition(".")[2]) for rule in rules]
    refused = [rule for rule, kind in kinds if kind in _REFUSING]
    forwarded = [rule for rule, kind in kinds if kind in _FORWARDING or kind.isdigit()]
    accepted = [rule for rule in rules if rule not in refused and rule not in forwarded]
    return {
        "name": zone["name"],
        "path": zone["path"],
        "interfaces": zone["interfaces"],
        "sources": zone["sources"],
        "source_count": zone["source_count"],
        "allow": zone["allow"],
        "ping": zone["ping"],
        "open": zone["open"],
        "accepted": _sum(accepted) if counters else None,
        "forwarded": _sum(forwarded) if counters else None,
        "refused": _sum(refused) if counters else None,
        "rules": rules,
    }


def _sum(rules: Sequence[Rule]) -> Counter:
    return {"packets": sum(rule["packets"] for rule in rules), "bytes": sum(rule["bytes"] for rule in rules)}


def _counter(counters: Mapping[str, Sequence[int]], name: str) -> Counter | None:
    if name not in counters:
        return None
    packets, size = counters[name]
    return {"packets": packets, "bytes": size}
