"""What is understood of the kernel's lines about refused packets, whoever wrote them."""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstack.errors import CommandFailed
from tsstack.parts.firewall import kernel_log
from tsstack.parts.firewall.drops import Refused, group_drops, parse_drop
from tsstack.parts.firewall.kernel_log import (
    namespace_trouble,
    parse_journal_entry,
    parse_record,
    read_drops,
)
from tsstack.parts.firewall.rulebook import log_statement
from tsstack.system.command import Result

# As net/netfilter/nf_log_syslog.c writes them.
TCP = (
    "tsstack dmz drop: IN=eth1 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=192.168.15.9 "
    "DST=192.168.15.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=54321 DF PROTO=TCP SPT=40000 DPT=3306 WINDOW=64240 "
    "RES=0x00 SYN URGP=0"
)
UDP6 = (
    "tsstack no zone drop: IN=tailscale0 OUT=eth0 MAC= SRC=fd7a:115c:a1e0:0000:0000:0000:0000:0007 "
    "DST=2001:0db8:0000:0000:0000:0000:0000:0001 LEN=72 TC=0 HOPLIMIT=63 FLOWLBL=1 "
    "PROTO=UDP SPT=5353 DPT=53 LEN=32"
)
ICMP_ERROR = (
    "tsstack lan drop: IN=eth0 OUT= MAC= SRC=10.0.0.5 DST=10.0.0.1 LEN=88 TOS=0x00 PREC=0xC0 TTL=64 ID=1 "
    "PROTO=ICMP TYPE=3 CODE=3 [SRC=10.0.0.1 DST=10.9.9.9 LEN=60 TOS=0x00 PREC=0x00 TTL=63 ID=2 "
    "PROTO=UDP SPT=1 DPT=9 LEN=40 ]"
)
GRE = (
    "tsstack spoofed tailnet source drop: IN=eth0 OUT= MAC= SRC=100.64.0.9 DST=10.0.0.1 "
    "LEN=60 TTL=64 ID=1 PROTO=47"
)


def test_packets_are_understood():
    assert parse_drop(TCP, 5.0) == Refused(
        5.0, "dmz", "192.168.15.9", "192.168.15.1", "tcp", 40000, 3306, "eth1", ""
    )
    assert parse_drop(UDP6, 5.0) == Refused(
        5.0, "no zone", "fd7a:115c:a1e0::7", "2001:db8::1", "udp", 5353, 53, "tailscale0", "eth0"
    )
    assert parse_drop(GRE, 5.0).protocol == "47"
    assert parse_drop(GRE, 5.0).zone == "spoofed tailnet source"


def test_the_packet_that_an_icmp_error_quotes_is_not_the_one_that_was_dropped():
    found = parse_drop(ICMP_ERROR, 5.0)
    assert (found.source, found.destination, found.protocol, found.port) == (
        "10.0.0.5",
        "10.0.0.1",
        "icmp",
        None,
    )


@pytest.mark.parametrize("zone", ["dmz", "no zone", "misdirected tailnet address", "a-b_c"])
def test_the_prefix_that_the_rules_write_is_the_one_that_is_read(zone):
    prefix = log_statement(zone).partition('prefix "')[2].rstrip('"')
    assert parse_drop(TCP.replace("tsstack dmz drop: ", prefix), 1.0).zone == zone


@pytest.mark.parametrize(
    "text",
    [
        "",
        "audit: " + TCP,
        TCP.replace("tsstack ", "tsstack  "),
        TCP.replace("SRC=192.168.15.9", "SRC=192.168.15.999"),
        TCP.replace("DST=192.168.15.1", "DST="),
        TCP.replace("PROTO=TCP", "PROTO=\x1b[31m"),
        "tsstack dmz drop: IN=",
    ],
)
def test_what_is_no_packet_of_ours_is_none(text):
    assert parse_drop(text, 1.0) is None


@given(st.text(max_size=200), st.integers(0, 300), st.integers(0, 300))
def test_no_text_raises(noise, first, last):
    for whole in (TCP, UDP6, ICMP_ERROR):
        found = parse_drop(whole[:first] + noise + whole[last:], 1.0)
        assert found is None or found.port is None or 0 <= found.port < 65536


@given(st.binary(max_size=300))
def test_no_record_raises(record):
    parse_record(record, 0.0)
    parse_record(b"6,1," + record, 0.0)
    parse_journal_entry(record.decode("latin-1"))


def test_groups_by_zone_source_and_port_with_the_most_frequent_first():
    packets = [parse_drop(TCP.replace("SPT=40000", f"SPT={n}"), 10.0 + n) for n in (3, 1, 2)]
    packets.append(parse_drop(UDP6, 50.0))
    first, second = group_drops(packets)
    assert (first.zone, first.source, first.protocol, first.port, first.count) == (
        "dmz",
        "192.168.15.9",
        "tcp",
        3306,
        3,
    )
    assert (first.first_unix_s, first.last_unix_s) == (11.0, 13.0)
    assert (second.zone, second.count, second.incoming, second.outgoing) == (
        "no zone",
        1,
        "tailscale0",
        "eth0",
    )
    assert len(group_drops(packets, most=1)) == 1


