"""The zones of the live generation with what the kernel has counted for each."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from tsstack.status.shape import Counter, Firewall, Zone

ABOVE_ZONES = ("unzoned", "invalid", "spoofed", "misdirected")
"""Counters of what is dropped by no zone's own rules, as `parts/firewall/desired.py` names them."""


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
        return found
    except (OSError, ValueError) as error:
        return {**found, "enabled": True, "error": f"the generation's zones cannot be read: {error}"}
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
    return {
        **found,
        "enabled": True,
        "default_policy": described["default_policy"],
        "zones": [_zone(zone, counters) for zone in described["zones"]],
        "dropped": {name: count for name in ABOVE_ZONES if (count := _counter(counters, name)) is not None},
    }


def _is_changed(run: str) -> bool | None:
    """Whether the table is another than the one that was loaded; None when nothing was noted of that."""
    from tsstack.parts.firewall.fingerprint import fingerprint

    try:
        with open(f"{run}/firewall.json", "rb") as file:  # noqa: PTH123
            noted = json.load(file)["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return bool(fingerprint("tsstack") != noted)


def _zone(zone: Mapping[str, Any], counters: Mapping[str, tuple[int, int]]) -> Zone:
    name = zone["name"]
    return {
        "name": name,
        "path": zone["path"],
        "interfaces": zone["interfaces"],
        "sources": zone["sources"],
        "source_count": zone["source_count"],
        "allow": zone["allow"],
        "ping": zone["ping"],
        "open": zone["open"],
        "accepted": _counter(counters, f"{name}.accepted"),
        "forwarded": _counter(counters, f"{name}.forwarded"),
        "refused": _counter(counters, f"{name}.refused"),
    }


def _counter(counters: Mapping[str, tuple[int, int]], name: str) -> Counter | None:
    if name not in counters:
        return None
    packets, size = counters[name]
    return {"packets": packets, "bytes": size}
