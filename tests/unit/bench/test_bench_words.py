"""What comes from others: iperf3's results, the words of our own test, netcheck."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.bench import iperf, wire
from tsstack.bench.netcheck import read_netcheck


def a_result(**end: Any) -> str:
    usual = {
        "sum_sent": {"seconds": 5.0, "bytes": 70_000_000, "bits_per_second": 112e6, "retransmits": 12},
        "sum_received": {"seconds": 5.04, "bytes": 69_000_000, "bits_per_second": 109.5e6},
    }
    return json.dumps({"start": {}, "intervals": [], "end": {**usual, **end}})


def test_what_the_receiver_got_counts() -> None:
    found = iperf.read_result(a_result(), "up")
    assert (found.engine, found.direction) == ("iperf3", "up")
    assert (found.bits_s, found.moved_bytes, found.span_s, found.retransmits) == (
        109.5e6,
        69_000_000,
        5.04,
        12,
    )


def test_retransmits_that_nobody_tells_are_none() -> None:
    assert iperf.read_result(a_result(sum_sent={}), "down").retransmits is None


def test_iperfs_own_words_are_the_error() -> None:
    words = "error - unable to connect to server: Connection refused"
    with pytest.raises(iperf.IperfError, match=r"^unable to connect to server: Connection refused$"):
        iperf.read_result(json.dumps({"start": {}, "end": {}, "error": words}), "up")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iperf3: error",
        "[]",
        "7",
        "{}",
        '{"end": 7}',
        a_result(sum_received={}),
        a_result(sum_received={"seconds": 5, "bytes": 7, "bits_per_second": -1}),
        a_result(sum_received={"seconds": True, "bytes": 7, "bits_per_second": 1}),
        '{"end": {"sum_received": {"seconds": 5, "bytes": 7, "bits_per_second": NaN}}}',
    ],
)
def test_no_result_is_an_error(text: str) -> None:
    with pytest.raises(iperf.IperfError):
        iperf.read_result(text, "up")


def test_iperf_is_asked_for_a_bounded_test() -> None:
    words = iperf.argv("100.64.0.2", "down", 5, interface="eth0")
    assert words[:3] == ["iperf3", "--client", "100.64.0.2"]
    assert words[words.index("--time") + 1] == "5"
    assert words[words.index("--parallel") + 1] == "4"
    assert words[words.index("--bind-dev") + 1] == "eth0"
    assert "--reverse" in words and "--reverse" not in iperf.argv("100.64.0.2", "up", 5)


@pytest.mark.parametrize("verb", ["hello", "up", "down"])
def test_a_request_survives_the_wire(verb: str) -> None:
    asked = wire.Request(verb, 5.0, wire.MOST_BYTES)
    assert wire.read_request(asked.line()) == asked
    assert len(asked.line()) <= wire.LONGEST_LINE_BYTES
    assert wire.read_ok(wire.ok_line(asked), asked) == asked


@given(st.binary(max_size=120))
def test_anything_else_is_no_request(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.read_request(line)
    with pytest.raises(wire.WireError):
        wire.read_ok(line, wire.Request("up", 1.0, 1))
    with pytest.raises(wire.WireError):
        wire.read_done(line)


def test_neither_end_agrees_to_more_than_it_wants() -> None:
    agreed = wire.agree(wire.Request("up", 9999.0, 10**15))
    assert (agreed.span_s, agreed.most_bytes) == (wire.MOST_S, wire.MOST_BYTES)
    greedy = wire.ok_line(wire.Request("up", 9999.0, 10**15))
    assert wire.read_ok(greedy, wire.Request("up", 5.0, 1000)) == wire.Request("up", 5.0, 1000)


def test_refusals_are_told_in_the_others_words() -> None:
    asked = wire.Request("up", 5.0, 1000)
    with pytest.raises(wire.Busy):
        wire.read_ok(b"busy\n", asked)
    with pytest.raises(wire.WireError, match=r"^not today$"):
        wire.read_ok(b"no not today\n", asked)
    with pytest.raises(wire.WireError, match="no `ts-benchmark --serve`"):
        wire.read_ok(b"SSH-2.0-OpenSSH_9.2\r\n", asked)


def test_what_netcheck_tells() -> None:
    told = {
        "UDP": True,
        "MappingVariesByDestIP": False,
        "PreferredDERP": 999,
        "RegionLatency": {"999": 1_500_000, "1": 80_000_000},
    }
    found = read_netcheck(json.dumps(told))
    assert (found.home_s, found.udp, found.varies) == (0.0015, True, False)


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"RegionLatency": 7, "UDP": "yes"}'])
def test_what_netcheck_does_not_tell_stays_unknown(text: str) -> None:
    found = read_netcheck(text)
    assert (found.home_s, found.udp, found.varies) == (None, None, None)
