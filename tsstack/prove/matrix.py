"""A proof as a table that a person reads at a glance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from tsstack.model.firewall import ForwardRule, Zone
from tsstack.prove.expected import SYN, Oracle
from tsstack.prove.plan import PING, Service
from tsstack.prove.proof import SPOOFED, UNZONED, Proof, Row

Mark = Literal["open", "closed", "mixed", "wrong", "unasked"]
OTHERS = "others"
_MOST_COLUMNS = 60
"""What a person can still take in; the services of a file past that count with the others."""


@dataclass(slots=True)
class Cell:
    """What became of the packets of one place in the table."""

    accepted: int = 0
    refused: int = 0
    mismatches: int = 0
    services: dict[str, None] = field(default_factory=dict)
    """What passed, in order, for cells that stand for more than one service."""

    def add(self, row: Row) -> None:
        """Count one packet."""
        if not row.agrees:
            self.mismatches += 1
        elif row.seen.startswith("accept"):
            self.accepted += 1
        else:
            self.refused += 1

    @property
    def mark(self) -> Mark:
        """The cell as one sign."""
        if self.mismatches:
            return "wrong"
        if self.accepted and self.refused:
            return "mixed"
        return "open" if self.accepted else "closed" if self.refused else "unasked"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows and columns by name; `cells` lacks what was not asked."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]


def arriving_table(oracle: Oracle, proof: Proof) -> Table:
    """Packets to this host: from each zone (rows) to each service that a zone opens (columns)."""
    columns = _services(oracle)
    every = list(dict.fromkeys(name for listed in columns.values() for name in listed))
    shown = set(every[:_MOST_COLUMNS])
    cells: dict[tuple[str, str], Cell] = {}
    rows = [row for row in proof.rows if not row.passing and not _is_beside_zones(row)]
    for row in rows:
        packet = row.packet
        service: Service = ("icmp", packet.icmp_type) if packet.icmp_type else (packet.protocol, packet.port)
        for name in [each for each in columns.get(service, ()) if each in shown] or [OTHERS]:
            cells.setdefault((row.source, name), Cell()).add(row)
    names = [name for name in every if name in shown]
    return Table(_zones(oracle, rows), (*names, OTHERS), cells)


def passing_table(oracle: Oracle, proof: Proof) -> Table:
    """New connections through this host: from each zone (rows) to each zone (columns).

    What begins none (an answer, TCP of no connection, an ICMP error) counts only where it goes wrong.
    """
    rows = [row for row in proof.rows if row.passing and (_begins(row) or not row.agrees)]
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        cells.setdefault((row.source, row.target), Cell()).add(row)
    targets = [*oracle.firewall.zones, UNZONED]
    return Table(_zones(oracle, rows), tuple(targets), cells)


def _begins(row: Row) -> bool:
    """Whether the packet would begin a connection, as people mean it: TCP, UDP or a ping."""
    packet = row.packet
    if packet.flow or packet.icmp_type or packet.protocol == "other":
        return False
    return packet.protocol != "tcp" or packet.flags == SYN


def _is_beside_zones(row: Row) -> bool:
    """Whether no zone has a say in it: tailscaled's port, DHCP, a tailnet address that answers elsewhere."""
    decided = row.expected.path in {"tailscale", "firewall"}
    return row.agrees and decided and (row.expected.accepted or row.source != SPOOFED)


def _services(oracle: Oracle) -> dict[Service, list[str]]:
    """The columns that a packet counts in. Of a range its ends are asked."""
    found: dict[Service, dict[str, None]] = {PING: {"ping": None}}
    sections: list[Zone | ForwardRule] = list(oracle.firewall.zones.values())
    for section in sections:
        for name, service in _named(oracle, section):
            found.setdefault(service, {})[name] = None
    return {service: list(names) for service, names in found.items()}


def _named(oracle: Oracle, section: Zone | ForwardRule) -> Iterator[tuple[str, Service]]:
    for key, kind, first, last in oracle.ports_of(section):
        ports = str(first) if first == last else f"{first}-{last}"
        at = int(key.partition("[")[2].rstrip("]"))
        name = section.services[at] if key.startswith("services") else f"{kind}/{ports}"
        yield name, (kind, first)
        yield name, (kind, last)


def _zones(oracle: Oracle, rows: Iterable[Row]) -> tuple[str, ...]:
    """The zones in the order of the file, then what else packets came from."""
    seen = dict.fromkeys(row.source for row in rows)
    return tuple(dict.fromkeys([*(zone for zone in oracle.firewall.zones if zone in seen), *sorted(seen)]))
