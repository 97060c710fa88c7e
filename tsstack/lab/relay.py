"""A tun device that gives every packet back after a fixed time. Runs in world: DEVICE DELAY_MS.

All packets wait equally long, so a queue in the order of arrival is enough.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

from tsstack.system import command

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_MTU_BYTES = 1500
_QUEUE_PACKETS = 20_000


def main(device: str, delay_ms: int) -> None:
    """Make the device, bring it up, and carry packets until killed."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    # Packets of world itself come back with one of its own addresses as their source.
    Path(f"/proc/sys/net/ipv4/conf/{device}/accept_local").write_text("1")
    Path(f"/proc/sys/net/ipv4/conf/{device}/rp_filter").write_text("0")
    command.run(["ip", "link", "set", device, "mtu", str(_MTU_BYTES), "txqueuelen", "10000", "up"])
    relay(tun, delay_ms / 1000)


def relay(tun: int, delay_s: float) -> None:
    """Read packets from `tun` and write each back `delay_s` later; what does not fit the queue is lost."""
    waiting: deque[tuple[float, bytes]] = deque()
    poller = select.poll()
    poller.register(tun, select.POLLIN)
    while True:
        timeout_ms = max((waiting[0][0] - time.monotonic()) * 1000, 0) if waiting else None
        if poller.poll(timeout_ms):
            while (packet := _read(tun)) is not None:
                if len(waiting) < _QUEUE_PACKETS:
                    waiting.append((time.monotonic() + delay_s, packet))
                if waiting[0][0] <= time.monotonic():
                    break
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tun, waiting.popleft()[1])


def _read(tun: int) -> bytes | None:
    try:
        return os.read(tun, 65_536)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
