"""Tailscale Services in tailscaled's serve config (ipn/serve.go: ServeConfig.Services).

The serve config is shared with whoever runs `tailscale serve`, so a list of the services that are ours
is kept in the state folder; the others are never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.parts.tailscale.originals import damaged, read_noted
from tsstack.system.files import write_durably

if TYPE_CHECKING:
    from tsstack.system.localapi import LocalApi

_FILE = "services.json"
_HELD = "the Tailscale Services that tsstack serves"

Services = Mapping[str, Any]
"""ipn.ServiceConfig by service name, `svc:ollama`."""


def owned_services(state: Path) -> list[str]:
    """The services that tsstack published on this host; empty when it never did.

    Raises CheckFailed when the list is damaged.
    """
    names = read_noted(state / _FILE, _HELD)
    if names is None:
        return []
    if not isinstance(names, list):
        raise damaged(state / _FILE, "no list", _HELD)
    return [str(name) for name in names]


def live_services(api: LocalApi, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named services that the daemon serves now."""
    config, _ = api.serve_config()
    served = config.get("Services") or {}
    return {name: served[name] for name in sorted(set(names)) if name in served}


def set_services(api: LocalApi, state: Path, wanted: Services, *, owned: Iterable[str]) -> None:
    """Serve `wanted`, and of `owned` nothing else; all the rest of the serve config stays.

    Idempotent: nothing is sent when it is so already. Raises LocalApiError, with status 412 when somebody
    changed the config at the same moment.
    """
    _remember(state, {*wanted, *owned})
    config, etag = api.serve_config()
    served = dict(config.get("Services") or {})
    merged = {name: value for name, value in served.items() if name not in set(owned)} | dict(wanted)
    if merged != served:
        rest = {name: value for name, value in config.items() if name != "Services"}
        api.set_serve_config({**rest, "Services": merged} if merged else rest, etag)
    _remember(state, wanted)


def _remember(state: Path, names: Iterable[str]) -> None:
    if sorted(names) != owned_services(state):
        state.mkdir(parents=True, exist_ok=True)
        write_durably(state / _FILE, json.dumps(sorted(names)) + "\n")
