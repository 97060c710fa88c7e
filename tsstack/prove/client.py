"""Asks nginx in the throwaway world, with a connection for each question as far as that is affordable."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from tsstack.prove.backends import Backends, Hit
from tsstack.prove.hosting import REFUSED, Question

HANDSHAKES = 200
"""So many TLS handshakes at most; names past that are asked on a connection that is open."""

_WAIT_S = 5.0
# haproxy's proxy-protocol.txt, section 2.1: who the client is, in a line.
_CLAIM = "PROXY TCP4 100.64.0.99 127.0.0.1 40000 {port}\r\n"
_MISDIRECTED = {400, 401, 403, 404, 421}
_LIE = "somebody-else@example.com"


class Client:
    """Asks and says what was seen: the endpoint that answered, REFUSED, or words for what went wrong."""

    def __init__(self, backends: Backends, certificates: list[Path], handshakes: int = HANDSHAKES) -> None:
        self._backends = backends
        self._known = tuple(certificates)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._open: dict[tuple[str, int, bool], socket.socket] = {}
        self._left = handshakes

    def ask(self, question: Question) -> str:
        """What became of one question."""
        self._backends.hits.clear()
        self._backends.user = question.user
        try:
            status = self._request(question)
        except ssl.SSLCertVerificationError as error:
            return f"a certificate that does not count: {error.verify_message}"
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
            return REFUSED
        except ConnectionRefusedError:
            return "nothing listens there"
        except TimeoutError:
            return "no answer"
        return self._judge(question, status)

    def _judge(self, question: Question, status: int) -> str:
        hits = self._backends.hits
        if not hits:
            return REFUSED if status in _MISDIRECTED or not status else f"{status} from nginx"
        hit = hits[0]
        if question.scheme == "tcp" or question.tls_upstream:
            return hit.endpoint
        return _wrong(question, hit) or (hit.endpoint if status == 200 else f"{status} from nginx")

    def _request(self, question: Question) -> int:
        """The status of the answer; 0 when the connection just ends. Raises OSError."""
        place = (question.address, question.port, question.claimed)
        kept = self._open.pop(place, None) if question.scheme == "https" and self._left <= 0 else None
        connection = kept or self._connect(question)
        keep = self._left <= 0 and question.scheme == "https"
        connection.sendall(
            f"GET {question.path} HTTP/1.1\r\nHost: {question.authority}\r\n"
            f"X-Tailscale-User: {_LIE}\r\nRemote-User: {_LIE}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode("ascii")
        )
        status, open_still = _read_answer(connection)
        if keep and open_still and question.upstreams:
            self._open[place] = connection
        else:
            connection.close()
        return status

    def _connect(self, question: Question) -> socket.socket:
        connection = socket.create_connection((question.address, question.port), timeout=_WAIT_S)
        try:
            if question.claimed:
                connection.sendall(_CLAIM.format(port=question.port).encode("ascii"))
            if question.scheme != "https":
                return connection
            self._left -= 1
            return self._context(question).wrap_socket(connection, server_hostname=question.name)
        except BaseException:
            connection.close()
            raise

    def _context(self, question: Question) -> ssl.SSLContext:
        """Trusts the leaf that the file names and nothing else; else those that tsstack made."""
        if question.certificate not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # A leaf counts by itself, without its authority (X509_VERIFY_PARAM_set_flags(3)).
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            named = Path(question.certificate)
            # A certificate that we may not read was replaced by one of ours, as on a machine elsewhere.
            mine = not question.certificate or not os.access(named, os.R_OK)
            for path in self._known if mine else [named]:
                context.load_verify_locations(cadata=_leaf(path))
            self._contexts[question.certificate] = context
        return self._contexts[question.certificate]


def _leaf(path: Path) -> str:
    """The first certificate of a PEM file (RFC 8446 section 4.4.2: the sender's own comes first)."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = path.read_text(encoding="utf-8", errors="replace")
    return begin + text.partition(begin)[2].partition(end)[0] + end + "\n"


def _wrong(question: Question, hit: Hit) -> str:
    """What an upstream must not get to see; empty if all is well."""
    if hit.path != question.inner_path:
        return f"{hit.endpoint} with the path {hit.path}"
    told = hit.headers.get("x-tailscale-user", "")
    if told != question.user.lower() or _LIE in hit.headers.get("remote-user", ""):
        return f"{hit.endpoint} as user {told or _LIE}"
    return ""


def _read_answer(connection: socket.socket) -> tuple[int, bool]:
    """The status (0 without one), and whether the connection goes on. The body is read."""
    received = b""
    while b"\r\n\r\n" not in received and (data := connection.recv(65536)):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return 0, False
    lower = head.lower()
    length = 0
    for line in lower.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length and (data := connection.recv(65536)):
        body += data
    framed = b"content-length:" in lower and b"connection: close" not in lower
    return int(words[1]), framed and len(body) == length
