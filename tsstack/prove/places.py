"""Where the file's services answer: the names, the addresses, and each socket that nginx opens. Pure.

Nothing here is shared with the part that renders nginx's configuration. The semantics are those of
docs/proxy.md, read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tsstack.model.facts import Facts
from tsstack.model.proxy import Proxy, Service
from tsstack.model.stack import Stack
from tsstack.prove.questions import Scheme
from tsstack.prove.terrain import LOCAL

LOOPBACK = "127.0.0.1"
ANY_4, ANY_6 = "0.0.0.0", "::"  # noqa: S104  (compared, not bound)
_STAND_FOR = {ANY_4: str(LOCAL[0]), ANY_6: str(LOCAL[1])}


@dataclass(frozen=True, slots=True)
class Vhost:
    """One service by its name. `prefix` is what of the path is its own, without a closing slash."""

    key: str
    service: Service
    scheme: Scheme
    name: str
    port: int
    prefix: str = ""

    @property
    def path(self) -> str:
        """Its key path in the file."""
        return f"proxy.services.{self.key}"

    @property
    def primaries(self) -> tuple[str, ...]:
        """The endpoints that share the load."""
        return tuple(dict.fromkeys(each.endpoint for each in self.service.upstream if not each.backup))

    @property
    def backups(self) -> tuple[str, ...]:
        """The endpoints that wait."""
        return tuple(dict.fromkeys(each.endpoint for each in self.service.upstream if each.backup))


@dataclass(frozen=True, slots=True)
class Door:
    """An address to ask at. Where connections are `claimed`, tailscaled hands them over."""

    address: str
    claimed: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Socket:
    """One that nginx opens; of a unix socket the address is the path."""

    protocol: Literal["tcp", "udp", "unix"]
    address: str
    port: int = 0

    def __str__(self) -> str:
        if self.protocol == "unix":
            return f"unix:{self.address}"
        where = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {where}:{self.port}"


def vhosts_of(stack: Stack) -> Iterator[Vhost]:
    """Each service that is switched on, TCP ones too, in the file's order."""
    proxy = stack.proxy
    if proxy is None:
        return
    for key, service in proxy.services.items():
        if service.enabled:
            yield _vhost(stack, proxy, key, service)


def _vhost(stack: Stack, proxy: Proxy, key: str, service: Service) -> Vhost:
    label, host = (service.subdomain or key).lower(), stack.fqdn.lower()
    tailnet = (stack.host.tailnet or "").lower()
    alone = f"{label}.{tailnet}" if tailnet else label
    if service.protocol == "tcp":
        port = service.port or next((each.port for each in service.upstream if each.port), 0)
        return Vhost(key, service, "tcp", alone if proxy.names == "service" else host, port)
    scheme: Scheme = "http" if proxy.tls == "off" else "https"
    port = proxy.http_port if proxy.tls == "off" else proxy.https_port
    if proxy.names == "subdomain":
        return Vhost(key, service, scheme, f"{label}.{host}", port)
    if proxy.names == "service":
        return Vhost(key, service, scheme, alone, port)
    if proxy.names == "port":
        return Vhost(key, service, scheme, host, service.port or 0)
    own = (service.path or f"/{key}").strip("/")
    return Vhost(key, service, scheme, host, port, f"/{own}" if own else "")


def names_of_host(host: str) -> tuple[str, ...]:
    """What nginx takes for the name of an upstream; an address is none (RFC 6066 section 3).

    Of one of IPv6 it takes what is before the first colon (ngx_http_upstream_ssl_name).
    """
    if ":" in host:
        return (host, host.partition(":")[0], "")
    return (host, "") if host.replace(".", "").isdigit() else (host,)


def is_published(stack: Stack) -> bool:
    """Whether tailscaled hands over its services' connections, on loopback."""
    return stack.proxy is not None and stack.proxy.names == "service" and stack.tailscale is not None


