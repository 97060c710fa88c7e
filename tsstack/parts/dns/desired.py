"""Which domain is asked where, and who sees to it. Pure.

A generation holds `dns/split.json`: domain -> `servers` (addresses as text, in the file's order) and
`by`: `tailscaled` where tailscaled routes the domain itself (`accept_dns` with its own resolver),
`resolved` where tsstack tells systemd-resolved; and `accept_dns` as the file has it (null where it leaves
tailscaled alone), for with it tailscaled writes tailscale0's settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack

FOLDER = "dns"
FILE = f"{FOLDER}/split.json"

TAILNET_RESOLVER = "100.100.100.100"
TAILNET_INTERFACE = "tailscale0"


class Route(NamedTuple):
    """One domain, and all below it, and the servers that answer for it."""

    domain: str
    servers: tuple[str, ...]
    by: str
    accept_dns: bool | None = None

    @property
    def by_tailscaled(self) -> bool:
        return self.by == "tailscaled"


def render(stack: Stack, facts: Facts) -> dict[str, str]:
    """The part's tree, empty when the file asks for nothing.

    With `accept_dns`, tailscaled itself routes what its resolver answers for, and rewrites the settings
    of tailscale0 whenever the tailnet's change; a second writer would only be undone.
    """
    accepts = stack.tailscale.accept_dns if stack.tailscale is not None else None
    split = {}
    for domain, addresses in stack.dns.split.items():
        servers = [str(address) for address in addresses]
        owned = accepts is True and servers == [TAILNET_RESOLVER]
        # Names are compared without case (RFC 4343), and resolved prints them in lower case.
        by = "tailscaled" if owned else "resolved"
        split[domain.lower()] = {"servers": servers, "by": by, "accept_dns": accepts}
    return {FILE: json.dumps(split, indent=2) + "\n"} if split else {}


def routes(tree: Mapping[str, str]) -> tuple[Route, ...]:
    """The routes in a tree, by domain."""
    split = json.loads(tree.get(FILE, "{}"))
    return tuple(
        Route(domain, tuple(entry["servers"]), entry["by"], entry["accept_dns"])
        for domain, entry in sorted(split.items())
    )


def advice_without_resolved(found: tuple[Route, ...], tailnet: str) -> tuple[str, ...]:
    """What to say on a host where systemd-resolved does not run, one sentence for each domain."""
    lines = []
    for route in found:
        servers = ", ".join(route.servers)
        if route.by_tailscaled and route.domain == tailnet.lower():
            continue  # tailscaled manages /etc/resolv.conf then, and answers for it at TAILNET_RESOLVER
        if route.by_tailscaled:
            lines.append(
                f"{route.domain}: systemd-resolved does not run, so tailscaled manages /etc/resolv.conf; it "
                "asks where the tailnet's own DNS settings say, so add the domain to the tailnet's split DNS "
                "(Headscale: dns.nameservers.split)"
            )
        else:
            lines.append(
                f"{route.domain} is not routed to {servers}: systemd-resolved does not run; install and "
                "start it (apt install systemd-resolved), or add the domain to the tailnet's split DNS and "
                "set tailscale.accept_dns: true"
            )
    return tuple(lines)
