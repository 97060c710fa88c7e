"""nginx and its services, with what the monitor sees of them and when their certificates end."""

from __future__ import annotations

import _socket
import json
import os

from tsstack.status.expiry import read_validity
from tsstack.status.loaded import count_orphans, loaded_at
from tsstack.system.unix_http import Garbled, exchange, parse_reply, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Certificate, Proxy, Service, Tailnet

_NGINX_S = 1.0
_OWN_UNIT = "tsstack-nginx"  # tsstack.parts.proxy.engine.UNIT, which would cost the screen its speed
_CLOCKS_DIFFER_S = 1.0
"""A process's start is counted in hundredths from the boot, and a file's time is the clock's."""
_BEST_FIRST = ("good", "suspect", "poor", "unknown", "dead")


def read_proxy(
    generation: str,
    paths: Sequence[Mapping[str, Any]],
    tailnet: Tailnet,
    *,
    hung: bool = False,
    run: str = "/run/tsstack",
) -> tuple[Proxy, list[Service], list[Certificate]]:
    """nginx, its services and certificates. Never raises: `Proxy.error` says why they cannot be read.

    `hung`: tailscaled runs and does not answer.
    """
    nginx: Proxy = {
        "enabled": False, "unit": "nginx", "running": None, "current": None, "orphans": 0, "identity": None,
        "error": "",
    }  # fmt: skip
    try:
        with open(f"{generation}/nginx/plan.json", "rb") as file:  # noqa: PTH123
            plan = json.load(file)
        nginx, services, certificates = _read(plan, paths, run)
        listeners = plan.get("listeners") or ()
        return nginx, [_as_reached(each, listeners, tailnet, hung=hung) for each in services], certificates
    except FileNotFoundError:
        return nginx, [], []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are damaged"
        return {**nginx, "enabled": True, "error": f"the generation's services cannot be read: {why}"}, [], []


def _read(
    plan: Mapping[str, Any], paths: Sequence[Mapping[str, Any]], run: str
) -> tuple[Proxy, list[Service], list[Certificate]]:
    certificates: list[Certificate] = []
    ends: dict[str, Certificate] = {}
    loaded = loaded_at(plan.get("main_config") or "", run) if plan["certificates"] else None
    for each in plan["certificates"]:
        begins, expires, why = _validity(each["certificate"])
        certificates.append(
            {
                "names": list(each["names"]),
                "kind": each["kind"],
                "expires": expires,
                "life_s": expires - begins if expires and begins and expires > begins else None,
                "served": _is_served(each["certificate"], loaded),
                "error": why,
            }
        )
        ends |= dict.fromkeys(each["names"], certificates[-1])
    watched: dict[str, list[Mapping[str, Any]]] = {}
    for path in paths:
        if path["kind"] == "service":
            name = str(path["key"]).removeprefix("service:").rpartition("#")[0]
            watched.setdefault(name, []).append(path)
    services = [_service(name, url, watched.get(name, ()), ends) for name, url in plan["urls"].items()]
    nginx = _ask_nginx(plan.get("status"), plan.get("digest"), served=bool(services))
    nginx["unit"] = "nginx" if plan.get("main_config") else _OWN_UNIT
    nginx["orphans"] = count_orphans(plan.get("main_config") or "", run) if services else 0
    nginx["identity"] = _takes_connections(f"{run}/identity.sock") if plan.get("identity") else None
    if nginx["running"] is False:
        services = [
            {**each, "level": "dead", "rtt_s": None, "error": "nginx does not answer"} for each in services
        ]
    return nginx, services, certificates


