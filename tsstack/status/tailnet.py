"""What tailscaled says, as this host's place in its tailnet. Pure.

Source of the field names: tailscale's ipn/ipnstate (Status, PeerStatus) and ipn/prefs.go.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tsstack.status.words import natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Exit, Peer, Tailnet, Way

    ExitNames = Mapping[str, Sequence[str]]

_EXIT_ROUTES = ("0.0.0.0/0", "::/0")
BLOCKED = "no candidate works: blocked, "
"""As tsstack.monitor.reasons begins it. That module would cost the screen its speed."""
_BAD = (" is dead", " is poor", " is suspect")
# A tailscaled that starts is Running a moment before its routes are there and the control server hears it.
_SETTLES_S = 15.0
_SHARED_ROUTES = 128
"""Peers list their own addresses beside their routes: /32 and /128 are no routes to tell."""


def silent_tailnet(error: str) -> Tailnet:
    """What is known of a tailnet whose tailscaled does not answer."""
    return {
        "state": "",
        "error": error,
        "since": None,
        "control": "",
        "id": "",
        "version": "",
        "name": "",
        "addresses": [],
        "tags": [],
        "relay": "",
        "online": None,
        "key_expires": None,
        "health": [],
        "offers": [],
        "offers_exit": False,
        "exit_approved": False,
    }


def read_tailnet(
    status: Mapping[str, Any],
    prefs: Mapping[str, Any],
    withdrawn: Sequence[str],
    *,
    since: float | None = None,
) -> Tailnet:
    """This host's own part. `withdrawn` are the routes that the monitor has taken back for now.

    `since`: when tailscaled started.
    """
    own = status.get("Self") or {}
    approved = {*(own.get("AllowedIPs") or ()), *(own.get("PrimaryRoutes") or ())}
    offered = [str(route) for route in prefs.get("AdvertiseRoutes") or ()]
    exits = [route for route in offered if route in _EXIT_ROUTES]
    routes = [route for route in offered if route not in _EXIT_ROUTES]
    gone = [route for route in withdrawn if route not in routes]
    return {
        "state": str(status.get("BackendState") or ""),
        "error": "",
        "since": since,
        "control": str(prefs.get("ControlURL") or ""),
        "id": str(own.get("ID") or ""),
        "version": str(status.get("Version") or "").partition("-")[0],
        "name": str(own.get("DNSName") or own.get("HostName") or "").rstrip("."),
        "addresses": [str(address) for address in own.get("TailscaleIPs") or ()],
        "tags": [str(tag) for tag in own.get("Tags") or ()],
        "relay": str(own.get("Relay") or ""),
        "online": own.get("Online"),
        "key_expires": read_time(own.get("KeyExpiry")),
        "health": [str(line) for line in status.get("Health") or ()],
        "offers": [
            {"route": route, "approved": route in approved or route in gone, "withdrawn": route in gone}
            for route in (*routes, *gone)
        ],
        "offers_exit": bool(exits),
        "exit_approved": bool(exits) and all(route in approved for route in exits),
    }


def settles(tailnet: Tailnet, at: float) -> bool:
    """Whether tailscaled has started so lately that not all of it is there yet."""
    return tailnet["since"] is not None and at - tailnet["since"] < _SETTLES_S


def read_peers(status: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> list[Peer]:
    """The other nodes: those online first, then by name. `paths` are the monitor's, for round trips."""
    return with_round_trips(read_unwatched_peers(status), paths)


def read_unwatched_peers(status: Mapping[str, Any], names: ExitNames | None = None) -> list[Peer]:
    """The same without round trips. While tailscaled is not up none is online, whatever it was told."""
    up = status.get("BackendState") == "Running"
    names = exit_names(status) if names is None else names
    peers = [
        _peer(peer, names.get(str(peer.get("ID")), []), up=up) for peer in (status.get("Peer") or {}).values()
    ]
    peers.sort(key=lambda peer: (not peer["online"], natural(peer["name"].lower()), peer["address"]))
    return peers


def with_round_trips(peers: Sequence[Peer], paths: Sequence[Mapping[str, Any]]) -> list[Peer]:
    """The peers with what the monitor measures of each that it watches; the others are as they were."""
    exits = {path["key"]: path for path in paths if path["kind"] == "exit"}
    watched = {path["key"]: path for path in paths if path["kind"] == "peer"}
    found = list(peers)
    for at, peer in enumerate(peers if exits or watched else ()):
        path = None
        for name in peer["names"] if exits else ():
            path = path or exits.get(f"exit:{name}")
        if path is None and watched:
            path = watched.get(f"peer:{peer['name'].partition('.')[0].lower()}")
        if path is not None and path["level"] != "unknown":
            found[at] = {**peer, "rtt_s": path["rtt_s"], "answers": path["level"] != "dead"}
    return found


