"""The throwaway world for one packet, from our end: an agent in a network namespace of its own.

Needs root, or a kernel that lets users make namespaces and open /dev/net/tun. Nothing of the machine's own
network is touched; all goes when the agent ends, or we do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tsstack.errors import CheckFailed
from tsstack.explain.agent import serve
from tsstack.explain.kernel_copy import Copy
from tsstack.explain.tracing import Event, Listing, read_events, read_listing
from tsstack.prove.agent import DELIVERED, LEFT, REFUSED, STRAYED
from tsstack.system.families import has_ipv6
from tsstack.system.namespaces import Offshoot

if TYPE_CHECKING:  # the world is made while the model is still being loaded
    from tsstack.explain.question import Question
    from tsstack.explain.surroundings import LiveRoute
    from tsstack.model.names import Address

_NUMBER = 1
_MOST_INTERFACES = 200


@dataclass(frozen=True, slots=True)
class Land:
    """What the world is like besides the packet's own ends: this host's interfaces, addresses and routes."""

    interfaces: tuple[str, ...] = ()
    addresses: tuple[tuple[str, Address, int], ...] = ()
    routes: tuple[LiveRoute, ...] = ()
    indexes: Mapping[str, int] = field(default_factory=dict)
    """Of all its interfaces; none where no host is copied."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one packet met, and what became of it.

    `outcome`: `delivered` to this host, `left` it, `rejected` (an answer said no), `dropped`, or `lost`: no
    rule dropped it, and yet it went nowhere.
    """

    events: tuple[Event, ...]
    listing: Listing
    outcome: str


class World:
    """A namespace with an agent in it; made early, since it starts while the file is being read.

    Raises CheckFailed when there can be none here.
    """

    def __init__(self) -> None:
        try:
            self._agent = Offshoot(serve)
        except OSError as error:
            raise _no_world(error.strerror or str(error)) from error

    def send(self, question: Question, ruleset: Path | Copy, land: Land | None = None) -> Trace:
        """Load the ruleset, send the packet, and say what it met. Once for each world. Raises CheckFailed."""
        order = _order(question, ruleset, land or Land())
        try:
            self._agent.input.write(json.dumps(order).encode() + b"\n")
            self._agent.input.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        line = self._agent.output.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise _no_world(answer["error"], answer["hint"])
        return _read(answer)

    def _ended(self) -> CheckFailed:
        return _no_world(self._agent.last_words())

    def close(self) -> None:
        """End the agent, and with it its network."""
        self._agent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_world(reason: str, hint: str = "") -> CheckFailed:
    from tsstack.prove.world import world_hint

    return CheckFailed(f"no world to try it in: {reason}", hint=hint or world_hint(reason, "it"))


def _order(question: Question, ruleset: Path | Copy, land: Land) -> dict[str, Any]:
    from tsstack.prove.frames import build_frame
    from tsstack.prove.terrain import LOCAL

    packet, ipv6 = question.packet, has_ipv6()
    if packet.source.version == 6 and not ipv6:
        raise CheckFailed(
            "no packet of IPv6 can be tried: this kernel has none", hint="ask with an IPv4 address"
        )
    ends = [each for each in (packet.interface, packet.outgoing) if each]
    default = [each.interface for each in land.routes if not each.network.prefixlen][:1]
    names = list(dict.fromkeys([*default, *ends, *land.interfaces[:_MOST_INTERFACES]]))
    places = {name: at for at, name in enumerate(names)}
    addresses = [
        (each.packed.hex(), length, places[name]) for name, each, length in land.addresses if name in places
    ]
    routes = [
        (each.network.network_address.packed.hex(), each.network.prefixlen, places[each.interface])
        for each in land.routes
        if each.interface in places and each.network.prefixlen
    ]
    whole = packet.source.max_prefixlen
    own = LOCAL[: 2 if ipv6 else 1]
    beyond = {packet.source, *([question.destination] if packet.outgoing else [])}
    if packet.outgoing:
        routes.append((question.destination.packed.hex(), whole, places[packet.outgoing]))
    elif question.destination not in {each for _, each, _ in land.addresses}:
        addresses.append((question.destination.packed.hex(), whole, places[packet.interface]))
    if not land.routes:  # of a copied host the routes are its own, for rules that look at them (fib)
        routes.append((packet.source.packed.hex(), whole, places[packet.interface]))
    return {
        "interfaces": names,
        "indexes": dict(land.indexes),
        # Masquerading drops what it finds no address for.
        "local": [] if land.addresses else [each.packed.hex() for each in own if each not in beyond],
        "ipv6": ipv6,
        "addresses": addresses,
        "routes": routes,
        "table": str(ruleset.absolute()) if isinstance(ruleset, Path) else "",
        "copy": ruleset.dump() if isinstance(ruleset, Copy) else [],
        "frame": build_frame(packet, question.destination, _NUMBER).hex(),
        "number": _NUMBER,
        "arriving": places[packet.interface],
        "leaving": places[packet.outgoing] if packet.outgoing else None,
    }


def _read(answer: dict[str, Any]) -> Trace:
    names = {int(number): name for number, name in answer["names"].items()}
    events = read_events(map(bytes.fromhex, answer["events"]), names)
    listing = read_listing(answer["listing"])
    flags = answer["flags"]
    if flags & DELIVERED:
        outcome = "delivered"
    elif flags & (LEFT | STRAYED):
        outcome = "left"
    elif flags & REFUSED:
        outcome = "rejected"
    else:
        outcome = "dropped" if any(event.verdict == "drop" for event in events) else "lost"
    return Trace(events, listing, outcome)
