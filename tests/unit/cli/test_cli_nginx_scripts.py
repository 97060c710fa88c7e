"""What `nginx-logs` and `nginx-test` print, and how they end."""

from __future__ import annotations

import gzip
import json
import sys
import time
from dataclasses import replace

import pytest
from access_lines import http_line, tcp_line, write_log

from tsstack.cli import nginx_logs, nginx_test, stood
from tsstack.cli.amounts import count, duration, rate, size
from tsstack.cli.columns import Cell, Column, table
from tsstack.cli.glyphs import Terminal
from tsstack.cli.script import run_script
from tsstack.model.facts import Facts, Paths
from tsstack.parts.proxy.plan import PLAN, Plan
from tsstack.parts.proxy.standing import Point, ServiceState, Standing, VhostState
from tsstack.switch.site import Site


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A host with a live plan of two services; returns a way to run `nginx-logs` there."""
    paths = Paths(state=tmp_path / "state", log=tmp_path / "log")
    (tmp_path / "log").mkdir()
    made = Plan(
        digest="d", main_config="", has_main=True, addresses_known=True, tailnet="tail.test", status=None,
        identity=False, services={"wiki": "1", "db": "2"},
        urls={"wiki": "https://wiki.box.tail.test/", "db": "tcp://box.tail.test:5432"},
        upstreams={"wiki": ("127.0.0.1:8000",), "db": ("127.0.0.1:5432",)},
    )  # fmt: skip
    (paths.current / PLAN).parent.mkdir(parents=True)
    (paths.current / PLAN).write_text(made.to_json())
    monkeypatch.setattr(nginx_logs, "Paths", lambda: paths)
    return paths


def run(monkeypatch, capsys, *words, command=nginx_logs.command):
    monkeypatch.setattr(sys, "argv", ["nginx-logs", *words])
    code = run_script(command, "nginx-logs")
    out = capsys.readouterr()
    return code, out.out, out.err


def fill(paths, http=(), tcp=()):
    write_log(paths.log / "tsstack-wiki.log", http)
    write_log(paths.log / "tsstack-db.log", tcp)


def test_the_screen_of_two_services(site, monkeypatch, capsys):
    now = time.time() - 5
    lines = [http_line(now - n / 10, took=f"0.{n:03d}", client=f"100.64.0.{n % 2}") for n in range(100)]
    lines += [http_line(now, status=429, limit="REJECTED", upstream="", upstream_time="")] * 3
    lines += [http_line(now, status=403, upstream="", upstream_time="", user="eve@example.com")]
    fill(site, lines, [tcp_line(now), tcp_line(now, status=502)])
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run(monkeypatch, capsys, "--top", "--errors")
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert shown[0][2:] == "ok 2 services, 104 requests and 2 sessions in the last 1h"
    assert shown[2] == "SERVICE REQ /S 2xx 3xx 4xx 5xx p50 p95 p99 UP50 UP95 UP99 SENT LIMITED DENIED"
    assert shown[3][2:] == "wiki 104 0.03 100 0 4 0 47ms 94ms 98ms 2ms 2ms 2ms 10.2K 3 1"
    assert shown[5] == "SERVICE SESSIONS /S FAILED p50 p95 p99 SENT RECEIVED"
    assert shown[6][2:] == "db 2 <.01 1 1.5s 1.5s 1.5s 400B 100B"
    assert "wiki clients: 100.64.0.0 50, 100.64.0.1 50, 100.64.0.7 4" in out
    assert "wiki users: eve@example.com 1" in out
    assert "1 service, 2 sessions in the last 1h" in run(monkeypatch, capsys, "db")[1]
    assert out.count("(rate limit)") == 3 and out.count("(not in allow)") == 1
    assert "upstream 127.0.0.1:5432" in out


def test_into_a_pipe_nothing_is_cut(site, monkeypatch, capsys):
    """grep(1) finds what stands at the end of an URI, and each column is there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    now = time.time() - 5
    fill(site, [http_line(now, uri="/api/dash" + "x" * 300 + "/end", status=502)] * 3)
    _, out, _ = run(monkeypatch, capsys, "--errors", "wiki")
    assert "x/end" in out
    assert out.splitlines()[2].split() == [
        *("SERVICE", "REQ", "/S", "2xx", "3xx", "4xx", "5xx", "p50", "p95", "p99", "UP50", "UP95", "UP99"),
        *("SENT", "LIMITED", "DENIED"),
    ]


