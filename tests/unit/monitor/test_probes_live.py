"""TCP, pages, DNS, names and tailscaled's pings against real sockets on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tsstack.monitor.probes.alternatives import Round
from tsstack.monitor.probes.attempt import Attempt
from tsstack.monitor.probes.notices import Notices, is_ours
from tsstack.monitor.probes.probe import Notice, Probe
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.sample import Path, Sample


def a_path(key: str = "path") -> Path:
    return Path(key, "test")


def ask(probe: Probe, **options: Any) -> Sample:
    async def body() -> Sample:
        async with Prober(lambda sample: None, **options) as prober:
            return await prober.ask(probe)

    return asyncio.run(body())


def watch(
    body: Callable[[Prober, list[Sample], list[Notice]], Awaitable[None]], **options: Any
) -> tuple[list[Sample], list[Notice]]:
    samples: list[Sample] = []
    notices: list[Notice] = []

    async def main() -> None:
        settings = {"fast_s": 0.05, "slow_s": 0.1, **options}
        async with Prober(samples.append, tell=notices.append, **settings) as prober:
            await body(prober, samples, notices)

    asyncio.run(main())
    return samples, notices


async def until(happened: Callable[[], object], *, within_s: float = 8.0) -> None:
    async with asyncio.timeout(within_s):
        while not happened():
            await asyncio.sleep(0.01)


@contextmanager
def serving(handle: Callable[[socket.socket], None], family: int = socket.AF_INET) -> Iterator[int]:
    """A TCP server that gives each connection to `handle` in a thread of its own."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(64)
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(5)
                handle(connection)
            except OSError:
                pass  # the client went away, as some tests want it to

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


