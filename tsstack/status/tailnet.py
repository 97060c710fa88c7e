"""What tailscaled says, as this host's place in its tailnet. Pure.

Source of the field names: tailscale's ipn/ipnstate (Status, PeerStatus) and ipn/prefs.go.
"""

from __future__ import annotations

from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Exit, Peer, Tailnet, Way

_EXIT_ROUTES = ("0.0.0.0/0", "::/0")
_SHARED_ROUTES = 128
"""Peers list their own addresses beside their routes: /32 and /128 are no routes to tell."""


def silent_tailnet(error: str) -> Tailnet:
    """What is known of a tailnet whose tailscaled does not answer."""
    return {
        "state": "",
        "error": error,
        "version": "",
        "name": "",
        "addresses": [],
        "tags": [],
        "relay": "",
        "key_expires": None,
        "health": [],
        "offers": [],
        "offers_exit": False,
        "exit_approved": False,
    }


def read_tailnet(status: Mapping[str, Any], prefs: Mapping[str, Any], withdrawn: Sequence[str]) -> Tailnet:
    """This host's own part. `withdrawn` are the routes that the monitor has taken back for now."""
    own = status.get("Self") or {}
    approved = {*(own.get("AllowedIPs") or ()), *(own.get("PrimaryRoutes") or ())}
    offered = [str(route) for route in prefs.get("AdvertiseRoutes") or ()]
    exits = [route for route in offered if route in _EXIT_ROUTES]
    routes = [route for route in offered if route not in _EXIT_ROUTES]
    gone = [route for route in withdrawn if route not in routes]
    return {
        "state": str(status.get("BackendState") or ""),
        "error": "",
        "version": str(status.get("Version") or "").partition("-")[0],
        "name": str(own.get("DNSName") or own.get("HostName") or "").rstrip("."),
        "addresses": [str(address) for address in own.get("TailscaleIPs") or ()],
        "tags": [str(tag) for tag in own.get("Tags") or ()],
        "relay": str(own.get("Relay") or ""),
        "key_expires": read_time(own.get("KeyExpiry")),
        "health": [str(line) for line in status.get("Health") or ()],
        "offers": [
            {"route": route, "approved": route in approved or route in gone, "withdrawn": route in gone}
            for route in (*routes, *gone)
        ],
        "offers_exit": bool(exits),
        "exit_approved": bool(exits) and all(route in approved for route in exits),
    }


def read_peers(status: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> list[Peer]:
    """The other nodes: those online first, then by name. `paths` are the monitor's, for round trips."""
    return with_round_trips(read_unwatched_peers(status), paths)


def read_unwatched_peers(status: Mapping[str, Any]) -> list[Peer]:
    """The same without round trips. While tailscaled is not up none is online, whatever it was told."""
    up = status.get("BackendState") == "Running"
    peers = [_peer(peer, up=up) for peer in (status.get("Peer") or {}).values()]
    peers.sort(key=lambda peer: (not peer["online"], peer["name"].lower(), peer["address"]))
    return peers


def with_round_trips(peers: Sequence[Peer], paths: Sequence[Mapping[str, Any]]) -> list[Peer]:
    """The peers with the monitor's latest round trip of each that it watches; the others are as they were."""
    rtts = {path["key"]: path["rtt_s"] for path in paths if path["kind"] in {"exit", "peer"}}
    found = list(peers)
    for at, peer in enumerate(peers if rtts else ()):
        key = peer["name"].partition(".")[0].lower()
        rtt_s = rtts.get(f"exit:{key}", rtts.get(f"peer:{key}"))
        if rtt_s is not None:
            found[at] = {**peer, "rtt_s": rtt_s}
    return found


def _peer(peer: Mapping[str, Any], *, up: bool) -> Peer:
    name = peer_name(peer)
    addresses = peer.get("TailscaleIPs") or ()
    online = up and bool(peer.get("Online"))
    return {
        "name": name,
        "address": str(addresses[0]) if addresses else "",
        "os": str(peer.get("OS") or ""),
        "online": online,
        "way": _way(peer) if up else "idle",
        "relay": str(peer.get("Relay") or ""),
        "rtt_s": None,
        "exit_node": bool(peer.get("ExitNodeOption")),
        "routes": [
            str(route)
            for route in peer.get("PrimaryRoutes") or ()
            if not str(route).endswith(("/32", f"/{_SHARED_ROUTES}"))
        ],
        "received_bytes": int(peer.get("RxBytes") or 0),
        "sent_bytes": int(peer.get("TxBytes") or 0),
        "last_seen": None if online else read_time(peer.get("LastSeen")),
    }


def _way(peer: Mapping[str, Any]) -> Way:
    """How packets go now. A peer that nothing was sent to of late has no way (`Active`)."""
    if peer.get("CurAddr"):
        return "direct"
    if not peer.get("Active"):
        return "idle"
    if peer.get("PeerRelay"):
        return "peer-relay"
    return "relay" if peer.get("Relay") else "unknown"


def peer_name(peer: Mapping[str, Any]) -> str:
    """The first label of its name in DNS, which is unique on a tailnet; else what the host calls itself."""
    return str(peer.get("DNSName") or "").partition(".")[0] or str(peer.get("HostName") or "")


def read_exit(
    status: Mapping[str, Any],
    prefs: Mapping[str, Any],
    wanted: Mapping[str, Any] | None,
    state: Mapping[str, Any] | None,
    *,
    known: bool = True,
) -> Exit:
    """Which way out is in use. `wanted` is the generation's `exit_node`, `state` the monitor's `exit`.

    A tailscaled that does not run, or is not up, has no part in it, whatever its prefs name. Of one that
    runs and does not answer (not `known`) nobody knows.
    """
    up = status.get("BackendState") == "Running"
    id_ = str(prefs.get("ExitNodeID") or "")
    using, online = "", None
    if id_ and up:
        peers = (status.get("Peer") or {}).values()
        peer = next((each for each in peers if str(each.get("ID")) == id_), None)
        using = peer_name(peer) if peer else id_
        online = bool(peer.get("Online")) if peer else False
    told = state or {}
    why = [str(sentence) for sentence in told.get("why") or ()]
    if not up:
        daemon = str(status.get("BackendState") or "")
        silent = "does not run" if known else "does not answer"
        why = [f"tailscaled is {daemon}" if daemon else f"tailscaled {silent}"]
    return {
        "known": known,
        "using": using,
        "online": online,
        "wanted": [str(name) for name in (wanted or {}).get("use") or ()],
        "blocked": bool(told.get("blocked")),
        "manual": told.get("manual"),
        "maintenance": bool(told.get("maintenance")),
        "moving": bool(told.get("moving")),
        "why": why,
    }


def read_time(text: object) -> float | None:
    """Seconds since 1970 of a time as Go writes it (RFC 3339); None for its zero and for anything else."""
    if not isinstance(text, str) or text.startswith("0001-"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
