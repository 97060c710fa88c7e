"""Who is on this host from elsewhere: by sshd, by mosh, by tailscaled's own SSH server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tsstack.model.names import Address
from tsstack.switch.routes import own_addresses
from tsstack.switch.sockets import (
    ESTABLISHED,
    LISTEN,
    bound_udp,
    held_by,
    listening,
    listening_or_held,
    plain,
)
from tsstack.switch.ways import Session

# sshd-session: since OpenSSH 9.8 a session is a program of its own.
_SSH_DAEMONS = frozenset({"sshd", "sshd-session"})
_SSH_SERVERS = frozenset({"sshd", "dropbear"})
_PORT = re.compile(r"[0-9]{1,5}")
# net/core/dev.c, dev_valid_name(), and less: what else a name may hold has no place on a terminal.
_LINK = re.compile(r"(?!lo$)[A-Za-z0-9_@-][A-Za-z0-9_.@-]{0,14}")
# Linux, Documentation/admin-guide/devices.txt: the major numbers of Unix98 PTY slaves.
_PSEUDO_TERMINALS = range(136, 144)
MOSH, TAILSCALED = "mosh-server", "tailscaled"


class Process(NamedTuple):
    """A process as proc(5) shows it."""

    pid: int
    name: str
    """comm, of at most 15 characters (proc_pid_comm(5))."""
    parent: int
    terminal: int = 0
    """The number of the one that controls it (proc_pid_stat(5): tty_nr); 0: none does."""

    @property
    def has_terminal(self) -> bool:
        """Whether it runs in one, of whatever kind."""
        return self.terminal != 0

    @property
    def has_pseudo_terminal(self) -> bool:
        """Whether that is one that a program made (pts(4)), and no console of the machine's own."""
        return self.terminal >> 8 & 0xFFF in _PSEUDO_TERMINALS

    @property
    def is_of_this_network(self) -> bool:
        """Whether it lives in our network namespace: /proc has a container's processes too."""
        try:
            return Path(f"/proc/{self.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False

    @property
    def connection(self) -> Session | None:
        """What its SSH_CONNECTION says; None where it says nothing, or may not be read."""
        return parse_connection(self.variable("SSH_CONNECTION"))

    def variable(self, name: str) -> str:
        """A variable of its environment, as it was begun; empty where it has none, or it may not be read."""
        try:
            environ = Path(f"/proc/{self.pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return ""
        start = name.encode() + b"="
        found = (entry[len(start) :] for entry in environ.split(b"\0") if entry.startswith(start))
        return next(found, b"").decode("ascii", "replace")


def look_at(pid: int) -> Process | None:
    """The process `pid`; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    head, _, rest = stat.rpartition(")")
    fields = rest.split()
    return Process(pid, head.partition("(")[2], int(fields[1]), int(fields[4]))


def logins() -> tuple[Session, ...]:
    """Every session from elsewhere that is open on this host, as it was opened."""
    processes = list(every_process())
    found = [*_by_sshd(processes), *_by_tailscaled(processes)]
    found += (session for session, _ in _by_mosh(processes))
    return tuple(dict.fromkeys(each._replace(live=True) for each in found))


def logins_at_stake() -> tuple[Session, ...]:
    """The same, as it lives on: of mosh the port that its client's packets go to."""
    processes = list(every_process())
    found = [*_by_sshd(processes), *_by_tailscaled(processes)]
    for session, ports in _by_mosh(processes):
        found += by_mosh(session, ports)
    return tuple(dict.fromkeys(each._replace(live=True) for each in found))


def by_mosh(session: Session, ports: Iterable[int]) -> list[Session]:
    """What a session has become that mosh has taken over (mosh(1))."""
    return [session._replace(client_port=0, port=port, protocol="udp") for port in ports]


def mosh_ports(processes: Iterable[Process]) -> list[int]:
    """The UDP ports of those that are mosh servers."""
    servers = [process.pid for process in processes if process.name == MOSH]
    return [each.port for each in bound_udp({inode for pid in servers for inode in held_by(pid)})]


def listening_ports() -> tuple[int, ...]:
    """The TCP ports on which a program of that name serves SSH; none where systemd listens for it.

    A session listens too, for what it forwards to its user (sshd_config(5): GatewayPorts): that is no SSH.
    """
    servers = [each.pid for each in every_process() if each.name in _SSH_SERVERS and not _is_logged_in(each)]
    found = listening({inode for pid in servers for inode in held_by(pid)})
    return tuple(sorted({each.port for each in found if not each.address.is_loopback}))


def parse_connection(value: str) -> Session | None:
    """ssh(1): SSH_CONNECTION is client address, client port, server address, server port."""
    fields = value.split()
    # Anybody can set the variable of a process: nothing in it may be taken at its word.
    if len(fields) != 4 or not all(_PORT.fullmatch(fields[at]) for at in (1, 3)):
        return None
    try:
        client, server = _parse_address(fields[0]), _parse_address(fields[2])
    except ValueError:
        return None
    if not 0 < int(fields[3]) < 1 << 16 or client.version != server.version:
        return None
    if any(end.is_multicast or end.is_unspecified for end in (client, server)):
        return None
    # Either end of a link-local session may carry the link's name; both are on the same link.
    zone = fields[0].partition("%")[2] or fields[2].partition("%")[2]
    if zone and not _LINK.fullmatch(zone):
        return None
    return Session(client, int(fields[1]), server, int(fields[3]), zone if client.is_link_local else "")


def _parse_address(text: str) -> Address:
    """An address as sshd writes it: link-local ones with their zone, v4 ones maybe mapped into v6.

    Raises ValueError.
    """
    return plain(ipaddress.ip_address(text.partition("%")[0]))


def every_process() -> Iterator[Process]:
    """All that run."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (process := look_at(int(folder.name))) is not None:
            yield process


def _by_sshd(processes: Iterable[Process]) -> list[Session]:
    """Every session of sshd's that has passed the log-in, in this network namespace."""
    inodes = {inode for each in processes if _is_logged_in(each) for inode in held_by(each.pid)}
    if not inodes:
        return []
    table = listening_or_held(inodes)
    served = {each.port for each in table if each.state == LISTEN}
    holders: dict[Address, list[str]] = {}
    for address, interface, _ in own_addresses():
        holders.setdefault(address, []).append(interface)
    return [
        Session(each.peer, each.peer_port, each.address, each.port, zone)
        for each in table
        # What sshd forwards for its users leaves from a port that nobody listens on.
        if each.state == ESTABLISHED and each.port in served
        # proc(5) does not say by which link; one of those that have the address.
        for zone in (holders.get(each.address, [""]) if each.peer.is_link_local else [""])
    ]


def _by_mosh(processes: Iterable[Process]) -> Iterator[tuple[Session, list[int]]]:
    """How each mosh server was begun, and its ports. Where its client is by now only mosh itself knows."""
    for process in processes:
        if process.name != MOSH or not process.is_of_this_network:
            continue
        if (session := process.connection) is not None:
            yield session, mosh_ports([process])


def _by_tailscaled(processes: list[Process]) -> Iterator[Session]:
    """tailscale's ssh/tailssh: each session is a child of tailscaled's, told where it comes from."""
    daemons = {each.pid: each for each in processes if each.name == TAILSCALED and _is_the_daemon(each)}
    for process in processes:
        daemon = daemons.get(process.parent)
        if daemon is None or (session := process.connection) is None:
            continue
        if session != daemon.connection:  # else the daemon itself was started from a session
            yield session._replace(by_tailscaled=True)


def _is_the_daemon(process: Process) -> bool:
    """Anybody may call a program so; only root's can let people in."""
    try:
        by_root = Path(f"/proc/{process.pid}").stat().st_uid == 0
    except FileNotFoundError:
        return False
    return by_root and process.is_of_this_network


def _is_logged_in(process: Process) -> bool:
    """sshd says in its title who is logged in: `sshd: root@pts/0`, `sshd: root` where nothing is run.

    One that only tries, the part of it that keeps root's rights, and the listener have a bracket in theirs.
    """
    if process.name not in _SSH_DAEMONS:
        return False
    try:
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    _, _, who = line.partition(b"\0")[0].decode("utf-8", "replace").partition(": ")
    return bool(who.strip()) and "[" not in who
