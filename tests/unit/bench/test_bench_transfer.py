"""Our own throughput test over real sockets: figures, limits, strangers, and ends that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tsstack.bench import wire
from tsstack.bench.server import Server
from tsstack.bench.transfer import NobodyThere, Stream, TransferFailed, together, transfer
from tsstack.errors import TsstackError

MOST_BYTES = 3_000_000
"""Of one connection. Keeps the tests light: a loopback moves gigabytes a second."""
ALL_BYTES = MOST_BYTES * wire.STREAMS


@contextmanager
def a_server(
    whois: Callable[[str], str | None] = lambda _: "laptop", **limits: float
) -> Iterator[tuple[Server, list[str]]]:
    said: list[str] = []
    options = {"most_bytes": MOST_BYTES, **limits}
    server = Server(["127.0.0.1", "::1"], whois, said.append, port=0, **options)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve, args=(time.monotonic() + 30,))
    thread.start()
    try:
        yield server, said
    finally:
        server.stop()
        thread.join()
        server.close()


def connect(server: Server) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    opened.settimeout(5)
    return opened


def line_of(opened: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while not received.endswith(b"\n") and (data := opened.recv(200)):
            received += data
    return received


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def serve_streams(listener: socket.socket, serve: Callable[[socket.socket], None]) -> list[threading.Thread]:
    """An end that serves each connection of a test by `serve`, in threads that end with the listener."""

    def accept() -> None:
        with suppress(OSError):
            serve(listener.accept()[0])

    listener.settimeout(3)
    threads = [threading.Thread(target=accept) for _ in range(wire.STREAMS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_directions_one_after_the_other(address: str) -> None:
    with a_server() as (server, said):
        up = transfer(address, "up", 1.0, port=server.port)
        down = transfer(address, "down", 1.0, port=server.port)
        eventually(lambda: len(said) == 2 * wire.STREAMS)
    assert (up.direction, up.engine, down.direction) == ("up", "own", "down")
    assert ALL_BYTES <= up.moved_bytes < ALL_BYTES + wire.STREAMS * (1 << 19)
    assert down.moved_bytes == ALL_BYTES
    assert up.bits_s == pytest.approx(up.moved_bytes * 8 / up.span_s)
    told = [each.split(",")[0] for each in said]
    assert told == ["laptop: up"] * wire.STREAMS + ["laptop: down"] * wire.STREAMS


def test_streams_that_do_not_overlap_are_no_more_than_the_way_carries() -> None:
    """Four that each have 10 Mbit/s to themselves for a second, one after the other."""
    streams = [Stream(1_250_000, float(begun_s), begun_s + 1.0) for begun_s in range(4)]
    found = together("up", streams)
    assert (found.bits_s, found.moved_bytes, found.span_s) == (10e6, 5_000_000, 4.0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_stream_that_begins_late_adds_nothing_to_the_rate(direction: str) -> None:
    """As one whose SYN was lost: by real sockets, each with 0.8 Mbit/s for half a second, one at a time."""
    listener = socket.create_server(("127.0.0.1", 0))
    turn, piece = threading.Lock(), 50_000

    def carry(opened: socket.socket) -> None:
        with opened, suppress(OSError):
            line_of(opened)
            with turn:
                opened.sendall(wire.ok_line(wire.Request(direction, 0.5, wire.MOST_BYTES)))
                if direction == "down":
                    opened.sendall(b"x" * piece)
                time.sleep(0.5)
                if direction == "up":
                    opened.sendall(wire.done_line(piece, 0.5))
            while opened.recv(1 << 20):
                pass

    threads = serve_streams(listener, carry)
    found = transfer("127.0.0.1", direction, 0.5, port=listener.getsockname()[1])  # type: ignore[arg-type]
    listener.close()
    for thread in threads:
        thread.join()
    assert found.moved_bytes == wire.STREAMS * piece
    assert found.bits_s == pytest.approx(piece * 8 / 0.5, rel=0.15)
    assert found.span_s == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_slow_way_is_loaded_no_longer_than_said(direction: str) -> None:
    """A peer that takes or gives almost nothing, so that all waits in buffers."""
    listener = socket.create_server(("127.0.0.1", 0))

    def crawl(opened: socket.socket) -> None:
        took: list[int] = []
        with opened, suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line_of(opened)
            opened.sendall(wire.ok_line(wire.Request(direction, 1.0, wire.MOST_BYTES)))
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                if direction == "up":
                    took.append(len(opened.recv(4096)))
                else:
                    opened.sendall(b"x" * 1000)
                time.sleep(0.05)
            if direction == "up":
                opened.sendall(wire.done_line(sum(took), 1.0))
                while data := opened.recv(65536):
                    took.append(len(data))

    threads = serve_streams(listener, crawl)
    begun = time.monotonic()
    found = transfer("127.0.0.1", direction, 1.0, port=listener.getsockname()[1])  # type: ignore[arg-type]
    lasted = time.monotonic() - begun
    listener.close()
    for thread in threads:
        thread.join()
    assert lasted < 2.5
    assert 0.8 < found.span_s < 1.5
    assert found.moved_bytes < 1_000_000


def test_a_stranger_is_sent_away_without_a_word() -> None:
    asked: list[str] = []

    def whois(caller: str) -> None:
        asked.append(caller)

    with a_server(whois) as (server, said):
        received = b""
        with suppress(ConnectionResetError), connect(server) as opened:
            opened.sendall(wire.Request("down", 1.0, 1000).line())
            received = line_of(opened)
        assert received == b""
        with pytest.raises(TransferFailed):
            transfer("127.0.0.1", "up", 1.0, port=server.port)
        eventually(lambda: said)
        assert said[0] == "127.0.0.1: refused, no node of this tailnet"
    assert asked[0].startswith("127.0.0.1:")


def test_nobody_is_let_in_while_tailscaled_is_silent() -> None:
    def whois(_: str) -> None:
        raise TsstackError("tailscaled does not answer")

    with a_server(whois) as (server, said):
        with suppress(ConnectionResetError), connect(server) as opened:
            assert line_of(opened) == b""
        eventually(lambda: said)
        assert "refused, tailscaled cannot say who it is" in said[0]


def test_one_peer_at_a_time() -> None:
    """Also when it takes one of the places alone; the peers differ by their address."""
    with a_server() as (server, _):
        first = connect(server)
        first.sendall(wire.Request("up", 5.0, 10**9).line())
        assert line_of(first).startswith(b"ok 5.000")
        with socket.create_connection(("::1", server.port), timeout=5) as second:
            second.sendall(wire.Request("up", 1.0, 1000).line())
            assert line_of(second) == b"busy\n"
        first.close()
        # The place is free again, and a client that comes a moment too soon waits for it.
        assert transfer("::1", "down", 1.0, port=server.port).moved_bytes == ALL_BYTES


def test_a_peer_gets_no_more_connections_than_a_test_has() -> None:
    with a_server() as (server, _), ExitStack() as opened:
        for _ in range(wire.STREAMS):
            one = opened.enter_context(connect(server))
            one.sendall(wire.Request("up", 5.0, 10**9).line())
            assert line_of(one).startswith(b"ok")
        with connect(server) as more:
            more.sendall(wire.Request("up", 1.0, 1000).line())
            assert line_of(more) == b"busy\n"


def test_who_is_turned_away_as_busy_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsstack.bench.transfer._BUSY_S", 0.3)
    with a_server() as (server, _), connect(server) as first:
        first.sendall(wire.Request("up", 5.0, 10**9).line())
        assert line_of(first).startswith(b"ok")
        with pytest.raises(TransferFailed, match="serves somebody else"):
            transfer("::1", "up", 1.0, port=server.port)


def test_a_test_ends_when_its_time_is_over() -> None:
    with a_server(most_s=0.3, most_bytes=10**10) as (server, said), connect(server) as opened:
        opened.sendall(wire.Request("up", 20.0, 10**12).line())
        assert line_of(opened) == b"ok 0.300 10000000000\n"
        opened.sendall(b"x" * 1000)
        moved, span_s = wire.read_done(line_of(opened))
        assert moved == 1000
        assert 0.25 < span_s < 1.0
        opened.close()
        eventually(lambda: said)


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n", b"tsstack-bench 1 sink 5.000 1\n", b"x" * 500])
def test_another_language_is_refused(words: bytes) -> None:
    with a_server() as (server, said):
        with connect(server) as opened:
            opened.sendall(words)
            assert line_of(opened)[:3] in {b"no ", b""}
        eventually(lambda: said)
        assert transfer("127.0.0.1", "down", 1.0, port=server.port).moved_bytes == ALL_BYTES


def test_who_says_nothing_does_not_keep_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsstack.bench.server._REQUEST_S", 0.2)
    with a_server() as (server, said), connect(server) as silent:
        eventually(lambda: said == ["laptop: said nothing"])
        assert line_of(silent) == b""
        assert transfer("127.0.0.1", "down", 1.0, port=server.port).moved_bytes == ALL_BYTES


def test_hello_moves_nothing() -> None:
    with a_server() as (server, _), connect(server) as opened:
        opened.sendall(wire.Request("hello", 0.0, 0).line())
        assert line_of(opened) == b"ok 0.000 0\n"
        assert opened.recv(10) == b""


def test_nobody_there_says_what_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NobodyThere, match=rf"port {port}: connection refused") as refused:
        transfer("127.0.0.1", "up", 1.0, port=port)
    assert "ts-benchmark --serve" in refused.value.hint


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no `ts-benchmark --serve`"),
        (b"x" * 5000, "broke off"),
        (b"ok 1.000 1000\ndone 7", "broke off"),
        (b"ok 1.000 1000\nnonsense\n", "broke off"),
    ],
)
def test_another_end_is_refused(answer: bytes, words: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def reply(opened: socket.socket) -> None:
        with opened, suppress(OSError):
            line_of(opened)
            opened.sendall(answer)
            opened.shutdown(socket.SHUT_WR)
            while opened.recv(65536):
                pass

    threads = serve_streams(listener, reply)
    with pytest.raises(TransferFailed, match=words):
        transfer("127.0.0.1", "up", 1.0, port=listener.getsockname()[1])
    listener.close()
    for thread in threads:
        thread.join()


def test_a_taken_port_is_told() -> None:
    with (
        a_server() as (server, _),
        pytest.raises(TsstackError, match=rf"port {server.port}: address already"),
    ):
        Server(["127.0.0.1"], lambda _: "laptop", lambda _: None, port=server.port)


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(TsstackError, match=r"cannot listen at 192\.0\.2\.77"):
        Server(["192.0.2.77"], lambda _: "laptop", lambda _: None, port=0)


def test_it_listens_on_its_interface_alone() -> None:
    """Bound to `lo`, an address of `lo` is served: the option itself is shown in the namespaces' tests."""
    server = Server(["127.0.0.1"], lambda _: "laptop", lambda _: None, port=0, interface="lo")
    (listener,) = server._listeners
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
    server.close()


