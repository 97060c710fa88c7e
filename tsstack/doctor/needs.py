"""What a rendered tree needs of the host: engines, features of the kernel, a network that forwards. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tsstack.parts.proxy.plan import PLAN, Plan, parse_plan

_CONGESTION = "net.ipv4.tcp_congestion_control"
_FORWARDING = "net.ipv4.ip_forward"
_OWN = "kernel.sysctl."


@dataclass(frozen=True, slots=True)
class Needs:
    """What is asked for. `known` is False where there is neither a file nor a generation to tell."""

    known: bool = False
    firewall: bool = False
    tailnet: bool = False
    proxy: bool = False
    streams: bool = False
    """Whether a service is passed on byte by byte."""
    identity: bool = False
    """Whether a service is limited to people."""
    egress: bool = False
    ingress: bool = False
    congestion: str = ""
    """The congestion control that the file itself names or a profile would like."""
    congestion_is_own: bool = False
    secrets: bool = False
    """Whether an enrolment would need a key from the sops-encrypted file."""
    forwarding: bool = False
    """Whether the file makes this host forward."""


def needs_of(tree: Mapping[str, str] | None) -> Needs:
    """Raises ValueError, KeyError or TypeError for a tree that is damaged."""
    if not tree:
        return Needs(known=tree is not None)
    sysctl = json.loads(tree.get("kernel/sysctl.json", "{}"))
    origins = json.loads(tree.get("kernel/origins.json", "{}"))
    enrolment = json.loads(tree.get("tailscale/enrolment.json", "{}"))
    links = json.loads(tree.get("kernel/links.json", "{}"))
    plan = plan_of(tree)
    return Needs(
        known=True,
        firewall="nftables/tsstack.nft" in tree,
        tailnet="tailscale/prefs.json" in tree,
        proxy=plan is not None,
        streams=plan is not None and any(url.startswith("tcp://") for url in plan.urls.values()),
        identity=plan is not None and plan.identity,
        egress=any("egress" in entry for entry in links.values()),
        ingress=any("ingress" in entry for entry in links.values()),
        congestion=str(sysctl.get(_CONGESTION, "")),
        congestion_is_own=str(origins.get(_CONGESTION, "")).startswith(_OWN),
        secrets="secrets_file" in (enrolment.get("auth_key") or {}),
        forwarding=sysctl.get(_FORWARDING) == "1",
    )


def plan_of(tree: Mapping[str, str]) -> Plan | None:
    """The proxy's plan in a tree; None where it has no proxy. Raises as `needs_of`."""
    return parse_plan(tree[PLAN]) if PLAN in tree else None
