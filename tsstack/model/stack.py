"""The whole file as one frozen value."""

from __future__ import annotations

from pydantic import Field

from tsstack.model.firewall import Firewall
from tsstack.model.names import InterfaceName, ServicePort
from tsstack.model.proxy import Proxy
from tsstack.model.section import Section
from tsstack.model.sections import BandwidthLimit, Dns, Host, Kernel, Monitor, Secrets, Tailscale
from tsstack.model.services import WELL_KNOWN


class Stack(Section):
    """What the file says. A section that is absent is one that tsstack leaves alone."""

    host: Host
    """Who this host is."""
    secrets: Secrets | None = None
    """Where the secrets are."""
    tailscale: Tailscale | None = None
    """How this host joins the tailnet. Absent: tailscaled is as it was before tsstack."""
    proxy: Proxy | None = None
    """Services behind nginx. Absent: nginx serves nothing of ours."""
    firewall: Firewall | None = None
    """Zones. Absent: tsstack has no table."""
    dns: Dns = Dns.model_construct()
    """Split DNS."""
    kernel: Kernel = Kernel.model_construct()
    """Kernel tuning."""
    bandwidth: dict[InterfaceName, BandwidthLimit] = Field(default={})
    """Bandwidth limits by interface."""
    monitor: Monitor | None = None
    """The monitor's rules. Absent: defaults."""

    @property
    def fqdn(self) -> str:
        """The host's full name on the tailnet, or its bare name where no tailnet is given."""
        return f"{self.host.name}.{self.host.tailnet}" if self.host.tailnet else self.host.name

    @property
    def routes_for_tailnet(self) -> bool:
        """Whether this host forwards packets for other nodes of the tailnet."""
        advertise = self.tailscale.advertise if self.tailscale else None
        return advertise is not None and (advertise.exit_node or bool(advertise.routes))

    def ports_of(self, service: str) -> tuple[ServicePort, ...]:
        """The ports behind a service name: the file's own first, then the well-known ones.

        Raises KeyError for a name that is neither (lint refuses such a file).
        """
        own = self.firewall.services if self.firewall else {}
        return own[service] if service in own else WELL_KNOWN[service]
