"""What the kernel and its interfaces do for throughput: offloads, MTUs, kinds. Reads only, as any user.

Offloads are asked of the kernel by ioctl(2): linux/ethtool.h, ETHTOOL_GSTRINGS and ETHTOOL_GFEATURES need
no rights and no ethtool(8).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from pathlib import Path

SHOWN = (
    "rx-gro",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-udp-segmentation",
)
"""The features that bear on a tunnel's throughput, by the kernel's names (net/ethtool/common.c)."""

_SIOCETHTOOL = 0x8946
_GSSET_INFO, _GSTRINGS, _GFEATURES = 0x37, 0x1B, 0x3A
_SS_FEATURES = 4
_NAME_BYTES = 32
_CLASS = Path("/sys/class/net")


def features(interface: str) -> dict[str, bool]:
    """Those of SHOWN that the kernel knows, and whether each is on; empty when there is no such interface."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
            names = _names(asker, interface)
            active = _active(asker, interface, len(names))
    except OSError:  # ENODEV, or EOPNOTSUPP of a driver without features
        return {}
    known = {name: active[index] for index, name in enumerate(names) if name in SHOWN}
    return {name: known[name] for name in SHOWN if name in known}


def _names(asker: socket.socket, interface: str) -> list[str]:
    info = bytearray(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0))
    answer = _ask(asker, interface, info)
    count = struct.unpack_from("=I", answer, 16)[0] if struct.unpack_from("=Q", answer, 8)[0] else 0
    answer = _ask(
        asker,
        interface,
        bytearray(struct.pack("=III", _GSTRINGS, _SS_FEATURES, count) + bytes(count * _NAME_BYTES)),
    )
    found = (answer[12 + _NAME_BYTES * index :][:_NAME_BYTES] for index in range(count))
    return [name.partition(b"\0")[0].decode("ascii", "replace") for name in found]


def _active(asker: socket.socket, interface: str, count: int) -> list[bool]:
    blocks = (count + 31) // 32
    # Each block holds what is available, requested, active and never changed, 32 features in each.
    answer = _ask(asker, interface, bytearray(struct.pack("=II", _GFEATURES, blocks) + bytes(16 * blocks)))
    words = [struct.unpack_from("=IIII", answer, 8 + 16 * block)[2] for block in range(blocks)]
    return [bool(words[index // 32] >> index % 32 & 1) for index in range(count)]


def _ask(asker: socket.socket, interface: str, request: bytearray) -> bytes:
    """One SIOCETHTOOL (netdevice(7)): the kernel answers into the request's own memory."""
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("16sP16x", os.fsencode(interface)[:15], address))
    return buffer.tobytes()


def mtu(interface: str) -> int:
    """The interface's MTU; 0 when there is no such interface."""
    try:
        return int((_CLASS / interface / "mtu").read_text())
    except (OSError, ValueError):
        return 0


def link_kinds() -> tuple[str, ...]:
    """The kinds of the host's interfaces as their drivers name them (`DEVTYPE`), each once."""
    found = set()
    for uevent in _CLASS.glob("*/uevent"):
        try:
            lines = uevent.read_text().splitlines()
        except OSError:  # it went meanwhile
            continue
        found |= {line.partition("=")[2] for line in lines if line.startswith("DEVTYPE=")}
    return tuple(sorted(found))


def networks() -> tuple[tuple[str, str], ...]:
    """This host's networks as (interface, `192.168.1.2/24`), loopback's left out."""
    import ipaddress

    import psutil

    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if name == "lo" or address.family not in {socket.AF_INET, socket.AF_INET6} or not address.netmask:
                continue
            length = int(ipaddress.ip_address(address.netmask)).bit_count()
            found.append((name, f"{address.address.partition('%')[0]}/{length}"))
    return tuple(found)


def source_for(address: str) -> str:
    """The local address that packets to `address` would leave with; empty without a route. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        try:
            asker.connect((address, 9))
        except OSError:
            return ""
        return str(asker.getsockname()[0])
