"""systemd-resolved, asked and told over its bus interface (org.freedesktop.resolve1(5)).

Split DNS is a property of a link: its servers are asked for its domains, bound to that link. The global
DNS= of resolved.conf is no split: those servers are asked for every name that no link claims, and they
replace the ones of /etc/resolv.conf (dns_scope_is_default_route() and manager_read_resolv_conf() in
resolved). A domain with a `~` routes and does not complete short names, and a link that has only such
domains is never asked for anything else (resolvectl(1), "default-route").
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.system.command import run

_BUS_NAME = "org.freedesktop.resolve1"


class LinkDns(NamedTuple):
    """What resolved knows of one link: servers, and domains as resolvectl writes them (`~corp.example`)."""

    servers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.servers and not self.domains

    def as_json(self) -> dict[str, Any]:
        return {"servers": list(self.servers), "domains": list(self.domains)}

    @staticmethod
    def from_json(data: Any) -> LinkDns:
        """Raises CheckFailed for anything but `as_json`'s shape."""
        try:
            return LinkDns(tuple(map(str, data["servers"])), tuple(map(str, data["domains"])))
        except (KeyError, TypeError) as error:
            raise CheckFailed(f"damaged DNS settings of a link: {error}") from error


def read_link(link: str) -> LinkDns | None:
    """The settings of `link`; None when there is no such link. Raises CheckFailed when resolved is silent."""
    try:
        index = socket.if_nametoindex(link)
    except OSError:
        return None
    try:
        result = run(
            [
                "busctl",
                "--json=short",
                "get-property",
                _BUS_NAME,
                f"/org/freedesktop/resolve1/link/{_path_label(index)}",
                f"{_BUS_NAME}.Link",
                "DNSEx",
                "Domains",
            ],
            timeout_s=10,
        )
        servers, domains = (json.loads(line)["data"] for line in result.stdout.splitlines())
    except (CommandFailed, ValueError, KeyError) as error:
        raise CheckFailed(
            f"systemd-resolved cannot be asked about {link}: {error}",
            hint="systemctl status systemd-resolved",
        ) from error
    return LinkDns(tuple(map(_server, servers)), tuple(_domain(*domain) for domain in domains))


def write_link(link: str, dns: LinkDns) -> None:
    """Replace the settings of `link`. Servers first, so that no domain is ever routed to none.

    Raises CommandFailed with resolved's reason, for one that another program manages the link.
    """
    if dns.is_empty:
        run(["resolvectl", "domain", link, ""], timeout_s=10)
        run(["resolvectl", "dns", link, ""], timeout_s=10)
    else:
        run(["resolvectl", "dns", link, *(dns.servers or [""])], timeout_s=10)
        run(["resolvectl", "domain", link, *(dns.domains or [""])], timeout_s=10)


def link_towards(server: str) -> str:
    """The link that packets to `server` leave by. Raises CheckFailed when there is no route."""
    try:
        found = json.loads(run(["ip", "-j", "route", "get", server], timeout_s=10).stdout)
        return str(found[0]["dev"])
    except (CommandFailed, ValueError, LookupError) as error:
        raise CheckFailed(f"there is no route to the DNS server {server}") from error


def is_managed(link: str, run_folder: Path = Path("/run/systemd/netif/links")) -> bool:
    """Whether systemd-networkd manages `link`; resolved then lets nobody else set its DNS."""
    try:
        state = (run_folder / str(socket.if_nametoindex(link))).read_text()
    except OSError:
        return False
    return any(
        line.startswith("ADMIN_STATE=") and line != "ADMIN_STATE=unmanaged" for line in state.splitlines()
    )


def _path_label(index: int) -> str:
    # sd_bus_path_encode(3): the first character of a label is escaped when it is a digit.
    text = str(index)
    return f"_{ord(text[0]):x}{text[1:]}"


def _server(entry: Sequence[Any]) -> str:
    """(family, bytes, port, name) -> as resolvectl takes it: `192.0.2.1`, `[fd00::1]:5353#name`."""
    _, octets, port, name = entry
    address = str(ipaddress.ip_address(bytes(octets)))
    if port:
        address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"{address}#{name}" if name else address


def _domain(name: str, routing_only: bool) -> str:
    return f"~{name}" if routing_only else name
