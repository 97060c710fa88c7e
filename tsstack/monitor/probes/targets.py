"""What the file wants to be watched: its paths, and the probes that judge each. Pure.

Keys are made of what is watched, not of its place in the file, so that history survives a new line above.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tsstack.monitor.probes.nearby import is_nearby
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.sample import Path

if TYPE_CHECKING:
    from tsstack.model.names import Address, Network, Upstream
    from tsstack.model.sections import Monitor, Target
    from tsstack.model.stack import Stack

_PAGE_S, _DNS_S, _LONGEST_S = 5.0, 2.0, 120.0
# Reached as the routes say, whatever way out is in use: addresses nearby, hosts with these names, and those
# without a dot (RFC 6761, 6762, 8375; `.internal` by ICANN).
_NEARBY_NAMES = (".lan", ".local", ".localhost", ".internal", ".home.arpa", ".ts.net")


def plan_probes(stack: Stack, *, way: str = "") -> tuple[Probe, ...]:
    """The probes of a file: exit nodes, targets, advertised routes, services, in this order.

    `way` is the interface of the way out in use (`tailscale0` with an exit node); probes of targets beyond
    this host's own networks are bound to it. Empty: they follow the routes. A route that holds no target and
    no upstream has nothing to be judged by, so it has no probe.
    """
    from tsstack.model.sections import Monitor

    monitor = stack.monitor or Monitor()
    timeout_s = timeout_for(monitor.max_latency_s)
    targets = list(_targets(monitor, timeout_s, way, f".{stack.host.tailnet or 'ts.net'}".lower()))
    planned = (*_exits(stack, timeout_s), *targets, *_routes(stack, timeout_s), *_services(stack, timeout_s))
    return tuple(dict.fromkeys(_first_of_each_key(planned)))


def timeout_for(max_latency_s: float) -> float:
    """How long a single round trip is waited for: well beyond the user's limit, so that slow is not lost."""
    return max(1.0, min(2 * max_latency_s, max_latency_s + 1.0))


def _first_of_each_key(probes: Iterable[Probe]) -> Iterator[Probe]:
    """The same thing listed twice is one path: that of its first line."""
    seen: dict[str, Path] = {}
    for probe in probes:
        if seen.setdefault(probe.path.key, probe.path) == probe.path:
            yield probe


def _exits(stack: Stack, timeout_s: float) -> Iterator[Probe]:
    """TSMP goes through WireGuard and is answered by the peer's tailscaled whatever its packet filter says,
    so it judges; disco tells besides whether the way there is direct.
    """
    use = stack.tailscale.exit_node if stack.tailscale else None
    for number, name in enumerate(use.use if use else ()):
        path = Path(f"exit:{name.lower()}", f"tailscale.exit_node.use[{number}]")
        yield Probe(path, "tsmp", host=name, timeout_s=timeout_s)
        yield Probe(path, "disco", host=name, timeout_s=timeout_s, judges=False)


def _targets(monitor: Monitor, timeout_s: float, way: str, tailnet: str) -> Iterator[Probe]:
    for number, target in enumerate(monitor.targets):
        nearby = _is_nearby(_host_of(target), tailnet)
        yield _target(target, f"monitor.targets[{number}]", timeout_s, "" if nearby else way)


def _target(target: Target, source: str, timeout_s: float, way: str) -> Probe:
    if target.icmp is not None:
        host = str(target.icmp)
        path = Path(f"target:icmp:{host}", source, way)
        return Probe(path, "icmp", host=host, timeout_s=timeout_s)
    if target.tcp is not None:
        host, port = split_endpoint(target.tcp)
        path = Path(f"target:tcp:{target.tcp}", source, way)
        return Probe(path, "tcp", host=host, port=port, timeout_s=timeout_s)
    if target.https is not None:
        key = f"target:https:{shown_page(target.https)}"
        path = Path(key, source, way)
        return Probe(path, "https", url=target.https, timeout_s=min(max(5 * timeout_s, _PAGE_S), _LONGEST_S))
    # A resolver of this host or its network may answer from its cache: that is asked as the routes say.
    path = Path(f"target:dns:{target.dns}", source)
    return Probe(path, "dns", name=str(target.dns), timeout_s=max(timeout_s, _DNS_S))


