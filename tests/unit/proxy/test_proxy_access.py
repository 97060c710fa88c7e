"""What is understood of a line of an access log, whatever a client made of it."""

from __future__ import annotations

import pytest
from access_lines import NOW, http_line, tcp_line
from hypothesis import given
from hypothesis import strategies as st

from tsstack.parts.proxy.access import parse_line, time_of
from tsstack.parts.proxy.tally import ENOUGH, Tally, judge, quantile, worst

# As nginx 1.22.1 wrote it of a request with a byte that is no UTF-8, quotes and an escape sequence.
RECORDED = (
    b'{"time":"2026-11-21T12:00:00+00:00","service":"wiki","client":"127.0.0.1","user":"","method":"GET",'
    b'"host":"wiki.box.example.ts.net","uri":"/\xff\\"x","protocol":"HTTP/1.1","status":502,"bytes":150,'
    b'"request_time":0.001,"upstream":"127.0.0.1:18009, 127.0.0.1:18000","upstream_status":"502, 502",'
    b'"upstream_response_time":"0.000, 0.001","limit":"","agent":"\\u001B]0;x\\"\\\\"}'
)


def test_a_recorded_line_is_understood_with_all_that_a_client_put_into_it():
    found = parse_line(RECORDED)
    assert (found.service, found.method, found.status, found.sent_bytes) == ("wiki", "GET", 502, 150)
    assert found.uri == '/\ufffd"x'
    assert found.upstream == "127.0.0.1:18009, 127.0.0.1:18000"
    assert found.upstream_s == pytest.approx(0.001)
    assert found.agent == '\x1b]0;x"\\'  # the screen cleans it
    assert found.unix_s == NOW
    assert not found.is_limited and not found.is_denied and found.is_failure


def test_a_request_without_a_status_is_no_broken_line():
    found = parse_line(http_line(status="000", upstream="", upstream_time=""))
    assert (found.status, found.upstream_s, found.is_failure) == (0, None, True)


def test_times_of_other_zones_and_summer_are_one_time():
    assert parse_line(http_line(hours=2)).unix_s == parse_line(http_line(hours=-7)).unix_s == NOW
    assert time_of(http_line(hours=5)) == NOW


@pytest.mark.parametrize(
    ("line", "limited", "denied"),
    [
        (http_line(status=429, limit="REJECTED", upstream="", upstream_time=""), True, False),
        (http_line(status=429, limit="PASSED"), False, False),  # the upstream itself said it
        (http_line(status=429, upstream="", upstream_time=""), True, False),  # an nginx that cannot say
        (http_line(status=403, upstream="", upstream_time=""), False, True),
        (http_line(status=403), False, False),
        (http_line(limit="DELAYED"), False, False),
        (http_line(status=429, limit="PASSED", upstream="", upstream_time=""), False, False),
    ],
)
def test_refusals_of_nginx_are_told_from_those_of_the_upstream(line, limited, denied):
    found = parse_line(line)
    assert (found.is_limited, found.is_denied) == (limited, denied)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 100,
        b"{",
        http_line()[:-1],
        http_line() + b"}",
        http_line(status='"200"'),
        http_line(took="NaN"),
        http_line(took="-1"),
        http_line(took="1e400"),
        http_line(sent="9" * 5000),
        http_line(sent="true"),
        http_line().replace(b"+00:00", b""),
        http_line().replace(b"2026-11-21", b"2026-99-99"),
        b'{"time":"2026-11-21T12:00:00+00:00","x":' + b"[" * 100_000,
        b'["time"]',
    ],
)
def test_a_broken_line_is_none(line):
    assert parse_line(line) is None


@given(st.binary(max_size=300), st.integers(0, 500), st.integers(0, 500))
def test_no_damage_to_a_line_raises(noise, first, last):
    for whole in (RECORDED, tcp_line()):
        damaged = whole[:first] + noise + whole[last:]
        found = parse_line(damaged)
        if found is not None:
            assert found.took_s >= 0 and found.sent_bytes >= 0


def test_a_session_of_a_tcp_service():
    found = parse_line(tcp_line(status=502, took="0.000"))
    assert (found.tcp, found.status, found.received_bytes, found.upstream) == (
        True,
        502,
        50,
        "127.0.0.1:5432",
    )


def tally_of(lines, tcp=False):
    tally = Tally("wiki", tcp=tcp)
    for line in lines:
        tally.add(parse_line(line))
    return tally


def test_quantiles_are_those_of_the_nearest_rank():
    counted = {value: 1 for value in range(1, 101)}
    assert [quantile(counted, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert quantile({7: 1}, 0.99) == 7
    assert quantile({}, 0.5) is None


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_has_its_share_below_it(values, share):
    counted = {value: values.count(value) for value in values}
    found = quantile(counted, share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_the_sums_of_a_service():
    lines = [
        http_line(took="0.010", upstream_time="0.004, 0.004", client=f"100.64.0.{n % 3}") for n in range(98)
    ]
    lines += [http_line(status=403, upstream="", upstream_time="", user="bob@example.com")]
    lines += [http_line(status=429, limit="REJECTED", upstream="", upstream_time="")]
    use = tally_of(lines).use(50.0, top=1)
    assert (use.requests, use.per_s, use.limited, use.denied) == (100, 2.0, 1, 1)
    assert use.classes == {"1xx": 0, "2xx": 98, "3xx": 0, "4xx": 2, "5xx": 0, "none": 0}
    assert (use.took.p50_s, use.upstream.p50_s, use.sent_bytes) == (0.010, 0.008, 10_000)
    assert use.clients == (("100.64.0.0", 33),) and use.users == (("bob@example.com", 1),)


def test_how_long_a_websocket_stayed_is_no_time_that_somebody_waited():
    lines = [http_line(took="0.020", upstream_time="0.020")] * 95
    lines += [http_line(status=101, took="7200.000", upstream_time="7200.000")] * 10
    use = tally_of(lines).use(10.0)
    assert (use.requests, use.classes["1xx"]) == (105, 10)
    assert (use.took.p95_s, use.took.p99_s, use.upstream.p99_s) == (0.020, 0.020, 0.020)


def test_sessions_that_failed_are_counted():
    use = tally_of([tcp_line(), tcp_line(status=502)], tcp=True).use(10.0)
    assert (use.tcp, use.requests, use.failures, use.received_bytes) == (True, 2, 1, 100)


@pytest.mark.parametrize(
    ("requests", "errors", "level"),
    [(0, 0, "ok"), (ENOUGH - 1, ENOUGH - 1, "ok"), (100, 1, "ok"), (100, 2, "warning"), (100, 20, "warning"),
     (100, 21, "critical"), (ENOUGH, ENOUGH, "critical")],
)  # fmt: skip
def test_the_state_goes_by_the_share_of_server_errors(requests, errors, level):
    assert judge(requests, errors) == level


def test_the_worst_state_counts_and_none_is_unknown():
    assert worst(["ok", "unknown", "warning"]) == "warning"
    assert worst(["ok", "unknown"]) == "unknown"
    assert worst([]) == "unknown"


def test_invented_addresses_fill_no_memory(monkeypatch):
    monkeypatch.setattr("tsstack.parts.proxy.tally._MOST_NAMES", 10)
    use = tally_of([http_line(client=f"2001:db8::{n:x}") for n in range(100)]).use(1.0, top=100)
    assert len(use.clients) == 10 and use.requests == 100