def until_hung_up(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class TestTcp:
    @pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
    def test_a_connection_that_stands_is_a_time(self, family: int, host: str) -> None:
        with serving(lambda connection: None, family) as port:
            sample = ask(Probe(a_path(), "tcp", host=host, port=port))
        assert sample.ok
        assert sample.error == ""
        assert 0 < (sample.rtt_s or 0) < 0.5

    def test_a_closed_port_refuses(self) -> None:
        assert ask(Probe(a_path(), "tcp", host="127.0.0.1", port=free_port())).error == "refused"

    def test_unix_sockets(self, tmp_path: FilePath) -> None:
        path = tmp_path / "app.sock"
        probe = Probe(a_path(), "tcp", socket=str(path))
        assert ask(probe).error == "no such socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(0)
            assert ask(probe).ok
        assert ask(probe).error == "refused"
        assert ask(Probe(a_path(), "tcp", socket="/" + "x" * 200)).error == "no such address"

    @pytest.mark.parametrize(("family", "error"), [(4, ""), (6, "refused")])
    def test_a_family_is_chosen_explicitly(self, family: Any, error: str) -> None:
        with serving(lambda connection: None) as port:
            sample = ask(
                Probe(a_path(), "tcp", host="both.test", port=port, family=family),
                lookup=lambda name, chosen: {4: ("127.0.0.1",), 6: ("::1",)}[chosen],
            )
        assert sample.error == error

    def test_an_interface_that_is_not_there(self) -> None:
        probe = Probe(Path("p", "", "nope0"), "tcp", host="127.0.0.1", port=1)
        assert ask(probe).error == "no interface nope0"

    def test_a_held_up_loop_does_not_show_in_the_time(self) -> None:
        def hold(connection: socket.socket) -> None:
            connection.recv(1)

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path(), "tcp", host="127.0.0.1", port=port))
            while len(samples) < 10:
                time.sleep(0.05)
                await asyncio.sleep(0.02)

        with serving(hold) as port:
            samples, _ = watch(body)
        assert sorted(sample.rtt_s or 9 for sample in samples)[len(samples) // 2] < 0.02


def make_certificates(folder: FilePath) -> tuple[FilePath, FilePath]:
    """A certificate for 127.0.0.1 and page.test that vouches for itself: certificate and key file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "page.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("page.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, secret


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[FilePath, FilePath]:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def page(answer: bytes, *, after_s: float = 0.0) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(4096)
            if not data:
                return
            received += data
        assert received.startswith(b"GET /health HTTP/1.1\r\nHost: ")
        time.sleep(after_s)
        connection.sendall(answer)

    return handle


class TestPages:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\n", ""),
            (b"HTTP/1.1 204 None\r\n\r\n", ""),
            (b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.test/\r\n\r\n", ""),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, ""),
            (b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
            (b"HTTP/1.1 404 No\r\n\r\n", "status 404"),
            (b"SSH-2.0-OpenSSH_9\r\n", "no http answer"),
            (b"", "connection closed"),
            (b"HTTP/1.1 100 Go\r\n" + b"X: y\r\n" * 20_000, "http head too long"),
        ],
    )
    def test_the_status_decides(self, answer: bytes, error: str) -> None:
        with serving(page(answer)) as port:
            sample = ask(Probe(a_path(), "https", url=f"http://127.0.0.1:{port}/health", timeout_s=5))
        assert sample.error == error
        assert (sample.took_s is not None) == (not error)

    def test_tls_is_verified(self, certificates: tuple[FilePath, FilePath]) -> None:
        with tls_page(certificates) as port:
            url = f"https://127.0.0.1:{port}/health"
            good = ask(Probe(a_path(), "https", url=url, timeout_s=5), authorities=str(certificates[0]))
            stranger = ask(Probe(a_path(), "https", url=url, timeout_s=5))
        assert good.error == ""
        assert 0 < (good.rtt_s or 0) <= (good.took_s or 0) < 2
        assert stranger.error == "certificate: self-signed certificate"

    def test_the_name_is_verified_too(self, certificates: tuple[FilePath, FilePath]) -> None:
        options = {"authorities": str(certificates[0]), "lookup": lambda name, family: ("127.0.0.1",)}
        with tls_page(certificates) as port:
            good, wrong = (
                ask(Probe(a_path(), "https", url=f"https://{name}:{port}/health", timeout_s=5), **options)
                for name in ("page.test", "other.test")
            )
        assert good.error == ""
        assert wrong.error.startswith("certificate: hostname mismatch")

    def test_plain_text_where_tls_should_be(self, certificates: tuple[FilePath, FilePath]) -> None:
        with serving(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
            sample = ask(
                Probe(a_path(), "https", url=f"https://127.0.0.1:{port}/", timeout_s=5),
                authorities=str(certificates[0]),
            )
        assert sample.error.startswith("tls: ")

    def test_a_slow_page_is_slow_and_a_silent_one_times_out(self) -> None:
        with serving(page(b"HTTP/1.1 200 OK\r\n\r\n", after_s=0.2)) as port:
            url = f"http://127.0.0.1:{port}/health"
            slow = ask(Probe(a_path(), "https", url=url, timeout_s=5))
            silent = ask(Probe(a_path(), "https", url=url, timeout_s=0.1))
        assert 0.2 <= (slow.took_s or 0) < 1
        assert (slow.rtt_s or 1) < 0.1  # the round trip of the path, not of the page
        assert silent.error == "timeout"

    def test_a_held_up_loop_does_not_show_in_the_time(self, certificates: tuple[FilePath, FilePath]) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path(), "https", url=f"https://127.0.0.1:{port}/health", timeout_s=5))
            while len(samples) < 10:
                time.sleep(0.05)
                await asyncio.sleep(0)

        with tls_page(certificates, after_s=0.01) as port:
            samples, _ = watch(body, authorities=str(certificates[0]))
        # Two waits after the connection stands: held up for 50 ms each, they would take 100 ms and more.
        assert sorted(sample.took_s or 9 for sample in samples)[len(samples) // 2] < 0.06

    def test_what_is_no_address(self) -> None:
        assert ask(Probe(a_path(), "https", url="https://x:99999/")).error == "no such address"


@contextmanager
def tls_page(certificates: tuple[FilePath, FilePath], *, after_s: float = 0.0) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*map(str, certificates))

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            page(b"HTTP/1.1 200 OK\r\n\r\n", after_s=after_s)(secured)

    with serving(handle) as port:
        yield port


@contextmanager
def resolver(answer: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """A UDP server: each query is answered with the packets of `answer`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    packet, sender = server.recvfrom(4096)
                except TimeoutError:
                    continue
                for reply in answer(packet):
                    server.sendto(reply, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def dns_reply(query: bytes, *, rcode: int = 0, records: int = 1, ident: int | None = None) -> bytes:
    number = int.from_bytes(query[:2]) if ident is None else ident
    kind = query[-4:-2]
    data = b"\1\2\3\4" if kind == b"\0\1" else bytes(16)
    record = b"\xc0\x0c" + kind + b"\0\1\0\0\0\x3c" + struct.pack("!H", len(data)) + data
    return struct.pack("!HHHHHH", number, 0x8180 | rcode, 1, records, 0, 0) + query[12:] + record * records


class TestDns:
    def look(self, answer: Callable[[bytes], list[bytes]], **more: Any) -> Sample:
        with resolver(answer) as port:
            probe = Probe(a_path(), "dns", host="127.0.0.1", port=port, name="example.org", **more)
            return ask(probe)

    def test_a_name_that_resolves_is_a_time(self) -> None:
        sample = self.look(lambda query: [dns_reply(query)])
        assert sample.ok
        assert 0 < (sample.rtt_s or 0) < 0.5

    def test_no_such_name(self) -> None:
        assert self.look(lambda query: [dns_reply(query, rcode=3, records=0)]).error == "no such name"

    def test_a_name_with_an_ipv6_address_alone_resolves(self) -> None:
        def answer(query: bytes) -> list[bytes]:
            return [dns_reply(query, records=0 if query[-4:-2] == b"\0\1" else 1)]

        assert self.look(answer).ok
        assert self.look(answer, family=4).error == "no address"
        assert self.look(answer, family=6).ok

    def test_false_answers_are_waited_past(self) -> None:
        def answer(query: bytes) -> list[bytes]:
            wrong = (int.from_bytes(query[:2]) + 1) & 0xFFFF
            return [dns_reply(query, rcode=3, ident=wrong), b"junk", query, dns_reply(query)]

        assert self.look(answer).ok

    def test_silence_and_a_closed_port(self) -> None:
        assert self.look(lambda query: [], timeout_s=0.2).error == "timeout"
        closed = Probe(a_path(), "dns", host="127.0.0.1", port=free_port(), name="example.org")
        assert ask(closed).error == "refused"

    def test_each_query_has_its_own_port_and_number(self) -> None:
        seen = set()

        def answer(query: bytes) -> list[bytes]:
            seen.add(query[:2])
            return [dns_reply(query)]

        for _ in range(6):
            self.look(answer)
        assert len(seen) >= 5

    def test_the_next_resolver_is_asked_after_one_that_is_silent(self, tmp_path: FilePath) -> None:
        from tsstack.monitor.probes.dns import Resolvers, read_resolvers

        text = "# x\nnameserver 127.0.0.53\nnameserver junk\nnameserver fe80::1%eth0\nsearch a\n"
        assert read_resolvers(text) == (("127.0.0.53", ""), ("fe80::1", "eth0"))
        assert read_resolvers("") == (("127.0.0.1", ""),)
        file = tmp_path / "resolv.conf"
        file.write_text(text)
        resolvers = Resolvers(file)
        first = resolvers.current()
        assert first is not None
        resolvers.pass_over(first)
        assert resolvers.current() == ("fe80::1", "eth0")
        resolvers.pass_over(first)  # late news of the one before
        assert resolvers.current() == ("fe80::1", "eth0")

    def test_no_resolv_conf_is_said(self, tmp_path: FilePath) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path(), "dns", name="example.org"))
            await until(lambda: len(samples) >= 3)

        samples, notices = watch(body, resolv_conf=tmp_path / "none")
        assert {sample.error for sample in samples} == {"no resolver"}
        assert [notice.about for notice in notices] == ["dns"]


