"""Asks the live proxy with new connections: what it serves, under which certificate, and who is behind."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from typing import TYPE_CHECKING

from tsstack.errors import ApplyFailed
from tsstack.parts.proxy.plan import PROBE_PATH

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from tsstack.parts.proxy.plan import Listener, Plan, Vhost

_TIMEOUT_S = 5.0
_UPSTREAM_S = 0.5
ANSWER_S = 3.0
"""How long an upstream may take for its first byte. nginx waits longer, and its client gets 504 then."""
# A handshake of its own for so many names; the others are asked on one connection per address, whose
# certificate was seen already. Keeps 1,000 services within a fraction of a second.
_HANDSHAKES = 24
_BATCH = 256
# Asked at once, without waiting for each answer (RFC 9112, 9.3.2); few enough for any socket's buffer.
_PIPELINED = 32
# haproxy's proxy-protocol.txt, section 2.2: version 2, command LOCAL: the connection speaks for itself.
_LOCAL_HEADER = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
# Not 127.0.0.1, where a socket for tailscaled alone may be.
_LOOPBACK = {"0.0.0.0": "127.0.0.2", "::": "::1"}  # noqa: S104  (looked up, not bound)


def ask_status(status: str) -> str:
    """The digest of the generation that nginx serves, from `address:port`; empty when nobody says one."""
    host, _, port = status.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0) as connection:
            ask(connection, "/generation", [host], keep=False)
            reply = Replies(connection).next()
    except OSError:
        return ""
    head, _, body = reply.partition("\r\n\r\n")
    text = body.strip()
    return text if head.startswith("HTTP/1.1 200") and len(text) <= 64 and text.isalnum() else ""


def probe_tcp(plan: Plan) -> None:
    """A new connection to each TCP listener. Raises ApplyFailed naming the key of the file."""
    for listener in plan.listeners:
        if listener.protocol != "tcp":
            continue
        try:
            with connect(listener):
                pass
        except OSError as error:
            raise ApplyFailed(
                f"{listener.path}: nothing answers at {listener.endpoint}: {error}",
                hint="is another firewall in front of it?",
            ) from error


def probe_vhosts(plan: Plan, ca: Path) -> None:
    """Each name on each of its addresses must be answered by nginx with this generation's digest.

    With TLS the certificate must cover the name and, for the local CA, be signed by it. What the
    upstreams say does not matter here. Raises ApplyFailed.
    """
    context = client_context(plan, ca) if any(vhost.tls for vhost in plan.vhosts) else None
    for listener in plan.listeners:
        if listener.protocol != "tcp":
            continue
        vhosts = [vhost for vhost in plan.vhosts if vhost.port == listener.port]
        step = max(1, len(vhosts) // _HANDSHAKES)
        alone, together = vhosts[::step], [one for i, one in enumerate(vhosts) if i % step]
        for vhost in alone:
            _probe(plan, listener, vhost, (vhost,), context)
        for start in range(0, len(together), _BATCH):
            batch = together[start : start + _BATCH]
            _probe(plan, listener, batch[0], batch, context)


def describe_silent(plan: Plan) -> list[str]:
    """A sentence for each service of which an upstream takes no connection within half a second."""
    silent = set(silent_upstreams(plan))
    return [
        _describe_silent(plan, key, [each for each in endpoints if (key, each) in silent])
        for key, endpoints in plan.upstreams.items()
        if any((key, each) in silent for each in endpoints)
    ]


def _describe_silent(plan: Plan, key: str, silent: list[str]) -> str:
    said = f"{key}: nothing answers at {' and '.join(silent)}; its clients"
    left = [endpoint for endpoint in plan.upstreams[key] if endpoint not in silent]
    if left:
        return f"{said} are served by {' and '.join(left)}"
    until = "until it does" if len(silent) == 1 else "until one of them does"
    what = "are cut off" if plan.urls.get(key, "").startswith("tcp://") else "get 502"
    return f"{said} {what} {until}"


def silent_upstreams(plan: Plan) -> list[tuple[str, str]]:
    """(service, endpoint) of each upstream that takes no connection within half a second."""
    pending = [(key, endpoint) for key, endpoints in plan.upstreams.items() for endpoint in endpoints]
    silent: list[tuple[str, str]] = []
    for start in range(0, len(pending), _BATCH):
        silent += _silent(pending[start : start + _BATCH])
    return silent


def mute_upstreams(plan: Plan, silent: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """(service, endpoint) of each that takes a connection and answers no request within `ANSWER_S`.

    Not those in `silent`, nor what is passed on byte by byte: who speaks first there is not known. The
    request is HEAD, which changes nothing (RFC 9110 section 9.2.1); whatever comes back is an answer, also
    where the upstream would have liked TLS.
    """
    pending = [
        (key, endpoint)
        for key, endpoints in plan.upstreams.items()
        for endpoint in endpoints
        if (key, endpoint) not in silent and not plan.urls.get(key, "").startswith("tcp://")
    ]
    mute: list[tuple[str, str]] = []
    for start in range(0, len(pending), _BATCH):
        mute += _mute(plan, pending[start : start + _BATCH])
    return mute


def _mute(plan: Plan, pending: list[tuple[str, str]]) -> list[tuple[str, str]]:
    waiting: dict[socket.socket, tuple[str, str]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            for key, endpoint in pending:
                with contextlib.suppress(OSError):
                    opened = _begin(endpoint)
                    waiting[opened] = (key, endpoint)
                    selector.register(opened, selectors.EVENT_WRITE, opened)
            deadline_s = time.monotonic() + ANSWER_S
            while waiting and (left_s := deadline_s - time.monotonic()) > 0:
                for ready, events in selector.select(left_s):
                    opened = ready.data
                    if events & selectors.EVENT_WRITE and _sent(
                        opened, plan.urls.get(waiting[opened][0], "")
                    ):
                        selector.modify(opened, selectors.EVENT_READ, opened)
                    else:
                        selector.unregister(opened)
                        del waiting[opened]
                        opened.close()
            return list(waiting.values())
        finally:
            for opened in waiting:
                opened.close()


def _sent(opened: socket.socket, url: str) -> bool:
    host = url.partition("://")[2].partition("/")[0] or "localhost"
    try:
        opened.send(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
    except OSError:
        return False
    return True


def _probe(
    plan: Plan,
    listener: Listener,
    first: Vhost,
    vhosts: Sequence[Vhost],
    context: ssl.SSLContext | None,
) -> None:
    name = first.name
    try:
        with contextlib.ExitStack() as stack:
            connection: socket.socket = stack.enter_context(connect(listener))
            if first.tls and context is not None:
                connection = stack.enter_context(context.wrap_socket(connection, server_hostname=name))
            replies = Replies(connection)
            for start in range(0, len(vhosts), _PIPELINED):
                names = [vhost.name for vhost in vhosts[start : start + _PIPELINED]]
                ask(connection, PROBE_PATH, names, keep=True)
                for name in names:
                    _expect_digest(replies.next(), plan.digest, f"{name} at {listener.endpoint}")
    except OSError as error:  # ssl.SSLError is one
        raise ApplyFailed(
            f"{name} at {listener.endpoint} does not answer: {error}",
            hint=f"see {listener.path} in the file, and nginx's error log",
        ) from error


def _expect_digest(reply: str, digest: str, place: str) -> None:
    if reply.partition("\r\n\r\n")[2].strip() == digest:
        return
    what = reply.splitlines()[0] if reply else "no answer"
    raise ApplyFailed(
        f"{place} is not served by this generation ({what})",
        hint="another server in nginx's configuration may have the same name",
    )


def connect(listener: Listener) -> socket.socket:
    """A new connection, with a PROXY header where nginx wants one. Raises OSError."""
    connection = socket.create_connection(
        (_LOOPBACK.get(listener.address, listener.address), listener.port), timeout=_TIMEOUT_S
    )
    if listener.claimed:
        connection.sendall(_LOCAL_HEADER)
    return connection


def ask(connection: socket.socket, path: str, hosts: Sequence[str], *, keep: bool) -> None:
    """Send a request for `path` of each host."""
    end = "keep-alive" if keep else "close"
    requests = [f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {end}\r\n\r\n" for host in hosts]
    connection.sendall("".join(requests).encode("ascii"))


class Replies:
    """The answers on one connection, in order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received = connection, b""

    def next(self) -> str:
        """Head and body, which is read to its Content-Length; what there is when the connection ends."""
        while b"\r\n\r\n" not in self._received and self._more():
            pass
        head, _, _ = self._received.partition(b"\r\n\r\n")
        length = len(head) + 4
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length += int(line.partition(b":")[2])
        while len(self._received) < length and self._more():
            pass
        reply, self._received = self._received[:length], self._received[length:]
        return reply.decode("latin-1")

    def _more(self) -> bool:
        data = self._connection.recv(65536)
        self._received += data
        return bool(data)


