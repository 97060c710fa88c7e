"""What is known of the machine. Gathered at the edge, passed to everything that decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things lie on the host. Tests point them elsewhere."""

    etc: Path = Path("/etc")
    state: Path = Path("/var/lib/tsstack")
    run: Path = Path("/run/tsstack")
    tailscale_socket: Path = Path("/var/run/tailscale/tailscaled.sock")
    log: Path = Path("/var/log/nginx")
    """Access and error logs of the proxy."""
    templates: Path | None = None
    """Compiled templates, for the next command. They are run: nobody else may write there. None: nowhere."""

    @property
    def tls(self) -> Path:
        """Private keys and certificates; never part of a generation."""
        return self.state / "tls"

    @property
    def current(self) -> Path:
        """The link to the generation that is live; files in /etc point through it."""
        return self.state / "current"


@dataclass(frozen=True, slots=True)
class NginxFacts:
    """The installed nginx, from `nginx -V`."""

    version: tuple[int, int, int]
    http2: bool = True
    http3: bool = False
    stream: bool = True
    """Whether stream blocks can be used, compiled in or as a module that can be loaded."""
    stream_module: str = ""
    """Path of the dynamic stream module, when it is one and has to be loaded by our own main file."""
    auth_request: bool = True
    realip: bool = True
    main_config: str = ""
    """The distribution's nginx.conf when there is one that includes conf.d; else empty."""
    stream_loaded: bool = False
    """Whether the distribution's main file already loads the dynamic stream module."""
    modules_enabled: bool = False
    """Whether the distribution's main file includes modules-enabled/*.conf in its main context."""
    directives: tuple[str, ...] = ()
    """Names of the directives in the distribution's nginx.conf; one of them may not be written twice."""
    default_servers: tuple[str, ...] = ()
    """Listens (`80`, `[::]:80`) for which a site of the distribution is the default server."""


@dataclass(frozen=True, slots=True)
class TailscaleFacts:
    """What the LocalAPI says without asking for anything to change."""

    version: tuple[int, int, int]
    backend_state: str
    addresses: tuple[str, ...] = ()
    dns_name: str = ""
    magic_dns_suffix: str = ""
    control_url: str = ""
    port: int = 41641


@dataclass(frozen=True, slots=True)
class Facts:
    """The machine at one moment. The defaults describe a machine of which nothing is known."""

    interfaces: tuple[str, ...] = ()
    default_interface: str = ""
    nginx: NginxFacts | None = None
    tailscale: TailscaleFacts | None = None
    kernel: tuple[int, int] = (0, 0)
    systemd: bool = False
    resolved: bool = False
    paths: Paths = field(default_factory=Paths)
    ports: tuple[tuple[str, str], ...] = ()
    """(port, master) of bridges, bonds and teams: what comes in by the port is seen as its master's."""
    vrf_members: tuple[tuple[str, str], ...] = ()
    """(interface, VRF): what comes in is seen as the VRF's, what is sent on leaves by the interface."""
    ipv6: bool = True
    """Whether the kernel speaks IPv6 at all (not with `ipv6.disable=1`)."""
