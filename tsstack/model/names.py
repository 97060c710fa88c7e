"""Names and addresses of the file, each with the one alphabet it may use.

These alphabets are the first wall against injection: none of them holds a quote, a brace, a semicolon,
a dollar sign, white space or a control character, so a value that passed here cannot end a statement
in nginx, nft, tc or a unit file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 1123 section 2.1: a host label is letters, digits and inner hyphens, 63 at most.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NO_FOLDER = r"(?!(?:all|default)$)"
_PATTERNS: dict[str, tuple[str, str]] = {
    "key": (
        r"[a-z][a-z0-9_-]{0,30}",
        "a name is needed: a letter, then lower-case letters, digits, - and _ (31 at most)",
    ),
    "label": (_LABEL, "one DNS label is needed: letters, digits and inner hyphens, 63 at most"),
    "domain": (
        rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*",
        "a domain name is needed: example.ts.net",
    ),
    # dev_valid_name() in net/core/dev.c: 15 bytes, no slash, colon or white space; ours is narrower.
    # `all` and `default` are folders of their own beside those of interfaces (net/ipv4/devinet.c).
    "interface": (
        rf"{_NO_FOLDER}[A-Za-z0-9_][A-Za-z0-9_.@-]{{0,14}}",
        "an interface name is needed: eth0 or br-guest",
    ),
    "interface pattern": (
        rf"{_NO_FOLDER}[A-Za-z0-9_][A-Za-z0-9_.@-]{{0,14}}|[A-Za-z0-9_][A-Za-z0-9_.@-]{{0,13}}\*",
        "an interface name, or the start of one with a star, is needed: eth0 or veth*",
    ),
    "user": (r"[a-z_][a-z0-9_-]{0,31}", "a local user's name is needed: alice"),
    "tag": (r"tag:[a-z][a-z0-9-]{0,62}", "a tag is needed: tag:server"),
    "principal": (
        r"tag:[a-z][a-z0-9-]{0,62}|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{0,190}",
        "a user's login or a tag is needed: alice@example.com or tag:client",
    ),
    "sysctl": (
        r"[a-z][a-z0-9_]*(?:[./][A-Za-z0-9_@-]+){1,7}",
        "a kernel parameter is needed: net.core.rmem_max",
    ),
    "login server": (
        rf"https?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?/?",
        "an address is needed: https://hs.example.com",
    ),
    "https url": (
        rf"https?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9._~/%?&=+-]*)?",
        "an address is needed: https://example.org/health",
    ),
    "path": (r"[A-Za-z0-9._/+@-]{1,1024}", "a path of letters, digits and . _ / + @ - is needed"),
    "secret key": (r"[A-Za-z0-9_.-]{1,128}", "a key of the secrets file is needed: authkey"),
    "alert url": (
        r"[a-z][a-z0-9+.-]{1,30}://[^\s\x00-\x1f\x7f]{1,500}",
        "an alert address is needed: ntfy://topic",
    ),
}


def _checked(kind: str) -> Callable[[Any], str]:
    pattern, allowed = _PATTERNS[kind]

    def check(value: Any) -> str:
        # Compiled when it is first needed; `re` keeps it.
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise ValueError(allowed)
        return value

    return check


def fits(kind: str, text: str) -> bool:
    """Whether a text is in the alphabet of a kind: `path`, `label`, `interface`, `domain`, ..."""
    return re.fullmatch(_PATTERNS[kind][0], text) is not None


def _schema(kind: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{_PATTERNS[kind][0]})$"})


Key = Annotated[str, BeforeValidator(_checked("key")), _schema("key")]
Label = Annotated[str, BeforeValidator(_checked("label")), _schema("label")]
Domain = Annotated[str, BeforeValidator(_checked("domain")), _schema("domain")]
InterfaceName = Annotated[str, BeforeValidator(_checked("interface")), _schema("interface")]
InterfacePattern = Annotated[
    str, BeforeValidator(_checked("interface pattern")), _schema("interface pattern")
]
Tag = Annotated[str, BeforeValidator(_checked("tag")), _schema("tag")]
Principal = Annotated[str, BeforeValidator(_checked("principal")), _schema("principal")]
SysctlName = Annotated[str, BeforeValidator(_checked("sysctl")), _schema("sysctl")]
LoginServer = Annotated[str, BeforeValidator(_checked("login server")), _schema("login server")]
HttpUrl = Annotated[str, BeforeValidator(_checked("https url")), _schema("https url")]
FilePath = Annotated[str, BeforeValidator(_checked("path")), _schema("path")]
SecretKey = Annotated[str, BeforeValidator(_checked("secret key")), _schema("secret key")]
AlertUrl = Annotated[str, BeforeValidator(_checked("alert url")), _schema("alert url")]


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
"""An address as part of a pattern."""
PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
"""1 to 65535 as part of a pattern."""
LOOPBACK = rf"127(\.{_OCTET}){{3}}"
_PLAIN_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")
"""Most sources of a long list are such; ipaddress takes three times as long to read one."""


def parse_network(value: Any) -> Network:
    """`192.168.15.0/24`, `fd00::/64`, or one address (a /32 or /128). Host bits are refused."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("a network is needed: 192.168.15.0/24 or fd00::/64")
    if plain := _PLAIN_IPV4.fullmatch(value):
        first, second, third, fourth = plain.groups()
        number = int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth)
        return ipaddress.IPv4Network((number, 32))
    try:
        return ipaddress.ip_network(_without_scope(value))
    except ValueError:
        pass
    try:
        masked = ipaddress.ip_network(_without_scope(value), strict=False)
    except ValueError:
        raise ValueError("a network is needed: 192.168.15.0/24 or fd00::/64") from None
    raise ValueError(f"the network has bits set beyond its prefix; write {masked}")


