"""The `proxy` section: services of this host, served to the tailnet by nginx."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tsstack.model.names import (
    LOOPBACK,
    PORT,
    FilePath,
    IPAddress,
    Key,
    Label,
    Principal,
    UpstreamAddress,
    as_tuple,
)
from tsstack.model.section import Section
from tsstack.model.units import DurationS, Rate, SizeBytes

Names = Literal["subdomain", "path", "port", "service"]


class TlsFiles(Section):
    """A certificate of one's own."""

    certificate: FilePath
    """PEM file with the certificate and its chain."""
    key: FilePath
    """PEM file with the private key; it is never copied."""


Tls = Literal["tailscale", "local-ca", "off"] | TlsFiles


class Service(Section):
    """One service behind the proxy."""

    upstream: Annotated[tuple[UpstreamAddress, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """Where the service listens; several share the load, those marked ` backup` wait."""
    protocol: Literal["http", "tcp"] = "http"
    """`tcp` passes the bytes as they are (databases, SSH, anything but HTTP)."""
    subdomain: Label | None = None
    """Its DNS label. Default: the service's key."""
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]{0,200}$")] | None = None
    """Its path under `names: path`, cut off before the upstream sees it. Default: `/` and the key."""
    port: int | None = Field(None, ge=1, le=65535)
    """Its port under `names: port`, and for TCP services. Default for TCP services: the upstream's port."""
    rate_limit: Rate | None = None
    """The most requests from one client address; above it, 429."""
    rate_burst: int | None = Field(None, ge=0, le=100_000)
    """So many requests above the rate are still served at once. Default: one second's worth."""
    max_body_size: SizeBytes = 1024 * 1024
    """The largest request body; 0 means no limit."""
    connect_timeout_s: DurationS = Field(5.0, alias="connect_timeout", gt=0, le=75)
    """How long the upstream may take to accept a connection."""
    read_timeout_s: DurationS = Field(60.0, alias="read_timeout", gt=0, le=86400)
    """How long the upstream may be silent."""
    websockets: bool = True
    """Pass connection upgrades to the upstream."""
    buffering: bool = True
    """Collect the upstream's answer before sending it; off for streams such as chat tokens."""
    allow: tuple[Principal, ...] | None = None
    """Who may use it, by login or tag, as tailscaled's whois says. Default: whoever reaches it."""
    verify_upstream: bool = False
    """Check the certificate of an https upstream."""
    enabled: bool = True
    """Switched off, the service stays in the file and is not served."""


class Proxy(Section):
    """nginx as the reverse proxy of this host's services."""

    names: Names = "subdomain"
    """How a service is addressed: `ollama.host.tailnet` (subdomain), `host.tailnet/ollama` (path),
    `host.tailnet:port` (port) or `ollama.tailnet` (service)."""
    tls: Tls = "tailscale"
    """Where certificates come from; `off` serves plain HTTP."""
    listen: Literal["tailnet", "all"] | Annotated[tuple[IPAddress, ...], Field(min_length=1)] = "tailnet"
    """The addresses that nginx binds: the tailnet's own, every one, or a list."""
    http3: bool = False
    """Serve HTTP/3 too; needs nginx 1.25 or newer, built with it."""
    http_port: int = Field(80, ge=1, le=65535)
    """Port for plain HTTP; with TLS it only redirects."""
    https_port: int = Field(443, ge=1, le=65535)
    """Port for HTTPS and HTTP/3."""
    keepalive: int = Field(32, ge=0, le=10_000)
    """Idle connections kept open to each upstream."""
    worker_connections: int = Field(4096, ge=64, le=1_000_000)
    """Connections per nginx worker, where tsstack owns the main configuration."""
    status: Annotated[str, Field(pattern=rf"^{LOOPBACK}:{PORT}$")] | None = "127.0.0.1:9180"
    """Loopback address of the status endpoint."""
    services: dict[Key, Service] = {}
    """The services, by key."""

    @model_validator(mode="after")
    def _distinct_ports(self) -> Proxy:
        if self.http_port == self.https_port:
            raise ValueError("http_port and https_port must differ")
        return self
