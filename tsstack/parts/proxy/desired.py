"""Renders the `proxy` section: nginx's configuration, the allow lists and the plan. Pure.

The tree: `nginx/http.conf` (upstreams, zones, servers), `nginx/main.conf` (what belongs beside http {}:
the stream block), `nginx/nginx.conf` (a main file of our own that includes both),
`nginx/identity.json` (who may use which service), `nginx/plan.json` (see `plan`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.model.facts import NginxFacts
from tsstack.model.names import Upstream
from tsstack.parts.proxy.certificates import choose_certificates
from tsstack.parts.proxy.naming import Place, place_services, served
from tsstack.parts.proxy.plan import PLAN, PROBE_PATH, Certificate, Listener, Plan, Vhost, log_name
from tsstack.parts.proxy.wall import environment

if TYPE_CHECKING:
    from pathlib import Path

    from tsstack.model.facts import Facts
    from tsstack.model.proxy import Proxy, Service
    from tsstack.model.stack import Stack

# Rendering where no nginx is installed (a build elsewhere): the oldest one that has all we write.
_ASSUMED = NginxFacts(version=(1, 22, 0))
# A TCP connection may be idle much longer than an HTTP exchange; clients of databases expect hours.
_TCP_IDLE_S = 3600.0
# Where tailscaled hands over the connections of its services (see the tailscale part).
_HANDOVER = "127.0.0.1"
_DIGEST = "@DIGEST@"


@dataclass(frozen=True, slots=True)
class Backend:
    """One service as the templates see it. Times in ms, sizes in bytes."""

    key: str
    place: Place
    servers: tuple[Upstream, ...]
    scheme: str
    tls_name: str
    rate: str
    burst: int
    body_bytes: int
    connect_ms: int
    read_ms: int
    websockets: bool
    buffering: bool
    guarded: bool
    verify: bool
    log: str

    @property
    def source(self) -> str:
        """Its key path in the file; written beside its blocks so that nginx's errors can be placed."""
        return f"proxy.services.{self.key}"

    @property
    def upstream(self) -> str:
        """Name of its upstream block."""
        return f"tsstack_{self.key}"

    @property
    def has_choice(self) -> bool:
        """Whether there can be more than one server to ask; a name may stand for several."""
        return len(self.servers) > 1 or _is_name(self.servers[0])

    @property
    def tries(self) -> int:
        """How many servers one request is tried at: each once. A name counts twice, for IPv4 and IPv6."""
        return sum(2 if _is_name(server) else 1 for server in self.servers)

    @property
    def prefix(self) -> str:
        """The path without its closing slash; empty at the root."""
        return self.place.path.rstrip("/")


@dataclass(frozen=True, slots=True)
class Server:
    """One server block: a name on a port, and the services below it."""

    name: str
    port: int
    certificate: Certificate | None
    backends: tuple[Backend, ...]