class TestNames:
    def test_a_name_that_does_not_resolve_is_said_once_and_again_when_it_does(self) -> None:
        known: dict[str, tuple[str, ...]] = {}

        def lookup(name: str, family: int) -> tuple[str, ...]:
            if name not in known:
                raise socket.gaierror(socket.EAI_NONAME, "no")
            return known[name]

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            from tsstack.monitor.probes import names

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(names, "AGAIN_S", 0.2)
                prober.add(Probe(Path("target:tcp:x", ""), "tcp", host="x.test", port=port))
                await until(lambda: len(samples) >= 4)
                assert {sample.error for sample in samples} == {"does not resolve"}
                known["x.test"] = ("127.0.0.1",)
                await until(lambda: samples[-1].ok)

        with serving(lambda connection: None) as port:
            _, notices = watch(body, lookup=lookup)
        assert [(notice.message, notice.over) for notice in notices] == [
            ("x.test does not resolve", False),
            ("x.test does not resolve", True),
        ]

    def test_a_resolver_that_hangs_holds_up_nothing(self) -> None:
        release = threading.Event()

        def lookup(name: str, family: int) -> tuple[str, ...]:
            release.wait(10)
            return ("127.0.0.1",)

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.update(
                [Probe(a_path(f"p{number}"), "tcp", host=f"n{number}.test", port=1) for number in range(5)]
            )
            prober.add(Probe(a_path("here"), "tcp", host="127.0.0.1", port=port))
            await until(lambda: len(samples) >= 5)

        begun = time.monotonic()
        with serving(lambda connection: None) as port:
            samples, _ = watch(body, lookup=lookup)
        assert {sample.path for sample in samples} == {"here"}
        assert time.monotonic() - begun < 5
        release.set()

    def test_an_address_in_use_stays_while_it_is_named(self) -> None:
        from tsstack.monitor.probes.names import Names

        answers = [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1"), ("127.0.0.2",)]

        async def body() -> list[str]:
            used = []
            names = Names(asyncio.get_running_loop(), lookup=lambda name, family: answers[len(used)])
            for _ in answers:
                for entry in names._entries.values():
                    entry.ask_again_s = 0.0
                names.find("x.test")
                await until(lambda: not names._waiting)
                used.append(names.find("x.test")[0])
            names.close()
            return used

        assert asyncio.run(body()) == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]


