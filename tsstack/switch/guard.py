"""Would the one who runs this switch, or any admin, lose the way in?

The ways in: the SSH session that this command runs in, with the address of ours that it came to (the
tailnet's, maybe), and every admin source that can come in now. Each is asked of the model as a new
connection; one that would be refused stops the switch before anything is touched. `ways` decides.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Address
from tsstack.model.stack import Stack
from tsstack.parts.part import Snapshot, Tree
from tsstack.prove.expected import TAILNET_INTERFACE, Packet, is_tailnet
from tsstack.switch.ways import Way, closed_ways
from tsstack.system import command

OWN = "your own session"
PAST_IT = "use --force-lockout together with --confirm"


@dataclass(frozen=True, slots=True)
class Session:
    """A way in that is in use: who connects from which port, to which address and port of ours."""

    client: Address
    client_port: int
    server: Address
    port: int

    def __str__(self) -> str:
        return f"{self.client} {self.client_port} {self.port}"


def operator_sessions(pid: int | None = None) -> tuple[Session, ...]:
    """The SSH sessions among the ancestors of `pid` (default: this process).

    sudo drops SSH_CONNECTION from the environment, so the ancestors' are read (proc(5): environ).
    """
    sessions: dict[Session, None] = {}
    current = os.getpid() if pid is None else pid
    while current > 1:
        try:
            environ = Path(f"/proc/{current}/environ").read_bytes()
            stat = Path(f"/proc/{current}/stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            break
        for entry in environ.split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"SSH_CONNECTION" and (session := _parse_connection(value.decode("ascii", "replace"))):
                sessions[session] = None
        current = int(stat.rpartition(")")[2].split()[1])
    return tuple(sessions)


def _parse_connection(value: str) -> Session | None:
    """ssh(1): SSH_CONNECTION is client address, client port, server address, server port."""
    fields = value.split()
    if len(fields) != 4 or not fields[1].isdigit() or not fields[3].isdigit():
        return None
    try:
        client, server = _parse_address(fields[0]), _parse_address(fields[2])
    except ValueError:
        return None
    return Session(client, int(fields[1]), server, int(fields[3]))


def _parse_address(text: str) -> Address:
    """An address as sshd writes it: link-local ones with their zone, v4 ones maybe mapped into v6.

    RFC 4291 section 2.5.5.2: a v6 socket sees v4 clients so. Raises ValueError.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def route_interface(address: Address) -> str:
    """The interface by which packets to `address` leave, and its packets are expected to arrive."""
    family = "-6" if address.version == 6 else "-4"
    try:
        answer = command.run(["ip", "-j", family, "route", "get", str(address)], timeout_s=5)
    except CommandFailed as error:
        raise CheckFailed(f"there is no route back to {address}, where you connect from: {error}") from error
    routes = json.loads(answer.stdout)
    return str(routes[0].get("dev", "")) if routes else ""


def ways_of_sessions(sessions: tuple[Session, ...]) -> list[Way]:
    """The same connections, opened anew. Raises CheckFailed when there is no route back to a client."""
    return [
        Way(
            Packet(
                session.client,
                TAILNET_INTERFACE if is_tailnet(session.client) else route_interface(session.client),
                "tcp",
                session.port,
                session.server,
            ),
            OWN,
        )
        for session in sessions
    ]


def check_ways(stack: Stack, facts: Facts, ways: Sequence[Way]) -> None:
    """Raise CheckFailed when one of the ways in would be closed after the switch, with its packet."""
    closed = next(closed_ways(stack, facts, ways), None)
    if closed is None:
        return
    packet = closed.way.packet
    zone = f"zone {closed.zone}" if closed.zone else "no zone"
    raise CheckFailed(
        f"this switch would {_whom(closed.way)}: {packet}, {closed.way.whose}, falls into {zone} "
        f"and {closed.path} refuses it",
        hint=f"open tcp/{packet.port} there, add {ipaddress.ip_network(packet.source)} to a zone with "
        f"`allow: all`, or {PAST_IT}",
    )


def check_tailscale(tree: Tree, snapshot: Snapshot, ways: Iterable[Way]) -> None:
    """Raise CheckFailed when tailscaled's new settings would cut one of the ways in."""
    from tsstack.parts.tailscale.ways_in import closed_way_in

    # Of thousands of sources those are alike that the answer does not tell apart.
    alike: dict[tuple[str, bool, bool], Way] = {}
    for way in ways:
        source = way.packet.source
        alike.setdefault((way.whose[:3], source.is_private, is_tailnet(source)), way)
    for way in alike.values():
        reason = closed_way_in(tree, snapshot, way.packet.source)
        if reason:
            raise CheckFailed(
                f"this switch would {_whom(way)}: {way.packet}, {way.whose}: {reason}", hint=f"or {PAST_IT}"
            )


def _whom(way: Way) -> str:
    return "lock you out" if way.whose == OWN else "lock out an admin"
