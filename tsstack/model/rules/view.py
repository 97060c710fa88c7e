"""What a lint rule sees, and how it speaks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from tsstack.model.code import Code
from tsstack.model.document import Document
from tsstack.model.facts import Facts
from tsstack.model.firewall import ForwardRule, Zone
from tsstack.model.keypath import KeyPath
from tsstack.model.names import Network, ServicePort
from tsstack.model.proxy import Service
from tsstack.model.services import WELL_KNOWN
from tsstack.model.stack import Stack

HOSTED = "https://controlplane.tailscale.com"
TAILSCALE_INTERFACE = "tailscale0"
# Bridges and links that container and VM engines make and filter themselves.
VIRTUAL = ("docker", "br-", "veth", "virbr", "podman", "cni", "lxc", "lxd", "cali", "flannel", "ifb")
# What they put into those bridges.
_VIRTUAL_PORTS = (*VIRTUAL, "vnet", "tap", "fwpr", "fwln")
CGNAT = ipaddress.ip_network("100.64.0.0/10")
ULA = ipaddress.ip_network("fd7a:115c:a1e0::/48")


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding before it has its place. `value`: the place is that of the value, not of its key.

    `rests_on`: the nodes besides `path` whose absence could have caused it. It is left out where one of
    them is faulty; None stands for every section that its rule reads.
    """

    code: Code
    path: KeyPath
    message: str
    hint: str = ""
    value: bool = False
    rests_on: tuple[KeyPath, ...] | None = None


@dataclass(frozen=True)
class View:
    """The stack, what the file itself writes of it, and the machine, if it is known."""

    stack: Stack
    document: Document
    facts: Facts | None

    def writes(self, *path: str | int) -> bool:
        """Whether the file itself holds this key, so that it is no default and no preset's."""
        return self.document.node(path) is not None

    @cached_property
    def zones(self) -> dict[str, Zone]:
        """The zones of a firewall that is on."""
        firewall = self.stack.firewall
        return dict(firewall.zones) if firewall and firewall.enabled else {}

    @cached_property
    def services(self) -> dict[str, Service]:
        """The proxied services that are on."""
        proxy = self.stack.proxy
        return {key: service for key, service in proxy.services.items() if service.enabled} if proxy else {}

    @cached_property
    def hosted(self) -> bool:
        """Whether the login server is Tailscale's own; so it is where the file does not say."""
        tailscale = self.stack.tailscale
        return tailscale is None or tailscale.login_server.rstrip("/") == HOSTED

    @cached_property
    def known_services(self) -> dict[str, tuple[ServicePort, ...]]:
        """Ports by service name: the well-known ones, under the file's own."""
        own = self.stack.firewall.services if self.stack.firewall else {}
        return {**WELL_KNOWN, **own}

    @cached_property
    def uplinks(self) -> tuple[str, ...]:
        """The interfaces towards the internet, as far as they are known."""
        if self.stack.host.uplink:
            return (self.stack.host.uplink,)
        return (self.facts.default_interface,) if self.facts and self.facts.default_interface else ()


def matches(pattern: str, interface: str) -> bool:
    """Whether a zone's interface entry takes in an interface."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == interface


def is_of_engine(name: str, ports: Iterable[str]) -> bool:
    """Whether an interface looks like one that a container or VM engine made: by its name and its ports."""
    return name.startswith(VIRTUAL) and all(port.startswith(_VIRTUAL_PORTS) for port in ports)


def within(inner: Network, outer: Network) -> bool:
    """Whether a network lies in another; never across address families."""
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    differing = int(inner.network_address) ^ int(outer.network_address)
    return differing >> (inner.max_prefixlen - outer.prefixlen) == 0


def in_tailnet(network: Network) -> bool:
    """Whether a network lies in the ranges that tailnets use."""
    return within(network, CGNAT) or within(network, ULA)


def takes_tailnet(zone: Zone) -> bool:
    """Whether some node of the tailnet falls into the zone."""
    return any(matches(pattern, TAILSCALE_INTERFACE) for pattern in zone.interfaces) or any(
        in_tailnet(source) or within(CGNAT, source) or within(ULA, source) for source in zone.sources
    )


def opens(view: View, zone: Zone | ForwardRule, protocol: str, port: int) -> bool:
    """Whether a zone, or a forward rule, opens a port."""
    if zone.allow == "all":
        return True
    if any(port in ports for ports in (zone.tcp if protocol == "tcp" else zone.udp)):
        return True
    return any(
        known.protocol == protocol and port in known.ports
        for name in zone.services
        for known in view.known_services.get(name, ())
    )


Rule = Callable[[View], Iterator[Remark]]
RULES: list[tuple[frozenset[str], Rule]] = []


def rule(*reads: str) -> Callable[[Rule], Rule]:
    """Register a rule, with the sections it reads: see `Remark.rests_on` for what is faulty in them."""

    def register(function: Rule) -> Rule:
        RULES.append((frozenset(reads), function))
        return function

    return register
