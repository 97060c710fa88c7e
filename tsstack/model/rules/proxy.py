"""The proxy against the tailnet's abilities, the firewall, the installed nginx, and itself."""

from __future__ import annotations

from collections.abc import Iterator

from tsstack.model import lint_codes as codes
from tsstack.model.keypath import KeyPath
from tsstack.model.proxy import Proxy, Service
from tsstack.model.rules.view import Remark, View, opens, rule, takes_tailnet
from tsstack.model.words import listed

_LOCAL = {"127.0.0.1", "::1", "localhost"}
_HTTP_ONLY = ("subdomain", "path", "rate_limit", "rate_burst", "max_body_size", "websockets")
_HTTP_ONLY_MORE = ("buffering", "verify_upstream")


def _service(name: str, *below: str | int) -> KeyPath:
    return ("proxy", "services", name, *below)


def _fields(names: tuple[str, ...], services: tuple[str, ...]) -> tuple[KeyPath, ...]:
    """Those keys of those services, and the name scheme that gives them their meaning."""
    return (("proxy", "names"), *(_service(key, name) for key in services for name in names))


def stream_port(service: Service) -> int:
    """The port of a TCP service: its own, else that of its first upstream with one; 0 for sockets."""
    return service.port or next((upstream.port for upstream in service.upstream if upstream.port), 0)


@rule("proxy", "host")
def tailnet_is_named(view: View) -> Iterator[Remark]:
    if view.services and view.stack.host.tailnet is None:
        hint = "add host.tailnet: the MagicDNS suffix, or Headscale's base_domain"
        grounds: tuple[KeyPath, ...] = (("host",), ("proxy", "services"))
        yield Remark(codes.NO_TAILNET, ("proxy",), "host.tailnet is missing", hint, rests_on=grounds)


@rule("proxy")
def one_vhost_each(view: View) -> Iterator[Remark]:
    proxy = view.stack.proxy
    if proxy is None:
        return
    names: dict[str, str] = {}
    paths: dict[str, str] = {}
    for key, service in view.services.items():
        if service.protocol == "tcp":
            continue
        if proxy.names in ("subdomain", "service"):
            name = (service.subdomain or key).lower()
            other = names.setdefault(name, key)
            if other != key:
                path = _service(key, "subdomain") if service.subdomain else _service(key)
                message = f"the service {other} has the name {name} already"
                grounds = _fields(("subdomain", "protocol"), (key, other))
                yield Remark(codes.SAME_NAME, path, message, rests_on=grounds)
        if proxy.names == "path":
            path_text = (service.path or f"/{key}").rstrip("/") or "/"
            other = paths.setdefault(path_text, key)
            if other != key:
                path = _service(key, "path") if service.path else _service(key)
                message = f"the service {other} has the path {path_text} already"
                grounds = _fields(("path", "protocol"), (key, other))
                yield Remark(codes.SAME_PATH, path, message, rests_on=grounds)


@rule("proxy", "monitor")
def one_listener_each(view: View) -> Iterator[Remark]:
    proxy = view.stack.proxy
    if proxy is None:
        return
    taken: dict[int, str] = {}
    owners: dict[int, tuple[str, ...]] = {}
    listening = tuple(("proxy", key) for key in ("tls", "http_port", "https_port"))
    if proxy.names != "port":
        if proxy.tls != "off":
            taken[proxy.https_port] = "proxy.https_port"
        taken[proxy.http_port] = "proxy.http_port"
    for key, service in view.services.items():
        if service.protocol == "tcp":
            port = stream_port(service)
        elif proxy.names == "port":
            port = service.port or 0
        else:
            continue
        if port == 0:
            hint = "write port: NUMBER"
            what = "names: port" if service.protocol == "http" else "an upstream that is a socket"
            message = f"with {what} the service needs a port"
            grounds = _fields(("port", "protocol", "upstream"), (key,))
            yield Remark(codes.PORT_NEEDED, _service(key), message, hint, rests_on=grounds)
        elif port in taken:
            path = _service(key, "port") if service.port else _service(key)
            message = f"port {port} belongs to {taken[port]} already"
            grounds = _fields(("port", "protocol", "upstream"), (key, *owners.get(port, ())))
            yield Remark(codes.SAME_PORT, path, message, rests_on=(*listening, *grounds))
        else:
            taken[port] = f"the service {key}"
            owners[port] = (key,)
    metrics = view.stack.monitor.metrics if view.stack.monitor else None
    if metrics and metrics == proxy.status:
        message = f"{metrics} belongs to proxy.status already"
        yield Remark(codes.SAME_PORT, ("monitor", "metrics"), message, rests_on=(("proxy", "status"),))