def render_proxy(stack: Stack, facts: Facts, templates: Path) -> dict[str, str]:
    """The files of the proxy; empty when the file has no `proxy`.

    `templates` is the folder with `http.conf.j2` and its kin. While the tailnet's addresses are unknown
    it listens on 127.0.0.1; such a generation cannot be activated (`Plan.addresses_known`).

    Raises CheckFailed for what nginx of these facts cannot do, and for two things at one place.
    """
    proxy = stack.proxy
    if proxy is None:
        return {}
    nginx = facts.nginx or _ASSUMED
    places = place_services(stack)
    services = served(proxy)
    published = is_published(stack)
    _refuse_impossible(proxy, nginx, services)
    if published and not nginx.realip:
        raise CheckFailed(
            "proxy.names: service needs nginx to be built with http_realip_module",
            hint="use names: path or port",
        )
    addresses, known = _addresses(proxy, facts)
    certificates = choose_certificates(stack, str(facts.paths.tls), places)
    backends = {
        key: _backend(key, service, places[key], facts, served=len(services))
        for key, service in services.items()
    }
    servers = _servers(backends, certificates)
    listeners = _listeners(proxy, nginx, addresses, backends, published=published)
    if known:
        _refuse_own_addresses(listeners, backends)
    distinct = tuple(dict.fromkeys(certificates.values()))
    # One certificate is loaded once, not once per name: that is a second less for 1,000 services.
    shared = distinct[0] if len(distinct) == 1 else None
    quic = any(listener.protocol == "udp" for listener in listeners)
    tcp = tuple(backend for backend in backends.values() if backend.place.scheme == "tcp")
    context = {
        "addresses": [Listener(address, 0, "tcp", "").endpoint.removesuffix(":0") for address in addresses],
        "addresses_known": known,
        "auth": any(backend.guarded for backend in backends.values()),
        "backends": [backend for backend in backends.values() if backend.place.scheme != "tcp"],
        "default_taken": _default_taken(listeners, nginx),
        "digest": _DIGEST,
        "facts": nginx,
        "handover": _HANDOVER if published else "",
        "http2_directive": nginx.version >= (1, 25, 1),
        "http_port": proxy.http_port,
        "https_port": proxy.https_port,
        "included": bool(nginx.main_config),
        "keepalive": proxy.keepalive,
        "names": _hash_sizes(servers, nginx),
        "paths": facts.paths,
        "ports": sorted({server.port for server in servers}),
        "probe_path": PROBE_PATH,
        "quic": quic,
        "redirected": [server.name for server in servers] if _redirects(proxy) else [],
        "reject_handshake": nginx.version >= (1, 19, 4),
        "servers": servers,
        "shared": shared,
        "status": proxy.status,
        "tcp": tcp,
        "tls": proxy.tls != "off",
        "worker_connections": proxy.worker_connections,
        "zone_size": "1m" if len(services) <= 64 else "256k",
    }
    jinja = environment(templates, facts.paths.templates)
    files = {
        f"nginx/{name}": jinja.get_template(f"{name}.j2").render(context)
        for name in ("http.conf", "main.conf", "nginx.conf")
    }
    identity = {key: sorted(service.allow) for key, service in services.items() if service.allow is not None}
    names = sorted({each.host for backend in backends.values() for each in backend.servers if _is_name(each)})
    digest = _digest(*files.values())
    # Beside the digest: a changed allow list needs no reload of nginx.
    files["nginx/identity.json"] = json.dumps({"services": identity}, indent=1, sort_keys=True) + "\n"
    plan = Plan(
        digest=digest,
        main_config=nginx.main_config,
        has_main=any(line and line[0] not in "#\n" for line in files["nginx/main.conf"].splitlines()),
        addresses_known=known,
        tailnet=(stack.host.tailnet or "").lower(),
        status=proxy.status,
        identity=bool(identity),
        listeners=listeners,
        vhosts=tuple(
            Vhost(
                server.name,
                server.port,
                server.certificate is not None,
                tuple(backend.key for backend in server.backends),
            )
            for server in servers
        ),
        certificates=distinct,
        services={
            key: _digest(repr(backends[key]), repr(services[key].model_dump(mode="json"))) for key in backends
        },
        settings={
            key: service.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for key, service in services.items()
        },
        urls={key: place.url for key, place in places.items()},
        upstreams={
            key: tuple(upstream.endpoint for upstream in backend.servers) for key, backend in backends.items()
        },
        upstream_names=tuple(names),
        coming_names=tuple(name for name in names if _may_come(name, stack, addresses_known=known)),
    )
    return {
        **{path: text.replace(_DIGEST, digest) for path, text in files.items()},
        PLAN: plan.to_json(),
    }


def _may_come(name: str, stack: Stack, *, addresses_known: bool) -> bool:
    """Whether a name may resolve only after the change: through the tailnet's DNS or a split domain's."""
    if stack.tailscale is not None and stack.tailscale.accept_dns and not addresses_known:
        return True  # the tailnet that is yet to be joined brings its own resolvers
    domains = [*(stack.dns.split if stack.dns else ())]
    if stack.host.tailnet:
        domains.append(stack.host.tailnet)
    return any(f".{name}".lower().rstrip(".").endswith(f".{domain.lower()}") for domain in domains)


def is_published(stack: Stack) -> bool:
    """Whether tailscaled hands the services' connections to nginx, so that nginx sees them from loopback."""
    return stack.proxy is not None and stack.proxy.names == "service" and stack.tailscale is not None


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]


def _is_name(upstream: Upstream) -> bool:
    return any(character.isalpha() for character in upstream.host) and ":" not in upstream.host


