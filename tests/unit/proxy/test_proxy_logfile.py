"""A log is read from its end, through rotation, and followed as it grows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from dataclasses import replace

import pytest
from access_lines import NOW, http_line, tcp_line, write_log
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack.parts.proxy.logfile import Span, explain_unreadable, find_since, whole_lines
from tsstack.parts.proxy.plan import Listener, Plan
from tsstack.parts.proxy.tail import Tail
from tsstack.parts.proxy.usage import read_usage

HOUR = 3600.0


def times(path, since=NOW - HOUR):
    span = Span(path, since)
    return [line for line in span.lines()], span


def age(path, seconds):
    os.utime(path, (NOW - seconds, NOW - seconds))


@pytest.fixture
def plan():
    return Plan(
        digest="d", main_config="", has_main=True, addresses_known=True, tailnet="tail.test", status=None,
        identity=False, services={"wiki": "1", "db": "2"},
        urls={"wiki": "https://wiki.box.tail.test/", "db": "tcp://box.tail.test:5432"},
        upstreams={"wiki": ("127.0.0.1:8000",), "db": ("127.0.0.1:5432",)},
    )  # fmt: skip


def test_only_the_span_is_given(tmp_path):
    log = write_log(tmp_path / "a.log", [http_line(NOW - each) for each in range(7200, -1, -1)])
    lines, _ = times(log)
    assert len(lines) == 3601
    assert lines[0] == http_line(NOW - HOUR)


def test_of_a_long_log_only_the_end_is_read(tmp_path):
    log = tmp_path / "a.log"
    with log.open("wb") as out:
        for n in range(1_000_000):
            out.write(
                b'{"time":"2026-11-20T%02d:%02d:%02d+00:00"}\n' % (n // 90000, n // 1500 % 60, n // 25 % 60)
            )
        for n in range(1000):
            out.write(http_line(NOW - 1000 + n) + b"\n")
    lines, span = times(log)
    assert len(lines) == 1000
    # What is read is the span and some blocks before it, not the file.
    assert span.read_bytes < log.stat().st_size / 50
    with log.open("rb", buffering=0) as raw:
        reads = []

        class Counted:
            def __getattr__(self, name):
                reads.append(name)
                return getattr(raw, name)

        find_since(Counted(), NOW - HOUR)
    assert reads.count("readline") < 100


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7200), st.booleans(), st.integers(0, 3000)), max_size=300))
def test_bisection_finds_what_reading_all_finds(tmp_path_factory, made):
    """Whatever stands between the lines, and however long they are."""
    folder = tmp_path_factory.mktemp("logs")
    ages = sorted((each[0] for each in made), reverse=True)
    lines = []
    for (_, is_broken, length), old in zip(made, ages, strict=True):
        lines += [b"\0broken" * (length // 7 + 1)] if is_broken else []
        lines.append(http_line(NOW - old, uri="/" + "x" * length))
    log = write_log(folder / "a.log", lines)
    found = [line for line in times(log)[0] if line.startswith(b"{")]
    assert found == [line for line, old in ((http_line(NOW - o, uri="/" + "x" * m[2]), o) for m, o in
                     zip(made, ages, strict=True)) if old <= HOUR]  # fmt: skip


def test_lines_a_little_out_of_order_are_found(tmp_path):
    before = [http_line(NOW - 2 * HOUR + n, uri="/" + "x" * 500) for n in range(1000)]
    late = [http_line(NOW - HOUR - 3, uri="/" + "x" * 500)] * 1000
    log = write_log(tmp_path / "a.log", [*before, http_line(NOW - HOUR + 1), *late, http_line()])
    assert len(times(log)[0]) == 2


def test_rotated_and_compressed_logs_are_read_as_far_as_needed(tmp_path):
    write_log(tmp_path / "a.log", [http_line(NOW - 60)])
    age(write_log(tmp_path / "a.log.1", [http_line(NOW - HOUR - 50), http_line(NOW - 120)]), 120)
    for number, pack, ending in ((2, gzip, "gz"), (3, bz2, "bz2"), (4, lzma, "xz")):
        path = tmp_path / f"a.log.{number}.{ending}"
        path.write_bytes(
            pack.compress(http_line(NOW - 2 * HOUR) + b"\n" + http_line(NOW - 100 * number) + b"\n")
        )
        age(path, 100 * number)
    (tmp_path / "a.log.5.gz").write_bytes(b"not read, so not found broken")
    age(tmp_path / "a.log.5.gz", HOUR + 100)
    write_log(tmp_path / "a.log.bak", [http_line()])
    write_log(tmp_path / "other-a.log.1", [http_line()])
    lines, span = times(tmp_path / "a.log")
    assert lines == [http_line(NOW - each) for each in (400, 300, 200, 120, 60)]
    assert span.notes == []


def test_dated_names_of_logrotate_are_rotated_logs(tmp_path):
    write_log(tmp_path / "a.log", [])
    age(write_log(tmp_path / "a.log-20261121", [http_line(NOW - 9)]), 9)
    assert times(tmp_path / "a.log")[0] == [http_line(NOW - 9)]


def test_a_log_that_is_being_compressed_counts_once(tmp_path):
    write_log(tmp_path / "a.log", [])
    age(write_log(tmp_path / "a.log.1", [http_line(NOW - 9)]), 9)
    (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(http_line(NOW - 9) + b"\n")[:20])
    assert len(times(tmp_path / "a.log")[0]) == 1


def test_a_damaged_archive_ends_nothing_and_is_told(tmp_path):
    write_log(tmp_path / "a.log", [http_line()])
    whole = gzip.compress(
        b"".join(http_line(NOW - 50, uri=f"/{n:x}{n * 7919:x}") + b"\n" for n in range(5000))
    )
    (tmp_path / "a.log.1.gz").write_bytes(whole[: len(whole) // 2])
    age(tmp_path / "a.log.1.gz", 50)
    lines, span = times(tmp_path / "a.log")
    assert 100 < len(lines) < 5001 and lines[-1] == http_line()
    assert "a.log.1.gz cannot be read to its end" in span.notes[0]


def test_a_pipe_in_the_place_of_a_log_makes_nobody_wait(tmp_path, plan):
    os.mkfifo(tmp_path / "tsstack-wiki.log")
    usage = read_usage(plan, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=["wiki"], top=5)
    assert usage.level == "unknown"
    assert "no regular file" in usage.uses[0].trouble


def test_a_line_without_an_end_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tsstack.parts.proxy.logfile.MOST_LINE_BYTES", 1000)
    log = write_log(tmp_path / "a.log", [b"x" * 100_000, b"short"])
    with log.open("rb") as file:
        assert [len(line) for line in whole_lines(file)] == [1000, 5]


def test_broken_lines_are_counted_and_end_nothing(tmp_path, plan):
    old = [b"old and broken", http_line(NOW - 2 * HOUR), b"also old"]
    write_log(
        tmp_path / "tsstack-wiki.log", [*old, http_line(), b"\xff{", b"", http_line(), http_line()[:50]]
    )
    write_log(tmp_path / "tsstack-db.log", [b"broken before all", tcp_line()])
    usage = read_usage(plan, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=(), top=5)
    assert {use.service: (use.requests, use.broken) for use in usage.uses} == {"wiki": (2, 3), "db": (1, 1)}
    assert usage.broken == 4


@pytest.mark.parametrize(
    ("good", "broken", "level"),
    [
        (100, 0, "ok"),
        (100, 1, "ok"),
        (98, 2, "warning"),
        (10, 2, "ok"),
        (50, 51, "unknown"),
        (0, 1, "unknown"),
    ],
)
def test_a_log_of_which_little_could_be_read_is_not_ok(tmp_path, plan, good, broken, level):
    write_log(tmp_path / "tsstack-wiki.log", [http_line()] * good + [b"combined, not ours"] * broken)
    usage = read_usage(plan, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=["wiki"], top=5)
    assert usage.level == level
    told = f"{broken} of {good + broken} lines of {tmp_path}/tsstack-wiki.log could not be read"
    assert usage.uses[0].trouble == ("" if level == "ok" else told)


def test_a_missing_log_is_unknown_and_the_others_are_judged(tmp_path, plan):
    write_log(tmp_path / "tsstack-wiki.log", [http_line(status=502)] * 30)
    usage = read_usage(plan, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=(), top=5)
    assert {use.service: use.level for use in usage.uses} == {"wiki": "critical", "db": "unknown"}
    assert usage.level == "critical"
    assert [name for name, _ in usage.errors] == ["wiki"] * 20


def test_who_may_not_read_is_told_the_group(tmp_path):
    log = write_log(tmp_path / "a.log", [])
    log.chmod(0o640)
    os.chown(log, 0, 4)
    words = explain_unreadable(log, PermissionError(13, "Permission denied"))
    assert "try with sudo, or as a member of the group adm (`usermod -aG adm NAME`)" in words


def test_in_the_shared_log_each_line_finds_its_service(tmp_path, plan):
    for n in range(300):
        plan.services[f"s{n}"] = "x"
    lines = [
        http_line(),
        http_line(service="s7"),
        http_line(service="gone"),
        tcp_line(),
        tcp_line(port=5433),
        tcp_line(upstream=""),
    ]
    write_log(tmp_path / "tsstack.services.log", lines)
    usage = read_usage(
        plan, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=["wiki", "s7", "db"], top=5
    )
    assert [use.requests for use in usage.uses] == [1, 1, 2]


def test_a_look_from_this_very_host_is_no_session(tmp_path, plan):
    """`nginx-test`, `doctor` and a switch connect, and say nothing, whatever they are greeted with."""
    own = replace(plan, listeners=(Listener("100.64.0.7", 5432, "tcp", "proxy.services.db"),))
    look = tcp_line().replace(b'"bytes":200', b'"bytes":0').replace(b'"received":50', b'"received":0')
    greeted = tcp_line().replace(b'"received":50', b'"received":0')
    failed = look.replace(b'"status":200', b'"status":502')
    write_log(tmp_path / "tsstack-db.log", [tcp_line(), look, greeted, failed])
    for known, requests in ((own, 2), (plan, 4)):  # by a plan that does not listen there it is somebody's
        usage = read_usage(known, tmp_path, since_unix_s=NOW - HOUR, until_unix_s=NOW, services=["db"], top=5)
        assert [(use.requests, use.failures) for use in usage.uses] == [(requests, 1)]


def add(path, *lines):
    with path.open("ab") as out:
        out.write(b"".join(lines))


def test_following_gives_what_is_added_and_nothing_before(tmp_path):
    log = write_log(tmp_path / "a.log", [b"old"])
    tail = Tail(log)
    assert tail.poll(0.0) == []
    add(log, b"one\ntw")
    assert tail.poll(1.0) == [b"one"]
    add(log, b"o\n")
    assert tail.poll(2.0) == [b"two"]
    tail.close()


def test_following_goes_through_rotation_without_a_loss(tmp_path):
    log = write_log(tmp_path / "a.log", [])
    tail = Tail(log)
    tail.poll(0.0)
    add(log, b"before\n")
    log.rename(tmp_path / "a.log.1")
    add(tmp_path / "a.log.1", b"late\n")
    assert tail.poll(1.0) == [b"before", b"late"]
    write_log(log, [b"first of the new"])
    add(tmp_path / "a.log.1", b"nginx was not told yet\n")
    assert tail.poll(2.0) == [b"nginx was not told yet", b"first of the new"]
    add(tmp_path / "a.log.1", b"last\n")
    assert tail.poll(3.0) == [b"last"]
    assert tail.poll(100.0) == []
    add(log, b"on\n")
    assert tail.poll(101.0) == [b"on"]
    tail.close()


def test_following_survives_a_log_that_is_cut_off_or_comes_later(tmp_path):
    log = tmp_path / "a.log"
    tail = Tail(log)
    assert tail.poll(0.0) == []
    write_log(log, [b"first"])
    assert tail.poll(1.0) == [b"first"]
    log.write_bytes(b"")
    assert tail.poll(2.0) == []
    add(log, b"anew\n")
    assert tail.poll(3.0) == [b"anew"]
    tail.close()
