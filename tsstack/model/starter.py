"""The commented starter file that `tsstack init` prints, from what the host has. Pure.

What is active in it leaves the host as it is: tailscaled's settings as they are now, SSH open wherever
it listens and from the tailnet, and nothing open that was closed. The rest is there as comments.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator

from tsstack.model.document import resolve
from tsstack.model.names import fits
from tsstack.model.rules.view import HOSTED, TAILSCALE_INTERFACE, VIRTUAL, in_tailnet
from tsstack.system.inventory import Found, Listener

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
_DEFAULT_ROUTES = {"0.0.0.0/0", "::/0"}


def starter_file(found: Found) -> str:
    """The text of a starter file. It loads without an error."""
    blocks = [
        _head(),
        _host(found),
        _secrets(found),
        _tailscale(found),
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


def _word(text: str) -> str:
    """A text as YAML, in quotes only where it needs them."""
    simple = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) is not None
    return text if simple and isinstance(resolve(text), str) else json.dumps(text)


def _list(words: Iterable[str | int]) -> str:
    return f"[{', '.join(str(word) if isinstance(word, int) else _word(word) for word in words)}]"


def _label(hostname: str) -> str:
    label = re.sub(r"[^A-Za-z0-9-]+", "-", hostname.split(".", maxsplit=1)[0]).strip("-")[:63].strip("-")
    return label or "myhost"


def _host(found: Found) -> list[str]:
    lines = ["host:", f"  name: {_word(_label(found.hostname))}"]
    if fits("domain", found.magic_dns_suffix):
        lines.append(f"  tailnet: {_word(found.magic_dns_suffix)}")
    else:
        lines.append("  # tailnet: your-tailnet.ts.net    # MagicDNS suffix; Headscale: its base_domain")
    if fits("interface", found.default_interface):
        lines.append(f"  uplink: {_word(found.default_interface)}")
    return lines


def _secrets(found: Found) -> list[str]:
    missing = [name for name in ("sops", "age") if name not in found.programs]
    note = f"    # needs {' and '.join(missing)}, not installed here" if missing else ""
    return ["# secrets:", f"#   file: secrets.yaml{note}"]


def _hosted(found: Found) -> bool:
    return found.login_server.rstrip("/") in ("", HOSTED)


def _tailscale(found: Found) -> list[str]:
    if not found.tailscale_running:
        return [
            "# tailscaled is not logged in here. It is left alone while this section is absent.",
            "# tailscale:",
            "#   login_server: https://hs.example.com    # default: Tailscale's own",
            "#   auth_key: {secret: authkey}             # or {file: /run/keys/ts}",
        ]
    prefs = found.prefs
    lines = ["# As tailscaled is set now.", "tailscale:"]
    if not _hosted(found) and fits("login server", found.login_server):
        lines.append(f"  login_server: {json.dumps(found.login_server)}")
    tags = [tag for tag in prefs.tags if fits("tag", tag)]
    if tags:
        lines.append(f"  tags: {_list(tags)}")
    for key in ("accept_dns", "accept_routes", "ssh", "shields_up"):
        lines.append(f"  {key}: {'true' if getattr(prefs, key) else 'false'}")
    routes = [route for route in prefs.routes if route not in _DEFAULT_ROUTES and _is_subnet(route)]
    own = found.exit_node.lower() == _label(found.hostname).lower()
    if fits("label", found.exit_node) and not own:
        lines.append(f"  exit_node: {{use: [{_word(found.exit_node)}], otherwise: block}}")
    elif prefs.routes:
        exit_node = "true" if set(prefs.routes) >= _DEFAULT_ROUTES else "false"
        lines.append(f"  advertise: {{routes: {_list(routes)}, exit_node: {exit_node}}}")
    else:
        lines.append("  # advertise: {routes: [192.168.15.0/24], exit_node: true}")
        lines.append("  # exit_node: {use: [exit-a, exit-b]}")
    return lines


def _is_subnet(text: str) -> bool:
    try:
        return not in_tailnet(ipaddress.ip_network(text))
    except ValueError:
        return False


def _proxy(found: Found) -> list[str]:
    hosted = _hosted(found)
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
    lan = [each.name for each in found.interfaces if _is_lan(each.name, uplink)]
    virtual = [each.name for each in found.interfaces if each.name.startswith(VIRTUAL)]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in lan:
        groups.setdefault(tuple(_ssh_ports_on(found, name)), []).append(name)
    zones: list[str] = []
    for ports, names in sorted(groups.items(), reverse=True):
        zones.append("lan" if not zones else f"lan-{len(zones) + 1}")
        lines.append("    # Other interfaces of this host.")
        lines += _zone(zones[-1], names, list(ports))
    if virtual:
        lines.append(
            f"    # In no zone, so what they forward is left alone: {', '.join(map(_plain, virtual[:8]))}"
        )
    if zones and uplink:
        lines += ["  # What this host forwarded before, it still does.", "  forward:"]
        lines += [f"    - {{from: {name}, to: dmz, allow: all}}" for name in zones]
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


def _is_lan(name: str, uplink: str) -> bool:
    known = name in ("lo", TAILSCALE_INTERFACE, uplink) or name.startswith(VIRTUAL)
    return not known and fits("interface", name)


def _plain(text: str) -> str:
    """A text that may stand in a comment."""
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", text)


def _zone(name: str, interfaces: list[str], ports: list[int]) -> list[str]:
    # Every list is written out, so that no preset opens more than was open.
    return [
        f"    {name}:",
        f"      interfaces: {_list(interfaces)}",
        f"      tcp: {_list(ports)}",
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
