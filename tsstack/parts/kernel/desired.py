"""What the file wants of the kernel: parameters, bandwidth limits, UDP GRO. Pure.

A generation holds in `kernel/`:

- `sysctl.json`: canonical name -> value as text, in the order in which they are to be written;
- `origins.json`: canonical name -> the key path that asks for it; it decides how strict we are;
- `links.json`: interface -> its `egress` and `ingress` limits, and its `udp_gro` wish;
- `sysctl.conf`: the same parameters for people, as sysctl.d(5) spells them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from tsstack.errors import ConfigError

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack

FOLDER = "kernel"
OWN = "kernel.sysctl."
PROFILE = "kernel.profile"

TAILNET_INTERFACE = "tailscale0"

IP_FORWARD = "net.ipv4.ip_forward"
IPV6_FORWARD = "net.ipv6.conf.all.forwarding"
RP_FILTER = "net.ipv4.conf.all.rp_filter"

# The sizes that are commonly set for fast links; docs/kernel.md says what is different here, and why.
_BUFFERS = {
    "net.core.rmem_max": "67108864",
    "net.core.wmem_max": "67108864",
    "net.ipv4.tcp_rmem": "4096 131072 67108864",
    "net.ipv4.tcp_wmem": "4096 65536 67108864",
}
PROFILES: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "throughput": {
        **_BUFFERS,
        "net.core.netdev_max_backlog": "5000",
        "net.ipv4.tcp_mtu_probing": "1",
        "net.ipv4.tcp_slow_start_after_idle": "0",
        "net.core.default_qdisc": "fq",
        "net.ipv4.tcp_congestion_control": "bbr",
    },
    "router": {
        "net.core.rmem_max": "16777216",
        "net.core.wmem_max": "16777216",
        "net.core.netdev_max_backlog": "5000",
        "net.core.netdev_budget": "600",
        "net.core.default_qdisc": "fq_codel",
        "net.ipv4.neigh.default.gc_thresh1": "1024",
        "net.ipv4.neigh.default.gc_thresh2": "4096",
        "net.ipv4.neigh.default.gc_thresh3": "8192",
        "net.ipv6.neigh.default.gc_thresh1": "1024",
        "net.ipv6.neigh.default.gc_thresh2": "4096",
        "net.ipv6.neigh.default.gc_thresh3": "8192",
    },
    "low-latency": {
        "net.core.netdev_max_backlog": "2000",
        "net.core.busy_read": "50",
        "net.core.busy_poll": "50",
        "net.core.default_qdisc": "fq_codel",
        "net.ipv4.tcp_notsent_lowat": "16384",
        "net.ipv4.tcp_slow_start_after_idle": "0",
    },
}

# A profile raises these and never lowers them: whoever set more had a reason.
_AT_LEAST = frozenset(
    {
        *_BUFFERS,
        "net.core.netdev_max_backlog",
        "net.core.netdev_budget",
        *(f"net.{ip}.neigh.default.gc_thresh{n}" for ip in ("ipv4", "ipv6") for n in (1, 2, 3)),
    }
)

_ACCEPT_RA = "net.ipv6.conf."

# No line end, no number sign or semicolon, no hyphen in front: nothing that sysctl.d(5) gives a meaning.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@-]*")
_VALUE = re.compile(r"[A-Za-z0-9._:+ -]+")


def canonical_name(name: str) -> str:
    """The dotted spelling: `net/ipv4/conf/eth0.100/rp_filter` -> `net.ipv4.conf.eth0/100.rp_filter`.

    sysctl(8): the first separator decides. Where it is a slash, dots belong to a name; where it is a dot,
    a slash stands for a dot within a name.
    """
    first = next((character for character in name if character in "./"), ".")
    parts = name.split("/") if first == "/" else [part.replace("/", ".") for part in name.split(".")]
    return ".".join(part.replace(".", "/") for part in parts)


def segments(name: str) -> tuple[str, ...]:
    """The folders and the file below /proc/sys that a canonical name stands for."""
    return tuple(part.replace("/", ".") for part in name.split("."))


def normalised(value: str) -> str:
    """A value without the tabs and line ends that the kernel prints."""
    return " ".join(value.split())


def render(stack: Stack, facts: Facts) -> dict[str, str]:
    """The part's tree, empty when the file asks for nothing.

    Raises ConfigError when one parameter is written in two spellings with two values.
    """
    wanted: dict[str, tuple[str, str]] = {}
    for name, value in PROFILES[stack.kernel.profile].items():
        wanted[name] = (value, PROFILE)
    for name, value, origin in _routing(stack, facts):
        wanted[name] = (value, origin)
    for name, value in _own(stack).items():
        wanted[name] = (value, OWN + name)
    links = _links(stack, facts)
    if not wanted and not links:
        return {}
    ordered = sorted(wanted, key=_write_order)
    return {
        f"{FOLDER}/sysctl.json": _json({name: wanted[name][0] for name in ordered}),
        f"{FOLDER}/origins.json": _json({name: wanted[name][1] for name in ordered}),
        f"{FOLDER}/links.json": _json(links),
        f"{FOLDER}/sysctl.conf": "".join(_setting(name, wanted[name][0]) for name in ordered),
    }


def targets(
    wanted: Mapping[str, str],
    origins: Mapping[str, str],
    live: Mapping[str, str | None],
    before: Mapping[str, str],
) -> dict[str, str]:
    """The values to have, given what is live and what was there before tsstack first touched it.

    `live` holds None for a parameter that this host does not have. A profile never lowers a size;
    accept_ra is raised only where the kernel accepts router advertisements at all (networkd and static
    hosts keep their 0). Parameters that stay as they are come with their live value.
    """
    result = {}
    for name, value in wanted.items():
        now = live.get(name)
        original = before.get(name, now)
        if original is None:
            result[name] = value
        elif origins.get(name) == PROFILE and name in _AT_LEAST:
            result[name] = _larger(value, original)
        elif is_router_advertisement(name) and not is_own(origins, name) and original == "0":
            result[name] = original
        else:
            result[name] = value
    return result


def is_own(origins: Mapping[str, str], name: str) -> bool:
    """Whether the user wrote this parameter, so that failing to set it is an error."""
    return origins.get(name, "").startswith(OWN)


def is_optional(origins: Mapping[str, str], name: str) -> bool:
    """Whether a host without this parameter is fine: a profile's value, or IPv6 on a host that has none."""
    return not is_own(origins, name) and (origins.get(name) == PROFILE or name.startswith("net.ipv6."))