def split_endpoint(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def shown_page(url: str) -> str:
    """A page's address as everyone may see it: user, password, query and fragment may hold a token, so
    `~` and eight digits of their SHA-256 stand for them, which keeps pages apart.
    """
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    kept = f"{parts.scheme}://{place}{parts.path}"
    if not (at or parts.query or parts.fragment):
        return url if "?" not in url and "#" not in url else kept
    left_out = "\0".join((user, parts.query, parts.fragment))
    return f"{kept}~{hashlib.sha256(left_out.encode()).hexdigest()[:8]}"


def _host_of_url(url: str) -> str:
    return urlsplit(url).hostname or ""


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host_of(target: Target) -> str:
    """Whose answer it is, by name or address; of a name that is to resolve: nobody's."""
    if target.icmp is not None:
        return str(target.icmp)
    if target.tcp is not None:
        return split_endpoint(target.tcp)[0]
    return _host_of_url(target.https) if target.https is not None else ""


def _is_nearby(host: str, tailnet: str) -> bool:
    address, name = _address(host), host.lower().rstrip(".")
    if address is not None:
        return is_nearby(str(address))
    return "." not in name or name.endswith((*_NEARBY_NAMES, tailnet))


def _routes(stack: Stack, timeout_s: float) -> Iterator[Probe]:
    """Whatever the file names inside a route shows whether its LAN side lives: any of them is enough."""
    advertise = stack.tailscale.advertise if stack.tailscale else None
    for number, network in enumerate(advertise.routes if advertise else ()):
        if network.prefixlen == 0:
            continue
        path = Path(f"route:{network}", f"tailscale.advertise.routes[{number}]")
        probes = list(dict.fromkeys(_within(stack, network, path, timeout_s)))
        if probes:
            first, *others = probes
            yield Probe(
                path, first.kind, host=first.host, port=first.port, timeout_s=timeout_s, others=tuple(others)
            )


def _within(stack: Stack, network: Network, path: Path, timeout_s: float) -> Iterator[Probe]:
    """Each named host of the network: an echo, and its port, which shows the host whether it opens or not."""
    for host, port in (*_named_targets(stack.monitor), *_named_upstreams(stack)):
        address = _address(host)
        if address is not None and address.version == network.version and address in network:
            yield Probe(path, "icmp", host=host, timeout_s=timeout_s)
            if port:
                yield Probe(path, "tcp", host=host, port=port, timeout_s=timeout_s, reaches=True)


def _named_targets(monitor: Monitor | None) -> Iterator[tuple[str, int]]:
    for target in monitor.targets if monitor else ():
        if target.icmp is not None:
            yield str(target.icmp), 0
        elif target.tcp is not None:
            yield split_endpoint(target.tcp)


def _named_upstreams(stack: Stack) -> Iterator[tuple[str, int]]:
    for _, _, upstream in _upstreams(stack):
        if not upstream.socket:
            yield upstream.host, upstream.port


def _services(stack: Stack, timeout_s: float) -> Iterator[Probe]:
    for key, number, upstream in _upstreams(stack):
        path = Path(f"service:{key}#{number}", f"proxy.services.{key}.upstream[{number}]")
        yield Probe(
            path,
            "tcp",
            host=upstream.host,
            port=upstream.port,
            socket=upstream.socket,
            timeout_s=timeout_s,
        )


def _upstreams(stack: Stack) -> Iterator[tuple[str, int, Upstream]]:
    for key, service in (stack.proxy.services if stack.proxy else {}).items():
        if service.enabled:
            for number, upstream in enumerate(service.upstream):
                yield key, number, upstream
