"""Reads the firewall's lines in the kernel's log: from its ring buffer, else from the journal.

The kernel logs nothing of a network namespace other than the machine's first one unless that one has
`net.netfilter.nf_log_all_netns` = 1 (see `namespace_trouble`); then the lines of all namespaces stand in one
log. Who cannot read it (users without CAP_SYSLOG, containers) is told so in `Reading.trouble`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsstack.errors import CommandFailed
from tsstack.parts.firewall.drops import Refused, parse_drop
from tsstack.system.command import run, which

KMSG = Path("/dev/kmsg")
_RECORD_BYTES = 8192  # Documentation/ABI/testing/dev-kmsg: a shorter buffer gets EINVAL
_READ_S = 1.0
_JOURNAL_S = 10.0
_NETFILTER = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in the log."""

    packets: tuple[Refused, ...]
    """In the order of the log; at most so many as were asked for, the newest."""
    source: str
    """`kmsg` or `journal`; empty when neither could be read."""
    since_unix_s: float
    """From here on nothing is missing but what the rules' limit left out, and what `trouble` says."""
    trouble: str = ""
    """Why nothing, or not all, is known; empty when all is."""


def read_drops(since_unix_s: float, *, most: int = 10_000, kmsg: Path = KMSG) -> Reading:
    """The packets that our firewall refused and the kernel logged since then. Never raises.

    The ring buffer holds some thousand lines. Where it does not reach back far enough the journal is asked,
    if there is one: at most its newest `most` kernel lines of this boot.
    """
    trouble = ""
    found: Reading | None = None
    try:
        found = _read_ring(since_unix_s, most, kmsg)
    except PermissionError:
        trouble = "the kernel's log may not be read by this user: try with sudo"
    except OSError as error:
        trouble = f"{kmsg} cannot be read: {error.strerror}"
    if found is not None and found.since_unix_s <= since_unix_s:
        return found
    if which("journalctl") is not None:
        try:
            journal = _read_journal(since_unix_s, most)
        except CommandFailed as error:
            trouble = trouble or f"the journal cannot be read: {error.message}"
        else:
            if journal.trouble and trouble:  # a journal that may not be read looks like an empty one
                journal = replace(journal, trouble=f"{journal.trouble}, and {trouble}")
            if found is None or journal.since_unix_s < found.since_unix_s:
                return journal
    return found or Reading((), "", time.time(), trouble)


def namespace_trouble(settings: Path = _NETFILTER) -> str:
    """A sentence where the kernel may log nothing of this network namespace; empty in the first one.

    The switch for it belongs to the machine: the first namespace alone has it (net/netfilter/nf_log.c:
    netfilter_log_sysctl_init()), so elsewhere one cannot even see how it stands.
    """
    if not settings.is_dir() or (settings / "nf_log_all_netns").exists():
        return ""
    return (
        "this is not the machine's first network namespace: its drops are logged only where the machine "
        "itself has net.netfilter.nf_log_all_netns = 1"
    )


def parse_record(record: bytes, offset_unix_s: float) -> tuple[float, str] | None:
    """(Unix time, message) of a record of /dev/kmsg; None for what the kernel itself did not write.

    `priority,sequence,microseconds,flags;message`, then lines with a blank in front. Who writes to the
    device cannot have the kernel's facility, 0 (Documentation/ABI/testing/dev-kmsg).
    """
    head, semicolon, rest = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    if not semicolon or len(fields) < 3 or not all(each.isascii() and each.isdigit() for each in fields[:3]):
        return None
    if len(fields[0]) > 9 or len(fields[2]) > 18 or int(fields[0]) >> 3 != 0:
        return None
    return offset_unix_s + int(fields[2]) / 1e6, rest.partition("\n")[0]


def parse_journal_entry(line: str) -> tuple[float, str] | None:
    """(Unix time, message) of a line of `journalctl -o json`; None for what the kernel did not write."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.get("_TRANSPORT", "kernel") != "kernel":
        return None
    if str(raw.get("SYSLOG_FACILITY", "0")) != "0":
        return None
    stamp, message = raw.get("__REALTIME_TIMESTAMP"), _message_of(raw)
    if not isinstance(stamp, str) or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 18:
        return None
    return (int(stamp) / 1e6, message) if message is not None else None


def _message_of(raw: dict[str, Any]) -> str | None:
    """systemd.journal-fields(7): text, a list of bytes where it is no UTF-8, null where it is too long."""
    message = raw.get("MESSAGE")
    if isinstance(message, list):
        octets = [each for each in message if isinstance(each, int) and 0 <= each < 256]
        return bytes(octets).decode("utf-8", "replace")
    return message if isinstance(message, str) else None


def _read_ring(since_unix_s: float, most: int, kmsg: Path) -> Reading:
    # The records' clock is CLOCK_MONOTONIC, or near to it: it stands still while the host sleeps.
    offset_unix_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    packets: list[Refused] = []
    oldest_s: float | None = None
    trouble = ""
    deadline_s = time.monotonic() + _READ_S
    for sequence, record in _records(kmsg):
        if time.monotonic() > deadline_s:
            trouble = f"the kernel's log is longer than can be read in {_READ_S:g} s: the newest is missing"
            break
        told = parse_record(record, offset_unix_s)
        if told is None:
            continue
        if oldest_s is None:
            oldest_s = told[0] if sequence > 0 else 0.0  # record 0: nothing was overwritten since the boot
        if told[0] >= since_unix_s and (packet := parse_drop(told[1], told[0])) is not None:
            packets.append(packet)
    reach_s = time.time() if oldest_s is None else oldest_s
    return Reading(tuple(packets[-most:]), "kmsg", max(reach_s, since_unix_s), trouble)


def _records(kmsg: Path) -> Iterator[tuple[int, bytes]]:
    """(sequence number, record) of all that the ring buffer holds; -1 where the number is none."""
    descriptor = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten before we came to it; the next read goes on behind
                continue
            if not record:
                return
            number = record.split(b",", 2)[1:2]
            yield (int(number[0]) if number and number[0].isdigit() else -1), record
    finally:
        os.close(descriptor)


def _read_journal(since_unix_s: float, most: int) -> Reading:
    done = run(
        [
            "journalctl", "--dmesg", "--no-pager", "--quiet", "--output=json",
            "--output-fields=MESSAGE,_TRANSPORT,SYSLOG_FACILITY",
            f"--since=@{since_unix_s:.0f}", f"--lines={most}",
        ],
        timeout_s=_JOURNAL_S,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    told = [each for each in map(parse_journal_entry, lines) if each is not None]
    packets = [each for each in (parse_drop(text, when) for when, text in told) if each is not None]
    cut = len(lines) >= most and bool(told)
    trouble = "" if told else "the journal holds no line of the kernel for this span"
    return Reading(tuple(packets), "journal", told[0][0] if cut else since_unix_s, trouble)