def follows_forwarding(name: str, family: str) -> bool:
    """Whether the kernel sets `name` by itself when forwarding of `family` (ipv4, ipv6) is switched.

    It sets forwarding on every interface, and for IPv4 `all.accept_redirects` to the opposite
    (inet_forward_change() in net/ipv4/devinet.c, addrconf_forward_change() in net/ipv6/addrconf.c).
    """
    return name == "net.ipv4.conf.all.accept_redirects" == f"net.{family}.conf.all.accept_redirects" or (
        name.startswith(f"net.{family}.conf.") and name.endswith(".forwarding")
    )


def forwarded_families(names: Iterable[str]) -> frozenset[str]:
    """The families whose forwarding is among `names`."""
    return frozenset(name.split(".")[1] for name in names if name in {IP_FORWARD, IPV6_FORWARD})


def is_router_advertisement(name: str) -> bool:
    """Whether `name` is an interface's accept_ra."""
    return name.startswith(_ACCEPT_RA) and name.endswith(".accept_ra")


def _routing(stack: Stack, facts: Facts) -> Iterator[tuple[str, str, str]]:
    """What forwarding and exit nodes need: name, value, key path of the reason."""
    tailscale = stack.tailscale
    origin = ""
    if stack.routes_for_tailnet:
        origin = "tailscale.advertise"
    elif stack.firewall is not None and stack.firewall.enabled and stack.firewall.forward:
        origin = "firewall.forward"
    if origin:
        uplink = stack.host.uplink or facts.default_interface
        if uplink:
            # ip-sysctl: with forwarding on, 1 means "ignore"; the host would lose its IPv6 default route.
            yield f"{_ACCEPT_RA}{uplink.replace('.', '/')}.accept_ra", "2", origin
        yield IP_FORWARD, "1", origin
        yield IPV6_FORWARD, "1", origin
    if not origin and tailscale is not None and tailscale.exit_node is not None:
        origin = "tailscale.exit_node"
    if origin:
        # Loose mode. ip-sysctl: the larger of `all` and the interface's own counts, so `all` is enough.
        yield RP_FILTER, "2", origin


def _own(stack: Stack) -> dict[str, str]:
    own: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for name, value in stack.kernel.sysctl.items():
        canonical, text = canonical_name(name), normalised(str(value))
        if own.get(canonical, text) != text:
            raise ConfigError(
                f"{OWN}{name}: the same parameter is also written as {spelled[canonical]} with another value",
                hint="keep one of the two",
            )
        own[canonical], spelled[canonical] = text, name
    return own


def _links(stack: Stack, facts: Facts) -> dict[str, dict[str, object]]:
    from tsstack.model.bucket import default_burst_bytes

    links: dict[str, dict[str, object]] = {}
    for interface, limit in stack.bandwidth.items():
        entry = links.setdefault(interface, {})
        for direction, rate_bps in (("egress", limit.egress), ("ingress", limit.ingress)):
            if rate_bps is not None:
                entry[direction] = {
                    "rate_bps": rate_bps,
                    "burst_bytes": limit.burst or default_burst_bytes(rate_bps),
                    "latency_s": limit.latency_s,
                    **({} if limit.burst else {"burst_is_default": True}),
                }
    uplink = stack.host.uplink or facts.default_interface
    wish = stack.kernel.udp_gro
    if uplink and (wish is True or (wish is None and stack.routes_for_tailnet)):
        links.setdefault(uplink, {})["udp_gro"] = "required" if wish else "if possible"
    return links


def _write_order(name: str) -> tuple[int, str]:
    # accept_ra before forwarding: switching forwarding on purges the routes learnt by RA unless it is 2.
    # ip_forward early: it resets the per-interface parameters (ip-sysctl), which own keys may set.
    if is_router_advertisement(name):
        return 0, name
    if name in {IP_FORWARD, IPV6_FORWARD}:
        return 1, name
    # `default` before single interfaces and `all` last among conf: an interface's own key wins.
    return 2, name


def _setting(name: str, value: str) -> str:
    """A line of sysctl.d(5), whatever the model let through.

    Raises ValueError for what would be read otherwise: a comment, an excluded key (`-`), a second line.
    """
    if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
        raise ValueError(f"not a kernel parameter: {name!r} = {value!r}")
    return f"{name} = {value}\n"


def _larger(value: str, original: str) -> str:
    try:
        pairs = zip(map(int, value.split()), map(int, original.split()), strict=True)
        return " ".join(str(max(pair)) for pair in pairs)
    except ValueError:
        return value


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
