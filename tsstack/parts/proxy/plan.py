"""What the effects need to know of a rendered configuration: typed data, kept as `nginx/plan.json`.

The generation is read without rendering and without the file, so everything that activation,
verification and renewal have to know stands here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.parts.part import JsonValue

PLAN = "nginx/plan.json"
PROBE_PATH = "/.well-known/tsstack"
"""Every vhost answers here with the generation's digest, from nginx itself."""
# Above this many services one shared log is written: nginx's master opens every log, and systemd starts
# it with 1,024 descriptors (systemd.exec(5), LimitNOFILE).
_OWN_LOGS = 256
SHARED_LOG = "tsstack.services.log"


def log_name(service: str, served: int) -> str:
    """The file that a service's access log goes to, in the log folder, where so many are served."""
    return SHARED_LOG if served > _OWN_LOGS else f"tsstack-{service}.log"


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that nginx binds. `path` is the key of the file that asks for it."""

    address: str
    port: int
    protocol: Literal["tcp", "udp"]
    path: str
    claimed: bool = False
    """tailscaled connects here for its services' clients, and says in a PROXY header who they are."""

    @property
    def service(self) -> str:
        """`tcp/443`."""
        return f"{self.protocol}/{self.port}"

    @property
    def endpoint(self) -> str:
        """`address:port` as nginx writes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Vhost:
    """One name on one port, asked for by the services in `services`."""

    name: str
    port: int
    tls: bool
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that nginx loads; both paths may name one file that holds the pair.

    `source_certificate` and `source_key` are set for `files`: what the two paths are links to.
    """

    kind: Literal["local-ca", "tailscale", "files"]
    names: tuple[str, ...]
    certificate: str
    key: str
    source_certificate: str = ""
    source_key: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One rendered proxy. `digest` covers all files that nginx loads and is what nginx answers with."""

    digest: str
    main_config: str
    """The distribution's nginx.conf that includes ours; empty where nginx runs on our own."""
    has_main: bool
    """Whether main.conf says anything in the included mode."""
    addresses_known: bool
    tailnet: str
    status: str | None
    identity: bool
    listeners: tuple[Listener, ...] = ()
    vhosts: tuple[Vhost, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    services: dict[str, str] = field(default_factory=dict)
    """Digest of each service's own settings, to tell which of them a change touches."""
    settings: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    """What the file says of each service beyond the defaults, to name what a change changes."""
    urls: dict[str, str] = field(default_factory=dict)
    upstreams: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`host:port` or `unix:/path` of each service's upstreams."""
    upstream_names: tuple[str, ...] = ()
    """Upstream hosts that are names, which nginx resolves when it starts."""
    coming_names: tuple[str, ...] = ()
    """Those of them that need not resolve before the change: the tailnet's, and what `dns.split` asks for."""

    def to_json(self) -> str:
        """Stable text, a line for each value: same plan, same bytes."""
        # A line break in the separator, not `indent`, keeps json's C encoder in use: 1,000 services count.
        return json.dumps(self, default=_fields, sort_keys=True, separators=(",\n", ": ")) + "\n"


def _fields(value: object) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}  # type: ignore[arg-type]  # all dataclasses


def parse_plan(text: str) -> Plan:
    """The plan of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
    raw: dict[str, Any] = json.loads(text)
    raw["listeners"] = tuple(Listener(**each) for each in raw["listeners"])
    raw["vhosts"] = tuple(Vhost(**{**each, "services": tuple(each["services"])}) for each in raw["vhosts"])
    raw["certificates"] = tuple(
        Certificate(**{**each, "names": tuple(each["names"])}) for each in raw["certificates"]
    )
    raw["upstreams"] = {key: tuple(each) for key, each in raw["upstreams"].items()}
    raw["upstream_names"] = tuple(raw["upstream_names"])
    raw["coming_names"] = tuple(raw.get("coming_names", ()))
    return Plan(**raw)


def read_plan(generation: Path) -> Plan | None:
    """The plan of a generation, None when it has no proxy. Raises OSError or what `parse_plan` raises."""
    try:
        return parse_plan((generation / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
