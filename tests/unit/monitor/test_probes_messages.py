"""What is read from the wire is read with suspicion: echo replies, ICMP errors, DNS answers, HTTP heads."""

from __future__ import annotations

import random
import struct

import pytest

from tsstack.monitor.probes import dns_message, echo
from tsstack.monitor.probes.causes import words_of_icmp
from tsstack.monitor.probes.https import page_of, status_of
from tsstack.monitor.probes.stamps import elapsed_s

SECRET = b"12345678"


def as_reply(family: int, request: bytes) -> bytes:
    return bytes([echo.ECHO_REPLY[family]]) + request[1:]


@pytest.mark.parametrize("family", [4, 6])
def test_a_reply_to_our_request_is_known_again(family: int) -> None:
    request = echo.request(family, 7, 65535, SECRET, 2**40)
    assert echo.read_reply(family, as_reply(family, request), SECRET) == (7, 65535, 2**40)


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_no_reply_to_us_is_none(family: int) -> None:
    request = echo.request(family, 7, 1, SECRET, 1)
    reply = as_reply(family, request)
    for packet in (request, reply[:-1], reply + b"x", b"", b"\0", reply[:8]):
        assert echo.read_reply(family, packet, SECRET) is None
    assert echo.read_reply(family, reply, b"somebody") is None
    assert echo.read_reply(10 - family, reply, SECRET) is None


def test_the_checksum_is_that_of_rfc_1071() -> None:
    packet = echo.with_checksum(echo.request(4, 0x1234, 9, SECRET, 2**63 + 11))
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_an_error_quotes_as_little_as_the_header() -> None:
    request = echo.request(4, 7, 300, SECRET, 5)
    assert echo.read_quote(4, request[:8], SECRET) == echo.Quote(7, 300, None)
    assert echo.read_quote(4, request, SECRET) == echo.Quote(7, 300, 5)
    assert echo.read_quote(4, request, b"somebody") is None
    assert echo.read_quote(4, request[:7], SECRET) is None
    assert echo.read_quote(4, as_reply(4, request), SECRET) is None


def test_the_ip_header_of_a_raw_socket_is_cut_off_with_its_options() -> None:
    assert echo.payload_of_ipv4(bytes([0x46]) + bytes(23) + b"rest") == b"rest"
    assert echo.payload_of_ipv4(b"") == b""
    assert echo.payload_of_ipv4(b"\x60" + bytes(40)) == b""


def test_errors_have_names() -> None:
    assert words_of_icmp(4, 3, 1, 113) == "host unreachable"
    assert words_of_icmp(4, 3, 13, 113) == "prohibited"
    assert words_of_icmp(6, 1, 1, 13) == "prohibited"
    assert words_of_icmp(6, 200, 9, 111) == "refused"


def answer(ident: int, asked: bytes, records: list[tuple[int, bytes]], flags: int = 0x8180) -> bytes:
    body = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for kind, data in records
    )
    return struct.pack("!HHHHHH", ident, flags, 1, len(records), 0, 0) + asked + body