def _refuse_impossible(proxy: Proxy, nginx: NginxFacts, services: dict[str, Service]) -> None:
    for key, service in services.items():
        path = f"proxy.services.{key}"
        if service.protocol == "tcp":
            if service.allow is not None:
                raise CheckFailed(
                    f"{path}.allow: only HTTP services can ask who a client is",
                    hint="open the port to one zone alone, with firewall.zones",
                )
            if not nginx.stream:
                raise CheckFailed(
                    f"{path}.protocol: this nginx has no stream module",
                    hint="install it: apt install libnginx-mod-stream",
                )
            if nginx.main_config and not nginx.modules_enabled:
                raise CheckFailed(
                    f"{path}.protocol: {nginx.main_config} includes no modules-enabled/*.conf, "
                    "so a stream block has no place",
                    hint="add `include /etc/nginx/modules-enabled/*.conf;` above its events block",
                )
        if service.allow is not None and not nginx.auth_request:
            raise CheckFailed(f"{path}.allow: this nginx is built without http_auth_request_module")
        if len({upstream.scheme for upstream in service.upstream}) > 1:
            raise CheckFailed(
                f"{path}.upstream: http and https upstreams cannot share one service",
                hint="make them two services, or use one scheme",
            )
        if all(upstream.backup for upstream in service.upstream):
            raise CheckFailed(f"{path}.upstream: at least one upstream must not be a backup")
    ports = {"proxy.http_port": proxy.http_port} if proxy.names != "port" else {}
    if proxy.tls != "off" and proxy.names != "port":
        ports["proxy.https_port"] = proxy.https_port
    taken = {port: path for path, port in ports.items()}
    for key, service in services.items():
        if service.protocol != "tcp" and proxy.names != "port":
            continue
        port = service.port or next((each.port for each in service.upstream if each.port), 0)
        path = f"proxy.services.{key}.port"
        owner = taken.setdefault(port, path)
        if owner != path:
            raise CheckFailed(f"{path}: port {port} is already used by {owner}", hint="choose another port")


def _addresses(proxy: Proxy, facts: Facts) -> tuple[tuple[str, ...], bool]:
    """What to bind, and whether that is what the file asks for."""
    if proxy.listen == "all":
        return ("0.0.0.0", "::") if facts.ipv6 else ("0.0.0.0",), True  # noqa: S104  (the file asks for it)
    if proxy.listen != "tailnet":
        return tuple(dict.fromkeys(str(address) for address in proxy.listen)), True
    known = facts.tailscale.addresses if facts.tailscale is not None else ()
    # The tailnet gives every node one of each family; nginx does not start for one that it cannot have.
    if usable := tuple(address for address in known if facts.ipv6 or ":" not in address):
        return usable, True
    return ("127.0.0.1",), False