class FakeDaemon:
    """tailscaled's socket: answers pings by peer, and status."""

    def __init__(self, path: FilePath) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        self.peers: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.hung_up = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(256)
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()
        self.threads: list[threading.Thread] = []

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = connection.recv(4096).decode()
            self.asked.append(request.splitlines()[0])
            if "/status" in request:
                peers = {
                    name: {
                        "ID": name,
                        "DNSName": f"{name}.tail.test.",
                        "HostName": name,
                        "TailscaleIPs": each,
                    }
                    for name, each in self.peers.items()
                }
                body: Any = {"Peer": peers}
            else:
                peer, kind = request.split("ip=")[1].split()[0].split("&type=")
                body = self.answers.get(f"{peer} {kind}") or self.answers[peer]
            if body is None:
                connection.settimeout(5)
                self.hung_up += connection.recv(1) == b""
                return
            status, text = (body[0], body[1]) if isinstance(body, tuple) else (200, json.dumps(body))
            with contextlib.suppress(BrokenPipeError):  # who asked has hung up
                connection.sendall(f"HTTP/1.0 {status} X\r\nContent-Type: x\r\n\r\n{text}".encode())

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for thread in self.threads:
            thread.join()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path: FilePath) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "ts.sock")
    yield fake
    fake.close()


