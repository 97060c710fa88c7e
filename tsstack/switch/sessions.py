"""The ways in that are in use: who runs this command, by SSH or mosh, and who else is here by SSH."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tsstack.model.names import Address
from tsstack.switch.routes import own_addresses
from tsstack.switch.ways import Session

# A shell in one of these keeps the environment of the session that it was started in, long gone maybe.
_MULTIPLEXERS = ("tmux", "screen", "zellij", "dtach", "abduco", "byobu")
# sshd-session: since OpenSSH 9.8 a session is a program of its own.
_SSH_DAEMONS = frozenset({"sshd", "sshd-session"})
_SSH_SERVERS = frozenset({"sshd", "dropbear"})
_ESTABLISHED, _LISTEN = "01", "0A"
_OURS, _THEIRS, _STATE, _INODE = 1, 2, 3, 9


class Connection(NamedTuple):
    """One socket of /proc/net/tcp or udp: our end, the other end, its state and inode."""

    address: Address
    port: int
    peer: Address
    peer_port: int
    state: str
    inode: str


class _Process(NamedTuple):
    pid: int
    name: str
    """comm, of at most 15 characters (proc_pid_comm(5))."""
    connection: Session | None
    """What its SSH_CONNECTION says."""


def operator_sessions(pid: int | None = None) -> tuple[Session, ...]:
    """The sessions that process `pid` (default: this one) runs in, by what its ancestors say.

    sudo drops SSH_CONNECTION from the environment, so the ancestors' are read (proc(5): environ). One that
    a terminal multiplexer was started in counts, though it may be over.
    """
    return tuple(dict.fromkeys(session for session, _ in _told_by(_ancestry(pid))))


def sessions_at_stake(pid: int | None = None, *, others: bool = True) -> tuple[Session, ...]:
    """The sessions that are to live on: the operator's own, with the port of mosh where it is used.

    What is remembered of a connection that is over does not count. Where nothing tells from where the
    operator comes (a console, a terminal that outlived its connection, `ssh localhost`) these are all SSH
    sessions that are logged in, unless `others` says no.
    """
    ancestry = _ancestry(pid)
    told = _told_by(ancestry)
    mosh = _mosh_ports(ancestry)
    there = _open_ends({session.port for session, _ in told})
    known = [
        session
        for session, doubtful in told
        # Of a session of tailscaled's, and of one that mosh has taken over, the kernel has no connection.
        if _session_ends(session) in there or (not doubtful and (session.by_tailscaled or mosh))
    ]
    ours = _own_addresses()
    if any(session.client not in ours for session in known):
        return _with_mosh(known, mosh)
    every = logged_in_sessions() if others else ()
    from_afar = tuple(session for session in every if session.client not in ours)
    if from_afar:
        return (*_with_mosh(known, mosh), *from_afar)
    # In a container's network nobody's connection is seen: then what is told is the best that there is.
    return _with_mosh(known or [each for each, doubtful in told if not doubtful], mosh) or every


def comes_from_here(sessions: tuple[Session, ...]) -> bool:
    """Whether all of them, and there are some, were opened on this host itself."""
    ours = _own_addresses()
    return bool(sessions) and all(each.client in ours for each in sessions)


def listening_ports() -> tuple[int, ...]:
    """The TCP ports on which a program of that name serves SSH; none where systemd listens for it.

    A session listens too, for what it forwards to its user (sshd_config(5): GatewayPorts): that is no SSH.
    """
    inodes = {
        inode
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and _name_of(process) in _SSH_SERVERS and not _is_logged_in(process)
        for inode in _sockets(int(process.name))
    }
    table = _read("tcp", lambda row: row[_STATE] == _LISTEN and row[_INODE] in inodes) if inodes else []
    return tuple(sorted({each.port for each in table if not each.address.is_loopback}))


def _with_mosh(sessions: list[Session], ports: list[int]) -> tuple[Session, ...]:
    found: dict[Session, None] = {}
    for session in sessions:
        found[session] = None
        for port in ports:
            found[session._replace(client_port=0, port=port, protocol="udp")] = None
    return tuple(found)


def _own_addresses() -> set[Address]:
    loopback = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
    return {*loopback, *(address for address, _, _ in own_addresses())}


def _open_ends(ports: set[int]) -> set[tuple[Address, int, Address, int]]:
    """Both ends of each open connection to these ports of ours."""
    told = {f"{port:04X}" for port in ports}
    return {_ends(each) for each in _read("tcp", lambda row: _is_open(row) and row[_OURS][-4:] in told)}


def logged_in_sessions() -> tuple[Session, ...]:
    """Every session of sshd's that has passed the log-in, in this network namespace.

    sshd says in its title who is logged in (`sshd: root@pts/0`); one that only tries has another.
    """
    inodes = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _is_logged_in(process):
            inodes |= set(_sockets(int(process.name)))
    if not inodes:
        return ()
    table = _read("tcp", lambda row: row[_STATE] == _LISTEN or row[_INODE] in inodes)
    served = {each.port for each in table if each.state == _LISTEN}
    holders: dict[Address, list[str]] = {}
    for address, interface, _ in own_addresses():
        holders.setdefault(address, []).append(interface)
    sessions = [
        Session(each.peer, each.peer_port, each.address, each.port, zone, live=True)
        for each in table
        # What sshd forwards for its users leaves from a port that nobody listens on.
        if each.state == _ESTABLISHED and each.port in served
        # proc(5) does not say by which link; one of those that have the address.
        for zone in (holders.get(each.address, [""]) if each.peer.is_link_local else [""])
    ]
    return tuple(dict.fromkeys(sessions))


def parse_connection(value: str) -> Session | None:
    """ssh(1): SSH_CONNECTION is client address, client port, server address, server port."""
    fields = value.split()
    if len(fields) != 4 or not fields[1].isdigit() or not fields[3].isdigit():
        return None
    try:
        client, server = _parse_address(fields[0]), _parse_address(fields[2])
    except ValueError:
        return None
    if not 0 < int(fields[3]) < 1 << 16:
        return None
    # Either end of a link-local session may carry the link's name; both are on the same link.
    zone = fields[0].partition("%")[2] or fields[2].partition("%")[2]
    return Session(client, int(fields[1]), server, int(fields[3]), zone)


def _parse_address(text: str) -> Address:
    """An address as sshd writes it: link-local ones with their zone, v4 ones maybe mapped into v6.

    RFC 4291 section 2.5.5.2: a v6 socket sees v4 clients so. Raises ValueError.
    """
    return _plain(ipaddress.ip_address(text.partition("%")[0]))


def _plain(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _ancestry(pid: int | None) -> list[_Process]:
    """The process and those above it, as far as they can be read."""
    found = []
    current = os.getpid() if pid is None else pid
    while current > 1:
        folder = Path(f"/proc/{current}")
        try:
            environ = (folder / "environ").read_bytes()
            stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            break
        head, _, rest = stat.rpartition(")")
        value = next(
            (entry[15:] for entry in environ.split(b"\0") if entry.startswith(b"SSH_CONNECTION=")), b""
        )
        connection = parse_connection(value.decode("ascii", "replace"))
        found.append(_Process(current, head.partition("(")[2], connection))
        current = int(rest.split()[1])
    return found


def _told_by(ancestry: list[_Process]) -> list[tuple[Session, bool]]:
    """Each session that a process names, the nearest first, and whether a multiplexer may have kept it."""
    found = []
    for at, process in enumerate(ancestry):
        if process.connection is None:
            continue
        above = [each.name.lower() for each in ancestry[at:]]
        doubtful = any(name.startswith(_MULTIPLEXERS) for name in above)
        by_tailscaled = "tailscaled" in above
        found.append((process.connection._replace(by_tailscaled=by_tailscaled), doubtful))
    return found


def _mosh_ports(ancestry: list[_Process]) -> list[int]:
    """The UDP ports of the mosh servers above: mosh(1) takes its client's packets there."""
    servers = [process.pid for process in ancestry if process.name == "mosh-server"]
    inodes = {inode for pid in servers for inode in _sockets(pid)}
    return [each.port for each in _read("udp", lambda row: row[_INODE] in inodes)] if inodes else []


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _is_logged_in(process: Path) -> bool:
    if _name_of(process) not in _SSH_DAEMONS:
        return False
    try:
        title = (process / "cmdline").read_bytes().partition(b"\0")[0].decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    _, colon, who = title.partition(": ")
    return bool(colon) and "@" in who and "[" not in who


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets (proc_pid_fd(5): `socket:[2248868]`)."""
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return


def _is_open(row: list[str]) -> bool:
    return row[_STATE] == _ESTABLISHED


def _ends(connection: Connection) -> tuple[Address, int, Address, int]:
    return connection.address, connection.port, connection.peer, connection.peer_port


def _session_ends(session: Session) -> tuple[Address, int, Address, int]:
    return session.server, session.port, session.client, session.client_port


def _read(protocol: str, wanted: Callable[[list[str]], bool]) -> list[Connection]:
    """The sockets of this network namespace, of both families, whose row is `wanted`."""
    return [
        Connection(*_parse_end(row[_OURS]), *_parse_end(row[_THEIRS]), row[_STATE], row[_INODE])
        for row in _rows(protocol)
        if wanted(row)
    ]


def _rows(protocol: str) -> Iterator[list[str]]:
    """proc(5): /proc/net/tcp. A busy proxy has ten thousands of them: only those that matter are parsed."""
    for path in (Path(f"/proc/net/{protocol}"), Path(f"/proc/net/{protocol}6")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        yield from map(str.split, lines)


def _parse_end(text: str) -> tuple[Address, int]:
    """`0100007F:0016`: the address as words in the machine's own byte order, the port in hex."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return _plain(ipaddress.ip_address(raw)), int(port, 16)