@rule("proxy", "host", "tailscale")
def names_resolve(view: View) -> Iterator[Remark]:
    proxy, tailscale = view.stack.proxy, view.stack.tailscale
    if proxy is None or not any(service.protocol == "http" for service in view.services.values()):
        return
    tailnet = view.stack.host.tailnet or ""
    if proxy.names == "subdomain" and view.hosted and tailnet.endswith(".ts.net"):
        message = f"names below {view.stack.fqdn} do not resolve on Tailscale's control plane"
        hint = "use names: path, port or service, or an own domain with split DNS"
        yield Remark(codes.SUBDOMAIN_UNRESOLVABLE, ("proxy", "names"), message, hint)
    if proxy.names == "service" and not view.hosted:
        message = "Headscale has no Tailscale Services"
        yield Remark(codes.SERVICE_NEEDS_HOSTED, ("proxy", "names"), message, "use subdomain, path or port")
    elif proxy.names == "service" and not (tailscale and tailscale.tags):
        message = "a host of Tailscale Services needs tags"
        yield Remark(
            codes.SERVICE_NEEDS_TAGS, ("proxy", "names"), message, "add tailscale.tags: [tag:server]"
        )


@rule("proxy", "host", "tailscale")
def certificates_fit(view: View) -> Iterator[Remark]:
    proxy = view.stack.proxy
    if proxy is None:
        return
    if proxy.http3 and proxy.tls == "off":
        message = "HTTP/3 is always encrypted; tls is off"
        yield Remark(codes.HTTP3_WITHOUT_TLS, ("proxy", "http3"), message, rests_on=())
    if proxy.tls != "tailscale" or not any(s.protocol == "http" for s in view.services.values()):
        return
    path = ("proxy", "tls") if view.writes("proxy", "tls") else ("proxy",)
    if not view.hosted:
        message = "Headscale gives no certificates, and tls is tailscale"
        yield Remark(codes.TLS_NEEDS_HOSTED, path, message, "use tls: local-ca, or certificate and key files")
    elif proxy.names == "subdomain":
        message = f"the certificate covers {view.stack.fqdn} alone, not the names below it"
        yield Remark(codes.TLS_COVERS_HOST_ONLY, path, message, "use names: path or port, or tls: local-ca")


@rule("proxy")
def service_by_itself(view: View) -> Iterator[Remark]:
    proxy = view.stack.proxy
    if proxy is None:
        return
    for key, service in view.services.items():
        if all(upstream.backup for upstream in service.upstream):
            message = "every upstream is a backup"
            path = _service(key, "upstream")
            yield Remark(codes.ONLY_BACKUPS, path, message, "one must not be", rests_on=(path,))
        if service.protocol == "tcp":
            yield from _tcp_service(view, key, service)
        else:
            yield from _http_service(view, proxy, key, service)


def _tcp_service(view: View, key: str, service: Service) -> Iterator[Remark]:
    if service.allow is not None:
        hint = "limit it by a zone: {sources: [..], tcp: [..]}"
        message = "allow works for HTTP services only"
        yield Remark(codes.ALLOW_ON_TCP, _service(key, "allow"), message, hint, rests_on=())
    for name in (*_HTTP_ONLY, *_HTTP_ONLY_MORE):
        if view.writes(*_service(key, name)):
            message = f"{name} means nothing for a TCP service"
            yield Remark(codes.HTTP_KEY_ON_TCP, _service(key, name), message, rests_on=())