class TestTailnet:
    """What the daemon may say; that a real one says so is shown in the lab."""

    def test_the_daemons_own_measure_counts(self, daemon: FakeDaemon) -> None:
        daemon.answers = {
            "100.64.0.1": {"LatencySeconds": 0.0123, "Endpoint": "192.0.2.1:41641"},
            "100.64.0.2": {"LatencySeconds": 0.5, "DERPRegionID": 999},
            "100.64.0.3": {"LatencySeconds": 0.1, "PeerRelay": "192.0.2.9:1:vni:2"},
            "100.64.0.4": {"LatencySeconds": 0.2},
            "100.64.0.5": {"Err": "no matching peer"},
            "100.64.0.6": (500, '{"error": "no backend"}'),
            "100.64.0.7": (200, "nonsense"),
            "100.64.0.8": {"LatencySeconds": 7.0},
        }
        seen = [
            ask(Probe(a_path(), "disco", host=host), daemon=daemon.path) for host in sorted(daemon.answers)
        ]
        assert [(each.rtt_s, each.error, each.via) for each in seen] == [
            (0.0123, "", "direct"),
            (0.5, "", "relay"),
            (0.1, "", "relay"),
            (0.2, "", "unknown"),
            (None, "no matching peer", "unknown"),
            (None, "no backend", "unknown"),
            (None, "tailscaled's answer is garbled", "unknown"),
            (None, "timeout", "unknown"),
        ]

    def test_the_kinds_are_asked_for_by_their_names(self, daemon: FakeDaemon) -> None:
        daemon.answers = {"100.64.0.1": {"LatencySeconds": 0.1}}
        for kind in ("disco", "tsmp", "peer-icmp"):
            ask(Probe(a_path(), kind, host="100.64.0.1"), daemon=daemon.path)  # type: ignore[arg-type]
        assert [line.split("type=")[1].split()[0] for line in daemon.asked] == ["disco", "TSMP", "ICMP"]

    def test_silence_ends_in_time_and_hangs_up(self, daemon: FakeDaemon) -> None:
        daemon.answers = {"100.64.0.1": None}

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            begun = time.monotonic()
            sample = await prober.ask(Probe(a_path(), "tsmp", host="100.64.0.1", timeout_s=0.2))
            assert sample.error == "timeout"
            assert 0.15 < time.monotonic() - begun < 2
            await until(lambda: daemon.hung_up, within_s=3)

        watch(body, daemon=daemon.path)

    def test_a_node_by_name_and_what_disco_told_for_tsmp(self, daemon: FakeDaemon) -> None:
        daemon.peers = {"exit-a": ["100.64.0.1", "fd7a:115c:a1e0::1"]}
        daemon.answers = {
            "100.64.0.1 TSMP": {"LatencySeconds": 0.01},
            "100.64.0.1 disco": {"LatencySeconds": 0.01, "DERPRegionID": 999},
        }
        path = a_path("exit:exit-a")

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.update(
                [Probe(path, "tsmp", host="Exit-A"), Probe(path, "disco", host="exit-a", judges=False)]
            )
            await until(lambda: len(samples) >= 3 and samples[-1].via == "relay")

        samples, notices = watch(body, daemon=daemon.path)
        assert {(sample.path, sample.kind, sample.error) for sample in samples} == {
            ("exit:exit-a", "tsmp", "")
        }
        assert notices == []

    def test_a_node_that_does_not_exist_is_said_once(self, daemon: FakeDaemon) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path("exit:nobody"), "tsmp", host="nobody"))
            await until(lambda: len(samples) >= 4)

        samples, notices = watch(body, daemon=daemon.path)
        assert {sample.error for sample in samples} == {"no such node on the tailnet"}
        assert [(notice.about, notice.message) for notice in notices] == [
            ("exit:nobody", "nobody is no node of this tailnet")
        ]

    def test_a_socket_that_vanishes_and_comes_back(self, daemon: FakeDaemon) -> None:
        daemon.answers = {"100.64.0.1": {"LatencySeconds": 0.01}}

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path("exit:a"), "tsmp", host="100.64.0.1"))
            await until(lambda: samples and samples[-1].ok)
            moved = daemon.path.rename(daemon.path.with_suffix(".away"))
            await until(lambda: samples[-1].error == "tailscaled does not answer")
            moved.rename(daemon.path)
            await until(lambda: samples[-1].ok)

        _, notices = watch(body, daemon=daemon.path)
        assert [(notice.about, notice.over) for notice in notices] == [
            ("tailscaled", False),
            ("tailscaled", True),
        ]

    def test_many_at_a_time_need_no_thread(self, daemon: FakeDaemon) -> None:
        daemon.answers = {f"100.64.1.{number}": None for number in range(200)}

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            before = set(threading.enumerate())
            prober.update([Probe(a_path(host), "tsmp", host=host, timeout_s=2) for host in daemon.answers])
            await until(lambda: prober.waiting >= 200)
            assert set(threading.enumerate()) - before <= set(daemon.threads)  # the fake's own
            await until(lambda: len(samples) >= 200)

        samples, _ = watch(body, daemon=daemon.path, slow_s=1.0)
        assert {sample.error for sample in samples} == {"timeout"}


