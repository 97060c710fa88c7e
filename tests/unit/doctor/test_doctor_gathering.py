"""How the doctor looks: at resolvers, clocks, disks, certificates and sockets that stand in for a host's."""

from __future__ import annotations

import datetime
import http.server
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tsstack.doctor.gathering import certificates, names
from tsstack.doctor.gathering.arrival import connect_to_self
from tsstack.doctor.gathering.machine import look_at_clock, look_at_disks
from tsstack.doctor.names import SILENT, Answer
from tsstack.model.facts import Facts, Paths, TailscaleFacts
from tsstack.monitor.probes.dns_message import AAAA, A, query, question, read_addresses
from tsstack.parts.proxy import authority
from tsstack.parts.proxy.plan import Certificate, Listener, Plan, Vhost

NAME = "wiki.box.tail.test"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def an_answer(ident: int, asked: bytes, *records: tuple[int, bytes], rcode: int = 0) -> bytes:
    """As a server would send it: names point at the question (RFC 1035 section 4.1.4)."""
    head = struct.pack("!HHHHHH", ident, 0x8180 | rcode, 1, len(records), 0, 0)
    body = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for kind, data in records
    )
    return head + asked + body


@contextmanager
def resolver(zone: dict[str, list[str]], *, deaf_to: int = 0) -> Iterator[int]:
    """A DNS server on loopback that knows `zone`; it loses the first `deaf_to` queries."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            lost = 0
            while not done.is_set():
                try:
                    packet, asker = server.recvfrom(4096)
                except TimeoutError:
                    continue
                if lost < deaf_to:
                    lost += 1
                    continue
                asked = packet[12:]
                known = next((zone[name] for name in zone if question(name, A)[:-4] == asked[:-4]), None)
                kind = int.from_bytes(asked[-4:-2])
                family = socket.AF_INET if kind == A else socket.AF_INET6
                records = [
                    (kind, socket.inet_pton(family, address))
                    for address in known or ()
                    if (":" in address) == (kind == AAAA)
                ]
                server.sendto(
                    an_answer(int.from_bytes(packet[:2]), asked, *records, rcode=0 if known else 3), asker
                )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            thread.join()


def test_addresses_of_both_families_come_with_their_name() -> None:
    zone = {NAME: ["100.64.0.2", "fd7a::2"], "four.tail.test": ["100.64.0.3"]}
    with resolver(zone) as port:
        found = names.ask("127.0.0.1", [NAME, "four.tail.test", "none.tail.test"], port=port)
    assert found == {
        NAME: Answer(("100.64.0.2", "fd7a::2")),
        "four.tail.test": Answer(("100.64.0.3",)),
        "none.tail.test": Answer(cause="no such name"),
    }


def test_a_lost_question_is_asked_again() -> None:
    with resolver({NAME: ["100.64.0.2"]}, deaf_to=2) as port:
        assert names.ask("127.0.0.1", [NAME], port=port) == {NAME: Answer(("100.64.0.2",))}


def test_many_names_are_asked_in_turns() -> None:
    zone = {f"s{number}.tail.test": [f"100.64.1.{number % 250 + 1}"] for number in range(200)}
    with resolver(zone) as port:
        found = names.ask("127.0.0.1", list(zone), port=port)
    assert {name: list(answer.addresses) for name, answer in found.items()} == zone


def test_a_silent_resolver_costs_one_time_limit_however_many_names() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        wanted = [f"s{number}.tail.test" for number in range(500)]
        began_s = time.monotonic()
        found = names.ask("127.0.0.1", wanted, port=deaf.getsockname()[1], timeout_s=0.3)
    assert time.monotonic() - began_s < 1.5
    assert set(found) == set(wanted)
    assert {answer.cause for answer in found.values()} == {SILENT}


def test_where_nobody_listens_the_system_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    assert names.ask("127.0.0.1", [NAME], port=port)[NAME].cause == os.strerror(111)


def test_an_answer_to_somebody_elses_question_is_none() -> None:
    asked = question(NAME, A)
    assert query(7, asked)[12:] == asked
    good = an_answer(7, asked, (A, bytes((100, 64, 0, 2))))
    assert read_addresses(good, 7, asked) == (("100.64.0.2",), "")
    assert read_addresses(good, 8, asked) is None
    assert read_addresses(good, 7, question("x.test", A)) is None
    assert read_addresses(good[:-2], 7, asked) == ((), "garbled answer")
    alias = an_answer(7, asked, (5, b"\x01a\xc0\x0c"), (A, bytes((100, 64, 0, 2))))
    assert read_addresses(alias, 7, asked) == (("100.64.0.2",), "")


def test_the_first_nameserver_that_has_an_address_is_asked(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("# x\nsearch a\nnameserver fe80::1%eth0x!\nnameserver 192.0.2.53\n")
    facts = Facts(paths=Paths(etc=tmp_path))
    assert list(names._nameservers(facts))[-1] == "192.0.2.53"
    assert list(names._nameservers(Facts(paths=Paths(etc=tmp_path / "none")))) == []


def test_a_name_may_lead_to_all_that_nginx_binds() -> None:
    facts = Facts(tailscale=TailscaleFacts((1, 98, 0), "Running", ("100.64.0.2",)))
    assert names._expected(a_plan(Listener("192.0.2.7", 443, "tcp", "p")), facts) == {
        "100.64.0.2",
        "192.0.2.7",
    }
    claimed = a_plan(Listener("127.0.0.1", 443, "tcp", "p", claimed=True))
    assert names._expected(claimed, facts) == frozenset()


def test_the_names_are_those_of_vhosts_and_of_tcp_services() -> None:
    plan = replace(a_plan(), urls={"wiki": f"https://{NAME}/", "db": "tcp://box.tail.test:5432"})
    assert names._names(plan) == (NAME, "box.tail.test")
    assert names._names(replace(plan, urls={"db": "tcp://100.64.0.2:5432"})) == (NAME,)
    assert names._names(replace(plan, vhosts=(), urls={"db": "tcp://box:5432"})) == ()


def a_plan(*listeners: Listener, certificates: tuple[Certificate, ...] = ()) -> Plan:
    return Plan(
        digest="d", main_config="", has_main=False, addresses_known=True, tailnet="tail.test", status=None,
        identity=False, listeners=listeners, vhosts=(Vhost(NAME, 443, True, ("wiki",)),),
        certificates=certificates,
    )  # fmt: skip


@contextmanager
def control(date: str | None) -> Iterator[str]:
    """A control server that thinks it is `date`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            if date is not None:
                self.send_header("Date", date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_control_servers_clock_is_compared_with_ours() -> None:
    with control(formatdate(time.time() + 3600, usegmt=True)) as url:
        clock = look_at_clock(url)
    assert clock.ahead_s is not None
    assert -3603 < clock.ahead_s < -3597
    assert clock.server == "127.0.0.1"
    assert 1.0 <= clock.margin_s < 3


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_control_server_without_a_time_is_a_fault(date: str | None) -> None:
    with control(date) as url:
        clock = look_at_clock(url)
    assert clock.ahead_s is None
    assert "gives no time" in clock.fault


def test_a_control_server_that_is_gone_is_a_fault() -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    assert "refused" in look_at_clock(url).fault


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mark a socket")
def test_the_control_server_is_asked_past_an_exit_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit node need not reach a control server in a private network, and tailscaled asks past it."""
    marks = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            marks.append(self.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Watched)
    with control(formatdate(usegmt=True)) as url:
        assert look_at_clock(url, "eth0").ahead_s is not None
    assert marks == [0x80000]


def test_without_a_tailnet_the_kernel_alone_is_asked() -> None:
    clock = look_at_clock("")
    assert clock.fault == ""
    assert clock.ahead_s is None
    assert clock.disciplined in {True, False, None}


def test_one_file_system_is_looked_at_once(tmp_path: Path) -> None:
    (disk,) = look_at_disks(tmp_path / "a" / "b", tmp_path / "c")
    assert disk.path == str(tmp_path / "a" / "b")
    assert disk.free_bytes > 0
    assert not disk.read_only


def pair(names_: tuple[str, ...], issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    by, signing = issuer or (subject, key)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 60 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names_]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return leaf.public_bytes(pem), plain


def facts_in(tmp_path: Path) -> Facts:
    return Facts(paths=Paths(tmp_path / "etc", tmp_path, tmp_path / "run", tmp_path / "sock"))


def test_a_leaf_of_the_local_ca_is_sound(tmp_path: Path) -> None:
    facts = facts_in(tmp_path)
    facts.paths.tls.mkdir()
    path = facts.paths.tls / "leaf.pem"
    path.write_bytes(authority.issue(facts.paths.tls, "tail.test", (NAME,), NOW)[0])
    path.chmod(0o600)
    certificate = Certificate("local-ca", (NAME,), str(path), str(path))
    (found,) = certificates.look_at_certificates(a_plan(certificates=(certificate,)), facts)
    assert (found.fault, found.chain_fault, found.uncovered) == ("", "", ())
    assert found.begins < NOW.timestamp() < found.ends
    assert found.key_mode == 0o600
    authority.ca_certificate(facts.paths.tls, "tail.test").write_bytes(pair((NAME,))[0])
    (found,) = certificates.look_at_certificates(a_plan(certificates=(certificate,)), facts)
    assert "does not come from the local CA" in found.chain_fault


def own(tmp_path: Path, leaf: bytes, key: bytes, *names_: str) -> Plan:
    (tmp_path / "own.pem").write_bytes(leaf)
    (tmp_path / "own.key").write_bytes(key)
    (tmp_path / "own.key").chmod(0o640)
    paths = (str(tmp_path / "own.pem"), str(tmp_path / "own.key"))
    return a_plan(certificates=(Certificate("files", names_, *paths, *paths),))


def test_a_pair_of_ones_own_is_judged_by_names_key_and_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_in(tmp_path)
    leaf, key = pair((NAME,))
    roots = tmp_path / "roots.crt"
    roots.write_bytes(pair(("root.test",))[0])
    monkeypatch.setattr(certificates, "SYSTEM_ROOTS", roots)
    (found,) = certificates.look_at_certificates(own(tmp_path, leaf, key, NAME, "b.test"), facts)
    assert found.uncovered == ("b.test",)
    assert found.key_mode == 0o640
    assert "no authority that this system trusts" in found.chain_fault
    (found,) = certificates.look_at_certificates(own(tmp_path, leaf, pair((NAME,))[1], NAME), facts)
    assert "does not belong" in found.fault
    assert "PRIVATE" not in repr(found)


def test_where_the_system_has_no_authorities_no_chain_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "SYSTEM_ROOTS", tmp_path / "none")
    (found,) = certificates.look_at_certificates(own(tmp_path, *pair((NAME,)), NAME), facts_in(tmp_path))
    assert found.chain_fault == ""


def test_each_socket_says_what_a_new_connection_met(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        there, nobody = server.getsockname()[1], gone.getsockname()[1]
        plan = a_plan(Listener("127.0.0.1", there, "tcp", "one"), Listener("127.0.0.1", nobody, "tcp", "two"))
        found = connect_to_self(plan, facts_in(tmp_path))
    assert [each.fault for each in found.sockets] == ["", os.strerror(111)]
    assert found.loopback_fault == ""
    assert found.vhost_fault == ""  # who has no socket is not asked by name
