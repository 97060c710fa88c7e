"""The small servers that nodes run: backends that name themselves, and mirrors of the client's address."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tsstack.lab.topology import WORLD_ADDRESS, WORLD_ADDRESS6, Server

_CHUNK_BYTES = 1 << 16


def plain_address(address: str) -> str:
    """`::ffff:192.0.2.1` as 192.0.2.1 (RFC 4291 section 2.5.5.2), anything else as it is."""
    return address.removeprefix("::ffff:") if "." in address else address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lab"
    sys_version = ""
    description: Server
    node: str

    def _answer(self) -> None:
        self._swallow_body()
        client = plain_address(self.client_address[0])
        if self.description.kind == "source":
            body, kind = f"{client}\n".encode(), "text/plain"
        else:
            answer = {
                "backend": self.description.name,
                "node": self.node,
                "method": self.command,
                "path": self.path,
                "client": client,
                "headers": dict(self.headers.items()),
            }
            body, kind = json.dumps(answer).encode() + b"\n", "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _swallow_body(self) -> None:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (data := self.rfile.read(min(left, _CHUNK_BYTES))):
            left -= len(data)

    # The names that http.server looks up for each method.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the holder's log is for what goes wrong."""


class _TcpHandler(socketserver.BaseRequestHandler):
    description: Server
    node: str

    def handle(self) -> None:
        client = plain_address(self.client_address[0])
        if self.description.kind == "source-tcp":
            self.request.sendall(f"{client}\n".encode())
            return
        self.request.sendall(f"{self.description.name} at {self.node}: {client}\n".encode())
        while data := self.request.recv(_CHUNK_BYTES):
            self.request.sendall(data)


class _DnsHandler(socketserver.BaseRequestHandler):
    """Answers A and AAAA for one name, and that any other does not exist (RFC 1035 section 4)."""

    description: Server
    node: str

    def handle(self) -> None:
        query, channel = self.request
        answer = dns_answer(query, self.description.name, (WORLD_ADDRESS, WORLD_ADDRESS6))
        if answer:
            channel.sendto(answer, self.client_address)


def dns_answer(query: bytes, name: str, addresses: tuple[str, str]) -> bytes:
    """The answer to one DNS query in wire format: `addresses` (v4, v6) for `name`, NXDOMAIN for others.

    Empty for what is no query with a whole question.
    """
    labels, position = [], 12
    while position < len(query) and (length := query[position]):
        labels.append(query[position + 1 : position + 1 + length].decode("latin-1"))
        position += 1 + length
    question = query[12 : position + 5]
    if len(query) < 17 or len(question) != position - 7 or query[2] & 0x80:
        return b""
    known = ".".join(labels).lower() == name
    kind = int.from_bytes(question[-4:-2])
    records = b""
    if known and kind in {1, 28}:  # A, AAAA
        family, text = (socket.AF_INET, addresses[0]) if kind == 1 else (socket.AF_INET6, addresses[1])
        data = socket.inet_pton(family, text)
        # A pointer to the question's name, class IN, a TTL of 5 s.
        records = struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(data)) + data
    # Response, authoritative, recursion desired as asked and available.
    flags = 0x8480 | (query[2] & 1) << 8 | (0 if known else 3)
    return query[:2] + struct.pack("!HHHHH", flags, 1, bool(records), 0, 0) + question + records


class _Udp(socketserver.ThreadingUDPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # http.server would look its own name up in the DNS, which a node may not have yet.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "lab", self.server_address[1]


_KINDS: dict[str, tuple[type[socketserver.BaseRequestHandler], type[socketserver.BaseServer]]] = {
    "backend": (_Handler, _Http),
    "source": (_Handler, _Http),
    "tcp": (_TcpHandler, _Tcp),
    "source-tcp": (_TcpHandler, _Tcp),
    "dns": (_DnsHandler, _Udp),
}


def serve(server: Server, node: str) -> None:
    """Bind `server` and answer from a thread of its own for as long as the process lives.

    Raises OSError when the address cannot be bound. `::` takes IPv4 as well.
    """
    handler_kind, listener_kind = _KINDS[server.kind]
    handler = type("Handler", (handler_kind,), {"description": server, "node": node})
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    kind = type("Listener", (listener_kind,), {"address_family": family})
    listener = kind((server.address, server.port), handler)
    threading.Thread(target=listener.serve_forever, daemon=True, name=server.name).start()
