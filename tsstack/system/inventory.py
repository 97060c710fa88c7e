"""What a host has, gathered once for `tsstack init`. Reads only; needs no root, sees more with it."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsstack.errors import CommandFailed
from tsstack.system import command
from tsstack.system.masters import is_own_device, read_ports


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface and its addresses, each with its prefix length: `192.168.15.2/24`."""

    name: str
    addresses: tuple[str, ...] = ()
    up: bool = True
    master: str = ""
    """The bridge or bond whose port it is: packets are seen to come in by that one."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. `address` is what it is bound to; `program` is empty where it cannot be seen."""

    protocol: str  # "tcp" or "udp"
    address: str
    port: int
    program: str = ""


# types/preftype/netfiltermode.go
_NETFILTER_WORDS = {0: "off", 1: "nodivert", 2: "on"}


@dataclass(frozen=True, slots=True)
class TailscalePrefs:
    """tailscaled's settings, as far as the file has keys for them."""

    hostname: str = ""
    """The name that the node gives itself."""
    accept_dns: bool = True
    accept_routes: bool = False
    ssh: bool = False
    shields_up: bool = False
    netfilter: str = "on"
    """A word of the file; empty for a mode that the file has no word for."""
    operator: str = ""
    tags: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    """The routes it advertises; both default routes mean that it is an exit node."""
    snat: bool = True
    uses_exit_node: bool = False
    """Whether an exit node is set, be its name known or not."""
    auto_exit_node: bool = False
    """Whether tailscaled chooses among the exit nodes by itself."""
    allow_lan_access: bool = False


def read_prefs(prefs: Mapping[str, Any], own_name: str = "") -> TailscalePrefs:
    """The settings in what the LocalAPI answers (ipn/prefs.go), where any key may be absent.

    `own_name` is the node's name where they give none, which is the machine's as tailscaled started.
    """
    return TailscalePrefs(
        hostname=str(prefs.get("Hostname") or own_name),
        accept_dns=bool(prefs.get("CorpDNS", True)),
        accept_routes=bool(prefs.get("RouteAll")),
        ssh=bool(prefs.get("RunSSH")),
        shields_up=bool(prefs.get("ShieldsUp")),
        netfilter=_NETFILTER_WORDS.get(prefs.get("NetfilterMode", 2), ""),
        operator=str(prefs.get("OperatorUser") or ""),
        tags=tuple(map(str, prefs.get("AdvertiseTags") or ())),
        routes=tuple(map(str, prefs.get("AdvertiseRoutes") or ())),
        snat=not prefs.get("NoSNAT"),
        uses_exit_node=bool(prefs.get("ExitNodeID") or prefs.get("ExitNodeIP")),
        auto_exit_node=bool(prefs.get("AutoExitNode")),
        allow_lan_access=bool(prefs.get("ExitNodeAllowLANAccess")),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """The host at one moment. Empty values mean that there is no such thing, or that it cannot be seen."""

    hostname: str
    interfaces: tuple[Interface, ...] = ()
    default_interface: str = ""
    listeners: tuple[Listener, ...] = ()
    tailscale_running: bool = False
    """Whether tailscaled is logged in and up."""
    magic_dns_suffix: str = ""
    login_server: str = ""
    exit_node: str = ""
    """The name of the exit node in use."""
    prefs: TailscalePrefs = TailscalePrefs()
    """What tailscaled is set to now."""
    nginx_version: str = ""
    resolved: bool = False
    programs: tuple[str, ...] = ()
    """Those of sops, age, nginx, nft, tailscale that are installed."""


def discover(tailscale_socket: Path = Path("/var/run/tailscale/tailscaled.sock")) -> Found:
    """Look at this host. Blocks for some seconds at most; what cannot be asked is left empty."""
    status, prefs = _tailscale(tailscale_socket)
    return Found(
        hostname=socket.gethostname().split(".")[0],
        interfaces=_interfaces(),
        default_interface=default_interface(),
        listeners=_listeners(),
        tailscale_running=status.get("BackendState") == "Running",
        magic_dns_suffix=str((status.get("CurrentTailnet") or {}).get("MagicDNSSuffix") or "").rstrip("."),
        login_server=str(prefs.get("ControlURL") or ""),
        exit_node=_exit_node(status),
        prefs=read_prefs(prefs, str((status.get("Self") or {}).get("HostName") or "")),
        nginx_version=_nginx_version(),
        resolved=Path("/run/systemd/resolve/resolv.conf").exists(),
        programs=tuple(
            name for name in ("sops", "age", "nginx", "nft", "tailscale") if command.which(name) is not None
        ),
    )


def _interfaces() -> tuple[Interface, ...]:
    import ipaddress

    import psutil

    stats, masters = psutil.net_if_stats(), dict(read_ports())
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        if is_own_device(name):
            continue
        networks = []
        for address in addresses:
            if address.family not in (socket.AF_INET, socket.AF_INET6) or not address.netmask:
                continue
            # psutil gives IPv6 masks as addresses, which ipaddress takes only as a length.
            mask = ipaddress.ip_address(address.netmask)
            length = int(mask).bit_count()
            networks.append(f"{address.address.split('%')[0]}/{length}")
        up = name in stats and stats[name].isup
        found.append(Interface(name, tuple(networks), up, masters.get(name, "")))
    return tuple(found)


def default_interface(
    route: Path = Path("/proc/net/route"), ipv6_route: Path = Path("/proc/net/ipv6_route")
) -> str:
    """The interface of the default route with the lowest metric, IPv4 before IPv6 (proc(5))."""
    best: list[tuple[int, str]] = []
    if route.exists():
        for line in route.read_text().splitlines()[1:]:
            fields = line.split()
            if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000":
                best.append((int(fields[6]), fields[0]))
    if not best and ipv6_route.exists():
        for line in ipv6_route.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
                best.append((int(fields[5], 16), fields[9]))
    return min(best)[1] if best else ""


def _listeners() -> tuple[Listener, ...]:
    import psutil

    names: dict[int, str] = {}
    found: set[tuple[str, str, int, str]] = set()
    for connection in psutil.net_connections(kind="inet"):
        stream = connection.type == socket.SOCK_STREAM
        if not connection.laddr or (stream and connection.status != psutil.CONN_LISTEN):
            continue
        if not stream and connection.raddr:
            continue
        pid = connection.pid
        if pid and pid not in names:
            try:
                names[pid] = psutil.Process(pid).name()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                names[pid] = ""
        program = names.get(pid, "") if pid else ""
        protocol = "tcp" if stream else "udp"
        found.add((protocol, connection.laddr.ip, connection.laddr.port, program))
    return tuple(Listener(*each) for each in sorted(found, key=lambda each: (each[2], each[0], each[1])))


def _tailscale(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """tailscaled's status and prefs, empty when nobody answers there."""
    from tsstack.system.localapi import LocalApi, LocalApiError

    api = LocalApi(path, timeout_s=3.0)
    try:
        return dict(api.status()), dict(api.prefs())
    except LocalApiError:
        return {}, {}


def _exit_node(status: dict[str, Any]) -> str:
    for peer in (status.get("Peer") or {}).values():
        if peer.get("ExitNode"):
            return str(peer.get("DNSName") or "").split(".")[0] or str(peer.get("HostName") or "")
    return ""


def _nginx_version() -> str:
    try:
        said = command.run(["nginx", "-v"], timeout_s=5.0, check=False)
    except CommandFailed:
        return ""
    version = re.search(r"nginx/(\d+\.\d+\.\d+)", said.stderr + said.stdout)
    return version[1] if version else ""
