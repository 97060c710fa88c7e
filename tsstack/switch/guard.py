"""Would the one who runs this switch lose the way in?

The ways in that are in use right now: the SSH session that this command runs in. Each is asked of the
model as a new connection; one that would be refused stops the switch before anything is touched.
"""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.model.facts import Facts
from tsstack.model.names import Address, Network
from tsstack.model.stack import Stack
from tsstack.parts.part import Snapshot, Tree
from tsstack.prove.expected import TAILNET_INTERFACE, Packet, expect_input, is_tailnet
from tsstack.system import command


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


def check_operator(stack: Stack, facts: Facts, sessions: tuple[Session, ...]) -> None:
    """Raise CheckFailed when one of the sessions could not be opened anew after the switch."""
    for session in sessions:
        interface = TAILNET_INTERFACE if is_tailnet(session.client) else route_interface(session.client)
        packet = Packet(session.client, interface, "tcp", session.port, session.server)
        verdict = expect_input(stack, facts, packet)
        if verdict.accepted:
            continue
        zone = f"zone {verdict.zone}" if verdict.zone else "no zone"
        raise CheckFailed(
            f"this switch would lock you out: {packet}, your own session, falls into {zone} "
            f"and {verdict.path} refuses it",
            hint=f"open tcp/{session.port} there, add {_own_network(session.client)} to a zone with "
            "`allow: all`, or use --force-lockout together with --confirm",
        )


def check_tailscale(tree: Tree, snapshot: Snapshot, sessions: tuple[Session, ...]) -> None:
    """Raise CheckFailed when tailscaled's new settings would cut one of the sessions."""
    from tsstack.parts.tailscale.ways_in import closed_way_in

    for session in sessions:
        reason = closed_way_in(tree, snapshot, session.client)
        if reason:
            raise CheckFailed(
                f"this switch would lock you out: {reason}",
                hint="or use --force-lockout together with --confirm",
            )


def _own_network(address: Address) -> Network:
    return ipaddress.ip_network(address)
