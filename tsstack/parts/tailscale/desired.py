"""What the file wants of tailscaled, and how that differs from what is live. Pure.

Two files come of it. `tailscale/prefs.json` holds the prefs that tsstack manages, by their names in
tailscale's ipn/prefs.go, the exit nodes by name, and the Tailscale Services. `tailscale/enrolment.json`
says how to join: the control server, the name, and where the key is to be found, never the key itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsstack.parts.part import Change

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.proxy import Proxy
    from tsstack.model.sections import SecretRef, Tailscale
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Snapshot, Tree

PREFS_FILE = "tailscale/prefs.json"
ENROLMENT_FILE = "tailscale/enrolment.json"

# ipn/prefs.go: IsLoginServerSynonym and DefaultControlURL.
_HOSTED = ("https://controlplane.tailscale.com", "https://login.tailscale.com")
# types/preftype/netfiltermode.go
_NETFILTER_MODES = {"off": 0, "nodivert": 1, "on": 2}
EXIT_ROUTES = ("0.0.0.0/0", "::/0")

KEY_PATHS: Mapping[str, str] = {
    "WantRunning": "tailscale",
    "Hostname": "host.name",
    "CorpDNS": "tailscale.accept_dns",
    "RouteAll": "tailscale.accept_routes",
    "RunSSH": "tailscale.ssh",
    "ShieldsUp": "tailscale.shields_up",
    "NetfilterMode": "tailscale.netfilter",
    "OperatorUser": "tailscale.operator",
    "AdvertiseRoutes": "tailscale.advertise.routes",
    "NoSNAT": "tailscale.advertise.snat",
    "AdvertiseTags": "tailscale.tags",
    "AdvertiseServices": "proxy.services",
    "ExitNodeID": "tailscale.exit_node.use",
    "ExitNodeAllowLANAccess": "tailscale.exit_node.allow_lan_access",
}
"""Each managed pref and the key of the file that decides it."""

# These prefs are sets: their order means nothing, and none is written as null.
_SETS = ("AdvertiseRoutes", "AdvertiseTags", "AdvertiseServices")


def desired(stack: Stack, facts: Facts) -> Tree:
    """The two files, or none when the file does not speak of tailscale. `facts` play no part."""
    section = stack.tailscale
    if section is None:
        return {}
    hosted = is_hosted(section.login_server)
    services = _services(stack.proxy) if stack.proxy is not None else {}
    exit_node = section.exit_node
    wanted = {
        "prefs": _prefs(section, stack.host.name, hosted=hosted, services=sorted(services)),
        "exit_node": exit_node
        and {
            "use": list(exit_node.use),
            "otherwise": exit_node.otherwise,
            # The monitor may have moved to another candidate; a switch must not move it back.
            "movable": stack.monitor is None or stack.monitor.failover,
        },
        "services": services,
    }
    enrolment = {
        "login_server": normal_url(section.login_server),
        "hostname": stack.host.name,
        "tags": list(section.tags),
        "hosted": hosted,
        "auth_key": _reference(section.auth_key, stack.secrets.file if stack.secrets else None),
    }
    return {PREFS_FILE: _render(wanted), ENROLMENT_FILE: _render(enrolment)}


def is_hosted(url: str) -> bool:
    """Whether a control URL is Tailscale's own; tailscaled writes its default as an empty one."""
    return normal_url(url) in _HOSTED


def normal_url(url: str) -> str:
    """A control URL without a trailing slash; tailscaled's default for an empty one."""
    return url.rstrip("/") or _HOSTED[0]


def same_control(left: str, right: str) -> bool:
    """Whether two control URLs mean the same server."""
    return normal_url(left) == normal_url(right) or (is_hosted(left) and is_hosted(right))


def normal(name: str, value: Any) -> Any:
    """A pref in a form that can be compared: sets are sorted, null is what it stands for."""
    if name in _SETS:
        return sorted(value or ())
    return value if value is not None else ""


def choose_exit_node(
    wanted: Mapping[str, Any], peers: Sequence[Mapping[str, Any]], current: str
) -> str | None:
    """The stable id of the exit node to use; None when no candidate will do.

    `peers` are those that offer an exit: `id`, `name`, `online`. The current one stays while it is a
    candidate and the monitor may move; else the first candidate that control sees online wins, then the
    first at all: blocked is what the file asks for then, unless it says `otherwise: direct`. Where nothing
    may move, it is the first at all, so that the answer does not change with the weather.
    """
    ids = {str(peer["name"]).lower(): peer for peer in peers}
    candidates = [ids[name.lower()] for name in wanted["use"] if name.lower() in ids]
    if wanted["movable"] and any(peer["id"] == current for peer in candidates):
        return current
    if not candidates:
        return None
    if not wanted["movable"]:
        return str(candidates[0]["id"])
    online = [peer for peer in candidates if peer["online"]]
    if not online and wanted["otherwise"] == "direct":
        return None
    return str((online or candidates)[0]["id"])