def test_websockets_have_a_column_where_there_are_some(site, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    now = time.time() - 5
    lines = [http_line(now, took="0.020", upstream_time="0.020")] * 95
    fill(site, lines + [http_line(now, status=101, took="7200.000", upstream_time="7200.000")] * 10)
    _, out, _ = run(monkeypatch, capsys, "wiki")
    head, row = (line.split() for line in out.splitlines()[2:4])
    told = dict(zip(head, row[1:], strict=True))
    assert (told["REQ"], told["2xx"], told["WS"]) == ("105", "95", "10")
    assert (told["p95"], told["p99"], told["UP95"]) == ("20ms", "20ms", "20ms")


@pytest.mark.parametrize("width", [30, 60, 80, 100])
def test_no_row_is_wider_than_the_terminal(site, monkeypatch, capsys, width):
    now = time.time() - 5
    fill(site, [http_line(now, uri="/" + "x" * 500, status=502)] * 100_00, [tcp_line(now)] * 5)
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run(monkeypatch, capsys, "--top", "--errors")
    assert code == 2
    assert max(len(line) for line in out.splitlines()) <= width
    assert "10.0k" in out


@pytest.mark.parametrize(("errors", "code"), [(0, 0), (1, 0), (2, 1), (20, 1), (21, 2)])
def test_the_exit_code_goes_by_server_errors(site, monkeypatch, capsys, errors, code):
    now = time.time() - 5
    fill(site, [http_line(now, status=502)] * errors + [http_line(now)] * (100 - errors))
    assert run(monkeypatch, capsys)[0] == code


def test_what_clients_wrote_does_nothing_to_the_terminal(site, monkeypatch, capsys):
    evil = "\\u001b]0;owned\\u0007"
    fill(site, [http_line(time.time(), status=404, uri=f"/{evil}", client=evil, user=evil)])
    _, out, _ = run(monkeypatch, capsys, "--errors", "--top")
    assert "owned" in out
    assert not any(ord(character) < 32 for character in out.replace("\n", ""))


def test_json_has_all_numbers(site, monkeypatch, capsys):
    now = time.time() - 5
    fill(site, [http_line(now, user="alice@example.com"), b"broken"], [tcp_line(now)])
    code, out, _ = run(monkeypatch, capsys, "wiki", "--json")
    (wiki,) = json.loads(out)["services"]
    assert code == 0
    assert (wiki["service"], wiki["protocol"], wiki["requests"], wiki["broken"]) == ("wiki", "http", 1, 1)
    assert wiki["took"] == {"p50_s": 0.003, "p95_s": 0.003, "p99_s": 0.003}
    assert wiki["users"] == [{"name": "alice@example.com", "requests": 1}]


def test_rotated_logs_count(site, monkeypatch, capsys):
    fill(site, [http_line(time.time())])
    (site.log / "tsstack-wiki.log.1.gz").write_bytes(gzip.compress(http_line(time.time() - 60) + b"\n"))
    assert json.loads(run(monkeypatch, capsys, "wiki", "--json")[1])["services"][0]["requests"] == 2


def test_a_missing_log_cannot_be_told(site, monkeypatch, capsys):
    write_log(site.log / "tsstack-wiki.log", [http_line(time.time())])
    code, out, _ = run(monkeypatch, capsys)
    assert code == 3
    assert "db: there is no" in out and "nginx-test" in out


def test_an_unknown_service_is_told_with_the_nearest(site, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "wikki")
    assert code == 3
    assert "there is no service 'wikki'; did you mean 'wiki'?" in err


def test_without_a_live_proxy_nothing_can_be_told(site, monkeypatch, capsys):
    (site.current / PLAN).unlink()
    code, _, err = run(monkeypatch, capsys)
    assert code == 3 and "no generation with proxied services is live" in err
    (site.current / PLAN).write_text("{")
    code, _, err = run(monkeypatch, capsys)
    assert code == 3 and "is damaged" in err


def test_a_span_is_one_as_in_every_script(site, monkeypatch, capsys):
    fill(site)
    code, out, _ = run(monkeypatch, capsys, "--since", "1w")
    assert code != 3 and "in the last 7d" in out


@pytest.mark.parametrize("words", [["--since", "0h"], ["--since", "1y"], ["-f", "--watch"]])
def test_what_cannot_be_asked_is_refused(site, monkeypatch, capsys, words):
    assert run(monkeypatch, capsys, *words)[0] == 3


def test_following_shows_lines_until_it_is_ended(site, monkeypatch, capsys):
    fill(site)
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) > 2:
            raise KeyboardInterrupt
        with (site.log / "tsstack-wiki.log").open("ab") as out:
            out.write(
                http_line(time.time(), status=502, user="al@example.com")
                + b"\nbroken\n"
                + http_line()
                + b"\n"
            )

    monkeypatch.setattr("tsstack.parts.proxy.tail.time.sleep", sleep)
    code, out, err = run(monkeypatch, capsys, "-f", "--errors")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert " ".join(out.splitlines()[0].split()[1:]) == "wiki 502 3ms 100B al@example.com 100.64.0.7 GET /"
    assert "following db, wiki" in err
    rounds.clear()
    _, out, _ = run(monkeypatch, capsys, "-f", "wiki", "--json")
    assert [json.loads(line)["status"] for line in out.splitlines()] == [502, 200, 502, 200]