def client_context(plan: Plan, ca: Path) -> ssl.SSLContext:
    """As the plan's clients have it: they trust the local CA, or what the system trusts.

    Raises OSError when the CA's certificate cannot be read.
    """
    import ssl

    kinds = {certificate.kind for certificate in plan.certificates}
    if kinds == {"local-ca"}:
        return ssl.create_default_context(cafile=str(ca))
    # Without a `cafile` the system's whole store is read, which takes longer than all the probes.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "files" in kinds:
        # A certificate of one's own may come from any authority; check() judged its names and dates.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_default_certs()
    return context


def _silent(pending: list[tuple[str, str]]) -> list[tuple[str, str]]:
    silent: list[tuple[str, str]] = []
    waiting: dict[socket.socket, tuple[str, str]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            for key, endpoint in pending:
                try:
                    opened = _begin(endpoint)
                except OSError:
                    silent.append((key, endpoint))
                    continue
                waiting[opened] = (key, endpoint)
                selector.register(opened, selectors.EVENT_WRITE, opened)
            deadline_s = time.monotonic() + _UPSTREAM_S
            while waiting and (left_s := deadline_s - time.monotonic()) > 0:
                for ready, _ in selector.select(left_s):
                    opened = ready.data
                    selector.unregister(opened)
                    name = waiting.pop(opened)
                    if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        silent.append(name)
                    opened.close()
        finally:
            silent += waiting.values()
            for opened in waiting:
                opened.close()
    return silent


def _begin(endpoint: str) -> socket.socket:
    """A socket that connects on its own. Raises OSError for what fails at once."""
    if endpoint.startswith("unix:"):
        family, address = socket.AF_UNIX, endpoint.removeprefix("unix:")
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        code = opened.connect_ex(address)
    else:
        host, _, port = endpoint.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        opened = socket.socket(found[0], socket.SOCK_STREAM)
        opened.setblocking(False)
        code = opened.connect_ex(found[4])
    if code not in {0, errno.EINPROGRESS}:
        opened.close()
        raise OSError(code, errno.errorcode.get(code, "?"))
    return opened
