"""The interfaces that lead out, whether their link is up, and which address the kernel sends from.

Rules may send packets by other tables than main, so that none is there proves nothing: see `judge`.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tsstack.status.shape import Uplink

    Ipv4Route = tuple[str, int, int, int, bool]
    """Interface, destination, mask, metric, and whether it leads anywhere."""

# RFC 5737's documentation network: no host's own, so what is routed there goes where the internet is.
_ANYWHERE = ("192.0.2.1", 9)
# Columns of /proc/net/route and /proc/net/ipv6_route, and RTF_UP and RTF_REJECT of linux/route.h.
_UP, _REJECT = 0x1, 0x200
_TUNNEL = "tailscale0"
_INNER = frozenset({"lo", _TUNNEL})
_NO_LINK = frozenset(
    {"down", "lowerlayerdown", "notpresent"}
)  # RFC 2863's words, ABI/testing/sysfs-class-net


def leaving_address() -> str:
    """The address that the kernel would send to the internet from, by all its rules; empty: no way out.

    Connecting a datagram socket looks the route up and sends nothing (udp(7)).
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(_ANYWHERE)
            return str(asking.getsockname()[0])
    except OSError:
        return ""


def read_uplinks(proc: str = "/proc/self/net", sysfs: str = "/sys/class/net") -> list[Uplink] | None:
    """Those of the default routes, tailscaled's own left out; None where the kernel tells no routes.

    IPv4: of table main, and of several next hops the first; IPv6: of every table.
    """
    try:
        names = dict.fromkeys((*_ipv4(f"{proc}/route"), *_ipv6(f"{proc}/ipv6_route")))
    except (OSError, ValueError):
        return None
    return [
        {"interface": name, "up": _is_up(f"{sysfs}/{name}/operstate")} for name in names if name not in _INNER
    ]


def read_forwarding_off(
    networks: Sequence[str], *, proc: str = "/proc/self/net", conf: str = "/proc/sys/net/ipv4/conf"
) -> list[str]:
    """Those of the interfaces that these offered IPv4 networks need, tailscale0 first, which forward nothing.

    A packet is passed on by the word of the interface that it comes in by (net/ipv4/route.c: IN_DEV_FORWARD),
    so of two the answers need the other. IPv6 asks `conf.all.forwarding` and no interface
    (net/ipv6/ip6_output.c: ip6_forward). Nothing where all are off, which is one switch, and where tailscaled
    has no interface here: then it passes packets on itself.
    """
    try:
        if (
            not networks
            or _is_off(f"{conf}/all/forwarding")
            or _is_off(f"{conf}/{_TUNNEL}/forwarding") is None
        ):
            return []
        routes = [*_ipv4_routes(f"{proc}/route")]
    except (OSError, ValueError):
        return []
    names = dict.fromkeys((_TUNNEL, *(name for each in networks for name in leading_out(each, routes))))
    return [name for name in names if _is_off(f"{conf}/{name}/forwarding")]


def leading_out(network: str, routes: Sequence[Ipv4Route]) -> list[str]:
    """The interfaces that lead to an IPv4 network: by the routes into it, and the narrowest one around it."""
    address, _, bits = network.partition("/")
    mask = (0xFFFFFFFF << 32 - int(bits or 32)) & 0xFFFFFFFF
    wanted = int.from_bytes(socket.inet_aton(address), "big") & mask
    own = [each for each in routes if each[0] not in _INNER]
    inside = [
        name for name, to, its, _, leads in own if mask and leads and its > mask and to & mask == wanted
    ]
    around = [
        each for each in own if each[2] <= mask and wanted & each[2] == each[1] and (each[2] or not inside)
    ]
    around.sort(key=lambda each: (-each[2], each[3]))
    return [*dict.fromkeys((*(each[0] for each in around[:1] if each[4]), *inside))]


def _ipv4(path: str) -> Iterator[str]:
    for name, to, mask, _, leads in _ipv4_routes(path):
        if to == mask == 0 and leads:
            yield name


def _ipv4_routes(path: str) -> Iterator[Ipv4Route]:
    with open(path) as file:  # noqa: PTH123
        for line in file.readlines()[1:]:
            name, to, _, flags, _, _, metric, mask, *_ = line.split()
            leads = int(flags, 16) & (_UP | _REJECT) == _UP
            yield name, _host_order(to), _host_order(mask), int(metric), leads


def _host_order(written: str) -> int:
    """/proc/net/route has addresses as they lie in memory."""
    return socket.ntohl(int(written, 16))


def _is_off(path: str) -> bool | None:
    """Whether a parameter is 0; None where there is none, or it may not be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(16).strip() == b"0"
    except OSError:
        return None


def _ipv6(path: str) -> Iterator[str]:
    try:
        with open(path) as file:  # noqa: PTH123
            lines = file.readlines()
    except FileNotFoundError:  # switched off with ipv6.disable=1
        return
    for line in lines:
        destination, length, *_, flags, name = line.split()
        if destination == "0" * 32 and length == "00" and int(flags, 16) & (_UP | _REJECT) == _UP:
            yield name


def _is_up(path: str) -> bool | None:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().strip() not in _NO_LINK
    except OSError:
        return None
