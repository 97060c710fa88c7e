"""The other end of our own throughput test: takes or sends bytes, for peers of this tailnet alone.

It listens at the tailnet's addresses and, where their interface is known, on that interface alone: Linux
would otherwise take packets for them from any interface (SO_BINDTODEVICE in socket(7)). Who calls is asked of
tailscaled before a byte is read. One peer at a time, bounded in connections, time and bytes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

from tsstack.bench import wire
from tsstack.bench.transfer import PIECE_BYTES, discard, read_line
from tsstack.errors import TsstackError

_REQUEST_S = 2.0
_GRACE_S = 2.0
_TURN_S = 0.2

Whois = Callable[[str], str | None]
"""The name of the tailnet's node that has the address `IP:PORT`; None when nobody has."""


class Server:
    """Listens from its making on. Raises TsstackError when it cannot."""

    def __init__(
        self,
        addresses: Sequence[str],
        whois: Whois,
        tell: Callable[[str], None],
        *,
        port: int = wire.PORT,
        interface: str = "",
        most_s: float = wire.MOST_S,
        most_bytes: int = wire.MOST_BYTES,
    ) -> None:
        self._whois, self._tell = whois, tell
        self._most_s, self._most_bytes = most_s, most_bytes
        self._lock = threading.Lock()
        self._served = ""
        self._places_taken = 0
        self._end = threading.Event()
        self._workers: list[threading.Thread] = []
        self._listeners: list[socket.socket] = []
        try:
            for address in addresses:
                self._listeners.append(_listen(address, port, interface))
                port = port or int(self._listeners[0].getsockname()[1])
        except OSError as error:
            self.close()
            raise TsstackError(
                f"cannot listen at {address} port {port}: {str(error.strerror or error).lower()}",
                hint="another one may run already; --port takes another port",
            ) from error

    @property
    def port(self) -> int:
        """The port, also where any free one was asked for (0)."""
        return int(self._listeners[0].getsockname()[1])

    def serve(self, until_s: float) -> None:
        """Serve until then (`time.monotonic`), or until `stop`. Blocks."""
        while not self._end.is_set() and (left_s := until_s - time.monotonic()) > 0:
            ready, _, _ = select.select(self._listeners, [], [], min(left_s, _TURN_S))
            for listener in ready:
                with contextlib.suppress(OSError):  # it was gone before we took it
                    connection, _ = listener.accept()
                    self._admit(connection)
            self._workers = [each for each in self._workers if each.is_alive()]

    def stop(self) -> None:
        """Let `serve` return soon, and end a test that runs."""
        self._end.set()

    def close(self) -> None:
        """Give the sockets back; a test that runs is broken off."""
        self._end.set()
        for each in self._workers:
            each.join()
        for listener in self._listeners:
            listener.close()

    def _admit(self, connection: socket.socket) -> None:
        """Send strangers away without a word; others get a place, or hear that all are taken."""
        try:
            address, port = connection.getpeername()[:2]
        except OSError:  # gone already
            connection.close()
            return
        caller = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            name = self._whois(caller)
        except TsstackError as error:
            self._tell(f"{address}: refused, tailscaled cannot say who it is ({error.message})")
            discard(connection)
            return
        if name is None:
            self._tell(f"{address}: refused, no node of this tailnet")
            discard(connection)
            return
        if not self._enter(address):
            with contextlib.suppress(OSError):
                connection.send(b"busy\n")
            connection.close()
            return
        worker = threading.Thread(target=self._work, args=(connection, name), daemon=True)
        self._workers.append(worker)
        worker.start()

    def _enter(self, address: str) -> bool:
        """Take one of the places of a test; they are all for one peer."""
        with self._lock:
            if self._places_taken and (self._served != address or self._places_taken >= wire.STREAMS):
                return False
            self._served = address
            self._places_taken += 1
            return True

    def _work(self, connection: socket.socket, name: str) -> None:
        try:
            line, _ = read_line(connection, time.monotonic() + _REQUEST_S)
            agreed = wire.agree(wire.read_request(line), self._most_s, self._most_bytes)
            connection.sendall(wire.ok_line(agreed))
            if agreed.verb == "hello":
                _part(connection)
                return
            moved, span_s = (
                self._take(connection, agreed) if agreed.verb == "up" else self._give(connection, agreed)
            )
            self._tell(f"{name}: {agreed.verb}, {moved / 1e6:.1f} MB in {span_s:.1f} s")
        except wire.WireError as error:
            with contextlib.suppress(OSError):
                connection.send(f"no {error}\n".encode()[: wire.LONGEST_LINE_BYTES])
                _part(connection)
            self._tell(f"{name}: {error}")
        except TimeoutError:
            self._tell(f"{name}: said nothing")
        except OSError as error:
            self._tell(f"{name}: broke off ({str(error.strerror or error).lower()})")
        finally:
            discard(connection)
            with self._lock:
                self._places_taken -= 1

    def _take(self, connection: socket.socket, agreed: wire.Request) -> tuple[int, float]:
        """Count what comes for the agreed time, tell the sender, and wait until it has heard."""
        buffer = bytearray(PIECE_BYTES)
        moved, begun_s = 0, time.monotonic()
        while moved < agreed.most_bytes and (count := self._read(connection, buffer, begun_s, agreed)):
            moved += count
        span_s = time.monotonic() - begun_s
        connection.settimeout(_GRACE_S)
        connection.sendall(wire.done_line(moved, span_s))
        _part(connection)
        return moved, span_s

    def _read(
        self, connection: socket.socket, buffer: bytearray, begun_s: float, agreed: wire.Request
    ) -> int:
        """How much came next; 0 at the end of the time, of the test or of the server."""
        while not self._end.is_set() and (left_s := begun_s + agreed.span_s - time.monotonic()) > 0:
            connection.settimeout(min(left_s, _TURN_S))
            with contextlib.suppress(TimeoutError):
                return connection.recv_into(buffer)
        return 0

    def _give(self, connection: socket.socket, agreed: wire.Request) -> tuple[int, float]:
        """Send for the agreed time; the receiver counts."""
        piece = memoryview(os.urandom(PIECE_BYTES))
        moved, begun_s = 0, time.monotonic()
        # The receiver's clock begins a moment later and ends the test; ours is the bound behind it.
        until_s = begun_s + agreed.span_s + 0.5
        while moved < agreed.most_bytes and not self._end.is_set():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            connection.settimeout(min(left_s, _TURN_S))
            try:
                moved += connection.send(piece[: min(PIECE_BYTES, agreed.most_bytes - moved)])
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break  # the receiver has enough
        if moved >= agreed.most_bytes:
            _part(connection)  # what is still on its way belongs to the test
        return moved, time.monotonic() - begun_s


def _part(connection: socket.socket) -> None:
    """End our side, and wait until the other end has closed its own.

    Unread bytes at a close would overtake our last line as a reset.
    """
    buffer = bytearray(PIECE_BYTES)
    until_s = time.monotonic() + _GRACE_S
    with contextlib.suppress(OSError):  # it is gone already
        connection.shutdown(socket.SHUT_WR)
        while (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not connection.recv_into(buffer):
                break


def _listen(address: str, port: int, interface: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if interface:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        listener.bind((address, port))
        listener.listen(8)
        listener.setblocking(False)
        undo.pop_all()
    return listener
