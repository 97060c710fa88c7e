"""The small servers that nodes run: backends that name themselves, and mirrors of the client's address."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tsstack.lab.topology import Server

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


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # http.server would look its own name up in the DNS, which a node may not have yet.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "lab", self.server_address[1]


def serve(server: Server, node: str) -> None:
    """Bind `server` and answer from a thread of its own for as long as the process lives.

    Raises OSError when the address cannot be bound. `::` takes IPv4 as well.
    """
    http = server.kind in {"backend", "source"}
    handler = type("Handler", (_Handler if http else _TcpHandler,), {"description": server, "node": node})
    kind = type(
        "Listener",
        (_Http if http else _Tcp,),
        {"address_family": socket.AF_INET6 if ":" in server.address else socket.AF_INET},
    )
    listener = kind((server.address, server.port), handler)
    threading.Thread(target=listener.serve_forever, daemon=True, name=server.name).start()
