"""Stand-ins for what stands behind nginx in the throwaway world: the upstreams and the identity daemon.

Every endpoint of the configuration gets a loopback address of its own, all on one listening socket, so that
it is seen which of them a request comes to. They run in threads of the process that asks.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tsstack.prove import netlink
from tsstack.prove.places import ANY_4, Socket
from tsstack.prove.questions import CLAIMING, COOKIE, ELSEWHERE, Hit, Question, told_of
from tsstack.prove.vouching import Vouched, greeting_of

_WAIT_S = 5.0
_TLS_HELLO = 0x16  # RFC 8446 section 5.1: the content type of a handshake
_MOST_REQUEST = 65536
_NUMBER = re.compile(r"&n=([0-9]+)")
End = tuple[str, int]


def numbered(path: str, number: int) -> str:
    """A path that tells which question it belongs to."""
    return f"{path}&n={number}"


def without_number(text: str) -> str:
    """The path as it was."""
    return _NUMBER.sub("", text)


def stand_in_address(number: int) -> str:
    """The address of endpoint `number`, in a part of 127.0.0.0/8 that nobody uses."""
    return f"127.77.{number >> 8 & 0xFF}.{number & 0xFF}"


class Backends:
    """All stand-ins of one world. They keep what has come by the number of its question."""

    def __init__(self, endpoints: list[str], port: int, identity: Path, vouched: Vouched | None) -> None:
        self._hits: dict[int, list[Hit]] = {}
        self._visits: dict[tuple[str, str, str], tuple[Question | None, End]] = {}
        self._untrusted = False
        self._endpoints = endpoints
        self._vouched = vouched
        self.own = (Socket("tcp", ANY_4, port), Socket("unix", str(identity)))
        """The sockets that are theirs and not nginx's."""
        upstreams = socket.socket()
        upstreams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        upstreams.bind((ANY_4, port))
        identities = socket.socket(socket.AF_UNIX)
        identities.bind(str(identity))
        for listening, serve in ((upstreams, self._answer), (identities, self._identify)):
            listening.listen(512)
            threading.Thread(target=_serve, args=(listening, serve), daemon=True).start()

    def expect(self, question: Question, client: End, peer: End) -> None:
        """Let the identity daemon know whom it will be asked about, and who really connects."""
        if question.user:
            service = question.key.removeprefix("proxy.services.")
            self._visits[service, client[0], str(client[1])] = (question, peer)

    def hits(self, number: int) -> list[Hit]:
        """What came of a question."""
        return self._hits.pop(number, [])

    @contextlib.contextmanager
    def as_for(self, question: Question) -> Iterator[None]:
        """Meanwhile nobody can connect to what is down, and the certificates are such as it says."""
        endpoints, self._untrusted = question.down, question.untrusted
        numbers = [at for at, each in enumerate(self._endpoints) if each in endpoints]
        places = [socket.inet_aton(stand_in_address(at)) for at in numbers]
        netlink.apply_messages(netlink.unreachable_message(each, there=True) for each in places)
        try:
            yield
        finally:
            self._untrusted = False
            netlink.apply_messages(netlink.unreachable_message(each, there=False) for each in places)

    def _answer(self, connection: socket.socket) -> None:
        address = connection.getsockname()[0].split(".")
        endpoint = self._endpoints[int(address[2]) << 8 | int(address[3])]
        if connection.recv(1, socket.MSG_PEEK)[:1] != bytes([_TLS_HELLO]):
            self._serve_http(connection, endpoint, None)
        elif self._vouched:
            context = self._vouched.context(untrusted=self._untrusted)
            with context.wrap_socket(connection, server_side=True) as secured:
                self._serve_http(secured, endpoint, greeting_of(secured))

    def _serve_http(self, connection: socket.socket, endpoint: str, greeted: str | None) -> None:
        first, _, rest = _read_request(connection).decode("latin-1").partition("\r\n")
        number = _NUMBER.search(first)
        words = first.split(" ")
        if number is None or len(words) != 3:
            return
        pairs = (line.partition(":") for line in rest.split("\r\n") if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        hit = Hit(endpoint, without_number(words[1]), words[2], headers, greeted)
        self._hits.setdefault(int(number[1]), []).append(hit)
        body = "an upstream of the proof\n"
        connection.sendall(
            f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            f"Location: /{ELSEWHERE}\r\nSet-Cookie: {COOKIE.format('/')}\r\n\r\n{body}".encode("ascii")
        )

    def _identify(self, connection: socket.socket) -> None:
        """Yes for the client of a question, if it is asked about by its service; no for everybody else."""
        lines = _read_request(connection).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        client = (fields.get("x-tsstack-address", ""), fields.get("x-tsstack-port", ""))
        question, peer = self._visits.pop((fields.get("x-tsstack-service", ""), *client), (None, ("", 0)))
        words = "403 Forbidden"
        if question and _is_meant(question, client, peer, fields):
            told = "".join(f"{name}: {value}\r\n" for name, value in told_of(question.user).items())
            words = f"200 OK\r\n{told}".removesuffix("\r\n")
        connection.sendall(f"HTTP/1.1 {words}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())


def _is_meant(question: Question, client: tuple[str, str], peer: End, fields: dict[str, str]) -> bool:
    """Whether nginx says by whom the connection is; who claims to be this client must be that peer."""
    named = (fields.get("x-tsstack-peer-address", ""), fields.get("x-tsstack-peer-port", ""))
    if not question.claimed:
        return named in (("", ""), client)
    return named == (peer[0], str(peer[1])) and fields.get("x-tsstack-own-port") == str(question.port)


def ends_of(question: Question, connection: socket.socket) -> tuple[End, End]:
    """The client as it is told, and who connects."""
    address, port = connection.getsockname()[:2]
    told = (question.client_address, CLAIMING[1]) if question.claimed else (address, port)
    return told, (address, port)


def _serve(listening: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_attend, args=(connection, answer), daemon=True).start()


def _attend(connection: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    # A client that goes away is none of the proof's concern: the one that asks sees what it gets.
    with connection, contextlib.suppress(OSError, ssl.SSLError):
        connection.settimeout(_WAIT_S)
        answer(connection)


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _MOST_REQUEST:
        data = connection.recv(_MOST_REQUEST)
        if not data:
            return received
        received += data
    return received