class TestDns:
    asked = dns_message.question("example.org", dns_message.A)

    def read(self, packet: bytes) -> str | None:
        return dns_message.read_answer(packet, 77, self.asked)

    def test_the_question_is_as_rfc_1035_writes_it(self) -> None:
        assert self.asked == b"\7example\3org\0\0\1\0\1"
        assert dns_message.question("example.org.", 1) == self.asked

    @pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["abcdefgh"] * 30), "ü.org"])
    def test_what_is_no_name_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError):
            dns_message.question(name, 1)

    def test_an_address_means_that_it_resolves(self) -> None:
        assert self.read(answer(77, self.asked, [(5, b"\0"), (1, b"\1\2\3\4")])) == ""
        assert self.read(answer(77, self.asked, [], flags=0x8380)) == ""  # cut short: there is more

    @pytest.mark.parametrize(
        ("rcode", "words"),
        [(2, "server failure"), (3, "no such name"), (5, "query refused"), (9, "dns error 9")],
    )
    def test_refusals_have_names(self, rcode: int, words: str) -> None:
        assert self.read(answer(77, self.asked, [], flags=0x8180 | rcode)) == words

    def test_no_address_is_said(self) -> None:
        assert self.read(answer(77, self.asked, [])) == dns_message.NO_ADDRESS
        assert self.read(answer(77, self.asked, [(5, b"\0")])) == dns_message.NO_ADDRESS

    def test_answers_to_others_are_none(self) -> None:
        good = answer(77, self.asked, [(1, b"\1\2\3\4")])
        assert dns_message.read_answer(good, 78, self.asked) is None
        assert dns_message.read_answer(good, 77, dns_message.question("example.com", 1)) is None
        assert dns_message.read_answer(good, 77, dns_message.question("example.org", 28)) is None
        assert self.read(dns_message.query(77, self.asked)) is None
        for length in range(len(good) - 16):
            assert self.read(good[:length]) is None

    def test_garbage_never_raises(self) -> None:
        chance = random.Random(1)  # noqa: S311  repeatable on purpose
        good = answer(77, self.asked, [(5, b"\0"), (1, b"\1\2\3\4")])
        for _ in range(3000):
            packet = bytearray(good[: chance.randint(0, len(good))])
            for _ in range(chance.randint(0, 4)):
                if packet:
                    packet[chance.randrange(len(packet))] = chance.randrange(256)
            self.read(bytes(packet))
        assert self.read(good[:-3]) == "garbled answer"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 0),
        (b"HT", 0),
        (b"HTTP/1.1 20", 0),
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 301\r\n", 301),
        (b"HTTP/1.1 100 Continue\r\n", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n", 503),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n", 200),
        (b"SSH-2.0-OpenSSH\r\n", -1),
        (b"HTTP/1.1 2000 OK\r\n", -1),
        (b"HTTP/1.1 OK\r\n", -1),
        (b"HTTP/1.1 " + b"9" * 2000, -1),
        (b"\x15\x03\x01", -1),
    ],
)
def test_the_status_line(head: bytes, status: int) -> None:
    assert status_of(head) == status


def test_a_page_in_its_pieces() -> None:
    page = page_of("https://example.org:8443/health?x=1")
    assert (page.tls, page.host, page.port) == (True, "example.org", 8443)
    assert page.request.startswith(b"GET /health?x=1 HTTP/1.1\r\nHost: example.org:8443\r\n")
    assert page_of("http://[::1]").request.startswith(b"GET / HTTP/1.1\r\nHost: [::1]\r\n")
    assert page_of("http://[::1]").host == "::1"
    for url in ("ftp://x/", "https://", "https://x:99999/"):
        with pytest.raises(ValueError):
            page_of(url)


class TestElapsed:
    """CLOCK_REALTIME may be set while an answer is under way."""

    def test_the_kernels_stamp_counts_and_not_when_we_read_it(self) -> None:
        took_s = elapsed_s(1000, 21_001_000, gap_at_sending_ns=5, gap_ns=5, now_ns=90_000_000)
        assert took_s == pytest.approx(0.021)

    def test_without_a_stamp_our_own_time_counts(self) -> None:
        assert elapsed_s(0, None, gap_at_sending_ns=0, gap_ns=0, now_ns=30_000_000) == pytest.approx(0.03)

    @pytest.mark.parametrize("step_s", [3600, -3600, 0.5, -0.5])
    @pytest.mark.parametrize("stamped_after_step", [True, False])
    def test_a_step_of_the_clock_does_not_show(self, step_s: float, stamped_after_step: bool) -> None:
        step_ns = int(step_s * 1e9)
        arrived_ns = 20_000_000 + (step_ns if stamped_after_step else 0)
        took_s = elapsed_s(0, arrived_ns, gap_at_sending_ns=0, gap_ns=step_ns, now_ns=100_000_000 + step_ns)
        assert took_s == pytest.approx(0.02)

    def test_a_small_step_is_never_worse_than_our_own_time(self) -> None:
        took_s = elapsed_s(0, 60_000_000, gap_at_sending_ns=0, gap_ns=10_000_000, now_ns=110_000_000)
        assert 0.05 <= took_s <= 0.1

    def test_it_is_never_negative(self) -> None:
        assert elapsed_s(1000, 0, gap_at_sending_ns=0, gap_ns=0, now_ns=2000) == 0
