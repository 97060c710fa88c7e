"""DNS probes: does a name resolve, and how long does the resolver take. UDP, one socket for each query.

The system's resolvers come from resolv.conf(5), read again when it changes. One that answers is stayed with;
after one that does not, the next is asked at the next turn.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from pathlib import Path

from tsstack.monitor.probes import dns_message
from tsstack.monitor.probes.attempt import READ, Attempt, Calls
from tsstack.monitor.probes.bound import endpoint, family_of, normal, open_bound
from tsstack.monitor.probes.causes import words_of_error
from tsstack.monitor.probes.stamps import ANCILLARY_BYTES, SO_TIMESTAMPNS, arrival_ns, clock_gap_ns, elapsed_s

_PORT = 53
_MAGIC_DNS = "100.100.100.100"
_LARGEST_BYTES = 4096
_LOOK_AGAIN_S = 5.0
NO_RESOLVER = "no resolver"
NO_NAME = "no domain name"


class Resolvers:
    """The system's resolvers: address, and interface for a link-local one."""

    def __init__(self, file: Path = Path("/etc/resolv.conf")) -> None:
        self._file = file
        self._servers: tuple[tuple[str, str], ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        self._looked_s = -_LOOK_AGAIN_S
        self._turn = 0

    def current(self) -> tuple[str, str] | None:
        """The one to ask; None when the file names none or cannot be read."""
        if time.monotonic() - self._looked_s >= _LOOK_AGAIN_S:
            self._looked_s = time.monotonic()
            self._refresh()
        return self._servers[self._turn % len(self._servers)] if self._servers else None

    def pass_over(self, server: tuple[str, str]) -> None:
        """That one did not answer: the next is asked from now on."""
        if self.current() == server:
            self._turn += 1

    def _refresh(self) -> None:
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._servers = read_resolvers(self._file.read_text(encoding="utf-8", errors="replace"))
                self._stamp = stamp
                self._turn = 0
        except OSError:
            self._servers, self._stamp = (), None


def read_resolvers(text: str) -> tuple[tuple[str, str], ...]:
    """The nameservers of a resolv.conf; without any it is this host itself (resolv.conf(5))."""
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        address, _, scope = words[1].partition("%")
        try:
            servers.append((normal(address), scope))
        except OSError:
            continue  # the C library passes over such a line as well
    return tuple(servers) or (("127.0.0.1", ""),)


def ask(attempt: Attempt, calls: Calls, resolvers: Resolvers, *, port: int = _PORT) -> None:
    """Begin to ask for the probe's name: its `host`, or the system's resolver."""
    probe = attempt.probe
    system = None if probe.host else resolvers.current()
    if not probe.host and system is None:
        attempt.fail(NO_RESOLVER)
        return
    address, scope = system or (attempt.address, "")
    kinds = {0: [dns_message.A, dns_message.AAAA], 4: [dns_message.A], 6: [dns_message.AAAA]}[probe.family]
    interface = scope or ("" if _is_local(address) else probe.path.interface)
    call = None
    try:
        opened = open_bound(
            family_of(address), socket.SOCK_DGRAM, interface=interface, from_address=probe.from_address
        )
        call = _Query(attempt, opened, kinds, resolvers, system)
        opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        opened.connect(endpoint(address, probe.port or port, interface))
        call.send()
    except (OSError, ValueError) as error:
        if call is not None:
            call.close()
        attempt.fail(words_of_error(error, interface=interface) if isinstance(error, OSError) else NO_NAME)
        return
    calls.add(call, READ)


def _is_local(address: str) -> bool:
    """Whether this host answers there itself, so that no interface but its own leads there."""
    return address == _MAGIC_DNS or ipaddress.ip_address(address).is_loopback


class _Query:
    """One name asked of one resolver; for A first, and where there is none for AAAA."""

    def __init__(
        self,
        attempt: Attempt,
        opened: socket.socket,
        kinds: list[int],
        resolvers: Resolvers,
        system: tuple[str, str] | None,
    ) -> None:
        self.attempt = attempt
        self._socket = opened
        self._kinds = kinds
        self._resolvers = resolvers
        self._system = system
        self._answered = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self) -> None:
        """Ask for the next kind. Raises OSError."""
        self._asked = dns_message.question(self.attempt.probe.name, self._kinds.pop(0))
        self._ident = int.from_bytes(os.urandom(2))
        packet = dns_message.query(self._ident, self._asked)
        self._gap_ns = clock_gap_ns()
        self._sent_ns = time.time_ns()
        self._socket.send(packet)

    def ready(self) -> bool:
        try:
            while not self._take():
                pass
        except BlockingIOError:
            return False
        except OSError as error:
            self.attempt.fail(words_of_error(error))
        return True

    def _take(self) -> bool:
        """Read one packet; whether the attempt is over."""
        packet, ancillary, _, _ = self._socket.recvmsg(_LARGEST_BYTES, ANCILLARY_BYTES)
        said = dns_message.read_answer(packet, self._ident, self._asked)
        if said is None:
            return False
        self._answered = True
        if said == dns_message.NO_ADDRESS and self._kinds:
            self._answered = False
            self.send()
            return False
        if said:
            self.attempt.fail(said)
            return True
        rtt_s = elapsed_s(
            self._sent_ns,
            arrival_ns(ancillary),
            gap_at_sending_ns=self._gap_ns,
            gap_ns=clock_gap_ns(),
            now_ns=time.time_ns(),
        )
        self.attempt.succeed(rtt_s)
        return True

    def close(self) -> None:
        if self._system and not self._answered:
            self._resolvers.pass_over(self._system)
        self._socket.close()