def test_a_slow_receiver_gets_all_of_a_test_that_bytes_end() -> None:
    """What still waits in the sender's buffer then is part of the test."""
    with a_server() as (server, _), socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        opened.settimeout(5)
        opened.connect(("127.0.0.1", server.port))
        opened.sendall(wire.Request("down", 5.0, 10**9).line())
        got = len(opened.recv(1 << 16))
        time.sleep(0.3)
        while data := opened.recv(1 << 16):
            got += len(data)
    assert got == MOST_BYTES + len(wire.ok_line(wire.Request("down", 5.0, MOST_BYTES)))


def test_the_load_ends_in_time_although_the_other_end_never_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsstack.bench.transfer._ANSWER_S", 0.7)
    listener = socket.create_server(("127.0.0.1", 0))
    last_s: list[float] = []

    def swallow(opened: socket.socket) -> None:
        with opened, suppress(OSError):
            line_of(opened)
            opened.sendall(wire.ok_line(wire.Request("up", 0.2, wire.MOST_BYTES)))
            while opened.recv(1 << 20):
                last_s[:] = [time.monotonic()]
                time.sleep(0.001)

    threads = serve_streams(listener, swallow)
    begun_s = time.monotonic()
    with pytest.raises(TransferFailed, match="fell silent"):
        transfer("127.0.0.1", "up", 0.2, port=listener.getsockname()[1])
    assert time.monotonic() - begun_s < 2.0
    listener.close()
    for thread in threads:
        thread.join()
    # A moment for what waited in buffers; without an end of feeding it would be 0.9 s.
    assert last_s[0] - begun_s < 0.6
