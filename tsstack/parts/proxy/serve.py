"""What `tailscale serve` has that the proxy wants for itself (tailscale's ipn/serve.go: ServeConfig).

tailscaled takes a served port on the tailnet's addresses before nginx sees it: the kernel refuses the
second socket, or, where there is none, no packet ever comes to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.peers import listener_of, open_proxies
from tsstack.system.localapi import LocalApi, LocalApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Listener, Plan

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)
_LOOPBACK = {"127.0.0.1", "localhost"}
_TIMEOUT_S = 3.0


def refuse_served(plan: Plan, facts: Facts) -> None:
    """Raises CheckFailed when tailscaled serves what the plan needs, or opens what the plan guards.

    A tailscaled that is not there, or does not answer, is no obstacle here: nobody is served by it.
    """
    try:
        config, _ = LocalApi(facts.paths.tailscale_socket, timeout_s=_TIMEOUT_S).serve_config()
    except LocalApiError:
        return
    refuse_conflicts(plan, config, facts.tailscale.addresses if facts.tailscale else ())
    if plan.identity and any(listener.claimed for listener in plan.listeners):
        try:
            flags = open_proxies(listener_of(facts.paths.tailscale_socket)[0])
        except OSError:  # it went away, or is another user's: the identity daemon judges each request anyway
            return
        if flags:
            raise CheckFailed(
                f"proxy.services: with names: service, `allow` means nothing while tailscaled runs with "
                f"{flags[0]}: any program of this host could connect as any client",
                hint="start tailscaled without it, or use names: path or port",
            )


def refuse_conflicts(plan: Plan, config: Mapping[str, Any], addresses: tuple[str, ...]) -> None:
    """Raises CheckFailed for a served port that the plan binds on the tailnet's `addresses`, and for an entry
    that would bring strangers to the sockets where only tailscaled's services may knock. Pure.
    """
    served = dict(_node_ports(config))
    for listener in plan.listeners:
        entry = served.get(listener.port)
        if entry is not None and _is_tailnets(listener, plan, addresses):
            raise CheckFailed(
                f"{listener.path}: `tailscale serve` has port {listener.port} already ({entry}), "
                f"so nginx cannot have {listener.endpoint}",
                hint=f"tailscale serve --https={listener.port} off (or --http, --tcp, as it was made); "
                "`tailscale serve status` shows all of it; or choose another port",
            )
    claimed = {listener.port: listener for listener in plan.listeners if listener.claimed}
    for name, handler in _handlers(config):
        host, _, port = str(handler.get("TCPForward", "")).rpartition(":")
        socket = claimed.get(int(port)) if port.isdigit() and host in _LOOPBACK else None
        if socket is not None and not handler.get("ProxyProtocol"):
            raise CheckFailed(
                f"{socket.path}: {name} of `tailscale serve` forwards to {socket.endpoint} without a PROXY "
                "header, so its clients could write one and pass for anybody",
                hint="remove that entry, or add --proxy-protocol=2; `tailscale serve status` shows it",
            )


def _is_tailnets(listener: Listener, plan: Plan, addresses: tuple[str, ...]) -> bool:
    if listener.protocol != "tcp" or listener.claimed:
        return False
    # Before the addresses are known the sockets stand on loopback, in their stead.
    return not plan.addresses_known or listener.address in _WILDCARDS or listener.address in addresses


def _node_ports(config: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Port -> what is served there, on the node's own addresses: in the background and by open terminals."""
    for config_of in (config, *(config.get("Foreground") or {}).values()):
        for port, handler in (config_of.get("TCP") or {}).items():
            yield int(port), _describe(int(port), handler, config_of.get("Web") or {})


def _describe(port: int, handler: Mapping[str, Any], web: Mapping[str, Any]) -> str:
    if target := handler.get("TCPForward"):
        return f"tcp to {target}"
    scheme = "https" if handler.get("HTTPS") else "http"
    names = sorted(name for name in web if name.rpartition(":")[2] == str(port))
    return ", ".join(f"{scheme}://{name}" for name in names) or scheme


def _handlers(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    services = (config.get("Services") or {}).items()
    terminals = (config.get("Foreground") or {}).values()
    for name, each in (("", config), *(("", each) for each in terminals), *services):
        for port, handler in (each.get("TCP") or {}).items():
            yield f"{name} port {port}".strip(), handler