def differing(
    wanted: Mapping[str, Any],
    live: Mapping[str, Any],
    peers: Sequence[Mapping[str, Any]],
    withdrawn: Sequence[str] = (),
    own_name: str = "",
    *,
    direct: bool = False,
) -> dict[str, Any]:
    """The managed prefs whose live value is another than the wanted one, with the wanted value.

    `wanted` is the content of `prefs.json`, `live` all prefs. An exit node that no peer offers yet is
    left out: activation deals with it. `withdrawn` are the routes that the monitor keeps back while their
    side is dead: they are not wanted now. `direct`: it goes out by the bare uplink, which is wanted as long
    as the file lets it. `own_name` is the name that the node has where the pref gives
    none: the machine's own.
    """
    prefs = dict(wanted["prefs"])
    if not live.get("Hostname") and prefs.get("Hostname") == own_name:
        del prefs["Hostname"]
    if withdrawn:
        prefs["AdvertiseRoutes"] = [each for each in prefs["AdvertiseRoutes"] if each not in withdrawn]
    changes = {
        name: value for name, value in prefs.items() if normal(name, live.get(name)) != normal(name, value)
    }
    # With AutoExitNode set, tailscaled itself moves between exit nodes: none of them is settled.
    current = "" if live.get("AutoExitNode") else str(live.get("ExitNodeID") or "")
    if direct and not current and _may_be_direct(wanted["exit_node"]):
        return changes
    if wanted["exit_node"] is not None:
        chosen = choose_exit_node(wanted["exit_node"], peers, current)
        if chosen is None and wanted["exit_node"]["otherwise"] == "direct":
            chosen = ""
        if chosen is not None and chosen != current:
            changes["ExitNodeID"] = chosen
    # Switching it off by id leaves an address that waits to be resolved (ipn/prefs.go: ExitNodeIP).
    elif live.get("ExitNodeIP"):
        changes["ExitNodeIP"] = ""
    return changes


def _may_be_direct(exit_node: Mapping[str, Any] | None) -> bool:
    return exit_node is not None and bool(exit_node["movable"]) and exit_node["otherwise"] == "direct"


