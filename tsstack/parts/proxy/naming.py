"""Under which public names and ports the services answer. Pure.

`subdomain`: `ollama.host.tailnet`; `path`: `host.tailnet/ollama`; `port`: `host.tailnet:8443`;
`service`: `ollama.tailnet`. TCP services always have a port of their own on the host's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tsstack.errors import CheckFailed

if TYPE_CHECKING:
    from tsstack.model.proxy import Proxy, Service
    from tsstack.model.stack import Stack

Scheme = Literal["https", "http", "tcp"]
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one service answers: `path` is `/` or starts and ends with a slash."""

    scheme: Scheme
    host: str
    port: int
    path: str = "/"

    @property
    def url(self) -> str:
        """As people write it: the scheme's own port is left out."""
        port = "" if _DEFAULT_PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}" + ("" if self.scheme == "tcp" else self.path)

    @property
    def authority(self) -> str:
        """What a client sends as Host."""
        return self.host if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{self.host}:{self.port}"


def served(proxy: Proxy) -> dict[str, Service]:
    """The services that are switched on, in the file's order."""
    return {key: service for key, service in proxy.services.items() if service.enabled}


def place_services(stack: Stack) -> dict[str, Place]:
    """Each served service's place. Raises CheckFailed for one without a port and for two at one place."""
    if stack.proxy is None:
        return {}
    places: dict[str, Place] = {}
    owners: dict[tuple[str, int, str], str] = {}
    for key, service in served(stack.proxy).items():
        place = _place(stack, stack.proxy, key, service)
        taken = owners.setdefault((place.host, place.port, place.path), key)
        if taken != key:
            raise CheckFailed(
                f"proxy.services.{key} and proxy.services.{taken} would both answer at {place.url}",
                hint="give one of them another subdomain, path or port",
            )
        places[key] = place
    return places


def service_urls(stack: Stack) -> dict[str, str]:
    """Each served service's public address: `https://wiki.host.tailnet/`, `tcp://host.tailnet:5432`."""
    return {key: place.url for key, place in place_services(stack).items()}


def _place(stack: Stack, proxy: Proxy, key: str, service: Service) -> Place:
    scheme: Scheme = "http" if proxy.tls == "off" else "https"
    port = proxy.http_port if proxy.tls == "off" else proxy.https_port
    host = stack.fqdn.lower()
    label = (service.subdomain or key).lower()
    own_name = f"{label}.{stack.host.tailnet}".lower() if stack.host.tailnet else label
    if service.protocol == "tcp":
        name = own_name if proxy.names == "service" else host
        return Place("tcp", name, service.port or _upstream_port(key, service))
    if proxy.names == "subdomain":
        return Place(scheme, f"{label}.{host}", port)
    if proxy.names == "service":
        return Place(scheme, own_name, port)
    if proxy.names == "path":
        path = (service.path or f"/{key}").strip("/")
        return Place(scheme, host, port, f"/{path}/" if path else "/")
    if service.port is None:
        raise CheckFailed(
            f"proxy.services.{key}.port is missing: with `names: port` each service needs one",
            hint="write port: 8443, or choose another proxy.names",
        )
    return Place(scheme, host, service.port)


def _upstream_port(key: str, service: Service) -> int:
    for upstream in service.upstream:
        if upstream.port:
            return upstream.port
    raise CheckFailed(
        f"proxy.services.{key}.port is missing: a unix socket has none to take over",
        hint="write port: 5432",
    )
