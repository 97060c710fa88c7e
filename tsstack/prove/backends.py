"""Stand-ins for what stands behind nginx in the throwaway world: the upstreams and the identity daemon.

Every endpoint of the configuration gets a loopback address of its own, all on one listening socket, so that
it is seen which of them a request comes to. They run in threads of the process that asks.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WAIT_S = 5.0
_TLS_HELLO = 0x16  # RFC 8446 section 5.1: the content type of a handshake
_MOST_REQUEST = 65536


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that came to an upstream: to which endpoint, the path, and its headers in lower case."""

    endpoint: str
    path: str
    headers: dict[str, str]


def stand_in_address(number: int) -> str:
    """The address of endpoint `number`, in a part of 127.0.0.0/8 that nobody uses."""
    return f"127.77.{number >> 8 & 0xFF}.{number & 0xFF}"


class Backends:
    """All stand-ins of one world. `hits` holds what has come since it was cleared."""

    def __init__(self, endpoints: list[str], port: int, identity: Path) -> None:
        self.hits: list[Hit] = []
        self.user = ""
        self._endpoints = endpoints
        upstreams = socket.socket()
        upstreams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        upstreams.bind(("0.0.0.0", port))  # noqa: S104  in a network of its own
        identities = socket.socket(socket.AF_UNIX)
        identities.bind(str(identity))
        for listening, serve in ((upstreams, self._answer), (identities, self._identify)):
            listening.listen(512)
            threading.Thread(target=_serve, args=(listening, serve), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        address = connection.getsockname()[0].split(".")
        endpoint = self._endpoints[int(address[2]) << 8 | int(address[3])]
        request = _read_request(connection)
        if not request or request[0] == _TLS_HELLO:
            self.hits.append(Hit(endpoint, "", {}))
            return
        first, _, rest = request.decode("latin-1").partition("\r\n")
        words = first.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in rest.split("\r\n") if ": " in line)
        self.hits.append(Hit(endpoint, words[1] if len(words) > 1 else "", headers))
        body = b"an upstream of the proof\n"
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    def _identify(self, connection: socket.socket) -> None:
        """Whoever is asked about, the answer is that it is `user`; no for everybody without one."""
        _read_request(connection)
        words = f"200 OK\r\nX-Tailscale-User: {self.user}" if self.user else "403 Forbidden"
        connection.sendall(f"HTTP/1.1 {words}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())


def _serve(listening: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listening.accept()
        # A client that goes away is none of the proof's concern: the one that asks sees what it gets.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_WAIT_S)
            answer(connection)


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _MOST_REQUEST:
        data = connection.recv(_MOST_REQUEST)
        if not data or data[0] == _TLS_HELLO:
            return received or data
        received += data
    return received
