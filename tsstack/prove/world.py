"""The throwaway world, from our end: an agent in a network namespace of its own.

Needs root, or a kernel that lets users make namespaces and open /dev/net/tun (user_namespaces(7)). The
namespace and all in it go when the agent ends; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tsstack.errors import CheckFailed
from tsstack.model.names import Address
from tsstack.prove.agent import HEAD, RECORD, SPLIT, TO_HOST, TUN, serve
from tsstack.prove.terrain import Flow, Terrain
from tsstack.system.namespaces import Offshoot


class NoWorld(CheckFailed):
    """This machine gives no world to prove in; the hint says what it lacks, where that is known."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no world to prove in: {reason}", hint=world_hint(reason, "a proof"))


_HINT = (
    "{} needs root (or user namespaces and a /dev/net/tun that users may open) and the tun device: "
    "`modprobe tun`; in a container, hand it /dev/net/tun and let it make network namespaces"
)
_READ_ONLY = "{} sets parameters of a network of its own: in a container, let /proc/sys be writable"
# What the agent says when it gets no namespace (`tsstack.system.namespaces`), or no tun device in it.
_LACKING = (TUN, "unshare: ", "mount: ", "/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map")


def world_hint(reason: str, what: str) -> str:
    """What helps where there is no world for `what`, by the reason given; empty where nothing is known."""
    if any(each in reason for each in _LACKING):
        return _HINT.format(what)
    return _READ_ONLY.format(what) if os.strerror(errno.EROFS) in reason else ""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A packet's bytes, the interface it arrives by, and the one it should leave by (empty: to this host).

    What arrives by `lo` is sent by this host.
    """

    frame: bytes
    arriving: str
    leaving: str
    fragmented: bool = False


class World:
    """A network of `terrain` with the table of an nft file loaded, until it is closed.

    Without `wait` it is still being made when this returns; `wait_until_ready` says how that went.
    Raises NoWorld when there can be no such world here, CheckFailed when nft refuses the file.
    """

    def __init__(self, terrain: Terrain, table: Path, *, wait: bool = True) -> None:
        self._places = {name: at for at, name in enumerate(terrain.interfaces)} | {"lo": TO_HOST}
        try:
            self._agent = Offshoot(serve)
        except OSError as error:
            raise NoWorld(error.strerror or str(error)) from error
        self._ready = False
        self._had = 0
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
            "detours": [
                (each.packed.hex(), self._places[name], kind) for each, name, kind in terrain.detours
            ],
            "foreign": terrain.foreign,
            "ipv6": terrain.ipv6,
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
            if problem["error"].startswith("the rules"):
                raise CheckFailed(
                    f"{problem['error']}, so nothing was changed", hint="this is tsstack's fault"
                )
            if problem["error"].startswith("nft refuses"):
                raise CheckFailed(f"no world to prove in: {problem['error']}", hint=problem["hint"])
            raise NoWorld(problem["error"])
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
            arriving = self._places[each.arriving] | (SPLIT if each.fragmented else 0)
            pieces += [RECORD.pack(arriving, leaving, len(each.frame)), each.frame]
        self._write(b"".join(pieces))

    def collect(self, count: int) -> bytes:
        """What became of the packets of the oldest round: a byte each, flags of `tsstack.prove.agent`."""
        self.wait_until_ready()
        seen = self._agent.output.read(count)
        if len(seen) < count:
            raise self._ended()
        return seen

    def have(self, flows: Sequence[Flow]) -> list[list[bool]]:
        """Have these connections, one after another: of each, which of `flows.STAGES` came to pass."""
        orders = json.dumps([self._ordered(at, each) for at, each in enumerate(flows, self._had)]).encode()
        self._had += len(flows)
        self._write(HEAD.pack(0, len(orders)) + orders)
        self.wait_until_ready()
        line = self._agent.output.readline()
        if not line:
            raise self._ended()
        answer: list[list[bool]] = json.loads(line)
        return answer

    def _ordered(self, number: int, flow: Flow) -> tuple[str | int | bool, ...]:
        """As the fields of `flows.Order`."""
        outgoing = self._places[flow.outgoing] if flow.outgoing else -1
        ends = (str(flow.source), self._places[flow.interface], flow.port, str(flow.destination), outgoing)
        return (flow.protocol, *ends, flow.begun, number)

    def _write(self, data: bytes) -> None:
        try:
            self._agent.input.write(data)
            self._agent.input.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _ended(self) -> NoWorld:
        return NoWorld(self._agent.last_words())

    def close(self) -> None:
        """End the agent, whatever it is at, and with it its network: the kernel removes both."""
        self._agent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
