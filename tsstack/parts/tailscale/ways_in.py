"""Which change of tailscaled's prefs would cut a session that comes from a given address. Pure."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

from tsstack.parts.tailscale.desired import PREFS_FILE, differing

if TYPE_CHECKING:
    from tsstack.model.names import Address
    from tsstack.parts.part import Snapshot, Tree

# net/tsaddr/tsaddr.go: CGNATRange and TailscaleULARange.
_TAILNET = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))


def closed_way_in(tree: Tree, snapshot: Snapshot, client: Address) -> str:
    """Why a session from `client` would end with the change to `tree`, by the key of the file; else empty.

    With an exit node in use, replies to everyone outside the tailnet leave through it; only local networks
    are spared, and only with `allow_lan_access` (tailscale's ipn/prefs.go: ExitNodeAllowLANAccess).
    """
    if PREFS_FILE not in tree or not snapshot:
        return ""
    wanted: dict[str, Any] = json.loads(tree[PREFS_FILE])
    live: Any = snapshot["prefs"]
    peers: Any = snapshot["exit_nodes"]
    patch = differing(wanted, live, peers)
    if any(client in network for network in _TAILNET):
        shut = "tailscale.shields_up: refuses every connection from the tailnet, this session's too"
        return shut if patch.get("ShieldsUp") else ""
    touched = snapshot["needs_login"] or {"ExitNodeID", "ExitNodeAllowLANAccess"} & set(patch)
    if wanted["exit_node"] is None or not touched:
        return ""
    spares_lan = wanted["prefs"]["ExitNodeAllowLANAccess"]
    if spares_lan and (client.is_private or client.is_link_local or client.is_loopback):
        return ""
    advice = (
        "come in over the tailnet"
        if spares_lan
        else "write allow_lan_access: true, or come in over the tailnet"
    )
    return f"tailscale.exit_node: replies to {client} would leave through the exit node; {advice}"
