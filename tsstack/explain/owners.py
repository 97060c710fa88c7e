"""Whose table it is, by the names that programs give theirs. Pure."""

from __future__ import annotations

import re

from tsstack.parts.firewall.text import FAMILY, TABLE

OURS = ""
UNKNOWN = "another program"

# (table, chain) patterns of each program's own sources; the first that fits. Chains tell more than tables,
# since iptables' users share `filter` and `nat`.
_OWNERS: tuple[tuple[str, str, str], ...] = (
    (r".*", r"ts-(input|forward|postrouting)", "tailscaled"),
    (r".*", r"DOCKER.*", "Docker"),
    (r"docker-bridges", r".*", "Docker"),
    (r".*", r"(KUBE|CNI|FLANNEL|cali)-.*", "Kubernetes"),
    (r"netavark|.*", r"NETAVARK.*", "Podman"),
    (r".*", r"ufw6?-.*", "ufw"),
    (r".*", r"f2b-.*", "fail2ban"),
    (r"f2b-table", r".*", "fail2ban"),
    (r".*", r"LIBVIRT_.*", "libvirt"),
    (r"libvirt_network", r".*", "libvirt"),
    (r"firewalld", r".*", "firewalld"),
    (r"foomuuri", r".*", "foomuuri"),
    (r"nixos-fw|nixos-nat", r".*", "NixOS"),
    (r"filter|nat|mangle|raw|security", r"INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING", "iptables"),
)


def owner_of(family: str, table: str, chain: str) -> str:
    """The program that a chain is taken to be of; OURS, or UNKNOWN where its names say nothing."""
    if (family, table) == (FAMILY, TABLE):
        return OURS
    for tables, chains, owner in _OWNERS:
        if re.fullmatch(tables, table) and re.fullmatch(chains, chain):
            return owner
    return UNKNOWN
