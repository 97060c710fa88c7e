"""The zones of the live generation with what the kernel has counted for each."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Counter, Firewall, Rule, Zone

ABOVE_ZONES = ("unzoned", "invalid", "spoofed", "misdirected")
"""Counters of what is dropped by no zone's own rules, as `parts/firewall/desired.py` names them."""
# The last word of the other counters' names; what is neither is accepted for this host itself.
_REFUSING = frozenset({"refused"})
_FORWARDING = frozenset({"published", "exit", "routes"})


def read_firewall(generation: str, run: str) -> Firewall:
    """Of the generation's folder, and the table of this network namespace. Never raises."""
    found: Firewall = {
        "enabled": False,
        "loaded": None,
        "changed": None,
        "error": "",
        "default_policy": "",
        "zones": [],
        "dropped": {},
    }
    counters: Mapping[str, tuple[int, int]] = {}
    try:
        with open(f"{generation}/nftables/zones.json", "rb") as file:  # noqa: PTH123
            described = json.load(file)
    except FileNotFoundError:
        if not os.path.isdir(generation) and os.path.islink(generation):  # noqa: PTH112, PTH114
            return {**found, "enabled": True, "error": "the live generation is not there"}
        return found
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "they are damaged"
        return _unreadable(found, why)
    try:
        from tsstack.parts.firewall.counters import read_counters

        read = read_counters()
        found["loaded"] = read is not None
        counters = read or {}
        found["changed"] = _is_changed(run) if read is not None else None
    except PermissionError:
        found["error"] = "reading the packet filter needs root"
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
    zone: Mapping[str, Any], described: Sequence[Mapping[str, str]], counters: Mapping[str, tuple[int, int]]
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


def _counter(counters: Mapping[str, tuple[int, int]], name: str) -> Counter | None:
    if name not in counters:
        return None
    packets, size = counters[name]
    return {"packets": packets, "bytes": size}
