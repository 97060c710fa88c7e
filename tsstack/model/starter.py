"""The commented starter file that `tsstack init` prints, from what the host has. Pure.

What is active in it leaves the host as it is: tailscaled's settings as they are now, SSH open wherever
it listens and from the tailnet, and nothing open that was closed. The rest is there as comments.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tsstack.model.names import fits
from tsstack.model.rules.view import TAILSCALE_INTERFACE, is_of_engine
from tsstack.model.starter_tailnet import (
    host_name,
    is_hosted,
    plain,
    tailscale_block,
    without_words,
    yaml_list,
    yaml_word,
)
from tsstack.system.inventory import Found, Interface, Listener

# Programs that people proxy, by the port they listen on: name, and whether they speak HTTP.
_KNOWN_PORTS = {
    3000: ("grafana", True),
    3306: ("mysql", False),
    5432: ("postgresql", False),
    6379: ("redis", False),
    8096: ("jellyfin", True),
    8123: ("home-assistant", True),
    8384: ("syncthing", True),
    9000: ("minio", True),
    9090: ("prometheus", True),
    11434: ("ollama", True),
    27017: ("mongodb", False),
    32400: ("plex", True),
}
_ANYWHERE = {"0.0.0.0", "::", "*"}  # noqa: S104  (what others are bound to)


def starter_file(found: Found) -> str:
    """The text of a starter file. It loads without an error."""
    blocks = [
        _head(),
        _host(found),
        _secrets(found),
        tailscale_block(found),
        _proxy(found),
        _firewall(found),
        _rest(found),
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def _head() -> list[str]:
    return [
        "# What this host is on its tailnet. Made by `tsstack init`; every key: `tsstack schema`.",
        "# tsstack -c FILE check          judges it;  tsstack explain CODE  says more",
        "# tsstack -c FILE switch --confirm 60s   makes it so, and undoes it unless you confirm",
    ]


def _host(found: Found) -> list[str]:
    lines = ["host:", f"  name: {yaml_word(host_name(found))}"]
    if fits("domain", found.magic_dns_suffix):
        lines.append(f"  tailnet: {yaml_word(found.magic_dns_suffix)}")
    else:
        lines.append("  # tailnet: your-tailnet.ts.net    # MagicDNS suffix; Headscale: its base_domain")
    if fits("interface", found.default_interface):
        lines.append(f"  uplink: {yaml_word(found.default_interface)}")
    return lines


def _secrets(found: Found) -> list[str]:
    missing = [name for name in ("sops", "age") if name not in found.programs]
    note = f"    # needs {' and '.join(missing)}, not installed here" if missing else ""
    return ["# secrets:", f"#   file: secrets.yaml{note}"]


def _proxy(found: Found) -> list[str]:
    hosted = is_hosted(found)
    lines = [
        "# Services for the tailnet, through nginx. Take the # away from those you want.",
        "# proxy:",
        f"#   names: {'path' if hosted else 'subdomain'}",
        f"#   tls: {'tailscale' if hosted else 'local-ca'}",
        "#   services:",
    ]
    if not found.nginx_version:
        lines.insert(1, "# nginx is not installed here.")
    services = list(_services(found))
    return lines + (services or ["#     wiki: {upstream: 8000}"])


def _services(found: Found) -> Iterator[str]:
    """What listens on loopback, as commented services."""
    names: set[str] = set()
    ports: set[int] = set()
    ssh_ports = {listener.port for listener in _ssh(found)}
    for listener in found.listeners:
        local = _is_loopback(listener.address)
        if listener.protocol != "tcp" or not local or listener.port in ports | ssh_ports | {53}:
            continue
        name, http = _KNOWN_PORTS.get(listener.port, (_key(listener), True))
        while name in names:
            name = f"{name[:24]}-{listener.port}"
        names.add(name)
        ports.add(listener.port)
        protocol = "" if http else ", protocol: tcp"
        yield f"#     {name}: {{upstream: {listener.port}{protocol}}}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


def _key(listener: Listener) -> str:
    key = re.sub(r"[^a-z0-9_-]+", "-", listener.program.lower()).strip("-_")[:24]
    return key if fits("key", key) else f"port-{listener.port}"


def _ssh(found: Found) -> list[Listener]:
    """Where SSH listens: by its program, or by its port where programs cannot be seen."""
    return [
        listener
        for listener in found.listeners
        if listener.protocol == "tcp" and (listener.program in ("sshd", "dropbear") or listener.port == 22)
    ]


def _ssh_ports_on(found: Found, interface: str) -> list[int]:
    """The ports at which SSH can be reached by an interface now."""
    own = {
        address.split("/")[0]
        for each in found.interfaces
        if each.name == interface
        for address in each.addresses
    }
    return sorted(
        {
            listener.port
            for listener in _ssh(found)
            if listener.address in _ANYWHERE or listener.address.split("%")[0] in own
        }
    )


def _firewall(found: Found) -> list[str]:
    lines = [
        "# What is not opened here is closed, for new connections from outside.",
        "firewall:",
        "  default_policy: drop",
        "  log: true",
        "  zones:",
    ]
    everywhere = sorted({listener.port for listener in _ssh(found)})
    lines += [
        *_about_tailnet(found, everywhere),
        *_zone("internal", [TAILSCALE_INTERFACE], everywhere),
    ]
    uplink = found.default_interface if fits("interface", found.default_interface) else ""
    if uplink:
        lines += [
            "    # The uplink: SSH only where it listened before.",
            *_zone("dmz", [uplink], _ssh_ports_on(found, uplink)),
        ]
        lines += _open_now(found)
    # A port's packets are its master's, so the master goes into the zone.
    engines = {each.name for each in found.interfaces if _is_of_engine(each, found)}
    lan = [
        each.name
        for each in found.interfaces
        if not each.master and each.name not in engines and _is_lan(each.name, uplink)
    ]
    virtual = [each.name for each in found.interfaces if each.name in engines]
    ports = [each for each in found.interfaces if each.master and each.name not in engines]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in lan:
        groups.setdefault(tuple(_ssh_ports_on(found, name)), []).append(name)
    zones: list[str] = []
    for opened, names in sorted(groups.items(), reverse=True):
        zones.append("lan" if not zones else f"lan-{len(zones) + 1}")
        lines.append("    # Other interfaces of this host.")
        lines += _zone(zones[-1], names, list(opened))
    for port in ports[:8]:
        lines.append(f"    # {plain(port.name)} is a port of {plain(port.master)} and seen as that.")
    if virtual:
        lines.append(
            f"    # In no zone, so what they forward is left alone: {', '.join(map(plain, virtual[:8]))}"
        )
    passages = [(name, "dmz") for name in zones] if uplink else []
    if without_words(found) and found.prefs.routes:  # with the section, its own keys would say so
        passages += [("internal", name) for name in (*zones, *(["dmz"] if uplink else []))]
    if passages:
        lines += ["  # What this host forwarded before, it still does.", "  forward:"]
        lines += [f"    - {{from: {here}, to: {there}, allow: all}}" for here, there in passages]
    return lines


def _about_tailnet(found: Found, ssh_ports: list[int]) -> list[str]:
    if ssh_ports:
        opened = f"SSH ({', '.join(f'tcp {port}' for port in ssh_ports)}), and nothing else yet."
    elif found.prefs.ssh:
        opened = "nothing yet. Tailscale SSH is on and needs no port."
    else:
        opened = "nothing yet: no SSH server listens here now. Write tcp: [22] before one is needed."
    return [
        f"    # The tailnet: {opened}",
        "    # These lists stand in place of the preset's, which would open what the proxy serves",
        "    # (tcp 80 and 443, udp 443) and ssh: take a list out to have the preset's.",
    ]


def _is_of_engine(interface: Interface, found: Found) -> bool:
    """Whether a container or VM engine made it; a bridge is told by its ports, where it has any."""
    ports = [each.name for each in found.interfaces if each.master == interface.name]
    return is_of_engine(interface.name, ports)


def _is_lan(name: str, uplink: str) -> bool:
    return name not in ("lo", TAILSCALE_INTERFACE, uplink) and fits("interface", name)


def _zone(name: str, interfaces: list[str], ports: list[int]) -> list[str]:
    # Every list is written out, so that no preset opens more than was open.
    return [
        f"    {name}:",
        f"      interfaces: {yaml_list(interfaces)}",
        f"      tcp: {yaml_list(ports)}",
        "      udp: []",
        "      services: []",
    ]


def _open_now(found: Found) -> list[str]:
    ssh = {listener.port for listener in _ssh(found)}
    open_now = sorted(
        {
            (listener.port, listener.protocol, _key(listener))
            for listener in found.listeners
            if not _is_loopback(listener.address) and listener.port not in ssh
        }
    )
    if not open_now:
        return []
    lines = ["      # Listening on more than loopback now; add the port above to keep it open:"]
    return lines + [f"      #   {protocol} {port}  {program}" for port, protocol, program in open_now[:40]]


def _rest(found: Found) -> list[str]:
    tailnet = found.magic_dns_suffix if fits("domain", found.magic_dns_suffix) else "your-tailnet.ts.net"
    split = [f"# dns: {{split: {{{tailnet}: [100.100.100.100]}}}}"]
    if not found.resolved:
        split.insert(0, "# Split DNS needs systemd-resolved, which does not run here.")
    return [
        *split,
        "# kernel: {profile: throughput}",
        f"# bandwidth: {{{TAILSCALE_INTERFACE}: {{egress: 100mbit}}}}",
        "# monitor:",
        "#   targets: [{icmp: 1.1.1.1}]",
        '#   alerts: ["ntfy://topic"]',
    ]