def _http_service(view: View, proxy: Proxy, key: str, service: Service) -> Iterator[Remark]:
    schemes = {upstream.scheme for upstream in service.upstream}
    if len(schemes) > 1:
        message = "http and https upstreams are mixed"
        path = _service(key, "upstream")
        grounds = _fields(("protocol",), (key,))
        yield Remark(codes.MIXED_SCHEMES, path, message, "use one of them for all", rests_on=grounds)
    own_ports = {proxy.http_port, proxy.https_port} if proxy.names != "port" else {service.port}
    for upstream in service.upstream:
        if upstream.host in _LOCAL and upstream.port in own_ports and proxy.listen == "all":
            message = f"{upstream.endpoint} is the proxy itself"
            yield Remark(codes.LOOP, _service(key, "upstream"), message, "write the port of the program")
    by_names = f"proxy.names is {proxy.names}"
    idle = {
        "path": (proxy.names != "path", by_names),
        "subdomain": (proxy.names not in ("subdomain", "service"), by_names),
        "port": (proxy.names != "port", by_names),
        "rate_burst": (service.rate_limit is None, "the service has no rate_limit"),
        "verify_upstream": ("https" not in schemes, "no upstream begins with https://"),
    }
    for name, (is_idle, why) in idle.items():
        if is_idle and view.writes(*_service(key, name)):
            message = f"{name} has no effect here: {why}"
            yield Remark(codes.KEY_WITHOUT_EFFECT, _service(key, name), message)


@rule("proxy", "firewall")
def served_ports_are_open(view: View) -> Iterator[Remark]:
    proxy, firewall = view.stack.proxy, view.stack.firewall
    if proxy is None or firewall is None or not firewall.enabled or firewall.default_policy == "accept":
        return
    zones = [zone for zone in view.zones.values() if takes_tailnet(zone)]

    def is_open(protocol: str, port: int) -> bool:
        return any(opens(view, zone, protocol, port) for zone in zones)

    web_port = proxy.http_port if proxy.tls == "off" else proxy.https_port
    web_key = "http_port" if proxy.tls == "off" else "https_port"
    behind_web: list[str] = []
    for key, service in view.services.items():
        if service.protocol == "http" and proxy.names != "port":
            behind_web.append(key)
            continue
        port = stream_port(service) if service.protocol == "tcp" else service.port
        if port and not is_open("tcp", port):
            yield _closed(_service(key), port)
    if behind_web and not is_open("tcp", web_port):
        path = ("proxy", web_key) if view.writes("proxy", web_key) else ("proxy",)
        yield _closed(path, web_port)
    elif behind_web and proxy.http3 and proxy.tls != "off" and not is_open("udp", web_port):
        message = f"no zone of the tailnet opens udp/{web_port}"
        yield Remark(codes.HTTP3_PORT_CLOSED, ("proxy", "http3"), message, f"add udp: [{web_port}]")


def _closed(path: KeyPath, port: int) -> Remark:
    message = f"it is served on tcp/{port}, which no zone of the tailnet opens"
    hint = f"add {port} to the tcp ports of the zone that holds tailscale0"
    return Remark(codes.PROXIED_PORT_CLOSED, path, message, hint)


@rule("proxy")
def nginx_can(view: View) -> Iterator[Remark]:
    proxy = view.stack.proxy
    nginx = view.facts.nginx if view.facts else None
    if proxy is None or nginx is None:
        return
    if proxy.http3 and not nginx.http3:
        version = ".".join(map(str, nginx.version))
        message = f"nginx {version} has no HTTP/3"
        yield Remark(codes.HTTP3_NOT_IN_NGINX, ("proxy", "http3"), message, "nginx 1.25 or newer is needed")
    streams = [key for key, service in view.services.items() if service.protocol == "tcp"]
    limited = [key for key, service in view.services.items() if service.allow is not None]
    if streams and not nginx.stream:
        message = f"nginx has no stream module, which {listed(streams)} needs"
        yield Remark(
            codes.NGINX_LACKS_MODULE, _service(streams[0], "protocol"), message, "install libnginx-mod-stream"
        )
    if limited and not nginx.auth_request:
        message = f"nginx has no auth_request module, which {listed(limited)} needs"
        yield Remark(codes.NGINX_LACKS_MODULE, _service(limited[0], "allow"), message)
