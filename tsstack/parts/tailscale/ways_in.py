"""Which change of tailscaled's prefs would cut a way into this host, and which might. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tsstack.parts.tailscale.desired import KEY_PATHS, PREFS_FILE, differing, normal

if TYPE_CHECKING:
    from tsstack.model.names import Address
    from tsstack.parts.part import Snapshot, Tree

INTERFACE = "tailscale0"
# net/tsaddr/tsaddr.go: CGNATRange, TailscaleULARange, and ChromeOSVMRange, which is nobody's node.
_CGNAT = ipaddress.ip_network("100.64.0.0/10")
_ULA = ipaddress.ip_network("fd7a:115c:a1e0::/48")
_CHROMEOS = ipaddress.ip_network("100.115.92.0/23")
_SSH = 22
_NETFILTER_ON = 2
# What is kept while tailscaled is down, or belongs to no tailnet, and does nothing until it is up.
_IDLE: dict[str, Any] = {
    "RouteAll": False, "ExitNodeID": "", "ExitNodeIP": "", "AutoExitNode": "", "NetfilterMode": 0,
}  # fmt: skip


class Arrival(NamedTuple):
    """How somebody comes in: from where, by which interface, to which port and address of this host."""

    client: Address
    interface: str
    port: int = _SSH
    server: Address | None = None
    """None: any address of this host."""
    on_link: bool | None = None
    """Whether the client is on a network of this host's own; None: unknown."""
    in_use: bool = False
    """Whether it is a session that is open now."""
    by_tailscaled: bool = False
    """Whether tailscaled is the SSH server."""


class Reason(NamedTuple):
    """Why a way is cut (`certain`), or may be."""

    text: str
    certain: bool = True


