"""What a person should know after a switch that is no failure: mostly things an admin must approve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsstack.parts.tailscale.desired import EXIT_ROUTES

_HOSTED_CONSOLE = "at https://login.tailscale.com/admin/machines"


def remarks(
    wanted: Mapping[str, Any], enrolment: Mapping[str, Any], status: Mapping[str, Any]
) -> tuple[str, ...]:
    """One sentence each, from the two files of a generation and the daemon's status."""
    own = status.get("Self") or {}
    return tuple(
        line
        for line in (
            _name(enrolment, own),
            _tags(enrolment, own),
            _routes(wanted, enrolment, own),
            _exit_node(wanted, status),
        )
        if line
    )


def unapproved_routes(wanted: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The advertised routes of which this node, by its own status, has heard no approval."""
    approved = {*(own.get("AllowedIPs") or ()), *(own.get("PrimaryRoutes") or ())}
    return [route for route in wanted["prefs"]["AdvertiseRoutes"] if route not in approved]


def _name(enrolment: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    label = str(own.get("DNSName", "")).partition(".")[0]
    if not label or label == str(enrolment["hostname"]).lower():
        return ""
    return (
        f"host.name: the tailnet calls this host {label}, because {enrolment['hostname']} is taken; "
        "delete the old node on the control server, or choose another name"
    )


def _tags(enrolment: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    missing = sorted(set(enrolment["tags"]) - set(own.get("Tags") or ()))
    if not missing:
        return ""
    where = (
        _HOSTED_CONSOLE
        if enrolment["hosted"]
        else f"by `headscale nodes tag -i {own.get('ID', 'ID')} -t {','.join(enrolment['tags'])}`"
    )
    return f"tailscale.tags: this node does not have {', '.join(missing)}; an admin can give them {where}"


def _routes(wanted: Mapping[str, Any], enrolment: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    waiting = unapproved_routes(wanted, own)
    if not waiting:
        return ""
    exits = [route for route in waiting if route in EXIT_ROUTES]
    subnets = [route for route in waiting if route not in EXIT_ROUTES]
    what = " and ".join((["the exit node"] if exits else []) + ([", ".join(subnets)] if subnets else []))
    if enrolment["hosted"]:
        return (
            f"tailscale.advertise: {what}: nobody can use this until an admin approves it {_HOSTED_CONSOLE}"
        )
    # Headscale 0.29 tells a node of an approval only with its next full map: it may be there already.
    number, routes = own.get("ID", "ID"), ",".join(wanted["prefs"]["AdvertiseRoutes"])
    return (
        f"tailscale.advertise: {what}: this node has not heard of an approval; see `headscale nodes "
        f"list-routes -i {number}`, and approve by `headscale nodes approve-routes -i {number} -r {routes}`"
    )


def _exit_node(wanted: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if wanted["exit_node"] is None:
        return ""
    live = status.get("ExitNodeStatus")
    if not live:
        return "tailscale.exit_node: no candidate is up, so this host's traffic leaves by its uplink (direct)"
    if not live.get("Online"):
        return "tailscale.exit_node: the exit node in use is offline, so there is no internet through it now"
    return ""
