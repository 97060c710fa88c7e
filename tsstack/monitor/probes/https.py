"""Page probes: connect, TLS with the certificate verified, one HTTP/1.1 request, the status line.

2xx and 3xx are good; the body is never read. The round-trip time is that of the TCP handshake, so that it can
be held against other paths; `took_s` is the whole, with TLS and the server's own time. By hand on a plain
socket, for the sake of that time: each wait is measured from our sending to the kernel's stamp on what
arrived, and only waits count. So neither a busy event loop nor the cost of our own cryptography is blamed on
the page. Where the kernel gives no stamp, and for a connection whose first SYN was lost, the time is the
loop's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.bound import endpoint, family_of, open_bound
from tsstack.monitor.probes.causes import words_of, words_of_error
from tsstack.monitor.probes.probe import TIMEOUT
from tsstack.monitor.probes.stamps import ANCILLARY_BYTES, SO_TIMESTAMPNS, arrival_ns, clock_gap_ns, elapsed_s
from tsstack.monitor.probes.tcp import handshake_s

_HEAD_BYTES = 32 << 10
_CHUNK_BYTES = 16 << 10
GARBLED = "no http answer"
NO_ADDRESS = "no such address"
HEAD_TOO_LONG = "http head too long"


@dataclass(frozen=True, slots=True)
class Page:
    """An address in its pieces."""

    tls: bool
    host: str
    port: int
    request: bytes


@functools.lru_cache(maxsize=4096)
def page_of(url: str) -> Page:
    """Raises ValueError for what is no http address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is no http address")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: tsstack-monitor",
        "Accept: */*",
        "Connection: close",
    )
    return Page(tls, parts.hostname, port, "\r\n".join(lines).encode("ascii") + b"\r\n\r\n")


class Pages:
    """All page probes under way. `authorities` is a PEM file to trust instead of the system's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, authorities: str | None = None) -> None:
        self._loop = loop
        self._authorities = authorities
        self._context: ssl.SSLContext | None = None
        self._open: set[_Visit] = set()

    def __len__(self) -> int:
        return len(self._open)

    def visit(self, attempt: Attempt) -> None:
        """Begin to ask for the probe's page at the attempt's address."""
        probe = attempt.probe
        try:
            page = page_of(probe.url)
        except ValueError:
            attempt.fail(NO_ADDRESS)
            return
        try:
            opened = open_bound(
                family_of(attempt.address),
                socket.SOCK_STREAM,
                interface=probe.path.interface,
                from_address=probe.from_address,
            )
        except OSError as error:
            attempt.fail(words_of_error(error, interface=probe.path.interface))
            return
        tls = _Tls(self._trust(), page.host) if page.tls else None
        visit = _Visit(self._loop, attempt, opened, page, tls, ended=self._open.discard)
        self._open.add(visit)
        visit.begin()

    def close(self) -> None:
        """Drop all without a word."""
        for visit in list(self._open):
            visit.attempt.done = True
            visit.close()

    def _trust(self) -> ssl.SSLContext:
        """Made when the first page needs it: reading the system's authorities takes 30 ms and some MB."""
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._authorities)
        return self._context


class _Tls:
    """TLS beside a socket that others read and write. Raises ssl.SSLError where the peer is no good."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._secured = False

    def advance(self, request: bytes) -> bytes:
        """Go on with the handshake; once it stands, say the request. Returns what is to be sent."""
        if not self._secured:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                return self._out.read()
            self._secured = True
            self._object.write(request)
        return self._out.read()

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; returns the plain text in it."""
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        plain = b""
        try:
            while self._secured and (piece := self._object.read(_CHUNK_BYTES)):
                plain += piece
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return plain


