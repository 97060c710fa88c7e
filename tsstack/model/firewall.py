"""The `firewall` section: zones, what each may reach on this host, and what is forwarded between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tsstack.model.names import CIDR, InterfacePattern, Key, Ports, ServicePorts
from tsstack.model.section import Section

PresetName = Literal["dmz", "internal", "admin", "isolated"]


class Zone(Section):
    """A group of interfaces or sources and what it may reach on this host.

    A key that a zone writes replaces the same key of its preset; the others keep the preset's value.
    """

    preset: PresetName | None = None
    """The preset it starts from. Default: the preset of the zone's own name, if there is one."""
    interfaces: tuple[InterfacePattern, ...] = ()
    """Interfaces that belong to the zone; `veth*` covers all that start so."""
    sources: tuple[CIDR, ...] = ()
    """Source networks that belong to the zone, whatever interface zone they would fall into."""
    tcp: tuple[Ports, ...] = ()
    """Open TCP ports and ranges."""
    udp: tuple[Ports, ...] = ()
    """Open UDP ports and ranges."""
    services: tuple[Key, ...] = ()
    """Open services by name: well-known ones and those of `firewall.services`."""
    allow: Literal["all"] | None = None
    """`all` opens every port to the zone."""
    ping: bool = True
    """Answer echo requests."""
    log: bool | None = None
    """Log what is dropped. Default: `firewall.log`."""


class ForwardRule(Section):
    """New connections that may pass from one zone to another; replies pass by themselves."""

    from_zone: Key = Field(alias="from")
    """The zone that connects."""
    to_zone: Key = Field(alias="to")
    """The zone that is connected to."""
    services: tuple[Key, ...] = ()
    """Services that may pass."""
    tcp: tuple[Ports, ...] = ()
    """TCP ports that may pass."""
    udp: tuple[Ports, ...] = ()
    """UDP ports that may pass."""
    allow: Literal["all"] | None = None
    """`all` lets everything pass."""
    masquerade: bool = False
    """Hide the sources behind this host's address on the way out."""


class Firewall(Section):
    """One nftables table, `inet tsstack`."""

    enabled: bool = True
    """Switched off, tsstack removes its table."""
    default_policy: Literal["drop", "reject", "accept"] = "drop"
    """What happens to a new connection that no zone opens. tailscaled's own needs are always accepted."""
    log: bool = False
    """Log dropped packets, at a limited rate, with the zone's name as prefix."""
    services: dict[Key, tuple[ServicePorts, ...]] = {}
    """Services of one's own, by name, beside the well-known names."""
    zones: dict[Key, Zone] = {}
    """The zones, by name."""
    forward: tuple[ForwardRule, ...] = ()
    """What may pass between zones."""
