"""Whether a new connection arrives: over loopback, at each socket, and, as far as that can be told, from
a peer. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsstack.doctor.finding import Finding, listed
from tsstack.doctor.foreign import accepting

if TYPE_CHECKING:
    from tsstack.explain.others import Hit


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket of ours and what a new connection to it met; an empty fault means that it was taken."""

    endpoint: str
    path: str
    fault: str = ""
    refused: bool = False
    """Nobody listens there."""


@dataclass(frozen=True, slots=True)
class ArrivalFacts:
    """New connections made from this host to itself."""

    loopback_fault: str = ""
    sockets: tuple[Socket, ...] = ()
    vhost_fault: str = ""
    """What was wrong with the first vhost that did not answer as the live generation says."""
    vhost_hint: str = ""
    vhosts: int = 0
    """How many names were asked."""
    reload: str = ""
    """What lets nginx listen where nobody does; empty where it does not run, or ours is not in its files."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the live rules, everybody's, do with a new connection of the peer's."""

    service: str
    """`tcp/443`."""
    verdict: str
    """accepted, dropped, rejected, lost or sent elsewhere."""
    reason: str = ""
    fix: str = ""
    source: str = ""
    """The peer's address that it would come from."""
    hit: Hit | None = None
    """Another program's rule that does not accept it."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A peer, as seen from here: it cannot be told to connect, so this is all that can be had."""

    name: str
    address: str = ""
    """Empty: nobody is called so."""
    near: tuple[str, ...] = ()
    """Names that there are."""
    online: bool = False
    tunnel_s: float | None = None
    """Round trip of a TSMP ping, which goes through WireGuard both ways; None: no answer."""
    tunnel_fault: str = ""
    way: str = ""
    """How packets travel: `direct by 192.0.2.7:41641`, `by relay lab`; empty: not known."""
    rulings: tuple[Ruling, ...] = ()
    rules_fault: str = ""
    """Why the rules could not be asked."""


def check_arrival(facts: ArrivalFacts) -> Iterator[Finding]:
    """From this host to itself."""
    if facts.loopback_fault:
        words = f"no new connection over loopback: {facts.loopback_fault}"
        yield Finding("TS871", "error", "loopback", words, "ip link set lo up; nft list ruleset")
    else:
        yield Finding("TS871", "ok", "loopback", "a new connection arrives")
    silent = [each for each in facts.sockets if each.fault]
    for each in silent:
        words = f"no new connection to {each.endpoint} ({each.path}): {each.fault}"
        port = each.endpoint.rpartition(":")[2]
        look = f"ss -ltnp 'sport = :{port}'; nginx-test"
        fix = f"{facts.reload}; nginx-test" if each.refused and facts.reload else look
        yield Finding("TS872", "error", each.endpoint, words, fix)
    if facts.sockets and not silent:
        words = f"each takes a new connection: {listed((each.endpoint for each in facts.sockets), 3)}"
        yield Finding("TS872", "ok", "sockets", words)
    if facts.vhost_fault:
        yield Finding("TS873", "error", "services", facts.vhost_fault, facts.vhost_hint)
    elif facts.vhosts and not silent:
        yield Finding("TS873", "ok", "services", f"{facts.vhosts} names answer as the live generation says")


def check_peer(facts: PeerFacts) -> Iterator[Finding]:
    """The tunnel both ways, then the rules for what it would bring."""
    if not facts.address:
        words = f"no node of the tailnet is called {facts.name}"
        near = f"; there is {listed(facts.near)}" if facts.near else ""
        yield Finding("TS874", "error", facts.name, words + near, "tailscale status")
        return
    if facts.tunnel_s is None:
        seen = "control sees it online" if facts.online else "control sees it offline"
        words = f"nothing comes back through the tunnel ({seen}): {facts.tunnel_fault or 'no answer'}"
        yield Finding("TS874", "error", facts.name, words, f"tailscale ping {facts.name}; tailscale netcheck")
    else:
        way = f", {facts.way}" if facts.way else ""
        words = f"the tunnel carries packets both ways, {facts.tunnel_s * 1e3:.1f} ms{way}"
        yield Finding("TS874", "ok", facts.name, words)
    if facts.rules_fault:
        yield Finding("TS877", "warning", "rules", f"not asked: {facts.rules_fault}", "sudo tsstack doctor")
    refused: dict[tuple[str, str, str], list[Ruling]] = {}
    for each in facts.rulings:
        if each.verdict != "accepted":
            refused.setdefault((each.verdict, each.reason, each.fix), []).append(each)
    for (verdict, reason, mend), rulings in refused.items():
        words = f"{_what(rulings)} would be {verdict}: {reason}"
        hits = [each.hit for each in rulings if each.hit]
        look = f"tsstack explain --live {rulings[0].source} {rulings[0].service}"
        fix = accepting(hits) if hits else mend or look
        yield Finding("TS876", "error", facts.name, words, fix)
    passed = [each for each in facts.rulings if each.verdict == "accepted"]
    if passed:
        yield Finding("TS876", "ok", "rules", f"{_what(passed)} is accepted, all owners' chains asked")


def _what(rulings: Sequence[Ruling]) -> str:
    """Each service with the sources that it is said of: IPv4 and IPv6 may fare differently."""
    services: dict[str, list[str]] = {}
    for each in rulings:
        services.setdefault(each.source, []).append(each.service)
    sources: dict[tuple[str, ...], list[str]] = {}
    for source, asked in services.items():
        sources.setdefault(tuple(asked), []).append(source)
    return "; ".join(f"{listed(asked)} from {' and '.join(each)}" for asked, each in sources.items())


def unproven(sockets: tuple[Socket, ...], peer: PeerFacts | None, url: str) -> Iterator[str]:
    """What nobody but the other end can show, a sentence each."""
    if not sockets:
        return
    if peer is None:
        yield (
            "that a peer's packets arrive: what this host sends to itself goes over loopback; "
            "`tsstack doctor --from PEER` asks the tunnel to a peer and the rules for it"
        )
        return
    if peer.address:
        yield (
            f"that {peer.name} itself lets them out and that the tailnet's policy allows it: only a "
            f"connection made there shows that; on {peer.name}: {_connecting(url)}"
        )


def _connecting(url: str) -> str:
    """The command that opens a new connection to a service."""
    if url.startswith("tcp://"):
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        return f"nc -vz {host} {port}"
    return f"curl -I {url}"
