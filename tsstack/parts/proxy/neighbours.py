"""Other sites of the same nginx, where our sockets for tailscaled's services meet theirs.

nginx gives every server on one `address:port` the same socket options, so a site on the very address
where we ask for a PROXY header would ask for one as well (ngx_http_core_module, `listen`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.discovery import find_listens

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan


def refuse_shared_sockets(plan: Plan, facts: Facts) -> None:
    """Raises CheckFailed for a site that listens exactly where tailscaled hands over connections."""
    claimed = {listener.endpoint: listener for listener in plan.listeners if listener.claimed}
    for file, listen in _listens(plan, facts):
        listener = claimed.get(listen.replace("localhost", "127.0.0.1"))
        if listener is not None:
            raise CheckFailed(
                f"{listener.path}: {file} listens on {listener.endpoint}, where only tailscaled may speak "
                "with names: service",
                hint=f"give that site another address or port, or choose another {listener.path}",
            )


def find_covered_sites(plan: Plan, facts: Facts) -> list[tuple[str, str]]:
    """(endpoint, file) of each site on every address whose loopback address is tailscaled's now."""
    claimed = {listener.port: listener.endpoint for listener in plan.listeners if listener.claimed}
    found: dict[tuple[str, str], None] = {}
    for file, listen in _listens(plan, facts):
        port = listen.removeprefix("*:").removeprefix("0.0.0.0:")
        if port.isdigit() and int(port) in claimed:
            found[claimed[int(port)], file] = None
    return list(found)


def _listens(plan: Plan, facts: Facts) -> list[tuple[str, str]]:
    if not plan.main_config or not any(listener.claimed for listener in plan.listeners):
        return []
    return find_listens(facts.paths.etc / "nginx")
