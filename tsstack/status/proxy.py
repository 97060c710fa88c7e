"""nginx and its services, with what the monitor sees of them and when their certificates end."""

from __future__ import annotations

import json

from tsstack.status.expiry import read_expiry
from tsstack.system.unix_http import Garbled, exchange, parse_reply, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Certificate, Proxy, Service

_NGINX_S = 1.0
_BEST_FIRST = ("good", "suspect", "poor", "unknown", "dead")


def read_proxy(
    generation: str, paths: Sequence[Mapping[str, Any]]
) -> tuple[Proxy, list[Service], list[Certificate]]:
    """nginx, its services and certificates. Never raises: `Proxy.error` says why they cannot be read."""
    nginx: Proxy = {"enabled": False, "running": None, "current": None, "error": ""}
    try:
        with open(f"{generation}/nginx/plan.json", "rb") as file:  # noqa: PTH123
            plan = json.load(file)
        return _read(plan, paths)
    except FileNotFoundError:
        return nginx, [], []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are damaged"
        return {**nginx, "enabled": True, "error": f"the generation's services cannot be read: {why}"}, [], []


def _read(
    plan: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]
) -> tuple[Proxy, list[Service], list[Certificate]]:
    certificates: list[Certificate] = []
    ends: dict[str, float | None] = {}
    for each in plan["certificates"]:
        expires, why = _end(each["certificate"])
        certificates.append(
            {"names": list(each["names"]), "kind": each["kind"], "expires": expires, "error": why}
        )
        ends |= dict.fromkeys(each["names"], expires)
    watched: dict[str, list[Mapping[str, Any]]] = {}
    for path in paths:
        if path["kind"] == "service":
            name = str(path["key"]).removeprefix("service:").rpartition("#")[0]
            watched.setdefault(name, []).append(path)
    services = [_service(name, url, watched.get(name, ()), ends) for name, url in plan["urls"].items()]
    nginx = _ask_nginx(plan.get("status"), plan.get("digest"), served=bool(services))
    if nginx["running"] is False:
        services = [
            {**each, "level": "dead", "rtt_s": None, "error": "nginx does not answer"} for each in services
        ]
    return nginx, services, certificates


def _ask_nginx(status: str | None, digest: str | None, *, served: bool) -> Proxy:
    """Asks the status endpoint on loopback which configuration nginx has loaded."""
    found: Proxy = {"enabled": served, "running": None, "current": None, "error": ""}
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


def _end(path: str) -> tuple[float | None, str]:
    try:
        return read_expiry(path), ""
    except PermissionError:
        return None, "reading it needs root"
    except FileNotFoundError:
        return None, "it is not there"
    except (OSError, ValueError) as error:
        return None, str(error)


def _service(
    name: str, url: str, paths: Sequence[Mapping[str, Any]], ends: Mapping[str, float | None]
) -> Service:
    host = url.partition("://")[2].partition("/")[0].partition(":")[0]
    wildcard = f"*.{host.partition('.')[2]}"
    best = min(paths, key=lambda path: _BEST_FIRST.index(path["level"]), default=None)
    return {
        "name": name,
        "url": url,
        "level": best["level"] if best else "unknown",
        "rtt_s": best["rtt_s"] if best else None,
        "error": best["error"] if best else "",
        "dead_upstreams": sum(path["level"] == "dead" for path in paths),
        "certificate_expires": ends.get(host, ends.get(wildcard)) if url.startswith("https:") else None,
    }