class TestLife:
    def test_closing_leaves_no_descriptor_task_or_thread(self, daemon: FakeDaemon) -> None:
        daemon.answers = {"100.64.0.1": None}
        with serving(until_hung_up) as port:
            probes = [
                Probe(a_path("a"), "tcp", host="127.0.0.1", port=port),
                Probe(a_path("b"), "https", url=f"http://127.0.0.1:{port}/", timeout_s=5),
                Probe(a_path("c"), "dns", host="127.0.0.1", port=port, name="x.test"),
                Probe(a_path("d"), "tsmp", host="100.64.0.1"),
                Probe(a_path("e"), "icmp", host="127.0.0.1"),
                Probe(a_path("f"), "icmp", host="name.test"),
            ]

            def open_files() -> int:
                return len(list(FilePath("/proc/self/fd").iterdir()))

            async def main() -> None:
                before = open_files()
                prober = Prober(
                    lambda sample: None,
                    fast_s=0.05,
                    slow_s=0.05,
                    daemon=daemon.path,
                    lookup=lambda name, family: ("127.0.0.1",),
                )
                prober.update(probes)
                asking = asyncio.ensure_future(prober.ask(Probe(a_path(), "tsmp", host="100.64.0.1")))
                await asyncio.sleep(0.4)
                assert open_files() > before + 2
                prober.close()
                prober.close()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                deadline_s = time.monotonic() + 4
                while open_files() > before:  # the other ends are ours too, and have to notice
                    assert time.monotonic() < deadline_s
                    await asyncio.sleep(0.01)
                assert asyncio.all_tasks() == {asyncio.current_task()}

            count = threading.active_count()
            asyncio.run(main())
            gc.collect()
            deadline = time.monotonic() + 5
            while any(thread.name == "names" for thread in threading.enumerate()):
                assert time.monotonic() < deadline, count
                time.sleep(0.01)

    def test_asking_can_be_given_up(self, daemon: FakeDaemon) -> None:
        daemon.answers = {"100.64.0.1": None}

        async def main() -> None:
            async with Prober(lambda sample: None, daemon=daemon.path) as prober:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await prober.ask(Probe(a_path(), "tsmp", host="100.64.0.1", timeout_s=0.4))
                await until(lambda: prober.waiting == 0, within_s=3)

        asyncio.run(main())

    def test_those_that_stay_lose_nothing_when_others_come_and_go(self) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            stays = Probe(a_path("stays"), "tcp", host="127.0.0.1", port=port)
            others = [Probe(a_path(f"o{number}"), "tcp", host="127.0.0.1", port=port) for number in range(9)]
            prober.update([stays, *others])
            begun = time.monotonic()
            while time.monotonic() - begun < 2:
                prober.update([stays, *others[:4]])
                await asyncio.sleep(0.03)
                prober.update([stays, *others[4:]])
                await asyncio.sleep(0.03)
            prober.remove("stays")
            assert {probe.path.key for probe in prober.probes} == {f"o{number}" for number in range(4, 9)}

        with serving(lambda connection: None) as port:
            samples, _ = watch(body, slow_s=0.2)
        assert 8 <= sum(sample.path == "stays" for sample in samples) <= 11

    def test_paces_change_live(self) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            probe = Probe(a_path("exit:a"), "tcp", host="127.0.0.1", port=port)
            prober.add(probe)
            prober.set_pace("exit:a", "fast")
            await asyncio.sleep(1.05)
            fast = len(samples)
            assert 8 <= fast <= 11
            prober.set_pace("exit:a", "slow")
            await asyncio.sleep(0.5)
            assert len(samples) <= fast + 2  # one was under way, one due
            prober.set_paces(fast_s=0.1, slow_s=0.05)
            await asyncio.sleep(0.5)
            assert len(samples) >= fast + 6

        with serving(lambda connection: None) as port:
            watch(body, fast_s=0.1, slow_s=60.0)

    def test_another_host_of_a_route_is_asked_while_the_first_is_silent(self) -> None:
        path = a_path("route:192.168.15.0/24")

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            good = Probe(path, "tcp", host="127.0.0.1", port=port)
            prober.add(Probe(path, "tcp", host="127.0.0.1", port=closed, others=(good,)))
            await until(lambda: len(samples) >= 6)

        closed = free_port()
        with serving(lambda connection: None) as port:
            samples, _ = watch(body)
        assert all(sample.ok for sample in samples)

    def test_a_route_is_lost_only_when_none_of_its_hosts_answers(self) -> None:
        """Three services of one host that is down were three losses in a row, though another answered."""
        path = a_path("route:192.168.15.0/24")

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            down = [Probe(path, "tcp", host="127.0.0.1", port=each) for each in closed]
            with serving(lambda connection: None) as port:
                good = Probe(path, "tcp", host="127.0.0.1", port=port)
                prober.add(Probe(path, "tcp", host="127.0.0.1", port=closed[0], others=(*down[1:], good)))
                await until(lambda: len(samples) >= 4)
                assert all(sample.ok for sample in samples)
                prober.update([Probe(path, "tcp", host="127.0.0.1", port=port, others=tuple(down))])
                await until(lambda: len(samples) >= 6)
            del samples[:]
            await until(lambda: len(samples) >= 4)
            assert not any(sample.ok for sample in samples[1:])

        closed = [free_port() for _ in range(4)]
        watch(body)

    @pytest.mark.parametrize("way", ["target", "direct"])
    @pytest.mark.parametrize("near", ["192.168.15.9", "fd00::9", "127.0.0.1", "100.64.0.9"])
    def test_a_public_name_with_an_address_of_the_lan_says_nothing_of_the_way_out(
        self, way: str, near: str
    ) -> None:
        """A split horizon: a neighbour answered for an exit node that was dead."""

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(
                Probe(Path(f"{way}:tcp:nas.example.org:443", "x", "lo"), "tcp", "nas.example.org", port)
            )
            prober.add(Probe(Path("target:tcp:free", "x"), "tcp", "nas.example.org", port, timeout_s=0.1))
            await until(lambda: len({sample.path for sample in samples}) == 2)

        port = free_port()
        samples, notices = watch(body, lookup=lambda name, family: (near,))
        bound = {sample.error for sample in samples if sample.path != "target:tcp:free"}
        assert [is_ours(each) for each in bound] == [True]
        assert not any(is_ours(sample.error) for sample in samples if sample.path == "target:tcp:free")
        (told,) = [each for each in notices if "nas.example.org" in each.message]
        assert "your own network" in told.message and not told.over

    def test_a_host_that_refuses_a_connection_is_alive(self) -> None:
        """A stopped service on a host that answers no ping had its whole network withdrawn."""

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path("route:192.168.15.0/24"), "tcp", "127.0.0.1", port, reaches=True))
            await until(lambda: len(samples) >= 3)
            assert all(sample.ok for sample in samples)
            # Its own time, not that until the next look: a LAN was poor for ever with `max_latency: 80ms`.
            assert min(sample.rtt_s or 1 for sample in samples) < 0.02

        port = free_port()
        watch(body)

    def test_no_loss_is_told_while_an_alternative_could_not_be_asked(self) -> None:
        path = a_path("route:192.168.15.0/24")

        def ended(error: str) -> Attempt:
            attempt = Attempt(Probe(path, "tcp"), "", lambda attempt: None)
            attempt.error = error
            return attempt

        asked = Round(ended("timeout"), 2)
        assert asked.end_one(ended("too many open files")) is None
        told = asked.end_one(ended("refused"))
        assert told is not None and told.error == "too many open files"

    def test_what_was_said_for_all_is_over_with_the_last_path_that_it_was_said_for(self) -> None:
        told: list[tuple[str, bool]] = []
        notices = Notices(lambda notice: told.append((notice.about, notice.over)))
        one, other = (Probe(Path(f"target:icmp:10.0.0.{n}", "x", "eth7"), "icmp") for n in (1, 2))
        for probe in (one, other):
            notices.failed(probe, "no interface eth7")
        notices.failed(one, "no permission for ICMP")
        notices.keep_only({other.path.key})
        assert told == [("interface eth7", False), ("icmp", False), ("icmp", True)]
        notices.keep_only(set())
        assert told[3:] == [("interface eth7", True)]

    def test_descriptors_are_short_until_each_probe_that_got_none_was_sent(self) -> None:
        """With pings and an exit node alone the trouble stood for ever."""
        told: list[tuple[str, bool]] = []
        notices = Notices(lambda notice: told.append((notice.about, notice.over)))
        node = Probe(Path("exit:a", "x"), "tsmp", host="a")
        target = Probe(Path("target:icmp:10.0.0.1", "x"), "icmp")
        for probe in (node, target):
            notices.failed(probe, "too many open files")
        notices.failed(target, "does not resolve")
        notices.failed(node, "timeout")
        assert ("files", True) not in told
        notices.worked(target)
        assert ("files", True) in told

    @pytest.mark.parametrize("works", [True, False])
    def test_descriptors_are_not_short_for_a_path_that_left_the_file(self, works: bool) -> None:
        told: list[tuple[str, bool]] = []
        notices = Notices(lambda notice: told.append((notice.about, notice.over)))
        left, stays = (Probe(Path(f"service:{name}#0", "x"), "tcp", host="h", port=1) for name in "ab")
        for probe in (left, stays):
            notices.failed(probe, "too many open files")
        notices.keep_only({stays.path.key})
        assert told == [("files", False)], "the one that stays is still without"
        if works:
            notices.worked(stays)
        else:
            notices.keep_only({left.path.key})  # it was of those that the trouble was said for no more
        assert told == [("files", False), ("files", True)]

    def test_nothing_is_overdue_while_everything_fails(self) -> None:
        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path(), "tcp", host="127.0.0.1", port=closed))
            await until(lambda: len(samples) >= 3)
            assert prober.overdue_s < 1

        closed = free_port()
        watch(body)

    def test_out_of_descriptors_is_a_value_and_is_said(self) -> None:
        import resource

        async def body(prober: Prober, samples: list[Sample], notices: list[Notice]) -> None:
            prober.add(Probe(a_path(), "tcp", host="127.0.0.1", port=port))
            prober.add(Probe(a_path("exit:a"), "tsmp", host="100.64.0.2"))
            await until(lambda: len({sample.path for sample in samples}) == 2)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (max(int(each.name) for each in FilePath("/proc/self/fd").iterdir()), limits[1]),
            )
            hoard: list[int] = []

            def is_told_once_none_is_left() -> bool:
                # Again each time: a probe that was under way has given its own back.
                with pytest.raises(OSError):
                    while True:
                        hoard.append(os.dup(0))
                latest = {sample.path: sample.error for sample in samples}
                return {*latest.values()} == {"too many open files"}

            try:
                await until(is_told_once_none_is_left)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for descriptor in hoard:
                    os.close(descriptor)
            await until(lambda: ("files", True) in [(each.about, each.over) for each in notices])
            assert "too many open files" not in {samples[-1].error, samples[-2].error}

        port = free_port()
        _, notices = watch(body)
        files = [(notice.message, notice.over) for notice in notices if notice.about == "files"]
        assert files == [("too many open files", False), ("too many open files", True)]
