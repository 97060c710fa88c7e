"""The ways in that are in use: who runs this command, by SSH or mosh, and who else is here."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

from tsstack.model.names import Address
from tsstack.switch.logins import (
    TAILSCALED,
    Process,
    by_mosh,
    every_process,
    logins,
    logins_at_stake,
    look_at,
    mosh_ports,
)
from tsstack.switch.routes import own_addresses
from tsstack.switch.sockets import established
from tsstack.switch.ways import Session

# A shell in one of these keeps the environment of the session that it was started in, long gone maybe.
_FAR_DESKTOPS = ("XRDP_SESSION", "VNCDESKTOP")
"""What xrdp and vncserver(1) tell their sessions: such a desktop is looked at from elsewhere."""
_MULTIPLEXERS = ("tmux", "screen", "zellij", "dtach", "abduco", "byobu")


def operator_sessions(pid: int | None = None) -> tuple[Session, ...]:
    """The sessions that process `pid` (default: this one) runs in, by what its ancestors say.

    sudo drops SSH_CONNECTION from the environment, so the ancestors' are read (proc(5): environ). One that
    a terminal multiplexer was started in counts, though it may be over.
    """
    return tuple(dict.fromkeys(session for session, _ in _told_by(_ancestry(pid))))


def sessions_at_stake(pid: int | None = None, *, others: bool = True) -> tuple[Session, ...]:
    """The sessions that are to live on: the operator's own, with the port of mosh where it is used.

    What is remembered of a connection that is over does not count, nor of one from which nobody looks at a
    terminal multiplexer now. Where nothing tells from where the operator comes (a console, a terminal that
    outlived its connection, `ssh localhost`) these are all sessions that are open, unless `others` says no.
    """
    ancestry = _ancestry(pid)
    told = _told_by(ancestry)
    mosh = mosh_ports(ancestry)
    there = {each.ends for each in established({session.port for session, _ in told})}
    left = {session for session, doubtful in told if doubtful and others} - _attached(ancestry, told)
    known = [
        session
        for session, doubtful in told
        # Of a session of tailscaled's, and of one that mosh has taken over, the kernel has no connection.
        if session not in left
        and (_ends(session) in there or (not doubtful and (session.by_tailscaled or mosh)))
    ]
    ours = _own_addresses()
    if any(session.client not in ours for session in known):
        return _with_mosh(known, mosh)
    every = logins_at_stake() if others else ()
    from_afar = tuple(session for session in every if session.client not in ours)
    if from_afar:
        return (*_with_mosh(known, mosh), *from_afar)
    # In a container's network nobody's connection is seen: then what is told is the best that there is.
    return _with_mosh(known or [each for each, doubtful in told if not doubtful], mosh) or every


def sessions_before() -> tuple[str, ...]:
    """What a confirmation must not come from: every session that is open now, or that this command tells.

    Each would live on under rules that let nobody in any more.
    """
    return tuple(dict.fromkeys(str(session) for session in (*operator_sessions(), *logins())))


def comes_from_here(sessions: tuple[Session, ...]) -> bool:
    """Whether all of them, and there are some, were opened on this host itself."""
    ours = _own_addresses()
    return bool(sessions) and all(each.client in ours for each in sessions)


def may_be_from_afar(pid: int | None = None) -> bool:
    """Whether somebody may use this terminal from elsewhere, by no SSH: telnet, a console in a browser.

    Not on the machine's own console or desktop, nor where one has come from outside a container.
    """
    ancestry = _ancestry(pid)
    if not any(map(_is_multiplexer, ancestry)):
        return _is_pseudo(ancestry)
    own = {each.pid for each in ancestry}
    looking = (_ancestry(each.pid) for each in _clients() if each.pid not in own)
    return any(_is_pseudo(each) for each in looking if not any(map(_is_multiplexer, each[1:])))


def _is_pseudo(ancestry: list[Process]) -> bool:
    if not ancestry or not ancestry[0].has_pseudo_terminal:
        return False
    # sudo(8) gives a command a terminal of its own, on a console, too.
    if any(each.has_terminal and not each.has_pseudo_terminal for each in ancestry):
        return False
    # Of a parent in another PID namespace the kernel says 0; a shell may be all that a container begins.
    init = look_at(1)
    if ancestry[-1].parent == 0 or _is_console(ancestry[-1]) or (init is not None and init.has_terminal):
        return False
    if any(each.variable(name) for each in ancestry for name in _FAR_DESKTOPS):
        return True
    return not any(each.variable(name) for each in ancestry for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _is_console(eldest: Process) -> bool:
    """Whether it is what init runs on a container's own console, which is a pseudo-terminal outside."""
    return eldest.parent == 1 and eldest.name in {"login", "agetty", "getty"} and eldest.has_pseudo_terminal


def _with_mosh(sessions: list[Session], ports: list[int]) -> tuple[Session, ...]:
    found: dict[Session, None] = {}
    for session in sessions:
        found |= dict.fromkeys([session, *by_mosh(session, ports)])
    return tuple(found)


def _own_addresses() -> set[Address]:
    loopback = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
    return {*loopback, *(address for address, _, _ in own_addresses())}


def _ancestry(pid: int | None) -> list[Process]:
    """The process and those above it."""
    found = []
    current = os.getpid() if pid is None else pid
    while current > 1 and (process := look_at(current)) is not None:
        found.append(process)
        current = process.parent
    return found


def _told_by(ancestry: list[Process]) -> list[tuple[Session, bool]]:
    """Each session that a process names, the nearest first, and whether a multiplexer may have kept it."""
    found = []
    for at, process in enumerate(ancestry):
        connection = process.connection
        if connection is None:
            continue
        above = ancestry[at:]
        by_tailscaled = any(each.name == TAILSCALED for each in above)
        found.append((connection._replace(by_tailscaled=by_tailscaled), any(map(_is_multiplexer, above))))
    return found


def _attached(ancestry: list[Process], told: list[tuple[Session, bool]]) -> set[Session]:
    """From where a multiplexer is looked at now: its clients have a terminal, its server none."""
    found: set[Session] = set()
    if any(doubtful for _, doubtful in told):
        own = {each.pid for each in ancestry}
        for process in _clients():
            if process.pid not in own:
                looking = _ancestry(process.pid)
                if not any(map(_is_multiplexer, looking[1:])):
                    found |= {session for session, _ in _told_by(looking)}
    return found


def _clients() -> Iterator[Process]:
    """Those by which a multiplexer is looked at."""
    return (each for each in every_process() if each.has_terminal and _is_multiplexer(each))


def _is_multiplexer(process: Process) -> bool:
    return process.name.lower().startswith(_MULTIPLEXERS)


def _ends(session: Session) -> tuple[Address, int, Address, int]:
    return session.server, session.port, session.client, session.client_port
