"""Established connections that the new table would not accept: found and cut, only those.

The kernel never asks a rule again about a connection that is established (our own first rule). So after a
port was closed its old connections would live on for as long as they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CommandFailed
from tsstack.system.command import run

if TYPE_CHECKING:
    from tsstack.parts.firewall.judge import Flow, Ruleset

_PAIR = re.compile(r"\b(src|dst|sport|dport|type|id)=(\S+)")
_ROUTE_DEVICE = re.compile(r"^(?:local |broadcast |multicast )?(\S+) .*?\bdev (\S+)")
# Connections of this network namespace (Documentation/networking/nf_conntrack-sysctl.rst).
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_LOCAL = re.compile(r"^\d+: \S+ +inet6? ([0-9a-fA-F.:]+)")
_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmpv6": "icmpv6"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One connection of conntrack: its original direction and where its replies come from."""

    protocol: str
    source: str
    destination: str
    source_port: int
    port: int
    replier: str
    reply_port: int
    icmp_id: int = 0

    @property
    def words(self) -> list[str]:
        """The filter that conntrack(8) needs to find just this one."""
        family = "ipv6" if ":" in self.source else "ipv4"
        words = ["-f", family, "-p", self.protocol, "-s", self.source, "-d", self.destination]
        if self.protocol in {"tcp", "udp"}:
            return [*words, "--sport", str(self.source_port), "--dport", str(self.port)]
        kind = "128" if self.protocol == "icmpv6" else "8"
        option = "--icmpv6" if self.protocol == "icmpv6" else "--icmp"
        return [*words, f"{option}-type", kind, f"{option}-id", str(self.icmp_id)]

    def __str__(self) -> str:
        return f"{self.protocol} {self.source} -> {self.destination}:{self.port}"


def cut_refused(before: str, after: str) -> tuple[list[Entry], list[str]]:
    """Cut what the listing `before` accepted and `after` does not.

    Returns the connections that were cut and, as sentences, what could not be. A connection that this
    host began is never one of them. The incoming interface of a connection is not on record; it is taken
    to be the one that the route back to its source uses. Linux: conntrack(8), ip-route(8), ss(8).
    """
    try:
        entries = _entries()
        local = _local_addresses() if entries else set()
        entries = [entry for entry in entries if entry.source not in local]
        if not entries:
            return [], []
        remote = {entry.source for entry in entries} | {entry.replier for entry in entries} - local
        devices = _devices(remote)
        from tsstack.parts.firewall.judge import read_ruleset

        old, new = read_ruleset(before), read_ruleset(after)
        # Many connections are one flow: they differ in the port they come from only.
        flows = {entry: _flow(entry, local, devices) for entry in entries}
        lost = {flow for flow in set(flows.values()) if _is_refused(flow, old, new)}
        refused = [entry for entry in entries if flows[entry] in lost]
        return refused, [left for entry in refused for left in _cut(entry, to_host=entry.replier in local)]
    except CommandFailed as error:
        return [], [f"established connections were not looked at: {error.message}"]


def _is_refused(flow: Flow, old: Ruleset, new: Ruleset) -> bool:
    try:
        if new.judge(flow).verdict == "accept":
            return False
    except (ValueError, LookupError):
        return False  # someone's own rules come back with the table; one of them may let it in
    try:
        return old.judge(flow).verdict == "accept"
    except (ValueError, LookupError):
        return True  # someone put rules of their own into the old table; one of them let it in


def parse_entries(text: str) -> list[Entry]:
    """The connections in the output of `conntrack -L -o extended` that were answered.

    The others are no matter: without an answer every packet still counts as new.
    """
    entries = []
    for line in text.splitlines():
        if "[UNREPLIED]" in line:
            continue
        words = line.split()
        if len(words) < 4 or words[2] not in _PROTOCOLS:
            continue
        first: dict[str, str] = {}
        second: dict[str, str] = {}
        for key, value in _PAIR.findall(line):
            (second if key in first else first)[key] = value
        if {"src", "dst"} <= second.keys():
            entries.append(
                Entry(
                    protocol=words[2],
                    source=first["src"],
                    destination=first["dst"],
                    source_port=int(first.get("sport", 0)),
                    port=int(first.get("dport", 0)),
                    replier=second["src"],
                    reply_port=int(second.get("sport", 0)),
                    icmp_id=int(first.get("id", 0)),
                )
            )
    return entries


def _entries() -> list[Entry]:
    if _COUNT.exists() and _COUNT.read_text().strip() == "0":
        return []  # spares two programs where nothing is connected
    found: list[Entry] = []
    for family in ("ipv4", "ipv6"):
        found += parse_entries(
            run(["conntrack", "-L", "-f", family, "-u", "SEEN_REPLY", "-o", "extended"]).stdout
        )
    return found


def _local_addresses() -> set[str]:
    lines = run(["ip", "-o", "addr"]).stdout.splitlines()
    return {match[1] for line in lines if (match := _LOCAL.match(line))}


def _devices(addresses: Iterable[str]) -> dict[str, str]:
    """The interface that the route to each address uses; addresses without a route are missing."""
    request = "".join(f"route get {address}\n" for address in sorted(addresses))
    answer = run(["ip", "-o", "-force", "-batch", "-"], stdin=request, check=False).stdout
    return {match[1]: match[2] for line in answer.splitlines() if (match := _ROUTE_DEVICE.match(line))}


def _flow(entry: Entry, local: set[str], devices: dict[str, str]) -> Flow:
    from tsstack.parts.firewall.judge import Flow

    return Flow(
        protocol=entry.protocol,
        source=entry.source,
        destination=entry.replier,
        incoming=devices.get(entry.source, ""),
        outgoing="" if entry.replier in local else devices.get(entry.replier, "-"),
        port=entry.reply_port,
        asked_port=entry.port,
        dnat=(entry.replier, entry.reply_port) != (entry.destination, entry.port),
    )


def _cut(entry: Entry, *, to_host: bool) -> list[str]:
    """Forget the connection; returns what failed. One that ends here loses its socket as well.

    A socket that lived on would send, and conntrack would take that for a new connection of our own.
    """
    failed = []
    gone = run(["conntrack", "-D", *entry.words], check=False)
    if gone.returncode != 0 and "0 flow entries" not in gone.stderr:
        failed.append(f"the connection {entry} stays open: {gone.stderr.strip()}")
    if to_host and entry.protocol == "tcp":
        socket = [f"src {_bracketed(entry.replier)}:{entry.reply_port}"]
        socket += [f"dst {_bracketed(entry.source)}:{entry.source_port}"]
        closed = run(["ss", "-K", "-t", " and ".join(socket)], check=False)
        if closed.returncode != 0:
            failed.append(f"the socket of {entry} stays open: {closed.stderr.strip()}")
    return failed


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