def _backend(key: str, service: Service, place: Place, facts: Facts, *, served: int) -> Backend:
    rate = service.rate_limit
    second = 0 if rate is None else rate.requests if rate.per == "s" else max(1, rate.requests // 60)
    read_s = service.read_timeout_s
    if service.protocol == "tcp" and "read_timeout_s" not in service.model_fields_set:
        read_s = _TCP_IDLE_S
    primary = next(upstream for upstream in service.upstream if not upstream.backup)
    return Backend(
        key=key,
        place=place,
        servers=service.upstream,
        scheme=primary.scheme,
        tls_name=primary.host,
        rate="" if rate is None else str(rate),
        burst=second if service.rate_burst is None else service.rate_burst,
        body_bytes=service.max_body_size,
        connect_ms=max(1, round(service.connect_timeout_s * 1000)),
        read_ms=max(1, round(read_s * 1000)),
        websockets=service.websockets,
        buffering=service.buffering,
        guarded=service.allow is not None,
        verify=service.verify_upstream,
        log=str(facts.paths.log / log_name(key, served)),
    )


def _servers(backends: dict[str, Backend], certificates: dict[str, Certificate]) -> tuple[Server, ...]:
    grouped: dict[tuple[str, int], list[Backend]] = {}
    for backend in backends.values():
        if backend.place.scheme != "tcp":
            grouped.setdefault((backend.place.host, backend.place.port), []).append(backend)
    return tuple(
        Server(host, port, certificates.get(host), tuple(members))
        for (host, port), members in grouped.items()
    )


def _redirects(proxy: Proxy) -> bool:
    return proxy.tls != "off" and proxy.names != "port"


def _listeners(
    proxy: Proxy,
    nginx: NginxFacts,
    addresses: tuple[str, ...],
    backends: dict[str, Backend],
    *,
    published: bool,
) -> tuple[Listener, ...]:
    http = [backend for backend in backends.values() if backend.place.scheme != "tcp"]
    own_ports = proxy.names == "port"
    shared = "proxy.http_port" if proxy.tls == "off" else "proxy.https_port"
    wanted = {backend.place.port: f"{backend.source}.port" if own_ports else shared for backend in http}
    sockets: list[Listener] = []
    if published and http:
        ports = {**wanted, **({proxy.http_port: "proxy.http_port"} if _redirects(proxy) else {})}
        sockets += [Listener(_HANDOVER, port, "tcp", ports[port], claimed=True) for port in sorted(ports)]
    for address in addresses:
        if published and address == _HANDOVER:
            # The sockets above have it; there, nobody else may speak to nginx.
            sockets += _stream_sockets(address, backends)
            continue
        if http and _redirects(proxy):
            sockets.append(Listener(address, proxy.http_port, "tcp", "proxy.http_port"))
        for port, path in sorted(wanted.items()):
            sockets.append(Listener(address, port, "tcp", path))
            if proxy.http3 and nginx.http3 and proxy.tls != "off":
                sockets.append(Listener(address, port, "udp", path))
        sockets += _stream_sockets(address, backends)
    return tuple(sockets)


def _stream_sockets(address: str, backends: dict[str, Backend]) -> list[Listener]:
    return [
        Listener(address, backend.place.port, "tcp", f"{backend.source}.port")
        for backend in backends.values()
        if backend.place.scheme == "tcp"
    ]


def _refuse_own_addresses(listeners: tuple[Listener, ...], backends: dict[str, Backend]) -> None:
    """A socket that nginx binds must not be the one that a service listens on: it would proxy to itself."""
    bound = {(listener.address, listener.port) for listener in listeners if listener.protocol == "tcp"}
    for backend in backends.values():
        for upstream in backend.servers:
            host = "127.0.0.1" if upstream.host == "localhost" else upstream.host
            everywhere = "::" if ":" in host else "0.0.0.0"  # noqa: S104  (compared, not bound)
            local = host in {"127.0.0.1", "::1"} and (everywhere, upstream.port) in bound
            if (host, upstream.port) in bound or local:
                another = "let the program behind it listen on another port, and write that one"
                taken = any(each.claimed and each.port == upstream.port for each in listeners)
                raise CheckFailed(
                    f"{backend.source}.upstream: nginx itself would listen on {upstream.endpoint}",
                    hint=another
                    if taken
                    else f"give {backend.source} another port, or set proxy.listen: tailnet",
                )


def _default_taken(listeners: tuple[Listener, ...], nginx: NginxFacts) -> list[str]:
    """Endpoints whose default server is a site of the distribution: nginx refuses a second one."""
    taken = set()
    for listen in nginx.default_servers:
        if listen.isdigit():
            taken.add(f"0.0.0.0:{listen}")
        else:
            taken.add(listen.replace("*:", "0.0.0.0:"))
    return sorted({listener.endpoint for listener in listeners} & taken)


def _hash_sizes(servers: tuple[Server, ...], nginx: NginxFacts) -> dict[str, int]:
    """server_names_hash sizes for these names; nginx refuses names that do not fit its defaults.

    ngx_hash_init(): a bucket must hold the name, its length, two pointers, rounded up (src/core/ngx_hash.c).
    Left out is what the distribution's file sets already: nginx allows each directive once.
    """
    longest = max((len(server.name) for server in servers), default=0)
    bucket, size = 64, 512
    while bucket < longest + 32:
        bucket *= 2
    while size < 4 * len(servers):
        size *= 2
    wanted = {"server_names_hash_bucket_size": bucket * 2, "server_names_hash_max_size": size}
    return {name: value for name, value in wanted.items() if name not in nginx.directives}