class WaysIn:
    """What a change of the prefs to `tree` means for those who come in."""

    def __init__(self, tree: Tree, snapshot: Snapshot, peer_routes: Iterable[str] = ()) -> None:
        live: Any = snapshot.get("prefs")
        self._live: dict[str, Any] = live or {}
        self._joins = bool(snapshot.get("needs_login"))
        self._leaves = PREFS_FILE not in tree
        self._patch: dict[str, Any] = {}
        self._wants_exit = False
        self._peer_routes = tuple(map(ipaddress.ip_network, peer_routes))
        if not snapshot or "away" in snapshot:
            return
        if not self._leaves and (self._joins or self._live.get("WantRunning") is False):
            self._live = {**self._live, **_IDLE}
        if self._leaves:
            self._patch = _originals_to_come(snapshot, self._live)
            self._wants_exit = bool(self._after("ExitNodeID") or self._after("ExitNodeIP"))
        else:
            wanted: dict[str, Any] = json.loads(tree[PREFS_FILE])
            peers: Any = snapshot["exit_nodes"]
            withdrawn: Any = snapshot.get("withdrawn") or ()
            direct = bool(snapshot.get("direct"))
            patch = differing(wanted, self._live, peers, withdrawn, direct=direct)
            self._wants_exit = wanted["exit_node"] is not None
            # A pref that the daemon leaves out is off.
            self._patch = {name: value for name, value in patch.items() if value or self._live.get(name)}

    @property
    def accepts_routes_anew(self) -> bool:
        """Whether routes of peers are taken over that were not before: then the judgement needs them."""
        return self._patch.get("RouteAll") is True

    def judge(self, arrival: Arrival) -> Reason | None:
        """Why the way is closed, or may be; None when it stays."""
        if arrival.interface == "lo":
            return None
        if arrival.interface == INTERFACE:
            return self._by_tailnet(arrival)
        return self._spoofed(arrival) or self._answers_astray(arrival)

    def _by_tailnet(self, arrival: Arrival) -> Reason | None:
        if self._patch.get("ShieldsUp"):
            return self._say("ShieldsUp", "refuses every connection from the tailnet, this session's too")
        node = _is_node(arrival.client)
        if self._patch.get("RouteAll") is False and not node:
            return self._say(
                "RouteAll",
                f"without the routes of other subnet routers there is no way back to {arrival.client}",
            )
        server = arrival.server
        if server is not None and not _is_node(server) and self._withdraws(server):
            return self._say(
                "AdvertiseRoutes",
                f"{server} is reached by an advertised route that is withdrawn; come in by this host's "
                "own address on the tailnet",
            )
        return self._ssh(arrival) or self._tailnet_doubts(arrival)

    def _withdraws(self, server: Address) -> bool:
        before, after = (self._live.get("AdvertiseRoutes"), self._after("AdvertiseRoutes"))
        return _covers(before, server) and not _covers(after, server)

    def _ssh(self, arrival: Arrival) -> Reason | None:
        """tailscale's cmd/tailscale/cli: riskLoseSSH, of `tailscale set --ssh` from within a session."""
        runs = self._patch.get("RunSSH")
        if runs is False and arrival.by_tailscaled:
            return self._say("RunSSH", "this session is one of tailscaled's own SSH server, which is ended")
        to_node = arrival.server is None or _is_node(arrival.server)
        if runs is True and arrival.port == _SSH and to_node and not arrival.by_tailscaled:
            return self._say(
                "RunSSH",
                "tailscaled itself takes tcp/22 of the tailnet's addresses over from the SSH server that "
                "answers there now, and lets in whom the tailnet's policy names",
                certain=arrival.in_use,
            )
        return None

    def _tailnet_doubts(self, arrival: Arrival) -> Reason | None:
        if "NetfilterMode" in self._patch and self._live.get("NetfilterMode") == _NETFILTER_ON:
            return self._say(
                "NetfilterMode",
                f"tailscaled's own rules go, which let in all that comes by {INTERFACE}; another firewall of "
                "this host may refuse it then",
                certain=False,
            )
        if "Hostname" in self._patch and arrival.in_use and self._live.get("Hostname"):
            return self._say(
                "Hostname", "this host has another name on the tailnet then: come in by that", certain=False
            )
        if "AdvertiseTags" in self._patch:
            return self._say(
                "AdvertiseTags",
                "the tailnet's policy may let in others to a host of those tags",
                certain=False,
            )
        return None

    def _spoofed(self, arrival: Arrival) -> Reason | None:
        """util/linuxfw: 100.64.0.0/10 is dropped by every other interface, but for ChromeOS's range."""
        client = arrival.client
        if self._patch.get("NetfilterMode") != _NETFILTER_ON or client not in _CGNAT or client in _CHROMEOS:
            return None
        return self._say(
            "NetfilterMode",
            f"tailscaled's own rules drop {client} on {arrival.interface}, as an address of the tailnet's",
        )

    def _answers_astray(self, arrival: Arrival) -> Reason | None:
        """tailscaled's routes go before the usual ones (table 52): who else is led through them then."""
        client = arrival.client
        for route in self._peer_routes:
            if self.accepts_routes_anew and route.version == client.version and client in route:
                return self._say(
                    "RouteAll", f"a peer advertises {route}: replies to {client} would leave by {INTERFACE}"
                )
        if self.accepts_routes_anew and self._joins and client.is_private and arrival.on_link is False:
            words = f"no peer is known yet; one that routes for {client} would take the replies to it"
            return self._say("RouteAll", words, certain=False)
        # ipn/ipnlocal: what is spared are the networks of this host's own interfaces, and no others.
        near = client.is_link_local or (client.is_private if arrival.on_link is None else arrival.on_link)
        spares_lan = bool(self._after("ExitNodeAllowLANAccess"))
        used_exit = bool(self._live.get("ExitNodeID") or self._live.get("ExitNodeIP"))
        astray_now = used_exit and not (near and self._live.get("ExitNodeAllowLANAccess"))
        touched = self._joins or {"ExitNodeID", "ExitNodeIP", "ExitNodeAllowLANAccess"} & set(self._patch)
        if not self._wants_exit or not touched or astray_now or (near and spares_lan):
            return None
        advice = (
            "come in over the tailnet"
            if spares_lan
            else "write allow_lan_access: true, or come in over the tailnet"
        )
        return self._say("ExitNode", f"replies to {client} would leave through the exit node; {advice}")

    def _after(self, name: str) -> Any:
        return self._patch.get(name, self._live.get(name))

    def _say(self, name: str, words: str, *, certain: bool = True) -> Reason:
        path = "tailscale.exit_node" if name == "ExitNode" else KEY_PATHS[name]
        if self._leaves:
            path = f"{path} is again what it was before tsstack, as the file no longer speaks of tailscale"
        return Reason(f"{path}: {words}", certain)


def _originals_to_come(snapshot: Snapshot, live: Any) -> dict[str, Any]:
    """The prefs that differ from those before tsstack, which come back; none for a node that has left."""
    originals: Any = snapshot.get("originals") or {}
    if not snapshot.get("enrolled"):
        return {}
    return {
        name: value
        for name, value in originals.items()
        if normal(name, live.get(name)) != normal(name, value)
    }


def _is_node(address: Address) -> bool:
    """Whether an address is that of a node of a tailnet, and of nobody behind one."""
    return address not in _CHROMEOS and (address in _CGNAT or address in _ULA)


def _covers(routes: Any, address: Address) -> bool:
    return any(address in ipaddress.ip_network(route) for route in routes or ())
