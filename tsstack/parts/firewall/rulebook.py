"""What every chain of the table is written from, and how the table refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tsstack.model.firewall import Firewall
from tsstack.model.sections import Advertise
from tsstack.model.stack import Stack
from tsstack.parts.firewall.dispatch import Members
from tsstack.parts.firewall.members import OpenPorts, is_isolated
from tsstack.parts.firewall.text import PROTOCOL_NUMBERS, Chain, Table, quote

PortPair = tuple[tuple[OpenPorts, ...], tuple[OpenPorts, ...]]
"""TCP ports, UDP ports."""

_MANY_PORTS = 1_000
_LOG_LIMIT = "limit rate 5/second burst 20 packets"


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The file's firewall with its names resolved, and the table that grows from it."""

    stack: Stack
    firewall: Firewall
    uplink: str
    members: Members
    ports: Mapping[str, PortPair]
    """What each zone opens."""
    table: Table

    @property
    def advertise(self) -> Advertise:
        return self.stack.tailscale.advertise if self.stack.tailscale else Advertise()

    def is_isolated(self, zone: str) -> bool:
        return is_isolated(zone, self.firewall.zones[zone])

    def accepts_by_default(self, zone: str) -> bool:
        """Whether what the zone does not open passes all the same."""
        return self.firewall.default_policy == "accept" and not self.is_isolated(zone)

    def opens(self, zone: str) -> bool:
        """Whether the zone opens any port of this host."""
        return self.firewall.zones[zone].allow == "all" or any(self.ports[zone])

    def logs(self, zone: str) -> bool:
        log = self.firewall.zones[zone].log
        return self.firewall.log if log is None else log


def add_ports(
    chain: Chain, table: Table, name: str, ports: PortPair, *, verdict: Callable[[str], str], path: str
) -> None:
    """Rules with `verdict` of tcp and udp for the ports, by one set for each: `NAME.tcp`, `NAME.udp`."""
    for protocol, listed in zip(("tcp", "udp"), ports, strict=True):
        if listed:
            reference = collect_ports(table, f"{name}.{protocol}", listed)
            chain.add(f"{protocol} dport {reference} {verdict(protocol)}", path)


def collect_ports(table: Table, name: str, ports: tuple[OpenPorts, ...]) -> str:
    """A set of ports, each with its key path as comment; returns the reference to it.

    Single ports alone the kernel keeps in a list that it walks for each new one (nft_set_bitmap.c), half a
    minute of 65,535; as ranges they are a tree.
    """
    return table.collect(
        name,
        "inet_service",
        (f"{entry} comment {quote(entry.path)}" for entry in ports),
        interval=len(ports) > _MANY_PORTS or any(entry.first != entry.last for entry in ports),
    )


def add_refusal(book: Rulebook, zone: str) -> None:
    """The chain `refuse.ZONE`: where what a zone does not open ends."""
    chain = book.table.chain(f"refuse.{zone}")
    path = f"firewall.zones.{zone}"
    if book.accepts_by_default(zone):
        add_policy(chain, "accept", book.table.counter(f"{zone}.default", path), "firewall.default_policy")
        return
    if book.logs(zone):
        chain.add(log_statement(zone), f"{path}.log")
    policy = "reject" if book.firewall.default_policy == "reject" else "drop"
    add_policy(chain, policy, book.table.counter(f"{zone}.refused", path), path)


def add_policy(chain: Chain, policy: str, counter: str, path: str) -> None:
    """The last rules of a chain: count, then drop, reject or accept."""
    if policy == "reject":
        chain.add(f"meta l4proto {PROTOCOL_NUMBERS['tcp']} {counter} reject with tcp reset", path)
        chain.add(f"{counter} reject with icmpx port-unreachable", path)
    else:
        chain.add(f"{counter} {policy}", path)


def log_statement(subject: str) -> str:
    """Log at a limited rate, with a prefix of 127 characters at most (nf_log, NF_LOG_PREFIXLEN)."""
    return f"{_LOG_LIMIT} log prefix {quote(f'tsstack {subject} drop: ')}"
