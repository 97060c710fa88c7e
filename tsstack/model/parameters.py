"""Kernel parameters of the file, as the kernel reads them: some decide about packets, as rules do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsstack.model.stack import Stack

FORWARDING: Mapping[str, int] = {
    "net.ipv4.ip_forward": 4,
    "net.ipv4.conf.all.forwarding": 4,
    "net.ipv6.conf.all.forwarding": 6,
}
"""The family that each switches. The first two are one parameter."""
ECHO_IGNORED: Mapping[str, int] = {
    "net.ipv4.icmp_echo_ignore_all": 4,
    "net.ipv6.icmp.echo_ignore_all": 6,
}


def dotted(name: str) -> str:
    """A kernel parameter in sysctl(8)'s dotted spelling; in the other, dots are part of a name."""
    first = next((char for char in name if char in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def is_zero(value: object) -> bool:
    """Whether the kernel takes it for 0. It reads by strtol's base 0: "0", "00", "0x0" and "-0" are zero."""
    return not str(value).strip().strip("+-0xX")


def forwarding_off(stack: Stack) -> dict[int, str]:
    """The families that the file has the kernel not forward, and the parameter as it is written."""
    return {family: name for family, name, value in _written(stack, FORWARDING) if is_zero(value)}


def forwarded_nowhere(stack: Stack) -> dict[int, str]:
    """The same, less IPv4 where an interface's own key is on: that decides what comes in there (ip-sysctl).

    IPv6 asks `all` whatever the interfaces say.
    """
    off = forwarding_off(stack)
    for name, value in stack.kernel.sysctl.items():
        match dotted(name).split("."):
            case ["net", "ipv4", "conf", "all", "forwarding"]:
                pass
            case ["net", "ipv4", "conf", _, "forwarding"] if not is_zero(value):
                off.pop(4, None)
    return off


def echo_ignored(stack: Stack) -> dict[int, str]:
    """The families whose echo requests the file has the kernel not answer, and the parameter as written."""
    return {family: name for family, name, value in _written(stack, ECHO_IGNORED) if not is_zero(value)}


def _written(stack: Stack, families: Mapping[str, int]) -> Iterator[tuple[int, str, object]]:
    for name, value in stack.kernel.sysctl.items():
        if (family := families.get(dotted(name))) is not None:
            yield family, name, value
