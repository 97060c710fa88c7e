"""A LocalAPI for decisions: whois answers from a JSON file {address: reply}, certificates from PEM files,
the serve config from /etc/serve.json.

fake_localapi.py SOCKET ANSWERS.json [CERT_DIR]
"""

from __future__ import annotations

import json
import socketserver
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path)
        if path.path == "/localapi/v0/whois":
            where = urllib.parse.parse_qs(path.query)["addr"][0]
            found = json.loads(Path(sys.argv[2]).read_text()).get(where.rpartition(":")[0])
            self.reply(200 if found else 404, json.dumps(found).encode() if found else b"no match")
        elif path.path.startswith("/localapi/v0/cert/"):
            name = urllib.parse.unquote(path.path.rpartition("/")[2]).replace("*", "wildcard")
            pem = Path(sys.argv[3]) / f"{name}.pem"
            self.reply(200, pem.read_bytes()) if pem.exists() else self.reply(500, b"no such domain here")
        elif path.path == "/localapi/v0/serve-config":
            served = Path("/etc/serve.json")
            self.reply(200, served.read_bytes() if served.exists() else b"{}")
        else:
            self.reply(404, b"")

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "unix"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Path(sys.argv[1]).unlink(missing_ok=True)
with Server(sys.argv[1], Handler) as server:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()
