"""The Prometheus endpoint: GET /metrics and GET /healthz, from threads of its own.

A few threads wait on one socket, and each connection has a deadline, so a client that is slow or silent takes
one thread for some seconds and nothing else. The exposition is prometheus_client's; it is imported with the
first server and takes 13 MB, which a file without `monitor.metrics` does not pay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from time import monotonic, time

from tsstack.monitor.alerts import Alerts
from tsstack.monitor.history import History
from tsstack.monitor.metrics import More, SnapshotCollector, Told
from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event as Happened
from tsstack.monitor.snapshot import Snapshot, Trouble
from tsstack.monitor.troubles import Troubles

RETRY_S = 30.0
CONNECTION_S = 5.0
"""From accepting a connection to its end."""
THREADS = 3
STALE_S = 90.0
"""When the latest snapshot is older, the monitor does not work: /healthz says 503."""
_HEAD_MOST = 8192
_BACKLOG = 16
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    body: bytes
    type: str = _TEXT
    headers: str = ""


class MetricsServer:
    """Serves the latest snapshot; a `Voice`. Nothing here waits for a client or for the address."""

    def __init__(
        self,
        address: str,
        *,
        history: History | None = None,
        alerts: Alerts | None = None,
        more: More | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """`address` is `monitor.metrics`, `host:port`. It binds and serves at once, in its threads."""
        self.address = address
        self._history = history
        self._alerts = alerts
        self._more = more
        self._retry_s = retry_s
        self._snapshot: Snapshot | None = None
        self._troubles = Troubles()
        self._ending = Event()
        self._lock = Lock()
        self._listening: socket.socket | None = None
        self._render: Callable[[str], tuple[bytes, str]] | None = None
        self._threads = [Thread(target=self._run, name="metrics", daemon=True)]
        self._threads[0].start()

    def on_sample(self, sample: Sample) -> None:
        """Samples are counted in the snapshot."""

    def on_event(self, event: Happened) -> None:
        """Events are no metrics."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """What the next scrape is told."""
        self._snapshot = snapshot

    def troubles(self) -> tuple[Trouble, ...]:
        """That the address cannot be had."""
        return self._troubles.standing()

    @property
    def port(self) -> int | None:
        """The port that it listens on; None while it cannot."""
        with self._lock:
            return self._listening.getsockname()[1] if self._listening else None

    def close(self, *, wait_s: float = 1.0) -> None:
        """Free the address."""
        self._ending.set()
        with self._lock:
            if self._listening is not None:
                # shutdown(2) wakes the threads that wait in accept(2); close alone does not.
                with contextlib.suppress(OSError):
                    self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()
        until_s = monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - monotonic()))

    # From here on: the server's threads.

    def _run(self) -> None:
        listening = self._bind()
        if listening is None:
            return
        self._render = self._renderer()
        for number in range(THREADS - 1):
            thread = Thread(target=self._accept, args=(listening,), name=f"metrics-{number + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._accept(listening)

    def _bind(self) -> socket.socket | None:
        """Take the address, as soon as it can be had; None when we end before."""
        host, _, port = self.address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        while not self._ending.is_set():
            try:
                listening = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
            except OSError as error:
                self._troubles.begin("metrics", *_words(self.address, error))
                self._ending.wait(self._retry_s)
                continue
            with self._lock:
                if self._ending.is_set():
                    listening.close()
                    return None
                self._listening = listening
            self._troubles.end("metrics")
            return listening
        return None

    def _renderer(self) -> Callable[[str], tuple[bytes, str]]:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(SnapshotCollector(self._told, self._more))

        def render(accept: str) -> tuple[bytes, str]:
            try:
                encode, type_ = choose_encoder(accept)
            except (TypeError, ValueError):  # `version=x` is no number
                encode, type_ = choose_encoder("")
            return encode(registry), type_

        return render

    def _told(self) -> Told | None:
        snapshot = self._snapshot
        if snapshot is None:
            return None
        history = self._history.status() if self._history else None
        alerts = self._alerts
        return Told(snapshot, history, alerts.counts() if alerts else {}, alerts.held if alerts else 0)

    def _accept(self, listening: socket.socket) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = listening.accept()
            except OSError as error:
                if self._ending.is_set():
                    return
                # Out of descriptors, or the client is gone already: try again, but not in a busy loop.
                if error.errno != errno.ECONNABORTED:
                    self._ending.wait(1.0)
                continue
            self._serve_whatever_comes(connection)

    def _serve_whatever_comes(self, connection: socket.socket) -> None:
        """No request ends a thread: a fault in answering one is told, until one is answered."""
        with connection:
            try:
                self._serve(connection)
            except OSError:
                return  # a client that goes away is its own affair
            except Exception as error:  # noqa: BLE001  told below; what it is nobody foresaw
                self._troubles.begin("metrics", f"a request for metrics could not be answered: {error!r}")
            else:
                self._troubles.end("metrics")

    def _serve(self, connection: socket.socket) -> None:
        until_s = monotonic() + CONNECTION_S
        head = _read_head(connection, until_s)
        if head is None:
            return
        answer = self._answer(head)
        told = (
            f"HTTP/1.1 {answer.status}\r\nContent-Type: {answer.type}\r\n"
            f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n{answer.headers}\r\n"
        )
        data = memoryview(told.encode("latin-1") + answer.body)
        while data:
            connection.settimeout(_left_s(until_s))
            data = data[connection.send(data[:65536]) :]
        connection.shutdown(socket.SHUT_WR)

    def _answer(self, head: str) -> _Answer:
        line, *fields = head.split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _Answer("400 Bad Request", b"this is no request\n")
        if words[0] != "GET":
            return _Answer("405 Method Not Allowed", b"only GET\n", headers="Allow: GET\r\n")
        path = words[1].partition("?")[0]
        if path == "/healthz":
            return self._health()
        if path != "/metrics":
            return _Answer("404 Not Found", b"there are /metrics and /healthz\n")
        if self._render is None:
            return _Answer("503 Service Unavailable", b"not yet\n")
        accept = [each.partition(":")[2].strip() for each in fields if each.lower().startswith("accept:")]
        body, type_ = self._render(",".join(accept))
        return _Answer("200 OK", body, type_)

    def _health(self) -> _Answer:
        snapshot = self._snapshot
        if snapshot is None:
            return _Answer("503 Service Unavailable", b"nothing is measured yet\n")
        age_s = time() - snapshot.at
        if age_s > STALE_S:
            return _Answer("503 Service Unavailable", f"the latest figures are {age_s:.0f} s old\n".encode())
        return _Answer("200 OK", b"ok\n")


def _read_head(connection: socket.socket, until_s: float) -> str | None:
    """Request line and header fields; None when they do not come in time, or are too long."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _HEAD_MOST:
            return None
        connection.settimeout(_left_s(until_s))
        piece = connection.recv(4096)
        if not piece:
            return None
        data += piece
    return data.partition(b"\r\n\r\n")[0].decode("latin-1")


def _left_s(until_s: float) -> float:
    """Seconds left; TimeoutError when there are none."""
    left_s = until_s - monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _words(address: str, error: OSError) -> tuple[str, str]:
    """What keeps us from an address, and the fix."""
    port = address.rpartition(":")[2]
    # Python adds the address to the words of bind(2); the resolver's numbers are below 0.
    number = error.errno or 0
    said = (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()
    hint = "write another address in monitor.metrics"
    if error.errno == errno.EADDRINUSE:
        hint = f"see who has it with `ss -ltnp 'sport = :{port}'`, or write another port in monitor.metrics"
    elif error.errno == errno.EADDRNOTAVAIL:
        hint = "no interface has that address now (`ip address`); it is tried again"
    elif error.errno == errno.EACCES:
        hint = "ports below 1024 need a right; write a higher one in monitor.metrics"
    return f"metrics are not served at {address}: {said}", hint