def _ask_nginx(status: str | None, digest: str | None, *, served: bool) -> Proxy:
    """Asks the status endpoint on loopback which configuration nginx has loaded."""
    found: Proxy = {
        "enabled": served, "unit": "", "running": None, "current": None, "orphans": 0, "identity": None,
        "error": "",
    }  # fmt: skip
    if not served or not status:
        return found
    host, _, port = status.rpartition(":")
    try:
        answer = exchange((host, int(port)), request("GET", "/generation", status), timeout_s=_NGINX_S)
        _, _, body = parse_reply(answer)
    except (OSError, Garbled) as error:
        why = str(getattr(error, "strerror", "") or error).lower()
        return {**found, "running": False, "error": f"nginx does not answer on {status}: {why}"}
    return {**found, "running": True, "current": body.decode("ascii", "replace").strip() == digest}


def _takes_connections(path: str) -> bool | None:
    """Whether somebody listens on a unix socket; None for who may not ask."""
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        link.settimeout(_NGINX_S)
        link.connect(path)
    except PermissionError:
        return None
    except BlockingIOError:  # connect(2): so many wait to be taken that no more may
        return True
    except OSError:
        return False
    finally:
        link.close()
    return True


def _validity(path: str) -> tuple[float | None, float | None, str]:
    try:
        return *read_validity(path), ""
    except PermissionError:
        return None, None, "reading it needs root"
    except FileNotFoundError:
        return None, None, "it is not there"
    except (OSError, ValueError) as error:
        return None, None, str(error)


def _is_served(path: str, loaded: float | None) -> bool | None:
    try:
        return None if loaded is None else os.stat(path).st_mtime <= loaded + _CLOCKS_DIFFER_S  # noqa: PTH116
    except OSError:
        return None


def _service(
    name: str, url: str, paths: Sequence[Mapping[str, Any]], ends: Mapping[str, Certificate]
) -> Service:
    host = url.partition("://")[2].partition("/")[0].partition(":")[0]
    wildcard = f"*.{host.partition('.')[2]}"
    certificate = (ends.get(host) or ends.get(wildcard)) if url.startswith("https:") else None
    best = min(paths, key=lambda path: _BEST_FIRST.index(path["level"]), default=None)
    return {
        "name": name,
        "url": url,
        "level": best["level"] if best else "unknown",
        "rtt_s": best["rtt_s"] if best else None,
        "error": best["error"] if best else "",
        "unreached": "",
        "dead_upstreams": sum(path["level"] == "dead" for path in paths),
        "certificate_expires": certificate["expires"] if certificate else None,
        "certificate_life_s": certificate["life_s"] if certificate else None,
    }


def _as_reached(
    service: Service, listeners: Sequence[Mapping[str, Any]], tailnet: Tailnet, *, hung: bool
) -> Service:
    """The service as the tailnet's clients find it: nobody is served where no way leads in."""
    ways = [each for each in listeners if each["protocol"] == "tcp" and each["port"] == _port(service["url"])]
    if not ways or not all(each.get("claimed") or _is_tailnets(each["address"]) for each in ways):
        return service  # others than the tailnet reach it too
    bound = [each["address"] for each in ways if not each.get("claimed")]
    level, why = "dead", ""
    if hung:
        level, why = "unknown", "tailscaled does not answer"
    elif tailnet["error"]:
        why = "tailscaled does not run"
    elif tailnet["state"] != "Running":
        why = f"tailscaled is {tailnet['state'] or 'not up'}"
    elif bound and not set(bound) & set(tailnet["addresses"]):
        why = f"{', '.join(bound)} is no address of this host any more"
    if not why:
        return service
    return {**service, "level": level, "rtt_s": None, "error": why, "unreached": why}


def _port(url: str) -> int:
    scheme, _, rest = url.partition("://")
    port = rest.partition("/")[0].rpartition("]")[2].partition(":")[2]
    return int(port) if port else {"http": 80}.get(scheme, 443)


def _is_tailnets(address: str) -> bool:
    """Whether tailscaled gives such addresses: 100.64.0.0/10 and its own ULA (net/tsaddr)."""
    if address.startswith("fd7a:115c:a1e0:"):
        return True
    first, _, rest = address.partition(".")
    return first == "100" and 64 <= int(rest.partition(".")[0]) <= 127
