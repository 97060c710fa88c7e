"""The services of the live generation, with what the monitor sees of them and when their certificates end."""

from __future__ import annotations

import json

from tsstack.status.expiry import read_expiry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Certificate, Service

_BEST_FIRST = ("good", "suspect", "poor", "unknown", "dead")


def read_proxy(
    generation: str, paths: Sequence[Mapping[str, Any]]
) -> tuple[list[Service], list[Certificate], str]:
    """Services, certificates, and why they cannot be read (empty: they can). Never raises."""
    try:
        with open(f"{generation}/nginx/plan.json", "rb") as file:  # noqa: PTH123
            plan = json.load(file)
    except FileNotFoundError:
        return [], [], ""
    except (OSError, ValueError) as error:
        return [], [], f"the generation's services cannot be read: {error}"
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
    return services, certificates, ""


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
        "certificate_expires": ends.get(host, ends.get(wildcard)) if url.startswith("https:") else None,
    }
