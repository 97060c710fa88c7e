"""The throwaway world, from our end: an agent in a network namespace of its own.

Needs root, or a kernel that lets users make namespaces and open /dev/net/tun (user_namespaces(7)). The
namespace and all in it go when the agent ends; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.model.names import Address
from tsstack.prove.agent import HEAD, RECORD, TO_HOST
from tsstack.prove.frames import DETOUR_CLASS
from tsstack.system import command

_HINT = "`tsstack prove` needs root, or user namespaces and /dev/net/tun open to users (mode 0666)"


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

    Raises CheckFailed when there can be no such world here, or nft refuses the file.
    """

    def __init__(self, terrain: Terrain, table: Path) -> None:
        self._places = {name: at for at, name in enumerate(terrain.interfaces)}
        # Root needs no user namespace, and in some containers may not make one.
        isolate = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
        path = os.pathsep.join(each for each in sys.path if each)
        try:
            self._agent = command.popen(
                [*isolate, sys.executable, "-P", "-m", "tsstack.prove.agent"], env={"PYTHONPATH": path}
            )
        except CommandFailed as error:
            raise CheckFailed(f"no world to prove in: {error.message}", hint=error.hint) from error
        # `popen` gives all three pipes.
        self._input = cast("IO[bytes]", self._agent.stdin)
        self._output = cast("IO[bytes]", self._agent.stdout)
        self._errors = cast("IO[bytes]", self._agent.stderr)
        try:
            self._build(terrain, table)
        except BaseException:
            self.close()
            raise

    def _build(self, terrain: Terrain, table: Path) -> None:
        order = {
            "table": str(table.absolute()),
            "interfaces": terrain.interfaces,
            "local": [each.packed.hex() for each in terrain.local],
            "routes": self._routes(terrain.routes),
            "detours": self._routes(terrain.detours),
            "detour_class": DETOUR_CLASS,
        }
        self._write(json.dumps(order).encode() + b"\n")
        line = self._output.readline()
        if not line:
            raise self._ended()
        problem = json.loads(line)
        if problem:
            raise CheckFailed(f"no world to prove in: {problem['error']}", hint=problem["hint"] or _HINT)

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
        seen = self._output.read(count)
        if len(seen) < count:
            raise self._ended()
        return seen

    def _write(self, data: bytes) -> None:
        try:
            self._input.write(data)
            self._input.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _ended(self) -> CheckFailed:
        self._agent.wait(timeout=10)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        return CheckFailed(f"no world to prove in: {lines[-1]}", hint=_HINT)

    def close(self) -> None:
        """End the agent, whatever it is at, and with it its network: the kernel removes both."""
        self._agent.kill()
        for stream in (self._input, self._output, self._errors):
            try:
                stream.close()
            except BrokenPipeError:
                continue  # our last words to it went unread
        self._agent.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
