"""A client behind a PROXY header (version 2), as tailscaled sends it for its services.

claiming_client.py URL [--claim ADDRESS:PORT] [--as UID] [--to ADDRESS]

Connects to 127.0.0.1 unless told otherwise; prints a JSON object with `status`, `body` and, when the
connection ended without an answer, `closed`.
"""

from __future__ import annotations

import argparse
import encodings.idna  # noqa: F401  (not found any more once we are an ordinary user)
import ipaddress
import json
import os
import socket
import ssl
import struct
import sys
import urllib.parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def header(claim):
    host, _, port = claim.rpartition(":")
    source = ipaddress.ip_address(host.strip("[]"))
    own = ipaddress.ip_address("100.64.0.1" if source.version == 4 else "fd7a:115c:a1e0::1")
    body = source.packed + own.packed + struct.pack("!HH", int(port), 443)
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11 if source.version == 4 else 0x21, len(body)) + body


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--claim")
    parser.add_argument("--to", default="127.0.0.1")
    parser.add_argument("--as", dest="uid", type=int, default=0)
    words = parser.parse_args()
    if words.uid:
        os.setgroups([])
        os.setresgid(words.uid, words.uid, words.uid)
        os.setresuid(words.uid, words.uid, words.uid)
    url = urllib.parse.urlsplit(words.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    answer = b""
    try:
        with socket.create_connection((words.to, port), timeout=10) as plain:
            if words.claim:
                plain.sendall(header(words.claim))
            connection = plain
            if url.scheme == "https":
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                connection = context.wrap_socket(plain, server_hostname=url.hostname)
            request = f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            while data := connection.recv(65536):
                answer += data
    except OSError as error:
        if not answer:
            sys.stdout.write(json.dumps({"closed": str(error)}))
            return
    if not answer:
        sys.stdout.write(json.dumps({"closed": "no answer"}))
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    sys.stdout.write(json.dumps({"status": int(head.split()[1]), "body": body.decode()}))


main()