def changes(tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
    """What activation would change, by the keys of the file."""
    if PREFS_FILE not in tree:
        if not snapshot:
            return ()
        away = "away" in snapshot
        found = () if away else (*_leaving(snapshot), *_service_changes({}, snapshot))
        if not found and snapshot.get("originals") is not None:  # nothing to put back: it has to be forgotten
            return (Change("tailscale", "a note of what it was before tsstack", None),)
        return found
    wanted = json.loads(tree[PREFS_FILE])
    enrolment = json.loads(tree[ENROLMENT_FILE])
    live: Any = snapshot["prefs"]
    peers: Any = snapshot["exit_nodes"]
    lines: list[Change] = []
    if snapshot["needs_login"]:
        lines.append(
            Change("tailscale", None, f"join {enrolment['login_server']} as {enrolment['hostname']}")
        )
    names = {str(peer["id"]): str(peer["name"]) for peer in peers}
    withdrawn: Any = snapshot.get("withdrawn") or ()
    own_name = str(snapshot.get("own_name") or "")
    direct = bool(snapshot.get("direct"))
    for name, value in differing(wanted, live, peers, withdrawn, own_name, direct=direct).items():
        if name == "AdvertiseRoutes":
            lines += _route_changes(live.get(name) or (), value)
            continue
        if name == "WantRunning":
            if not snapshot["needs_login"]:  # else joining says it already
                lines.append(Change("tailscale", "down", "up"))
            continue
        now = live.get(name, False if isinstance(value, bool) else None)  # a daemon may leave out what is off
        before, after = _say(name, now, names), _say(name, value, names)
        lines.append(Change(KEY_PATHS.get(name, f"tailscale ({name})"), before, after))
    return (*lines, *_service_changes(wanted["services"], snapshot))


def _service_changes(wanted: Mapping[str, Any], snapshot: Snapshot) -> Iterator[Change]:
    served: Any = snapshot["services"]
    for name in sorted({*wanted, *served}):
        before, after = served.get(name), wanted.get(name)
        if before != after:
            subject = f"proxy.services.{name.removeprefix('svc:')} (Tailscale Service)"
            yield Change(subject, before and _compact(before), after and _compact(after))


def _leaving(snapshot: Snapshot) -> Iterator[Change]:
    """What changes when the original prefs come back, as the file no longer speaks of tailscale."""
    originals: Any = snapshot.get("originals") or {}
    live: Any = snapshot["prefs"]
    peers: Any = snapshot["exit_nodes"]
    if not snapshot["enrolled"]:  # logged out since: tailscaled itself has dropped what we set
        return
    names = {str(peer["id"]): str(peer["name"]) for peer in peers}
    for name, value in originals.items():
        now = live.get(name)
        if normal(name, now) == normal(name, value):
            continue
        if name == "AdvertiseRoutes":
            lines = _route_changes(now or (), value or ())
        else:
            path = KEY_PATHS.get(name, f"tailscale ({name})")
            lines = [Change(path, _say(name, now, names), _say(name, value, names))]
        for line in lines:
            # Nothing was there before tsstack: the setting goes.
            yield Change(line.subject, line.before) if line.after in {"none", "false"} else line


def _prefs(
    section: Tailscale, hostname: str, *, hosted: bool, services: Sequence[str]
) -> dict[str, str | int | bool | list[str]]:
    advertise = section.advertise
    routes = sorted({str(route) for route in advertise.routes} | set(EXIT_ROUTES * advertise.exit_node))
    prefs: dict[str, str | int | bool | list[str]] = {
        "WantRunning": True,
        "Hostname": hostname,
        "CorpDNS": section.accept_dns,
        "RouteAll": section.accept_routes,
        "RunSSH": section.ssh,
        "ShieldsUp": section.shields_up,
        "NetfilterMode": _NETFILTER_MODES[section.netfilter],
        "OperatorUser": section.operator or "",
        "AdvertiseRoutes": list(routes),
        "NoSNAT": not advertise.snat,
    }
    if section.exit_node is None:
        prefs["ExitNodeID"] = ""  # and LAN access beside it is of no effect: whatever it is, it stays
    else:
        prefs["ExitNodeAllowLANAccess"] = section.exit_node.allow_lan_access
    # Headscale rejects a key together with requested tags; there, tags come with the key.
    if hosted:
        prefs["AdvertiseTags"] = list(section.tags)
    if services:
        prefs["AdvertiseServices"] = list(services)
    return prefs


def _services(proxy: Proxy) -> dict[str, dict[str, Any]]:
    """ipn.ServiceConfig by service name: what reaches `svc:NAME` is handed to nginx, or to a TCP upstream.

    The PROXY protocol header (version 2) tells nginx who really connects.
    """
    if proxy.names != "service":
        return {}
    services: dict[str, dict[str, Any]] = {}
    for key, service in proxy.services.items():
        if not service.enabled:
            continue
        label = service.subdomain or key
        if service.protocol == "tcp":
            upstream = next((u for u in service.upstream if not u.backup), service.upstream[0])
            ports: dict[str, dict[str, str | int]] = {
                str(service.port or upstream.port): {"TCPForward": upstream.endpoint}
            }
        else:
            listened = [proxy.http_port] if proxy.tls == "off" else [proxy.http_port, proxy.https_port]
            ports = {str(port): {"TCPForward": f"127.0.0.1:{port}", "ProxyProtocol": 2} for port in listened}
        services[f"svc:{label}"] = {"TCP": ports}
    return services


def _reference(auth_key: SecretRef | None, secrets_file: str | None) -> dict[str, str] | None:
    if auth_key is None:
        return None
    if auth_key.file is not None:
        return {"file": auth_key.file}
    return {"secrets_file": secrets_file or "", "key": auth_key.secret or ""}


def _render(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _route_changes(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """Routes and the exit offer share one pref, but are two keys of the file."""
    lines = []
    old, new = (sorted(set(routes) - set(EXIT_ROUTES)) for routes in (before, after))
    if old != new:
        path = "tailscale.advertise.routes"
        lines.append(Change(path, ", ".join(old) or "none", ", ".join(new) or "none"))
    offered, offers = (any(route in routes for route in EXIT_ROUTES) for routes in (before, after))
    if offered != offers or (old == new and sorted(before) != sorted(after)):
        lines.append(Change("tailscale.advertise.exit_node", _truth(offered), _truth(offers)))
    return lines


def _say(name: str, value: Any, names: Mapping[str, str]) -> str:
    if name == "ExitNodeID":
        return names.get(str(value)) or (f"a node that offers no exit ({value})" if value else "none")
    if name == "NetfilterMode":
        return next((word for word, mode in _NETFILTER_MODES.items() if mode == value), str(value))
    if name in _SETS:
        return ", ".join(sorted(value or ())) or "none"
    if isinstance(value, bool):
        # The file says it the other way round: `snat`.
        return _truth(value != (name == "NoSNAT"))
    return str(value or "") or "none"


def _truth(value: object) -> str:
    return "true" if value else "false"


def _compact(config: Mapping[str, Any]) -> str:
    ports = config.get("TCP") or {}
    return ", ".join(f"tcp/{port} to {handler.get('TCPForward', '?')}" for port, handler in ports.items())