class _Visit:
    """One page that is being asked for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        attempt: Attempt,
        opened: socket.socket,
        page: Page,
        tls: _Tls | None,
        *,
        ended: Callable[[_Visit], None],
    ) -> None:
        self.attempt = attempt
        self._loop = loop
        self._socket = opened
        self._page = page
        self._tls = tls
        self._ended = ended
        self._waited_s = 0.0
        self._unsent = b""
        self._head = b""
        self._timer = loop.call_later(attempt.probe.timeout_s, self._give_up)

    def begin(self) -> None:
        """Connect."""
        interface = self.attempt.probe.path.interface
        self._begun_s = time.monotonic()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            number = self._socket.connect_ex(endpoint(self.attempt.address, self._page.port, interface))
        except OSError as error:
            number = error.errno or errno.EINVAL
        if number in {0, errno.EINPROGRESS}:
            self._loop.add_writer(self._socket, self._step, self._connected)
        else:
            self._fail(words_of(number, interface=interface))

    def close(self) -> None:
        """Give back the socket and the timer."""
        self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket)
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._ended(self)

    def _step(self, action: Callable[[], None]) -> None:
        """One callback of the loop; whatever the network does wrong ends the visit."""
        try:
            action()
        except OSError as error:
            self._fail(words_of_error(error, interface=self.attempt.probe.path.interface))

    def _connected(self) -> None:
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(words_of(number, interface=self.attempt.probe.path.interface))
            return
        self._loop.remove_writer(self._socket)
        measured_s = handshake_s(self._socket)
        self._rtt_s = time.monotonic() - self._begun_s if measured_s is None else measured_s
        self._waited_s = self._rtt_s
        self._loop.add_reader(self._socket, self._step, self._arrived)
        self._speak(self._page.request if self._tls is None else self._tls.advance(self._page.request))

    def _speak(self, data: bytes) -> None:
        """Send; the wait for the answer begins now."""
        if not data and not self._unsent:
            return
        self._unsent += data
        self._gap_ns, self._sent_ns = clock_gap_ns(), time.time_ns()
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        if self._unsent:
            self._loop.add_writer(self._socket, self._step, self._speak_on)
        else:
            self._loop.remove_writer(self._socket)

    def _speak_on(self) -> None:
        self._speak(b"")

    def _arrived(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_CHUNK_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            return
        waited_s = elapsed_s(
            self._sent_ns,
            arrival_ns(ancillary),
            gap_at_sending_ns=self._gap_ns,
            gap_ns=clock_gap_ns(),
            now_ns=time.time_ns(),
        )
        plain = data if self._tls is None else self._tls.feed(data)
        answer = self._tls.advance(self._page.request) if self._tls is not None else b""
        self._head += plain
        if status := status_of(self._head):
            self._end(status, self._waited_s + waited_s)
        elif answer:
            self._waited_s += waited_s
            self._speak(answer)
        elif not data:
            self._fail("connection closed" if not self._head else GARBLED)
        elif len(self._head) > _HEAD_BYTES:
            self._fail(HEAD_TOO_LONG)

    def _end(self, status: int, took_s: float) -> None:
        if 200 <= status < 400:
            self.attempt.succeed(self._rtt_s, took_s=took_s)
        else:
            self.attempt.fail(f"status {status}" if status > 0 else GARBLED)
        self.close()

    def _give_up(self) -> None:
        self._fail(TIMEOUT)

    def _fail(self, error: str) -> None:
        self.attempt.fail(error)
        self.close()


def status_of(head: bytes) -> int:
    """The final status of an HTTP/1 answer (RFC 9112 section 4); 0 while it is not there yet, -1 for no HTTP.

    Interim answers (1xx, RFC 9110 section 15.2) are passed over.
    """
    while True:
        line, ended, rest = head.partition(b"\n")
        if not b"HTTP/1.".startswith(line[:7]):
            return -1
        if not ended:
            return 0 if len(line) < 1024 else -1
        words = line.split()
        if len(words) < 2 or len(words[1]) != 3 or not words[1].isdigit():
            return -1
        status = int(words[1])
        if not 100 <= status < 200:
            return status if status >= 200 else -1
        for blank in (b"\r\n\r\n", b"\n\n"):
            if blank in head:
                rest = head.split(blank, 1)[1]
                break
        else:
            return 0
        head = rest
