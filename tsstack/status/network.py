"""The interfaces that lead out, whether their link is up, and which address the kernel sends from.

Rules may send packets by other tables than main, so that none is there proves nothing: see `judge`.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsstack.status.shape import Uplink

# RFC 5737's documentation network: no host's own, so what is routed there goes where the internet is.
_ANYWHERE = ("192.0.2.1", 9)
# Columns of /proc/net/route and /proc/net/ipv6_route, and RTF_UP and RTF_REJECT of linux/route.h.
_UP, _REJECT = 0x1, 0x200
_INNER = frozenset({"lo", "tailscale0"})
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


def _ipv4(path: str) -> Iterator[str]:
    with open(path) as file:  # noqa: PTH123
        for line in file.readlines()[1:]:
            name, destination, _, flags, _, _, _, mask, *_ = line.split()
            if destination == mask == "00000000" and int(flags, 16) & (_UP | _REJECT) == _UP:
                yield name


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
