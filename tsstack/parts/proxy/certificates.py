"""Which certificate each name is served with, and where it lies. Pure.

Private keys live in the host's tls folder, never in a generation. The file's name carries a digest of
the names it covers: when the names change a new file is made beside the old one, so a switch that
fails, and every older generation, still finds the certificate it was rendered for.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tsstack.model.proxy import TlsFiles
from tsstack.parts.proxy.plan import Certificate

if TYPE_CHECKING:
    from tsstack.model.stack import Stack
    from tsstack.parts.proxy.naming import Place

# Beyond this a leaf with every name would weigh down each handshake; one wildcard covers them all.
_MOST_NAMES = 64


def choose_certificates(stack: Stack, tls: str, places: dict[str, Place]) -> dict[str, Certificate]:
    """The certificate of each HTTPS host name; `tls` is the folder of the keys."""
    hosts = sorted({place.host for place in places.values() if place.scheme == "https"})
    if stack.proxy is None or not hosts:
        return {}
    mode = stack.proxy.tls
    if isinstance(mode, TlsFiles):
        stem = f"{tls}/files-{_digest(mode.certificate, mode.key)}"
        given = Certificate("files", tuple(hosts), f"{stem}.crt", f"{stem}.key", mode.certificate, mode.key)
        return dict.fromkeys(hosts, given)
    wildcard = f"*.{stack.fqdn.lower()}"
    if mode == "local-ca":
        many = stack.proxy.names == "subdomain" and len(hosts) > _MOST_NAMES
        names = (wildcard,) if many else tuple(hosts)
        path = f"{tls}/leaf-{_digest(*names)}.pem"
        return dict.fromkeys(hosts, Certificate("local-ca", names, path, path))
    # tailscaled issues for the node's own name, a wildcard below it, and its services' names.
    chosen = {}
    for host in hosts:
        name = wildcard if stack.proxy.names == "subdomain" else host
        path = f"{tls}/tailscale-{name.replace('*', 'wildcard')}.pem"
        chosen[host] = Certificate("tailscale", (name,), path, path)
    return chosen


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
