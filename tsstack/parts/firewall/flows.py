"""Established connections that the new table would not accept: found and cut, only those.

The kernel never asks a rule again about a connection that is established (our own first rule). So after a
port was closed its old connections would live on for as long as they like.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tsstack.errors import CommandFailed
from tsstack.system.command import run
from tsstack.system.conntrack import drop_connections, list_connections

if TYPE_CHECKING:
    from tsstack.parts.firewall.judge import Flow, Ruleset
    from tsstack.system.conntrack import Connection

_ROUTE_DEVICE = re.compile(r"^(?:local |broadcast |multicast )?(\S+) .*?\bdev (\S+)")
_LOCAL = re.compile(r"^\d+: (\S+) +inet6? ([0-9a-fA-F.:]+)")
_TO_ALL = re.compile(r" brd ([0-9.]+)")
_LOOPBACK = re.compile(r"127\.|::1$")
_GROUP = re.compile(r"22[4-9]\.|23\d\.|255\.255\.255\.255$|ff")  # RFC 5771, RFC 919, RFC 4291 section 2.7
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


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of the connections that the new table refuses."""

    gone: list[Entry] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What could not be cut, as sentences."""
    may_return: list[Entry] = field(default_factory=list)
    """Of those that are gone: the far end may begin one, or a program here, and packets of the old fit it."""


def cut_refused(before: str | None, after: str) -> Cut:
    """Cut what the listing `before` accepted (None: everything, there was no table) and `after` does not.

    A connection that this host began is never one of them. The incoming interface of a connection is not on
    record: it is taken to be the one that the route back to its source uses, and for a link-local source any
    that it may have come by. Raises Unseen. Linux: ip-route(8), ss(8).
    """
    try:
        entries = _entries()
        listed = run(["ip", "-o", "addr"]).stdout if entries else ""
        local = _local_addresses(listed)
        # An address alone in its network may be its own broadcast address (ifconfig makes such).
        to_all = {*_TO_ALL.findall(listed)} - local.keys()
        entries = [entry for entry in entries if entry.source not in local and entry.replier not in to_all]
        if not entries:
            return Cut()
        remote = {entry.source for entry in entries} | {entry.replier for entry in entries} - local.keys()
        devices = _devices(remote)
    except CommandFailed as error:
        raise Unseen(f"established connections were not looked at: {error.message}") from error
    except OSError as error:
        why = error.strerror or error
        raise Unseen(f"established connections were not looked at: conntrack: {why}") from error
    from tsstack.parts.firewall.judge import read_ruleset

    old, new = read_ruleset(before) if before is not None else None, read_ruleset(after)
    # Many connections are one flow: they differ in the port they come from only.
    flows = {entry: _flows(entry, local, devices) for entry in entries}
    lost = {flow for flow in set(flows.values()) if all(_is_refused(each, old, new) for each in flow)}
    refused = [entry for entry in entries if flows[entry] in lost]
    if not refused:
        return Cut()
    gone, failed = _cut(refused, local)
    return Cut(gone, failed, [entry for entry in gone if _may_return(entry, flows[entry][0], new)])


def _may_return(entry: Entry, flow: Flow, new: Ruleset) -> bool:
    """Whether the side that was asked may begin a connection that the old one's packets belong to.

    It may where rules let it: TCP too, as conntrack takes up connections that it sees in the middle. A
    program of this host may always send; of TCP its socket is gone.
    """
    if not flow.outgoing:
        return entry.protocol == "udp"
    back = replace(
        flow,
        source=flow.destination,
        destination=flow.source,
        incoming=flow.outgoing,
        outgoing=flow.incoming,
        port=entry.connection.original.source_port,
        asked_port=entry.connection.original.source_port,
        dnat=False,
    )
    try:
        return entry.protocol in {"tcp", "udp"} and new.judge(back).verdict == "accept"
    except (ValueError, LookupError):
        return True


def _is_refused(flow: Flow, old: Ruleset | None, new: Ruleset) -> bool:
    try:
        if new.judge(flow).verdict == "accept":
            return False
    except (ValueError, LookupError):
        return False  # someone's own rules come back with the table; one of them may let it in
    if old is None:
        return True
    try:
        return old.judge(flow).verdict == "accept"
    except (ValueError, LookupError):
        return True  # someone put rules of their own into the old table; one of them let it in


def _entries() -> list[Entry]:
    """Connections of protocols that rules tell apart. Loopback is nobody's but ours.

    What went to a group or to everybody on a link is left out: its answers come from other addresses, so it
    never becomes an established connection.
    """
    return [
        Entry(protocol, each)
        for each in list_connections()
        if (protocol := _PROTOCOLS.get(each.original.protocol))
        and not _LOOPBACK.match(each.original.source)
        and not _GROUP.match(each.original.destination)
    ]


def _local_addresses(listed: str) -> dict[str, list[str]]:
    """This host's addresses, and the interfaces that have each: a link-local one may be on several."""
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if match := _LOCAL.match(line):
            found.setdefault(match[2], []).append(match[1].partition("@")[0])
    return found


def _devices(addresses: Iterable[str]) -> dict[str, str]:
    """The interface that the route to each address uses; addresses without a route are missing."""
    request = "".join(f"route get {address}\n" for address in sorted(addresses))
    answer = run(["ip", "-o", "-force", "-batch", "-"], stdin=request, check=False).stdout
    return {match[1]: match[2] for line in answer.splitlines() if (match := _ROUTE_DEVICE.match(line))}


def _flows(entry: Entry, local: dict[str, list[str]], devices: dict[str, str]) -> tuple[Flow, ...]:
    """What it may have begun as: one, but for a link-local source one for each link that it may be on."""
    from tsstack.parts.firewall.judge import Flow

    asked, answers = entry.connection.original, entry.connection.reply
    if not ip_address(asked.source).is_link_local:
        links = [devices.get(asked.source, "")]
    elif ip_address(answers.source).is_link_local:
        links = local.get(answers.source, [""])
    else:
        links = sorted({name for text, names in local.items() if text.startswith("fe80:") for name in names})
    return tuple(
        Flow(
            protocol=entry.protocol,
            source=asked.source,
            destination=answers.source,
            incoming=link,
            outgoing="" if answers.source in local else devices.get(answers.source, "-"),
            port=answers.source_port,
            asked_port=asked.port,
            dnat=(answers.source, answers.source_port) != (asked.destination, asked.port),
        )
        for link in links or [""]
    )


def _cut(entries: list[Entry], local: Collection[str]) -> tuple[list[Entry], list[str]]:
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
