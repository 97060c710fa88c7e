"""nginx reloaded again and again under load, by `tsstack switch`: what new and long requests saw.

As a program it is the load inside the private host: churn_web.py PORT...   runs until its stdin closes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_FILE = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  names: path
  listen: [127.0.0.1, "::1"]
  http_port: 8088
  services:
    web: {upstream: 18000, read_timeout: TIMEOUT}
    db: {upstream: 18000, protocol: tcp, port: 15433, read_timeout: TIMEOUT}
"""
_LONG_S = 3.0
_PIECES = 15


class Broken(Exception):
    """The run could not be made; its words are in the message."""


def reload_under_load(reloads: int) -> dict[str, Any]:
    """`reloads` switches, each of which reloads nginx, while clients ask. Raises Broken."""
    sys.path.insert(0, str(CHECKOUT / "tests" / "fakes"))
    from private_host import PrivateHost

    host = PrivateHost()
    try:
        host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
        host.write("/etc/tsstack/tsstack.yaml", _FILE.replace("TIMEOUT", "60s"))
        host.tsstack("switch")
        load = host.popen(sys.executable, __file__, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        time.sleep(1.0)
        reloaded = 0
        started_s = time.monotonic()
        for number in range(reloads):
            before = _workers(host)
            host.write("/etc/tsstack/tsstack.yaml", _FILE.replace("TIMEOUT", f"{61 + number}s"))
            host.tsstack("switch")
            reloaded += bool(_workers(host) - before)
        duration_s = time.monotonic() - started_s
        said, _ = load.communicate(timeout=60)
        if load.returncode != 0:
            raise Broken(f"the load ended with {load.returncode}")
        return {"reloads": reloaded, "duration_s": round(duration_s, 1), **json.loads(said)}
    finally:
        host.close()


def _workers(host: Any) -> set[str]:
    """The master's children: a reload brings new ones, the old ones end when their clients are served."""
    master = host.path("/run/nginx.pid").read_text().strip()
    return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())


class Upstream(threading.Thread):
    """Answers /web/ at once and /long in pieces; echoes nothing else."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 18000), backlog=512)

    def run(self) -> None:
        while True:
            link, _ = self.server.accept()
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link:
            stream = link.makefile("rb")
            while line := stream.readline():
                while stream.readline() not in {b"\r\n", b""}:
                    pass
                pieces = _PIECES if b"long" in line else 1
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (8 * pieces))
                for piece in range(pieces):
                    if piece:
                        time.sleep(_LONG_S / pieces)
                    link.sendall(b"abcdefg\n")


def ask(address: tuple[str, int], path: str) -> str:
    """One new connection: `ok`, or what went wrong."""
    try:
        with socket.create_connection(address, timeout=20) as link:
            link.sendall(f"GET {path} HTTP/1.1\r\nHost: one.tail.test\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while b"\r\n\r\n" not in said or len(said.partition(b"\r\n\r\n")[2]) < _length(said):
                data = link.recv(65536)
                if not data:
                    break
                said += data
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    head, _, body = said.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return f"answered {head.partition(bytes([13]))[0].decode(errors='replace') or 'nothing'}"
    return "ok" if len(body) == _length(said) else f"cut after {len(body)} bytes"


def _length(said: bytes) -> int:
    _, found, rest = said.lower().partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else 1


def main() -> int:
    """Be the load until stdin closes; print the counts."""
    Upstream().start()
    counts: dict[str, Counter[str]] = {"new": Counter(), "stream": Counter(), "long": Counter()}
    stop = threading.Event()

    def keep_asking(kind: str, address: tuple[str, int], path: str) -> None:
        while not stop.is_set():
            counts[kind][ask(address, path)] += 1

    work = [("new", ("127.0.0.1", 8088), "/web/"), ("new", ("::1", 8088), "/web/")] * 2
    work += [("stream", ("127.0.0.1", 15433), "/")] + [("long", ("127.0.0.1", 8088), "/web/long")] * 6
    clients = [threading.Thread(target=keep_asking, args=each) for each in work]
    for client in clients:
        client.start()
    sys.stdin.read()
    stop.set()
    for client in clients:
        client.join(30)
    json.dump({kind: dict(found) for kind, found in counts.items()}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
