"""A small upstream: answers each request with its name and the headers it got, as JSON.

    upstream.py NAME tcp:ADDRESS:PORT | unix:PATH [--tls PEM] [--echo]

`--echo` sends raw bytes back. A websocket upgrade is answered with 101 and then echoed. `/slow` is answered
after ten seconds.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time

name, where = sys.argv[1], sys.argv[2]
if where.startswith("unix:"):
    path = where[5:]
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o666)  # noqa: PTH101, S103
    server.listen(64)
else:
    _, address, port = where.split(":")
    server = socket.create_server((address, int(port)), backlog=256)
context = None
if "--tls" in sys.argv:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[sys.argv.index("--tls") + 1])
connections = 0


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def serve(connection):
    if context:
        connection = context.wrap_socket(connection, server_side=True)
    if "--echo" in sys.argv:
        echo(connection)
        return
    buffer = b""
    while True:
        while b"\r\n\r\n" not in buffer:
            data = connection.recv(65536)
            if not data:
                return
            buffer += data
        head, _, buffer = buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            key, _, value = line.partition(":")
            headers[key.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        while len(buffer) < length:
            buffer += connection.recv(65536)
        buffer = buffer[length:]
        if " /slow" in lines[0]:
            time.sleep(10)
        if headers.get("upgrade") == "websocket":
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            echo(connection)
            return
        body = json.dumps(
            {
                "name": name,
                "request": lines[0],
                "headers": headers,
                "connections": connections,
                "length": length,
            }
        ).encode()
        extra = b"Location: /login\r\nSet-Cookie: a=b; Path=/\r\n" if "/redirect" in lines[0] else b""
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
            % (extra, len(body), body)
        )


def guarded(connection):
    try:
        serve(connection)
    except OSError:
        pass
    finally:
        connection.close()


sys.stdout.write("ready\n")
sys.stdout.flush()
while True:
    accepted, _ = server.accept()
    connections += 1
    threading.Thread(target=guarded, args=(accepted,), daemon=True).start()