def test_following_logs_of_which_none_can_be_read_ends(site, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "-f")
    assert code == 3 and "there is no" in err


STANDING = Standing(
    "4f2a",
    (
        Point("configuration", "ok", "nginx accepts /etc/nginx/nginx.conf"),
        Point("generation", "critical", "nginx serves aaaa, the live one is 4f2a", "switch again"),
    ),
    (
        VhostState("wiki.box.tail.test", 443, ("wiki",), "ok", "", "", 61.2),
        VhostState(
            "api.box.tail.test", 443, ("api",), "warning", "its certificate ends in 5 days", "renew it", 5.4
        ),
    ),
    (
        ServiceState("api", "https://api.box.tail.test/", "warning", ("127.0.0.1:2",), ("127.0.0.1:1",)),
        ServiceState("wiki", "https://wiki.box.tail.test/", "ok", ("127.0.0.1:8000",), ()),
    ),
)


def test_the_screen_of_nginx_test():
    screen = Terminal(colour=False, unicode=False, width=80)
    assert stood.describe(STANDING, screen) == [
        "X critical  2 names, 2 services; 3 of 6 judgements are not ok",
        "",
        "* configuration: nginx accepts /etc/nginx/nginx.conf",
        "X generation: nginx serves aaaa, the live one is 4f2a",
        "  -> switch again",
        "",
        "  NAME               PORT CERTIFICATE SERVICES",
        "! api.box.tail.test   443      5 days api",
        "* wiki.box.tail.test  443     61 days wiki",
        "! api.box.tail.test: its certificate ends in 5 days",
        "  -> renew it",
        "",
        "  SERVICE UPSTREAM",
        "! api     127.0.0.1:2 answers, 127.0.0.1:1 is silent",
        "* wiki    127.0.0.1:8000 answers",
    ]


@pytest.mark.parametrize("rows", range(4, 13))
def test_in_a_low_window_the_verdict_and_what_is_wrong_stay(rows):
    screen = Terminal(colour=False, unicode=False, width=80)
    lines = stood.describe(STANDING, screen, rows)
    assert len(lines) == rows
    assert lines[0] == "X critical  2 names, 2 services; 3 of 6 judgements are not ok"
    assert lines[1] == "X generation: nginx serves aaaa, the live one is 4f2a"
    assert ("! api     127.0.0.1:2 answers, 127.0.0.1:1 is silent" in lines) == (rows > 8)
    assert stood.describe(STANDING, screen, 15) == stood.describe(STANDING, screen)


