"""Bringing tailscaled back to what it was before a switch touched it. Needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tsstack.errors import RollbackFailed
from tsstack.parts.tailscale.desired import KEY_PATHS
from tsstack.parts.tailscale.enrolment import is_enrolled
from tsstack.system.localapi import LocalApi

# An exit node may also be given by address, or left to the daemon (ipn/prefs.go); ours replaces both.
_RESTORED = (*KEY_PATHS, "ExitNodeIP", "AutoExitNode")


def restore_stranger(api: LocalApi, before: Mapping[str, Any]) -> None:
    """Back to a daemon that belongs to no tailnet, with the prefs it had as such."""

    def settled() -> bool:
        prefs = api.prefs()
        return not is_enrolled(prefs) and _without_key(prefs) == dict(before)

    if settled():
        return
    # No logout: that needs the control server, and a rollback must not. And a node that has logged out of
    # Headscale (0.29) with a key that brings tags is expired there for good: it could never join again.
    api.forget()
    if not settled():
        api.start("", before)
    if not settled():
        raise RollbackFailed(
            "tailscaled did not take back its earlier prefs", hint="see `tailscale debug prefs`"
        )


def restore_prefs(api: LocalApi, before: Mapping[str, Any], names: Iterable[str] = _RESTORED) -> None:
    """Send, in one patch, those of `names` that are no longer as in `before`."""
    prefs = api.prefs()
    patch = {
        name: before.get(name, "") for name in names if (prefs.get(name) or "") != (before.get(name) or "")
    }
    if "ExitNodeID" in patch:
        # Named together: an id alone would clear the other (ipn/ipnlocal/local.go: adjustEditPrefsLocked).
        patch["AutoExitNode"] = before.get("AutoExitNode", "")
    if patch:
        api.patch_prefs(patch)


def _without_key(prefs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prefs.items() if name != "Config"}
