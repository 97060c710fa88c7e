"""Whose an interface is: a port of a bridge, a bond, a team; or a device of tsstack itself.

What such a port receives goes up the stack as its master's: the inet hooks of nftables never see the port
(net/core/dev.c: rx_handler; net/bridge/br_input.c). A VRF is a master of another kind, and is told apart:
what comes in by its members is seen as the VRF's, but what is sent on leaves by the member
(kernel.org, networking/vrf).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from pathlib import Path

_SIOCETHTOOL = 0x8946
_GET_DRIVER_INFO = 0x00000003
_DRIVER_INFO_BYTES = 196


OWN_DEVICE = "tsin-"
"""How tsstack's own devices begin, which limit what comes in; eight hexadecimal digits follow."""


def is_own_device(name: str) -> bool:
    """Whether tsstack made the interface; it is none of the host's then."""
    digits = name.removeprefix(OWN_DEVICE)
    return len(name) == len(OWN_DEVICE) + 8 and len(digits) == 8 and not digits.strip("0123456789abcdef")


def read_ports(folder: Path = Path("/sys/class/net")) -> tuple[tuple[str, str], ...]:
    """(port, master) for every port of a bridge, bond or team, by port. Members of a VRF are left out."""
    return tuple(pair for pair in _enslaved(folder) if not _is_vrf(pair[1]))


def read_vrf_members(folder: Path = Path("/sys/class/net")) -> tuple[tuple[str, str], ...]:
    """(interface, VRF) for every member of a VRF, by interface."""
    return tuple(pair for pair in _enslaved(folder) if _is_vrf(pair[1]))


def _enslaved(folder: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted(folder.glob("*/master")):
        try:
            found.append((path.parent.name, path.readlink().name))
        except FileNotFoundError:  # it went while we looked
            continue
    return found


def _is_vrf(master: str) -> bool:
    """By the name of its driver, as `ethtool -i` shows it; a master that says none is no VRF."""
    answer = array.array("B", struct.pack("I", _GET_DRIVER_INFO) + bytes(_DRIVER_INFO_BYTES - 4))
    address, _ = answer.buffer_info()
    request = struct.pack("16sP16x", master.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        try:
            fcntl.ioctl(asker, _SIOCETHTOOL, request)
        except OSError:
            return False
    return answer.tobytes()[4:36].split(b"\0")[0] == b"vrf"