def test_a_certificate_that_has_ended_has_no_days_left():
    ended = replace(STANDING.vhosts[0], level="critical", days_left=-0.2)
    lines = stood.describe(
        replace(STANDING, vhosts=(ended,)), Terminal(colour=False, unicode=False, width=80)
    )
    assert "X wiki.box.tail.test  443     expired wiki" in lines


def test_what_is_left_of_a_certificate_is_rounded_as_in_ts_status():
    soon = replace(STANDING.vhosts[0], days_left=1.99)
    lines = stood.describe(replace(STANDING, vhosts=(soon,)), Terminal(colour=False, unicode=False, width=80))
    assert any(" 48 h wiki" in line for line in lines)


def test_a_thousand_names_fit_a_screen_and_what_is_wrong_is_among_them():
    well = STANDING.vhosts[0]
    names = tuple(replace(well, name=f"s{n}.box.tail.test") for n in range(1000))
    many = replace(STANDING, vhosts=(*names, STANDING.vhosts[1]))
    for width in (40, 80):
        lines = stood.describe(many, Terminal(colour=False, unicode=True, width=width))
        assert len(lines) < 40 and max(map(len, lines)) <= width
        assert any(line.startswith("▲ api") for line in lines)
        assert "  and 989 more names, all ok" in lines


def test_a_thousand_names_that_fail_alike_are_told_once():
    dead = replace(STANDING.vhosts[0], level="critical", words="does not answer: refused", hint="see the log")
    many = replace(STANDING, vhosts=tuple(replace(dead, name=f"s{n}.box") for n in range(1000)))
    lines = stood.describe(many, Terminal(colour=False, unicode=True, width=80))
    assert len(lines) < 50
    assert "✖ s0.box, s1.box, s2.box and 997 more: does not answer: refused" in lines
    different = tuple(replace(dead, name=f"s{n}.box", words=f"does not answer: {n}") for n in range(1000))
    lines = stood.describe(
        replace(STANDING, vhosts=different), Terminal(colour=False, unicode=True, width=80)
    )
    assert len(lines) < 60
    assert "  and 994 more faults: see --json" in lines


def test_nginx_test_without_a_live_proxy_cannot_tell(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "tsstack.switch.site.Site", lambda: Site(paths=Paths(state=tmp_path), gather=lambda paths: Facts())
    )
    code, _, err = run(monkeypatch, capsys, command=nginx_test.command)
    assert code == 3
    assert "no generation with a proxy is live" in err


def test_amounts_are_short():
    assert [count(n) for n in (0, 9999, 10_000, 123_456, 5_600_000)] == ["0", "9999", "10.0k", "123k", "5.6M"]
    assert [size(n) for n in (0, 1023, 1024, 1_048_576, 10 << 40)] == ["0B", "1023B", "1.0K", "1.0M", "10.0T"]
    assert [duration(s) for s in (None, 0.0, 0.9994, 0.9996, 99.9, 100, 7200, 864000)] == [
        "-", "0ms", "999ms", "1.0s", "99.9s", "2m", "2h", "10d"
    ]  # fmt: skip
    assert [rate(r) for r in (0, 0.001, 0.25, 3.21, 99.96, 123.4, 20000)] == [
        "0", "<.01", "0.25", "3.2", "100.0", "123", "20.0k"
    ]  # fmt: skip


def test_a_table_leaves_out_the_least_first_and_clips_the_stretching_column():
    columns = [Column("NAME", right=False), Column("A", 1), Column("BB", 2)]
    rows = [[Cell("a long name"), Cell("1"), Cell("22")]]
    widths = {
        width: table(Terminal(colour=False, unicode=False, width=width), columns, rows)
        for width in (40, 14, 8)
    }
    assert widths[40] == ["NAME        A BB", "a long name 1 22"]
    assert widths[14] == ["NAME        A", "a long name 1"]
    assert widths[8] == ["NAME", "a long ~"]
