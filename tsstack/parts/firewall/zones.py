"""The zones as people see them, for the screens that show a generation without reading its file. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tsstack.parts.firewall.members import open_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.model.firewall import Firewall
    from tsstack.model.stack import Stack

ZONES_FILE = "nftables/zones.json"
SOURCES_MOST = 32
"""So many networks of a zone are written out; `source_count` tells how many there are."""


def describe_zones(stack: Stack, firewall: Firewall, counters: Mapping[str, str]) -> str:
    """JSON: `default_policy`, each zone's members and what it opens, and the counters; all with key paths.

    A counter belongs to a zone by its name (`ZONE.tcp`) or by the zone that a forward rule is from
    (`forward.2`); what is dropped above all zones belongs to none.
    """
    zones = []
    for name, zone in firewall.zones.items():
        path = f"firewall.zones.{name}"
        opened = zip(("tcp", "udp"), open_ports(stack, zone, path), strict=True)
        zones.append(
            {
                "name": name,
                "path": path,
                "interfaces": list(zone.interfaces),
                "sources": [str(source) for source in zone.sources[:SOURCES_MOST]],
                "source_count": len(zone.sources),
                "allow": zone.allow or "",
                "ping": zone.ping,
                "open": [
                    {"protocol": protocol, "ports": str(span), "path": span.path}
                    for protocol, spans in opened
                    for span in spans
                ],
            }
        )
    counted = [
        {"name": name, "zone": _zone_of(name, firewall), "path": path} for name, path in counters.items()
    ]
    described = {"default_policy": firewall.default_policy, "zones": zones, "counters": counted}
    return json.dumps(described, separators=(",\n", ": ")) + "\n"


def _zone_of(counter: str, firewall: Firewall) -> str:
    zone, _, what = counter.rpartition(".")
    if zone == "forward" and what.isdigit():
        return firewall.forward[int(what)].from_zone
    return zone
