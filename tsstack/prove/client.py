"""Asks nginx in the throwaway world, with a connection for each question as far as that is affordable."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

from tsstack.prove.backends import Backends, ends_of, numbered, without_number
from tsstack.prove.handshakes import client_hello, is_accepted
from tsstack.prove.lies import FORGED
from tsstack.prove.questions import CLAIMING, CLIENTS, REFUSED, Question, Reply, judge

HANDSHAKES = 400
"""So many TLS handshakes at most for plain questions; names past that are asked on an open connection."""

_WAIT_S = 5.0
_TRIES = 3
_AT_ONCE = 4
# haproxy's proxy-protocol.txt, section 2.1: who the client is, in a line.
_CLAIM = "PROXY TCP4 {client} 127.0.0.1 {port} {own}\r\n"
_IP_FREEBIND = 15  # ip(7)


class Client:
    """Asks and says what was seen: the endpoint that answered, REFUSED, or words for what went wrong."""

    def __init__(
        self,
        backends: Backends,
        certificates: list[Path],
        handshakes: int = HANDSHAKES,
        *,
        named: bool = True,
    ) -> None:
        """`named`: those that the file names are shown themselves, and none that was made instead."""
        self._named = named
        self._backends = backends
        self._known = tuple(certificates)
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._open: dict[tuple[str, int, bool, str], socket.socket] = {}
        self._left = handshakes
        self._numbers = count(1)
        self._counting = threading.Lock()
        self.shared = 0
        """So many questions were asked on a connection that was open already."""

    def ask_all(self, questions: Sequence[Question]) -> list[str]:
        """What was seen of each. Those that need the world otherwise are asked one by one, at the end."""
        alone = [at for at, each in enumerate(questions) if each.down or each.untrusted]
        together = [at for at, each in enumerate(questions) if not (each.down or each.untrusted)]
        seen: dict[int, str] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            seen |= zip(together, pool.map(lambda at: self.ask(questions[at]), together), strict=True)
        for at in alone:
            with self._backends.as_for(questions[at]):
                seen[at] = self.ask(questions[at])
        return [seen[at] for at in range(len(questions))]

    def ask(self, question: Question) -> str:
        """What was seen; a machine under load gets more than one try before anything counts as wrong."""
        seen = [self._ask(question)]
        while not question.agrees(seen[-1]) and len(seen) < _TRIES:
            # As another client each time: nobody's limit may count.
            seen.append(self._ask(replace(question, client=question.client + CLIENTS * len(seen))))
        return seen[-1] if question.agrees(seen[-1]) else seen[0]

    def _ask(self, question: Question) -> str:
        number = next(self._numbers)
        try:
            reply = self._request(question, number)
        except ssl.SSLCertVerificationError as error:
            return f"a certificate that does not count: {error.verify_message}"
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
            reply = Reply(0, {})
        except ConnectionRefusedError:
            return "nothing listens there"
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return error.strerror or str(error)
        if question.hello:
            return REFUSED if not reply.status else "an answer"
        return judge(question, reply, self._backends.hits(number))

    def _request(self, question: Question, number: int) -> Reply:
        """The answer; its status is 0 when the connection just ends. Raises OSError."""
        # What is more than plain may end the connection.
        keep = self._left <= 0 and question.scheme == "https" and question.passes and not question.about
        place = (question.address, question.port, question.claimed, question.client_address)
        kept = self._open.pop(place, None) if keep else None
        with self._counting:
            self.shared += kept is not None
            self._left -= kept is None and question.scheme == "https" and not question.about
        connection = kept or self._connect(question)
        try:
            if question.hello:
                connection.sendall(client_hello(question.hello, question.name))
                return Reply(int(is_accepted(connection.recv(64))), {})
            self._backends.expect(question, *ends_of(question, connection))
            connection.sendall(_words_of(question, number, keep=keep))
            reply, open_still = _read_reply(connection)
        except BaseException:
            connection.close()
            raise
        if keep and open_still:
            self._open[place] = connection
        else:
            connection.close()
        return reply

    def _connect(self, question: Question) -> socket.socket:
        connection = socket.socket(socket.AF_INET6 if ":" in question.address else socket.AF_INET)
        try:
            connection.settimeout(_WAIT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
            connection.bind((CLAIMING[0] if question.claimed else question.client_address, 0))
            connection.connect((question.address, question.port))
            if question.claimed:
                line = _CLAIM.format(client=question.client_address, port=CLAIMING[1], own=question.port)
                connection.sendall(line.encode("ascii"))
            if question.scheme != "https" or question.hello:
                return connection
            name = question.name if question.greeted is None else question.greeted
            return self._context(question).wrap_socket(connection, server_hostname=name or None)
        except BaseException:
            connection.close()
            raise

    def _context(self, question: Question) -> ssl.SSLContext:
        """Trusts the leaf that the file names and nothing else; else those that tsstack made."""
        kind = (question.certificate, question.any_certificate)
        if kind not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # A leaf counts by itself, without its authority (X509_VERIFY_PARAM_set_flags(3)).
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            if question.any_certificate:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            named = Path(question.certificate)
            mine = not question.certificate or not self._named
            for path in self._known if mine else [named]:
                context.load_verify_locations(cadata=_leaf(path))
            self._contexts[kind] = context
        return self._contexts[kind]


def _words_of(question: Question, number: int, *, keep: bool) -> bytes:
    """The request. A client of a service lies about everything that it could be believed in."""
    body = question.body
    announced = f"Content-Length: {body}\r\nExpect: 100-continue\r\n" if body >= 0 else ""
    if question.upgrade:
        going_on = f"Connection: Upgrade\r\nUpgrade: {question.upgrade}\r\n"
    else:
        going_on = f"Connection: {'keep-alive' if keep else 'close'}\r\n"
    named = f"HTTP/1.1\r\nHost: {question.authority}\r\n" if question.name else "HTTP/1.0\r\n"
    method = "POST" if body >= 0 else "GET"
    lies = FORGED if question.key.startswith("proxy.services.") else ""
    first = f"{method} {numbered(question.path, number)} {named}"
    return f"{first}{lies}{announced}{going_on}\r\n".encode("ascii")


def _leaf(path: Path) -> str:
    """The first certificate of a PEM file (RFC 8446 section 4.4.2: the sender's own comes first)."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = path.read_text(encoding="utf-8", errors="replace")
    return begin + text.partition(begin)[2].partition(end)[0] + end + "\n"


def _read_reply(connection: socket.socket) -> tuple[Reply, bool]:
    """The answer, and whether the connection goes on. The body is read."""
    received = b""
    while b"\r\n\r\n" not in received and (data := connection.recv(65536)):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    first, _, rest = head.decode("latin-1").partition("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Reply(0, {}), False
    pairs = (line.partition(":") for line in rest.split("\r\n"))
    headers = {name.strip().lower(): without_number(value.strip()) for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    while len(body) < length and (data := connection.recv(65536)):
        body += data
    framed = "content-length" in headers and headers.get("connection") != "close"
    return Reply(int(words[1]), headers), framed and len(body) == length
