"""Established connections that the new table would not accept: found and cut, only those.

The kernel never asks a rule again about a connection that is established (our own first rule). So after a
port was closed its old connections would live on for as long as they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.errors import CommandFailed
from tsstack.system.command import run
from tsstack.system.conntrack import drop_connections, list_connections

if TYPE_CHECKING:
    from tsstack.parts.firewall.judge import Flow, Ruleset
    from tsstack.system.conntrack import Connection

_ROUTE_DEVICE = re.compile(r"^(?:local |broadcast |multicast )?(\S+) .*?\bdev (\S+)")
_LOCAL = re.compile(r"^\d+: \S+ +inet6? ([0-9a-fA-F.:]+)")
_LOOPBACK = re.compile(r"127\.|::1$")
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One connection of conntrack: its original direction and where replies come from.

    Of one that was not answered yet too: its first answer would make it an established one.
    """

    protocol: str
    connection: Connection

    @property
    def source(self) -> str:
        """Who began it."""
        return self.connection.original.source

    @property
    def replier(self) -> str:
        """Who answers, whatever address was asked for."""
        return self.connection.reply.source

    def __str__(self) -> str:
        asked = self.connection.original
        return f"{self.protocol} {asked.source} -> {asked.destination}:{asked.port}"


class Unseen(Exception):
    """Why established connections cannot be looked at."""


def cut_refused(before: str, after: str) -> tuple[list[Entry], list[str]]:
    """Cut what the listing `before` accepted and `after` does not.

    Returns the connections that were cut and, as sentences, what could not be. A connection that this
    host began is never one of them. The incoming interface of a connection is not on record; it is taken
    to be the one that the route back to its source uses. Raises Unseen. Linux: ip-route(8), ss(8).
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
    except CommandFailed as error:
        raise Unseen(f"established connections were not looked at: {error.message}") from error
    except OSError as error:
        why = error.strerror or error
        raise Unseen(f"established connections were not looked at: conntrack: {why}") from error
    return _cut(refused, local) if refused else ([], [])


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


def _entries() -> list[Entry]:
    """Connections of protocols that rules tell apart. Loopback is nobody's but ours."""
    return [
        Entry(protocol, each)
        for each in list_connections()
        if (protocol := _PROTOCOLS.get(each.original.protocol)) and not _LOOPBACK.match(each.original.source)
    ]


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

    asked, answers = entry.connection.original, entry.connection.reply
    return Flow(
        protocol=entry.protocol,
        source=asked.source,
        destination=answers.source,
        incoming=devices.get(asked.source, ""),
        outgoing="" if answers.source in local else devices.get(answers.source, "-"),
        port=answers.source_port,
        asked_port=asked.port,
        dnat=(answers.source, answers.source_port) != (asked.destination, asked.port),
    )


def _cut(entries: list[Entry], local: set[str]) -> tuple[list[Entry], list[str]]:
    """Forget the connections; returns those that are gone, and what failed as sentences.

    One that ends here loses its socket as well: that would send on, and conntrack would take it for a new
    connection of our own.
    """
    try:
        refused = dict(drop_connections(entry.connection for entry in entries).refused)
    except OSError as error:
        return [], [f"{len(entries)} connections stay open: {error.strerror or error}"]
    kept = {entry: refused[entry.connection] for entry in entries if entry.connection in refused}
    failed = [f"the connection {entry} stays open: {error.strerror}" for entry, error in kept.items()]
    gone = [entry for entry in entries if entry not in kept]
    for entry in gone:
        if entry.replier in local and entry.protocol == "tcp":
            failed += _close_socket(entry)
    return gone, failed


def _close_socket(entry: Entry) -> list[str]:
    near, far = entry.connection.reply, entry.connection.original
    words = [f"src {_bracketed(near.source)}:{near.source_port}"]
    words += [f"dst {_bracketed(far.source)}:{far.source_port}"]
    try:
        run(["ss", "-K", "-t", " and ".join(words)])
    except CommandFailed as error:
        return [f"the socket of {entry} stays open: {error.stderr.strip() or error.message}"]
    return []


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