def _without_scope(text: str) -> str:
    """The text. Raises ValueError for `fe80::1%eth0`: `ipaddress` takes anything at all behind the sign."""
    if "%" in text:
        raise ValueError
    return text


def span(network: Network) -> tuple[int, int]:
    """The first and the last address of a network, as numbers."""
    first = int(network.network_address)
    return first, first + (1 << (network.max_prefixlen - network.prefixlen)) - 1


def parse_address(value: Any) -> Address:
    """One IPv4 or IPv6 address."""
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return value
    try:
        if not isinstance(value, str):
            raise ValueError
        return ipaddress.ip_address(_without_scope(value))
    except ValueError:
        raise ValueError("an address is needed: 192.0.2.1 or fd00::1") from None


CIDR = Annotated[
    Network,
    BeforeValidator(parse_network),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[0-9a-fA-F.:]{2,45}(?:/[0-9]{1,3})?$",
            "examples": ["192.168.15.0/24", "fd00::/64"],
        }
    ),
]
IPAddress = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "pattern": "^[0-9a-fA-F.:]{2,45}$", "examples": ["100.100.100.100", "fd00::1"]}
    ),
]

Protocol = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports from `first` to `last`, both within; one port has first == last."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    """Ports of one protocol, as a named service lists them: `tcp/11434`, `udp/5000-5010`."""

    protocol: Protocol
    ports: PortRange

    def __str__(self) -> str:
        return f"{self.protocol}/{self.ports}"


_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def parse_ports(value: Any) -> PortRange:
    """`443`, `"443"` or `"8000-8100"`."""
    if isinstance(value, PortRange):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _PORTS.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= 65535:
            return PortRange(first, last)
    raise ValueError("a port or a range is needed: 443 or 8000-8100, within 1 to 65535")


def parse_service_port(value: Any) -> ServicePort:
    """`tcp/11434` or `udp/5000-5010`."""
    if isinstance(value, ServicePort):
        return value
    protocol, _, ports = value.partition("/") if isinstance(value, str) else ("", "", "")
    if protocol == "tcp":
        return ServicePort("tcp", parse_ports(ports))
    if protocol == "udp":
        return ServicePort("udp", parse_ports(ports))
    raise ValueError("a protocol with a port is needed: tcp/11434 or udp/5000-5010")


_PORT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {"type": "string", "pattern": f"^{_PORTS.pattern}$", "examples": ["8000-8100"]},
    ]
}
Ports = Annotated[PortRange, BeforeValidator(parse_ports), PlainSerializer(str), WithJsonSchema(_PORT_SCHEMA)]
ServicePorts = Annotated[
    ServicePort,
    BeforeValidator(parse_service_port),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "pattern": "^(tcp|udp)/[0-9]{1,5}(-[0-9]{1,5})?$", "examples": ["tcp/11434"]}
    ),
]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a service really listens.

    `scheme` is http or https (ignored for TCP services); `host` is a name, an address or, for a unix
    socket, empty with `socket` set. `backup` upstreams are used when all others are down.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    socket: str = ""
    backup: bool = False

    @property
    def endpoint(self) -> str:
        """`host:port` with IPv6 in brackets, or `unix:/path`."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        backup = " backup" if self.backup else ""
        return f"{self.scheme}://{self.endpoint}{backup}"


_UPSTREAM = re.compile(
    rf"(?:(https?)://)?(?:((?:{_LABEL})(?:\.{_LABEL})*|\[[0-9a-fA-F:]{{2,45}}\]):)?([0-9]{{1,5}})/?( backup)?"
)
_UPSTREAM_SOCKET = re.compile(r"unix:(/[A-Za-z0-9._/+@-]{1,100})( backup)?")
_UPSTREAM_ALLOWED = (
    'a port (11434), host:port (192.168.15.9:8000), an address ("http://127.0.0.1:8080") '
    'or a socket (unix:/run/app.sock) is needed, with " backup" behind it if it is one'
)


def parse_upstream(value: Any) -> Upstream:
    """A port on this host, `host:port`, `http://host:port`, `unix:/path`; ` backup` may follow."""
    if isinstance(value, Upstream):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError(_UPSTREAM_ALLOWED)
    if socket := _UPSTREAM_SOCKET.fullmatch(text):
        return Upstream("http", "", 0, socket=socket[1], backup=bool(socket[2]))
    match = _UPSTREAM.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError(_UPSTREAM_ALLOWED)
    host = (match[2] or "127.0.0.1").strip("[]")
    if ":" in host:
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError(_UPSTREAM_ALLOWED) from None
    scheme: Literal["http", "https"] = "https" if match[1] == "https" else "http"
    return Upstream(scheme, host, int(match[3]), backup=bool(match[4]))


UpstreamAddress = Annotated[
    Upstream,
    BeforeValidator(parse_upstream),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": f"^(?:{_UPSTREAM.pattern}|{_UPSTREAM_SOCKET.pattern})$"},
            ],
            "examples": [11434, "http://127.0.0.1:8080", "192.168.15.9:8000 backup"],
        }
    ),
]


def as_tuple(value: Any) -> Any:
    """A single value where a list may stand is a list of one."""
    return value if isinstance(value, list | tuple) else (value,)