def test_records_of_the_kernel_alone_count():
    record = f"4,712,5000000,-;{TCP}\n SUBSYSTEM=net\n".encode()
    assert parse_record(record, 1000.0) == (1005.0, TCP)
    assert parse_record(record.replace(b"4,712", b"12,712"), 1000.0) is None  # facility 1: a program wrote it
    assert parse_record(b"4,712,5000000", 1000.0) is None


def test_journal_entries_of_the_kernel_alone_count():
    entry = {"__REALTIME_TIMESTAMP": "1795262400000000", "MESSAGE": TCP, "_TRANSPORT": "kernel"}
    assert parse_journal_entry(json.dumps(entry)) == (1795262400.0, TCP)
    assert parse_journal_entry(json.dumps({**entry, "MESSAGE": list(TCP.encode())})) == (1795262400.0, TCP)
    assert parse_journal_entry(json.dumps({**entry, "MESSAGE": None})) is None
    assert parse_journal_entry(json.dumps({**entry, "_TRANSPORT": "syslog"})) is None
    assert parse_journal_entry(json.dumps({**entry, "SYSLOG_FACILITY": "1"})) is None
    assert parse_journal_entry("[" * 100_000) is None


def kmsg_with(monkeypatch, records, errors=()):
    """/dev/kmsg gives a record for each read(2); here they are handed out by a reader in its place."""
    waiting = [*errors, *records]

    def read(descriptor, size):
        assert size >= 8192
        if not waiting:
            raise BlockingIOError
        head = waiting.pop(0)
        if isinstance(head, OSError):
            raise head
        return head

    monkeypatch.setattr(kernel_log.os, "read", read)


def record(number, age_s, text):
    moment_us = int((time.clock_gettime(time.CLOCK_MONOTONIC) - age_s) * 1e6)
    return f"4,{number},{moment_us},-;{text}\n".encode()


def test_the_ring_is_read_past_what_was_overwritten(monkeypatch, tmp_path):
    (tmp_path / "kmsg").touch()
    records = [record(700, 50, "old"), record(701, 40, TCP), record(702, 5, UDP6), record(703, 5, "else")]
    kmsg_with(monkeypatch, records, [BrokenPipeError()])
    reading = read_drops(time.time() - 20, kmsg=tmp_path / "kmsg")
    assert [each.zone for each in reading.packets] == ["no zone"]
    assert (reading.source, reading.trouble) == ("kmsg", "")
    assert reading.packets[0].unix_s == pytest.approx(time.time() - 5, abs=1)


def test_where_the_ring_does_not_reach_back_the_journal_is_asked(monkeypatch, tmp_path):
    (tmp_path / "kmsg").touch()
    asked = []

    def journal(argv, **how):
        asked.append(argv)
        entry = {"__REALTIME_TIMESTAMP": str(int((time.time() - 1000) * 1e6)), "MESSAGE": TCP}
        return Result(0, json.dumps(entry) + "\n", "")

    monkeypatch.setattr(kernel_log, "run", journal)
    monkeypatch.setattr(kernel_log, "which", lambda name: name)
    kmsg_with(monkeypatch, [record(700, 50, UDP6)])
    reading = read_drops(time.time() - 3600, kmsg=tmp_path / "kmsg", most=77)
    assert (reading.source, [each.zone for each in reading.packets]) == ("journal", ["dmz"])
    assert "--lines=77" in asked[0]


def test_a_broken_journal_leaves_what_the_ring_has(monkeypatch, tmp_path):
    (tmp_path / "kmsg").touch()

    def journal(argv, **how):
        raise CommandFailed("journalctl ended with 1", returncode=1, stderr="")

    monkeypatch.setattr(kernel_log, "run", journal)
    monkeypatch.setattr(kernel_log, "which", lambda name: name)
    kmsg_with(monkeypatch, [record(700, 50, UDP6)])
    reading = read_drops(time.time() - 3600, kmsg=tmp_path / "kmsg")
    assert (reading.source, len(reading.packets)) == ("kmsg", 1)
    assert reading.since_unix_s == pytest.approx(time.time() - 50, abs=1)


def test_who_can_read_neither_is_told_why(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_log, "which", lambda name: None)
    reading = read_drops(0.0, kmsg=tmp_path / "none")
    assert reading.packets == () and reading.source == ""
    assert "none cannot be read: No such file or directory" in reading.trouble


def test_a_journal_that_shows_this_user_nothing_does_not_hide_why(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(kernel_log, "run", lambda argv, **how: Result(0, "", ""))
    monkeypatch.setattr(kernel_log, "which", lambda name: name)
    monkeypatch.setattr(kernel_log, "_read_ring", refuse)
    reading = read_drops(time.time() - 60, kmsg=tmp_path / "kmsg")
    assert (reading.packets, reading.source) == ((), "journal")
    assert "try with sudo" in reading.trouble


def test_this_machines_own_ring_is_read():
    assert os.access("/dev/kmsg", os.R_OK)
    reading = read_drops(time.time() - 60)
    assert reading.source in {"kmsg", "journal"}


def test_a_namespace_that_is_not_the_first_is_told(tmp_path):
    assert "nf_log_all_netns" in namespace_trouble(tmp_path)
    (tmp_path / "nf_log_all_netns").touch()
    assert namespace_trouble(tmp_path) == ""
    assert namespace_trouble(tmp_path / "no netfilter") == ""
