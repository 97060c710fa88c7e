"""The sections of the file, but for `proxy` and `firewall`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tsstack.model.names import (
    CIDR,
    IPV4,
    PORT,
    AlertUrl,
    Domain,
    FilePath,
    HttpUrl,
    InterfaceName,
    IPAddress,
    Label,
    LoginServer,
    SecretKey,
    SysctlName,
    Tag,
    as_tuple,
)
from tsstack.model.section import Section
from tsstack.model.units import BandwidthBps, BurstBytes, DurationS, Percent


class Host(Section):
    """Who this host is."""

    name: Label
    """The host's name on the tailnet, one DNS label."""
    tailnet: Domain | None = None
    """The MagicDNS suffix (Headscale: its `base_domain`). Needed by `proxy`."""
    uplink: InterfaceName | None = None
    """The interface towards the internet. Default: that of the default route."""


class Secrets(Section):
    """Where the secrets are: a sops-encrypted file, decrypted in memory at switch time only."""

    file: FilePath
    """Path of the encrypted file; a relative one counts from the folder of this file."""


class SecretRef(Section):
    """A value that is not written here: a key of the secrets file, or a file of its own."""

    secret: SecretKey | None = None
    """Key in the secrets file."""
    file: FilePath | None = None
    """A file that holds the value and nothing else."""

    @model_validator(mode="after")
    def _one_source(self) -> SecretRef:
        if (self.secret is None) == (self.file is None):
            raise ValueError("write either {secret: KEY} or {file: PATH}")
        return self


class Advertise(Section):
    """What this host offers to the tailnet."""

    routes: tuple[CIDR, ...] = ()
    """Subnets behind this host that it routes to."""
    exit_node: bool = False
    """Offer this host as an exit node."""
    snat: bool = True
    """Hide tailnet sources behind this host's own address on the way to the subnets."""


class ExitNodeUse(Section):
    """Which exit node this host's own traffic uses."""

    use: Annotated[tuple[Label, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    """Node names in order of preference; the monitor moves along it."""
    allow_lan_access: bool = False
    """Keep the local networks reachable beside the exit node."""
    otherwise: Literal["block", "direct"] = "block"
    """What happens when no candidate works: no internet at all, or the bare uplink (a leak, by choice)."""


class Tailscale(Section):
    """How this host joins the tailnet."""

    login_server: LoginServer = "https://controlplane.tailscale.com"
    """The control server; a Headscale's address, or Tailscale's own by default."""
    auth_key: SecretRef | None = None
    """The key for the first enrolment. Without it a new node is an error; an enrolled one stays so."""
    tags: tuple[Tag, ...] = ()
    """Tags of this node. With Headscale they come with the key."""
    accept_dns: bool = True
    """Use the tailnet's DNS settings."""
    accept_routes: bool = False
    """Use the subnet routes that other nodes offer."""
    ssh: bool = False
    """Run Tailscale SSH."""
    shields_up: bool = False
    """Refuse all connections from the tailnet."""
    netfilter: Literal["on", "nodivert", "off"] = "on"
    """How much of the packet filter tailscaled manages itself."""
    operator: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    """The local user who may operate tailscaled besides root."""
    advertise: Advertise = Advertise.model_construct()
    """What this host offers to the tailnet."""
    exit_node: ExitNodeUse | None = None
    """The exit node this host uses. Default: none, its traffic leaves by the uplink."""


class Dns(Section):
    """Which domains are asked where, beside the host's usual resolver."""

    split: dict[Domain, Annotated[tuple[IPAddress, ...], BeforeValidator(as_tuple), Field(min_length=1)]] = {}
    """A domain (and all below it) and the DNS servers that answer for it."""


class Kernel(Section):
    """Kernel tuning."""

    profile: Literal["none", "throughput", "router", "low-latency"] = "none"
    """A tuned set of parameters; own keys below win over it."""
    sysctl: dict[
        SysctlName, int | Annotated[str, Field(pattern=r"^[ \t]*[A-Za-z0-9._:+-][A-Za-z0-9._:+ \t-]{0,199}$")]
    ] = {}
    """Kernel parameters to set, as sysctl(8) names them."""
    udp_gro: bool | None = None
    """UDP GRO forwarding on the uplink. Default: on when this host routes for the tailnet."""


class BandwidthLimit(Section):
    """What one interface may send and receive."""

    egress: BandwidthBps | None = None
    """The most that leaves by this interface."""
    ingress: BandwidthBps | None = None
    """The most that is accepted from this interface."""
    burst: BurstBytes | None = None
    """How much may pass at once. Default: 10 ms at the rate, 4 kB at least."""
    latency_s: DurationS = Field(0.4, alias="latency", gt=0, le=10)
    """How long a packet may wait in the queue before it is dropped."""

    @model_validator(mode="after")
    def _some_limit(self) -> BandwidthLimit:
        if self.egress is None and self.ingress is None:
            raise ValueError("write egress, ingress or both: {egress: 10mbit}")
        return self


class Target(Section):
    """Something whose answer shows that the path works; exactly one kind."""

    icmp: IPAddress | Domain | None = None
    """An address or name to ping."""
    tcp: Annotated[str, Field(pattern=rf"^[A-Za-z0-9.\[\]:-]{{1,260}}:{PORT}$")] | None = None
    """`host:port` to connect to."""
    https: HttpUrl | None = None
    """A page that must answer 2xx or 3xx."""
    dns: Domain | None = None
    """A name that must resolve."""

    @model_validator(mode="after")
    def _one_kind(self) -> Target:
        if sum(kind is not None for kind in (self.icmp, self.tcp, self.https, self.dns)) != 1:
            raise ValueError("exactly one of icmp, tcp, https, dns is needed: {icmp: 1.1.1.1}")
        return self


class AlertCommand(Section):
    """A program that is run for each alert; the alert comes as JSON on its standard input."""

    command: tuple[Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,500}$")], ...] = Field(min_length=1)
    """The program and its arguments; no shell is involved."""


class Monitor(Section):
    """What the monitor watches and what it does about it."""

    interval_s: DurationS = Field(30.0, alias="interval", ge=1, le=86400)
    """Pace of targets, peers and reports."""
    probe_s: DurationS = Field(0.5, alias="probe", ge=0.05, le=60)
    """Pace on the path in use and on the next candidate."""
    max_latency_s: DurationS = Field(0.2, alias="max_latency", gt=0, le=60)
    """Above this round-trip time a path counts as bad."""
    max_loss: Percent = 5.0
    """Above this loss a path counts as bad."""
    failures: int = Field(3, ge=1, le=1000)
    """So many failed probes in a row make a path bad at once."""
    restore_after_s: DurationS = Field(120.0, alias="restore_after", ge=0, le=86400 * 7)
    """So long must a preferred path be healthy before it is used again."""
    failover: bool = True
    """Act on a bad path, or only report it."""
    targets: tuple[Target, ...] = ()
    """Things beyond the path whose answers show that it works."""
    alerts: tuple[AlertUrl | AlertCommand, ...] = ()
    """Whom to tell."""
    metrics: Annotated[str, Field(pattern=rf"^({IPV4}|\[[0-9a-fA-F:]+\]|localhost):{PORT}$")] | None = None
    """`address:port` of the Prometheus endpoint. Default: none."""
