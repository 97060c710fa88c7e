"""The zones as people see them, for the screens that show a generation without reading its file. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tsstack.parts.firewall.members import open_ports

if TYPE_CHECKING:
    from tsstack.model.firewall import Firewall
    from tsstack.model.stack import Stack

ZONES_FILE = "nftables/zones.json"
SOURCES_MOST = 32
"""So many networks of a zone are written out; `source_count` tells how many there are."""


def describe_zones(stack: Stack, firewall: Firewall) -> str:
    """JSON: `default_policy`, and of each zone its members and what it opens, with the file's key paths."""
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
    described = {"default_policy": firewall.default_policy, "zones": zones}
    return json.dumps(described, separators=(",\n", ": ")) + "\n"
