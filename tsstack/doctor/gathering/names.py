"""Asks resolvers for the services' names, many at once, over UDP and within a time limit."""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tsstack.doctor.names import RESOLVER, SILENT, Answer, NameFacts
from tsstack.monitor.probes.dns_message import AAAA, NO_ADDRESS, A, query, question, read_addresses
from tsstack.parts.dns.host import doctor as resolver_faults

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.proxy.plan import Plan

_PORT = 53
_TIMEOUT_S = 2.0
_AGAIN_S = 0.7
_AT_ONCE = 64
_PACKET_BYTES = 4096
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)


def look_up_names(plan: Plan | None, facts: Facts, own_name: str) -> NameFacts:
    """Blocks for some seconds when a resolver is silent."""
    from tsstack.parts.tailscale.desired import is_hosted

    faults = resolver_faults(facts.paths) if facts.resolved else ()
    names = _names(plan) if plan is not None else ()
    if plan is None or not names:
        return NameFacts(resolver_faults=faults)
    server = next(iter(_nameservers(facts)), "")
    return NameFacts(
        names=names,
        expected=_expected(plan, facts),
        own_name=own_name,
        hosted=facts.tailscale is not None and is_hosted(facts.tailscale.control_url),
        tailnet=ask(RESOLVER, names),
        system=ask(server, names) if server and server != RESOLVER else {},
        system_server=server,
        resolver_faults=faults,
    )


def _names(plan: Plan) -> tuple[str, ...]:
    """Of the vhosts, and of what is passed on byte by byte; addresses that stand for a name are none."""
    found = [vhost.name for vhost in plan.vhosts]
    found += [urlsplit(url).hostname or "" for url in plan.urls.values()]
    return tuple(dict.fromkeys(name for name in found if "." in name and not name.replace(".", "").isdigit()))


def ask(
    server: str, names: Sequence[str], *, port: int = _PORT, timeout_s: float = _TIMEOUT_S
) -> dict[str, Answer]:
    """What `server` says of each name, IPv4 and IPv6. Once it is silent to all of some, no more are asked."""
    found: dict[str, Answer] = {}
    for start in range(0, len(names), _AT_ONCE):
        batch = names[start : start + _AT_ONCE]
        found |= _ask_batch(server, batch, port, timeout_s)
        if all(found[name].cause == SILENT for name in batch):
            return {**dict.fromkeys(names, Answer(cause=SILENT)), **found}
    return found


def _ask_batch(server: str, names: Sequence[str], port: int, timeout_s: float) -> dict[str, Answer]:
    first = int.from_bytes(os.urandom(2))
    asked = {
        (first + number) % 65536: (name, question(name, kind))
        for number, (name, kind) in enumerate((name, kind) for name in names for kind in (A, AAAA))
    }
    said: dict[int, tuple[tuple[str, ...], str]] = {}
    try:
        with _connect(server, port) as link:
            for ident, answer in _talk(link, asked, timeout_s):
                said[ident] = answer
    except OSError as error:
        cause = error.strerror or "it cannot be asked"
        return dict.fromkeys(names, Answer(cause=SILENT if isinstance(error, TimeoutError) else cause))
    return {
        name: _join([said.get(ident) for ident, (of, _) in asked.items() if of == name]) for name in names
    }


def _connect(server: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    link = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        link.connect((server, port))
    except OSError:
        link.close()
        raise
    return link


def _talk(
    link: socket.socket, asked: Mapping[int, tuple[str, bytes]], timeout_s: float
) -> Iterator[tuple[int, tuple[tuple[str, ...], str]]]:
    """Send all, again after a while to those that are silent; yields each answer once."""
    waiting = dict(asked)
    deadline_s = time.monotonic() + timeout_s
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for ident, (_, about) in waiting.items():
            link.send(query(ident, about))
        again_s = time.monotonic() + min(_AGAIN_S, left_s)
        while waiting and (wait_s := again_s - time.monotonic()) > 0:
            if not select.select([link], [], [], wait_s)[0]:
                break
            packet = link.recv(_PACKET_BYTES)
            ident = int.from_bytes(packet[:2])
            if ident in waiting:
                answer = read_addresses(packet, ident, waiting[ident][1])
                if answer is not None:
                    del waiting[ident]
                    yield ident, answer


def _join(answers: Sequence[tuple[tuple[str, ...], str] | None]) -> Answer:
    """One answer from that for IPv4 and that for IPv6."""
    addresses = tuple(address for answer in answers if answer for address in answer[0])
    if addresses:
        return Answer(addresses)
    causes = [answer[1] if answer else SILENT for answer in answers]
    return Answer(cause=next((cause for cause in causes if cause != NO_ADDRESS), NO_ADDRESS))


def _nameservers(facts: Facts) -> Iterator[str]:
    """resolv.conf(5)."""
    try:
        text = (facts.paths.etc / "resolv.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                yield str(ipaddress.ip_address(words[1]))
            except ValueError:  # a zone identifier, or nonsense: nobody that we could ask
                continue


def _expected(plan: Plan, facts: Facts) -> frozenset[str]:
    """Where the names may lead: the tailnet's own addresses and those that nginx binds besides."""
    if any(listener.claimed for listener in plan.listeners):
        return frozenset()
    own = set(facts.tailscale.addresses) if facts.tailscale else set()
    bound = {listener.address for listener in plan.listeners}
    if bound & _WILDCARDS:
        from tsstack.explain.surroundings import read_addresses as read_own

        own |= {str(address) for listed in read_own().values() for address, _ in listed}
    return frozenset(own | (bound - _WILDCARDS))
