"""Which peers offer an exit, and whether one of them is what the file wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsstack.errors import CheckFailed
from tsstack.parts.tailscale.desired import choose_exit_node
from tsstack.system.localapi import Json


def require_exit_node(wanted: Json, prefs: Mapping[str, Any], peers: tuple[Json, ...]) -> None:
    """Raises CheckFailed when the file wants an exit node, none will do, and it does not allow direct."""
    use = wanted["exit_node"]
    if use is None or use["otherwise"] == "direct":
        return
    if choose_exit_node(use, peers, str(prefs.get("ExitNodeID") or "")) is None:
        offered = ", ".join(sorted({str(peer["name"]) for peer in peers})) or "nobody"
        raise CheckFailed(
            f"tailscale.exit_node.use: none of {', '.join(use['use'])} offers an exit on this tailnet; "
            f"{offered} does",
            hint="let an admin approve the exit node, or write `otherwise: direct`",
        )


def has_candidate(wanted: Json, status: Json) -> bool:
    return choose_exit_node(wanted["exit_node"], offered_exits(status), "") is not None


def offered_exits(status: Mapping[str, Any]) -> tuple[Json, ...]:
    """The peers that offer an exit, by the first label of their DNS name and by their own host name."""
    offering = [peer for peer in (status.get("Peer") or {}).values() if peer.get("ExitNodeOption")]
    found: dict[str, Json] = {}
    for label in (_dns_label, lambda peer: str(peer.get("HostName", ""))):
        for peer in sorted(offering, key=lambda peer: str(peer["ID"])):
            name = label(peer).lower()
            # A DNS label is unique on the tailnet, a host name need not be: it only fills gaps.
            if name and name not in found:
                found[name] = {"id": str(peer["ID"]), "name": name, "online": bool(peer.get("Online"))}
    return tuple(found[name] for name in sorted(found))


def _dns_label(peer: Mapping[str, Any]) -> str:
    return str(peer.get("DNSName", "")).partition(".")[0]
