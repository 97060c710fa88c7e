"""Knocks at ports that nobody may reach, without a pause; what answers is a host without its firewall.

vm_flood.py ADDRESS[,ADDRESS] COUNTS     runs until it is ended; COUNTS is a file of JSON

TCP to a port with a listener, and UDP to one without: an unprotected host greets, resets or sends a port
unreachable, and each of these is counted. `first_s` is when the first answer came, in CLOCK_BOOTTIME.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import sys
import time
from pathlib import Path

TCP_PORT, UDP_PORT = 2223, 4444
_PACE_S = 0.03
_PATIENCE_S = 1.0


def main(addresses: list[str], counts: Path) -> None:
    """Knock until the end of the world or a signal."""
    seen = {"sent": 0, "answered": 0, "first_s": 0.0, "how": ""}
    pending: dict[int, tuple[socket.socket, float, str]] = {}
    datagrams = {address: _udp(address) for address in addresses}
    poll = select.poll()
    written_s = 0.0

    def answered(how: str) -> None:
        seen["answered"] += 1  # type: ignore[operator]
        if seen["answered"] == 1:
            seen["first_s"], seen["how"] = time.clock_gettime(time.CLOCK_BOOTTIME), how

    while True:
        now_s = time.monotonic()
        for address in addresses:
            seen["sent"] += 2  # type: ignore[operator]
            try:
                datagrams[address].send(b"knock")
            except ConnectionRefusedError:
                answered(f"UDP {address}: port unreachable")
            except OSError:
                datagrams[address].close()
                datagrams[address] = _udp(address)
            stream = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if stream.connect_ex((address, TCP_PORT)) == errno.EINPROGRESS:
                pending[stream.fileno()] = (stream, now_s, address)
                poll.register(stream, select.POLLOUT)
            else:
                stream.close()
        for descriptor, _ in poll.poll(0):
            stream, _, address = pending.pop(descriptor)
            poll.unregister(descriptor)
            error = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error in {0, errno.ECONNREFUSED}:
                answered(f"TCP {address}: {'accepted' if not error else 'refused'}")
            stream.close()
        for descriptor, (stream, began_s, _) in list(pending.items()):
            if now_s - began_s > _PATIENCE_S:
                poll.unregister(descriptor)
                stream.close()
                del pending[descriptor]
        if now_s - written_s > 0.1:
            staged = counts.with_suffix(".new")
            staged.write_text(json.dumps(seen))
            staged.rename(counts)
            written_s = now_s
        time.sleep(_PACE_S)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _udp(address: str) -> socket.socket:
    made = socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with contextlib.suppress(OSError):
        made.connect((address, UDP_PORT))
    return made


if __name__ == "__main__":
    os.nice(5)
    main(sys.argv[1].split(","), Path(sys.argv[2]))
