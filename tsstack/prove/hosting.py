"""What the file says of its services: which name answers where, for which upstream. Pure.

Nothing here is shared with the part that renders nginx's configuration. The semantics are those of
docs/proxy.md, read anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tsstack.model.facts import Facts
from tsstack.model.proxy import Proxy, Service, TlsFiles
from tsstack.model.stack import Stack
from tsstack.prove.terrain import LOCAL

Scheme = Literal["https", "http", "tcp"]
LOOPBACK = "127.0.0.1"
NOBODY = "no-service.invalid"
"""A name that no service can have (RFC 6761 section 6.4)."""

REFUSED = "refused"
_ASKED = "asked?by=tsstack"
"""Below a service's own path, so that it is seen what of the path comes through."""
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Question:
    """One request to one name, at one address, and who may answer it."""

    key: str
    """The key path that decides: `proxy.services.wiki`."""
    scheme: Scheme
    name: str
    address: str
    port: int
    path: str = "/"
    upstreams: tuple[str, ...] = ()
    """The endpoints of which any may answer; none: the request must end in nginx."""
    inner_path: str = "/"
    """The path that the upstream gets to see."""
    user: str = ""
    """Whom the identity daemon lets in; empty where it says no, or is not asked."""
    claimed: bool = False
    """The connection begins with a PROXY header, as tailscaled's do."""
    certificate: str = ""
    """The file that the certificate must be; empty: one that tsstack makes or fetches."""
    tls_upstream: bool = False
    """The upstream speaks TLS: that it is called is all that can be seen."""

    @property
    def url(self) -> str:
        """As people write it."""
        port = "" if _DEFAULT_PORTS.get(self.scheme) == self.port else f":{self.port}"
        path = "" if self.scheme == "tcp" else self.path.removesuffix(_ASKED)
        return f"{self.scheme}://{self.name}{port}{path}"

    @property
    def authority(self) -> str:
        """What a client sends as Host."""
        return self.name if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{self.name}:{self.port}"

    @property
    def expected(self) -> str:
        """The answer, for people: the upstreams, or REFUSED."""
        return " or ".join(self.upstreams) or REFUSED

    def __str__(self) -> str:
        as_whom = f" as {self.user}" if self.user else ""
        return f"{self.url} at {self.address}{as_whom}"


def addresses_of(stack: Stack, facts: Facts) -> tuple[str, ...]:
    """Where the file's services answer; of `all` two addresses that stand for every one."""
    proxy = stack.proxy
    if proxy is None:
        return ()
    if proxy.listen == "all":
        return tuple(map(str, LOCAL[: 2 if facts.ipv6 else 1]))
    if proxy.listen != "tailnet":
        return tuple(map(str, proxy.listen))
    # Before the tailnet is joined its addresses are unknown, and nginx listens on loopback meanwhile.
    known = facts.tailscale.addresses if facts.tailscale else ()
    return tuple(each for each in known if facts.ipv6 or ":" not in each) or (LOOPBACK,)


def ask_everyone(stack: Stack, facts: Facts) -> Iterator[Question]:
    """Each served name once, at one of the addresses in turn, and a name of nobody on each port.

    A guarded service is asked twice: as somebody whom the identity daemon lets in, and as somebody else.
    """
    proxy = stack.proxy
    if proxy is None:
        return
    services = {key: each for key, each in proxy.services.items() if each.enabled}
    published = proxy.names == "service" and stack.tailscale is not None
    own = addresses_of(stack, facts)
    # tailscaled hands over on loopback; there nobody else is served.
    shared = [(address, False) for address in own if not (published and address == LOOPBACK)]
    for_http = [*([(LOOPBACK, True)] if published else []), *shared]
    ports: dict[tuple[Scheme, int], None] = {}
    for at, (key, service) in enumerate(services.items()):
        if service.protocol == "tcp":
            yield _ask_tcp(stack, proxy, key, service, own[at % len(own)])
            continue
        address, claimed = for_http[at % len(for_http)]
        question = _ask_http(stack, proxy, key, service, address, claimed=claimed)
        ports[question.scheme, question.port] = None
        if service.allow is None:
            yield question
        else:
            yield replace(question, user=f"prove-{key}")
            yield replace(question, upstreams=())
    for scheme, port in ports:
        for address, claimed in for_http:
            yield Question("proxy.services", scheme, NOBODY, address, port, claimed=claimed)


def _ask_http(
    stack: Stack, proxy: Proxy, key: str, service: Service, address: str, *, claimed: bool
) -> Question:
    scheme: Scheme = "http" if proxy.tls == "off" else "https"
    port = proxy.http_port if proxy.tls == "off" else proxy.https_port
    label = (service.subdomain or key).lower()
    host, tailnet = stack.fqdn.lower(), (stack.host.tailnet or "").lower()
    name, path = host, "/"
    if proxy.names == "subdomain":
        name = f"{label}.{host}"
    elif proxy.names == "service":
        name = f"{label}.{tailnet}" if tailnet else label
    elif proxy.names == "port":
        port = service.port or 0
    else:
        own = (service.path or f"/{key}").strip("/")
        path = f"/{own}/" if own else "/"
    return Question(
        f"proxy.services.{key}",
        scheme,
        name,
        address,
        port,
        f"{path}{_ASKED}",
        _first_asked(service),
        f"/{_ASKED}",
        claimed=claimed,
        certificate=proxy.tls.certificate if isinstance(proxy.tls, TlsFiles) else "",
        tls_upstream=any(each.scheme == "https" for each in service.upstream),
    )


def _ask_tcp(stack: Stack, proxy: Proxy, key: str, service: Service, address: str) -> Question:
    label, tailnet = (service.subdomain or key).lower(), (stack.host.tailnet or "").lower()
    alone = f"{label}.{tailnet}" if tailnet else label
    name = alone if proxy.names == "service" else stack.fqdn.lower()
    port = service.port or next((each.port for each in service.upstream if each.port), 0)
    return Question(f"proxy.services.{key}", "tcp", name, address, port, upstreams=_first_asked(service))


def _first_asked(service: Service) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.endpoint for each in service.upstream if not each.backup))
