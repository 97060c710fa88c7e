"""HTTP/1.0 over a unix socket, and one line to a unix socket: the least that asking a local daemon takes.

The daemon then answers without chunks and closes, so a reply is a head, an empty line and everything up to
the end (RFC 1945 section 7.2.2). `http.client` alone costs more than a whole `ts-status` may take, and even
the `socket` module a good part of it: what it adds to `_socket` is not needed here.
"""

from __future__ import annotations

import _socket
import time

_CHUNK_BYTES = 1 << 16
_MOST_BYTES = 64 << 20
"""Of an answer: ten thousand peers are some 20 MB."""


class Garbled(Exception):
    """What answers there does not speak HTTP, or its answer was cut off; the message says which."""


def exchange(path: str | tuple[str, int], data: bytes, *, timeout_s: float, until: bytes = b"") -> bytes:
    """Send `data` to a unix socket, or to an IPv4 address and port, and return all that comes back, up to the
    end or to the first `until`.

    Raises OSError (FileNotFoundError, ConnectionRefusedError, PermissionError) and TimeoutError, which is
    also for who never ends to answer.
    """
    deadline = time.monotonic() + timeout_s
    family = _socket.AF_UNIX if isinstance(path, str) else _socket.AF_INET
    link = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        link.settimeout(timeout_s)
        link.connect(path)
        link.sendall(data)
        received = bytearray()
        while chunk := link.recv(_CHUNK_BYTES):
            received += chunk
            if until and until in chunk:
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0 or len(received) > _MOST_BYTES:
                raise TimeoutError("its answer has no end")
            link.settimeout(left_s)
        return bytes(received)
    finally:
        link.close()


def request(
    method: str, target: str, host: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """The bytes of one request."""
    lines = [f"{method} {target} HTTP/1.0", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def parse_reply(received: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by their names in small letters, and body. Raises Garbled."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        raise Garbled("it does not speak HTTP")
    status, headers = parse_head(head)
    length = headers.get("content-length")
    if length is not None and length.isdigit() and int(length) != len(body):
        raise Garbled("its answer is cut off")
    return status, headers, body


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers by their names in small letters. Raises Garbled."""
    first, *rest = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise Garbled("it does not speak HTTP")
    pairs = (line.partition(":") for line in rest)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
