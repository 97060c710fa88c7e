"""The common guide's Nix snippets: what becomes of each as it stands, and what a real host has to change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nix_engine import HERE
from option_cases import HOST

SNIPPETS = HERE / "snippets"
SOPS = "sops.defaultSopsFile = ./secrets.yaml;"
ON = "kernelcore.tsstack.enable = true;"


@dataclass(frozen=True, slots=True)
class Fate:
    """What `tsstack check` and Nix say of a snippet."""

    codes: tuple[str, ...] = ()
    """`tsstack check` refuses it by these."""
    warnings: tuple[str, ...] = ()
    """Words of what Nix warns of."""
    page: tuple[str, ...] = ()
    """Words of docs/nixos.md, where it means something else than the guide says."""


AS_IT_STANDS = {
    "complete-stack": Fate(),
    "debug": Fate(warnings=("TS_DEBUG_FIREWALL_MODE",), page=("TS_DEBUG_FIREWALL_MODE",)),
    "docker-routes": Fate(),
    "failover": Fate(page=("Auto-failover",)),
    "low-resource": Fate(),
    "new-service": Fate(page=("enableAuth",)),
    "nginx-tuning": Fate(page=("services.nginx.appendConfig",)),
    "proxy": Fate(warnings=("lets nobody reach the proxy",), page=("networking.firewall",)),
    "split-dns": Fate(page=("DNS=",)),
    "sysctl": Fate(),
    "vpn": Fate(warnings=("exitNodeAllowLANAccess",), page=("exitNodeAllowLANAccess",)),
    "zones": Fate(
        codes=("TS205",),
        warnings=("TS205", "zone dmz has neither interfaces nor allowedIPs"),
        page=("TS205", "kernelcore.tsstack.uplink", "Zones named like a preset"),
    ),
}
# One configuration, but for the smaller alternative: it gives other values to what `complete-stack` sets.
TOGETHER = tuple(name for name in AS_IT_STANDS if name != "low-resource")


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the guide that cannot stay when all of it is one host, and how it is refused otherwise."""

    option: str
    value: str
    refused: str = ""
    codes: tuple[str, ...] = ()

    def as_nix(self) -> str:
        return f"{self.option} = lib.mkForce {self.value};"


CHANGES = (
    Change(
        "kernelcore.network.security.firewall-zones.zones.admin.allowedIPs",
        '[ "100.64.0.10" ]',
        codes=("TS205",),
    ),
    Change(
        "kernelcore.network.proxy.nginx-tailscale.tailnetDomain",
        '"your-tailnet-name.ts.net"',
        refused="two names for one tailnet",
    ),
)
# What the guide leaves to its reader; nothing of its own is changed by it.
LEFT_OPEN = 'kernelcore.tsstack.uplink = "eth0";'


def snippet(name: str) -> str:
    """As one would paste it: a whole module, or lines of one."""
    text = (SNIPPETS / f"{name}.txt").read_text()
    return f"({text})" if text.startswith("{") else f"({{ config, ... }}: {{ {text} }})"


def together(names: Iterable[str], beside: str = "") -> str:
    """Snippets in one module, with what every host has: a name, and a file for sops-nix."""
    said = f"{{ {HOST} {SOPS} {beside} }}"
    return f"{{ lib, ... }}: {{ imports = [ {said} {' '.join(map(snippet, names))} ]; }}"