def _peer(peer: Mapping[str, Any], names: Sequence[str], *, up: bool) -> Peer:
    name = peer_name(peer)
    addresses = peer.get("TailscaleIPs") or ()
    online = up and bool(peer.get("Online"))
    return {
        "name": name,
        "names": [*names],
        "address": str(addresses[0]) if addresses else "",
        "os": str(peer.get("OS") or ""),
        "online": online,
        "way": _way(peer) if up else "idle",
        "relay": str(peer.get("Relay") or ""),
        "rtt_s": None,
        "answers": None,
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


def exit_names(status: Mapping[str, Any]) -> ExitNames:
    """What the file may call each peer as an exit node, by stable id: in lower case, the DNS label first.

    As `parts/tailscale/exit_nodes.py` takes them: a DNS label is unique on the tailnet, a host name need not
    be and only fills gaps. Who offers an exit goes before who does not (any more).
    """
    found: dict[str, str] = {}
    peers = sorted((status.get("Peer") or {}).values(), key=lambda peer: str(peer.get("ID")))
    for offers in (True, False):
        those = [peer for peer in peers if bool(peer.get("ExitNodeOption")) is offers]
        for name in (peer_name, _host_name):
            for peer in those:
                found.setdefault(name(peer).lower(), str(peer.get("ID")))
    names: dict[str, list[str]] = {}
    for called, id_ in found.items():
        if called:
            names.setdefault(id_, []).append(called)
    return names


def _host_name(peer: Mapping[str, Any]) -> str:
    return str(peer.get("HostName") or "")


def _as_wanted(names: Sequence[str], use: Sequence[str]) -> str:
    """The name that the file uses for who has these `names`; empty where it names them by none."""
    return next((name for name in use if name.lower() in names), "")


def read_exit(
    status: Mapping[str, Any],
    prefs: Mapping[str, Any],
    wanted: Mapping[str, Any] | None,
    state: Mapping[str, Any] | None,
    *,
    known: bool = True,
    source: str = "",
    paths: Sequence[Mapping[str, Any]] = (),
    names: ExitNames | None = None,
) -> Exit:
    """Which way out is in use. `wanted` is the generation's `exit_node`, `state` the monitor's `exit`.

    A tailscaled that does not run, or is not up, has no part in it, whatever its prefs name. Of one that
    runs and does not answer (not `known`) nobody knows. `source` is the address that the kernel would send
    from: with an expired key tailscaled carries nothing, and leaves its routes where they are. `names` are
    those of `exit_names`, where they are known already.
    """
    up = status.get("BackendState") == "Running"
    id_ = str(prefs.get("ExitNodeID") or "")
    use = [str(name) for name in (wanted or {}).get("use") or ()]
    using, online = "", None
    if id_ and up:
        peers = (status.get("Peer") or {}).values()
        peer = next((each for each in peers if str(each.get("ID")) == id_), None)
        named = _as_wanted((exit_names(status) if names is None else names).get(id_, ()), use)
        using = named or (peer_name(peer) if peer else id_)
        online = bool(peer.get("Online")) if peer else False
    told = state or {}
    levels = {str(each["name"]).lower(): str(each["level"]) for each in told.get("candidates") or ()}
    why = [str(sentence) for sentence in told.get("why") or ()]
    if use and using.lower() != use[0].lower() and told.get("manual") is None:
        why = [*(each for each in _why_not(use[0], told, paths) if not _is_told(each, why)), *why]
    if not up:
        daemon = str(status.get("BackendState") or "")
        silent = "does not run" if known else "does not answer"
        why = [f"tailscaled is {daemon}" if daemon else f"tailscaled {silent}"]
    return {
        "known": known,
        "using": using,
        "online": online,
        "level": levels.get(using.lower(), ""),
        "wanted": use,
        "blocked": bool(told.get("blocked")),
        "stuck": not up and bool(source) and source in (status.get("TailscaleIPs") or ()),
        "bypassed": [],
        "manual": told.get("manual"),
        "maintenance": bool(told.get("maintenance")),
        "moving": bool(told.get("moving")),
        "why": why,
    }


def _is_told(sentence: str, why: Sequence[str]) -> bool:
    """Whether the monitor's own sentences say it, or what speaks against that very node."""
    level, _, causes = sentence.partition(": ")
    home = f" {sentence.partition(' ')[0]} "
    for each in why:
        if level.endswith(_BAD) and each.startswith(BLOCKED) and home in each.rpartition(" stays set:")[2]:
            return True  # with its figures of that moment
        _, named, rest = f" {each}".partition(home)
        if named and (f"{home}{rest}".startswith(f" {level}") or (causes and causes in rest)):
            return True
    return False


def _why_not(home: str, told: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why the first candidate is not in use, a sentence at most: `told` says why another is."""
    candidates = told.get("candidates") or ()
    candidate = next((each for each in candidates if str(each["name"]).lower() == home.lower()), None)
    if candidate is None:
        return
    key = f"exit:{home.partition('.')[0].lower()}"
    path = next((each for each in paths if each["key"] == key), None)
    causes = ", ".join(str(cause["text"]) for cause in path["causes"]) if path else ""
    if not candidate["offered"]:
        yield f"{home} offers no exit on this tailnet"
    elif candidate["level"] != "good":
        yield f"{home} is {candidate['level']}" + (f": {causes}" if causes else "")
    elif candidate["barred_s"] > 0:
        yield f"{home} is good and barred for {candidate['barred_s']:.0f} s more: it failed its proof"
    else:
        yield f"{home} is good again, and is gone back to when it was so for `restore_after`"


def read_time(text: object) -> float | None:
    """Seconds since 1970 of a time as Go writes it (RFC 3339); None for its zero and for anything else."""
    if not isinstance(text, str) or text.startswith("0001-"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
