"""The throwaway world, from our end: an agent in a network namespace of its own.

Needs root, or a kernel that lets users make namespaces and open /dev/net/tun (user_namespaces(7)). The
namespace and all in it go when the agent ends; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tsstack.errors import CheckFailed
from tsstack.model.names import Address
from tsstack.prove.agent import HEAD, RECORD, TO_HOST, serve
from tsstack.prove.frames import DETOUR_CLASS
from tsstack.system.namespaces import Offshoot


class NoWorld(CheckFailed):
    """This machine gives no world to prove in; the hint says what it lacks."""


WORLD_HINT = (
    "a proof needs root (or user namespaces and a /dev/net/tun that users may open) and the tun device: "
    "`modprobe tun`; in a container, hand it /dev/net/tun and let it make network namespaces"
)


@dataclass(frozen=True, slots=True)
class Terrain:
    """What the world is made of: interfaces, this host's addresses, and which address lies behind which
    interface."""

    interfaces: tuple[str, ...]
    local: tuple[Address, ...]
    routes: tuple[tuple[Address, str], ...]
    detours: tuple[tuple[Address, str], ...] = ()
    """The same for packets of `frames.DETOUR_CLASS`."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A packet's bytes, the interface it arrives by, and the one it should leave by (empty: to this host)."""

    frame: bytes
    arriving: str
    leaving: str


class World:
    """A network of `terrain` with the table of an nft file loaded, until it is closed.

    Without `wait` it is still being made when this returns; `wait_until_ready` says how that went.
    Raises NoWorld when there can be no such world here, CheckFailed when nft refuses the file.
    """

    def __init__(self, terrain: Terrain, table: Path, *, wait: bool = True) -> None:
        self._places = {name: at for at, name in enumerate(terrain.interfaces)}
        try:
            self._agent = Offshoot(serve)
        except OSError as error:
            raise NoWorld(f"no world to prove in: {error.strerror}", hint=WORLD_HINT) from error
        self._ready = False
        try:
            self._order(terrain, table)
            if wait:
                self.wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process whose network namespace this is (nsenter(1))."""
        return self._agent.pid

    def _order(self, terrain: Terrain, table: Path) -> None:
        order = {
            "table": str(table.absolute()),
            "interfaces": terrain.interfaces,
            "local": [each.packed.hex() for each in terrain.local],
            "routes": self._routes(terrain.routes),
            "detours": self._routes(terrain.detours),
            "detour_class": DETOUR_CLASS,
        }
        self._write(json.dumps(order).encode() + b"\n")

    def wait_until_ready(self) -> None:
        """Return when the table is loaded. Raises NoWorld, CheckFailed."""
        if self._ready:
            return
        line = self._agent.output.readline()
        if not line:
            raise self._ended()
        problem = json.loads(line)
        if problem:
            kind = CheckFailed if problem["error"].startswith("nft refuses") else NoWorld
            raise kind(f"no world to prove in: {problem['error']}", hint=problem["hint"] or WORLD_HINT)
        self._ready = True

    def _routes(self, routes: Iterable[tuple[Address, str]]) -> list[tuple[str, int]]:
        return [(address.packed.hex(), self._places[name]) for address, name in routes]

    def post(self, first: int, parcels: Sequence[Parcel]) -> None:
        """Send packets that carry the numbers from `first` on; `collect` says what became of them.

        One further round may be posted before the earlier one is collected, if it is below 64 kB (pipe(7)).
        """
        pieces = [HEAD.pack(len(parcels), first)]
        for each in parcels:
            leaving = self._places[each.leaving] if each.leaving else TO_HOST
            pieces += [RECORD.pack(self._places[each.arriving], leaving, len(each.frame)), each.frame]
        self._write(b"".join(pieces))

    def collect(self, count: int) -> bytes:
        """What became of the packets of the oldest round: a byte each, flags of `tsstack.prove.agent`."""
        self.wait_until_ready()
        seen = self._agent.output.read(count)
        if len(seen) < count:
            raise self._ended()
        return seen

    def _write(self, data: bytes) -> None:
        try:
            self._agent.input.write(data)
            self._agent.input.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _ended(self) -> NoWorld:
        return NoWorld(f"no world to prove in: {self._agent.last_words()}", hint=WORLD_HINT)

    def close(self) -> None:
        """End the agent, whatever it is at, and with it its network: the kernel removes both."""
        self._agent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