def redirects(stack: Stack) -> bool:
    """Whether plain HTTP is answered by a redirect, on a port of its own."""
    return stack.proxy is not None and stack.proxy.tls != "off" and stack.proxy.names != "port"


def speaks_http3(stack: Stack, facts: Facts) -> bool:
    """Whether HTTP/3 is asked for, this nginx has it, and there is an address for it."""
    proxy = stack.proxy
    if proxy is None or not proxy.http3 or proxy.tls == "off" or not (facts.nginx and facts.nginx.http3):
        return False
    return not is_published(stack) or any(each != LOOPBACK for each in _bound(stack, facts))


def _bound(stack: Stack, facts: Facts) -> tuple[str, ...]:
    """The addresses that nginx binds, as the file has them."""
    proxy = stack.proxy
    if proxy is None:
        return ()
    if proxy.listen == "all":
        return (ANY_4, ANY_6) if facts.ipv6 else (ANY_4,)
    if proxy.listen != "tailnet":
        return tuple(dict.fromkeys(map(str, proxy.listen)))
    # Before the tailnet is joined its addresses are unknown, and nginx listens on loopback meanwhile.
    known = facts.tailscale.addresses if facts.tailscale else ()
    return tuple(each for each in known if facts.ipv6 or ":" not in each) or (LOOPBACK,)


def addresses_of(stack: Stack, facts: Facts) -> tuple[str, ...]:
    """Where the file's services answer; of a wildcard an address that stands for every one."""
    return tuple(dict.fromkeys(_STAND_FOR.get(each, each) for each in _bound(stack, facts)))


def doors_of(stack: Stack, facts: Facts) -> list[Door]:
    """Where HTTP is asked. What tailscaled hands over comes on loopback; there nobody else is served."""
    published = is_published(stack)
    own = [Door(each) for each in addresses_of(stack, facts) if not (published and each == LOOPBACK)]
    return [Door(LOOPBACK, claimed=True), *own] if published else own


def sockets_of(stack: Stack, facts: Facts) -> dict[Socket, str]:
    """Each socket that nginx must open, and no other, with the key that asks for it."""
    proxy = stack.proxy
    if proxy is None:
        return {}
    bound = _bound(stack, facts)
    vhosts = list(vhosts_of(stack))
    http = [each for each in vhosts if each.scheme != "tcp"]
    published = is_published(stack) and bool(http)
    shared = "proxy.http_port" if proxy.tls == "off" else "proxy.https_port"
    ports = {each.port: f"{each.path}.port" if proxy.names == "port" else shared for each in http}
    wanted: dict[Socket, str] = {}
    for address in dict.fromkeys([*([LOOPBACK] if published else []), *bound]):
        wanted |= {Socket("tcp", address, port): path for port, path in ports.items()}
        if http and redirects(stack):
            wanted[Socket("tcp", address, proxy.http_port)] = "proxy.http_port"
        if speaks_http3(stack, facts) and not (published and address == LOOPBACK):
            wanted |= {Socket("udp", address, port): "proxy.http3" for port in ports}
    for each in vhosts:
        if each.scheme == "tcp":
            wanted |= {Socket("tcp", address, each.port): each.path for address in bound}
    if proxy.status:
        address, _, port_text = proxy.status.rpartition(":")
        wanted[Socket("tcp", address.strip("[]"), int(port_text))] = "proxy.status"
    kept = without_covered(wanted)
    return {each: path for each, path in wanted.items() if each in kept}


def without_covered(sockets: Iterable[Socket]) -> set[Socket]:
    """Without those that a wildcard on their port serves as well: nginx opens only that one then."""
    every = set(sockets)
    return {each for each in every if each.address in _STAND_FOR or _wildcard(each) not in every}


def _wildcard(each: Socket) -> Socket:
    return Socket(each.protocol, ANY_6 if ":" in each.address else ANY_4, each.port)
