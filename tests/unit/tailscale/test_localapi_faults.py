"""Faults on the other end of the LocalAPI's socket that no healthy tailscaled shows."""

from __future__ import annotations

import errno
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsstack.model.facts import Paths
from tsstack.parts.tailscale.host import discover_tailscale
from tsstack.system.localapi import LocalApi, LocalApiError, LocalApiTimeout

Serve = Callable[[bytes], LocalApi]


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own folders are too long for a unix socket (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="la") as name:
        yield Path(name)


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """Answers every connection with the given bytes and closes; with none, it stays silent."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "s"))
    listener.listen()
    done = threading.Event()
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> LocalApi:
        def loop() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                if answer:
                    client.sendall(answer)
                else:
                    done.wait(5)

        threads.append(threading.Thread(target=loop))
        threads[0].start()
        return LocalApi(folder / "s", timeout_s=0.3)

    yield start
    done.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 50\r\n\r\n{}", "cut off"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"a":', "cut off or not JSON"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2", "does not speak HTTP"),
        (b"HTTP/1.0 500 Internal\r\n\r\nstate store is broken\n", "refused prefs: state store is broken"),
        (b'HTTP/1.0 400 Bad\r\n\r\n{"Error":"bad route"}', "refused prefs: bad route"),
        (b'HTTP/1.0 500 Bad\r\n\r\n{"error":"no peer"}', "refused prefs: no peer"),
        (b"HTTP/1.0 502 Bad\r\n\r\n", "refused prefs: status 502"),
    ],
)
def test_a_broken_answer_is_named(serve: Serve, answer: bytes, words: str) -> None:
    with pytest.raises(LocalApiError, match=words):
        serve(answer).prefs()


def test_silence_ends_at_the_limit(serve: Serve) -> None:
    start = time.monotonic()
    with pytest.raises(LocalApiTimeout, match=r"did not answer within 0\.3 s"):
        serve(b"").prefs()
    assert 0.2 < time.monotonic() - start < 1


def test_a_stream_that_ends_is_no_silence(serve: Serve) -> None:
    api = serve(b'HTTP/1.0 200 OK\r\n\r\n{"State": 2}\n{"State": 5}\n')
    with pytest.raises(LocalApiError, match="closed its event stream"):
        api.wait_for(lambda message: message.get("State") == 6, timeout_s=2)


def test_a_stream_gives_each_line_as_it_comes(serve: Serve) -> None:
    api = serve(b'HTTP/1.0 200 OK\r\n\r\n{"State": 2}\n\n{"State": 6}\n')
    assert api.wait_for(lambda message: message.get("State") == 6, timeout_s=2) == {"State": 6}


def test_nobody_there_is_a_hint_to_start_it(folder: Path) -> None:
    with pytest.raises(LocalApiError, match=r"does not answer on .*/none: No such file") as failure:
        LocalApi(folder / "none").prefs()
    assert failure.value.hint == "systemctl start tailscaled"
    assert discover_tailscale(Paths(tailscale_socket=folder / "none")) is None


def test_no_socket_to_be_had_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("_socket.socket", none_left)
    with pytest.raises(LocalApiError, match="Too many open files"):
        LocalApi(folder / "ts.sock").prefs()


def test_a_socket_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalApiError, match=r"does not answer on .*too long"):
        LocalApi(tmp_path / ("x" * 120)).prefs()


def test_the_key_is_in_no_message_when_starting_fails(serve: Serve) -> None:
    api = serve(b"HTTP/1.0 500 Internal\r\n\r\nno\n")
    with pytest.raises(LocalApiError) as failure:
        api.start("hskey-auth-secret", {})
    assert "hskey" not in f"{failure.value!r}{failure.value.hint}"
