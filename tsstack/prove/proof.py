"""Sends the packets of a plan through the kernel and compares what became of them with what the file says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.prove.agent import DELIVERED, HIDDEN, LEFT, REFUSED, STRAYED
from tsstack.prove.expected import Kind, Oracle, Packet, Verdict
from tsstack.prove.flows import STAGES
from tsstack.prove.frames import build_frame
from tsstack.prove.plan import Limits, Plan, plan_of, plan_packets
from tsstack.prove.terrain import Flow
from tsstack.prove.world import Parcel, World

THIS_HOST, UNZONED, SPOOFED = "(this host)", "(no zone)", "(spoofed)"
"""Stand where a zone's name stands; no zone can be called so."""

FILE = "nftables/tsstack.nft"
"""The packet filter's table in a generation."""

DEFAULT_SEED = 1
_ROUND = 480  # below 64 kB, so that a round can wait in the pipe while the next one is made
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One packet, what the file says of it and what the kernel did.

    That is `accept`, `accept, hidden` (it left with an address of this host as its source), `drop`,
    `reject` or `stray`.
    """

    packet: Packet
    expected: Verdict
    seen: str
    source: str
    """The zone it comes from, or SPOOFED or UNZONED."""
    target: str
    """The zone it goes to, or THIS_HOST or UNZONED."""

    @property
    def passing(self) -> bool:
        """Whether the packet went through this host."""
        return bool(self.packet.outgoing)

    @property
    def agrees(self) -> bool:
        """Whether the kernel did what the file says."""
        untold = self.packet.silent and (self.expected.action, self.seen) == ("reject", "drop")
        return untold or self.expected.outcome == self.seen

    @property
    def path(self) -> str:
        """The key of the file that decides; of a source that is hidden or not, the one that says so."""
        decided = self.expected
        if decided.accepted and self.seen.startswith("accept") and not self.agrees:
            return decided.hidden or "firewall.forward"
        return decided.path


@dataclass(frozen=True, slots=True)
class Proof:
    """What was sent and what differed."""

    rows: tuple[Row, ...]
    seed: int
    duration_s: float
    ipv6: bool = True
    """Whether packets of IPv6 were sent: none are where the kernel has no IPv6."""

    @property
    def checks(self) -> int:
        """How many packets were sent, the repeated ones not counted."""
        return len(self.rows)

    @property
    def mismatches(self) -> tuple[Row, ...]:
        """The packets of which the kernel thinks otherwise than the file."""
        return tuple(row for row in self.rows if not row.agrees)

    @property
    def matrix(self) -> list[dict[str, str]]:
        """A row for each packet, as `prove --json` prints it."""
        return [
            {
                "from": row.source,
                "to": row.target,
                "packet": str(row.packet),
                "expected": row.expected.outcome,
                "seen": row.seen,
                "path": row.path,
            }
            for row in self.rows
        ]


def prove_generation(
    stack: Stack, facts: Facts, generation: Path, *, seed: int = DEFAULT_SEED, limits: Limits | None = None
) -> Proof:
    """Prove the staged table of a generation against the file it was made from.

    Takes a second or so; changes nothing on this host. A file without a firewall needs no proof: no checks.
    Raises NoWorld when there can be no world to prove in, CheckFailed when nft refuses the table.
    """
    if not has_table(stack, generation):
        return Proof((), seed, 0.0, facts.ipv6)
    with Experiment(stack, facts, generation, seed=seed, limits=limits) as experiment:
        return experiment.run()


def send_packets(stack: Stack, facts: Facts, generation: Path, packets: Iterable[Packet]) -> Proof:
    """Send just these, in a world that has what they need and no more. Raises NoWorld, CheckFailed."""
    started_s = time.monotonic()
    plan = plan_of(tuple(packets), ipv6=facts.ipv6)
    rows = send_plan(plan, Oracle(stack, facts), generation / FILE)
    return Proof(rows, 0, time.monotonic() - started_s, facts.ipv6)


def send_plan(plan: Plan, oracle: Oracle, table: Path) -> tuple[Row, ...]:
    """Send a plan into a world with an nft file loaded. Raises NoWorld, CheckFailed."""
    with World(plan.terrain, table) as world:
        return tuple(_Run(world, plan, oracle).rows())


def has_table(stack: Stack, generation: Path) -> bool:
    """Whether there are rules to prove. Raises CheckFailed where that is not what the file asks for."""
    asked, made = stack.firewall is not None and stack.firewall.enabled, (generation / FILE).exists()
    if asked != made:
        does = (
            "asks for a firewall, and no rules were made"
            if asked
            else "asks for no firewall, and rules were made"
        )
        raise CheckFailed(f"the file {does}", hint="this is tsstack's fault, not your file's")
    return asked


class Experiment:
    """A proof of a generation's table whose world is made in the background while others work.

    `asked` are packets to this host that are sent beside those of the plan. Raises NoWorld.
    """

    def __init__(
        self,
        stack: Stack,
        facts: Facts,
        generation: Path,
        *,
        seed: int = DEFAULT_SEED,
        limits: Limits | None = None,
        asked: Iterable[Packet] = (),
    ) -> None:
        started_s = time.monotonic()
        self._seed = seed
        self._plan = plan_packets(stack, facts, seed, limits, asked)
        self._oracle = Oracle(stack, facts)
        self._world = World(self._plan.terrain, generation / FILE, wait=False)
        self._made_s = time.monotonic() - started_s

    def run(self) -> Proof:
        """Send everything. Raises NoWorld, or CheckFailed when nft refuses the table."""
        started_s = time.monotonic()
        self._world.wait_until_ready()
        rows = _Run(self._world, self._plan, self._oracle).rows()
        lasted_s = self._made_s + time.monotonic() - started_s
        return Proof(tuple(rows), self._seed, lasted_s, self._plan.ipv6)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._world.close()


class _Run:
    """One plan sent into one world. Every packet sent has a number of its own, from 1 on."""

    def __init__(self, world: World, plan: Plan, oracle: Oracle) -> None:
        self._world, self._plan, self._oracle = world, plan, oracle
        self._detours = {(address, name): kind for address, name, kind in plan.country.detours}
        self._published = {(place, name): public for public, place, name in plan.country.published}
        self._next = 1

    def rows(self) -> list[Row]:
        """Send everything; what looks lost is sent again.

        So is what was refused and should not be: of a packet that its witness did not get, the reset by which
        this host answered may be all that is seen. What got through is never asked twice.
        """
        packets, verdicts = self._plan.packets, list[Verdict]()
        seen = self._send(packets, lambda packet: verdicts.append(self._oracle.judge(packet)))
        for _ in range(_TRIES - 1):
            lost = (
                at
                for at, what in enumerate(seen)
                if what in {"drop", "reject"} and what != verdicts[at].action
            )
            again = [at for at in lost if not (packets[at].silent and verdicts[at].action == "reject")]
            if not again:
                break
            answers = self._send([packets[at] for at in again], lambda packet: None)
            for at, answer in zip(again, answers, strict=True):
                seen[at] = answer
        return [
            Row(packet, verdict, what, *_ends(self._oracle, packet))
            for packet, verdict, what in zip(packets, verdicts, seen, strict=True)
        ] + self._flow_rows()

    def _flow_rows(self) -> list[Row]:
        """What comes back on open connections. One that looks broken is had again."""
        flows = self._plan.flows
        if not flows:
            return []
        seen = self._world.have(flows)
        for _ in range(_TRIES - 1):
            again = [at for at, stages in enumerate(seen) if not all(stages)]
            if not again:
                break
            for at, stages in zip(again, self._world.have([flows[at] for at in again]), strict=True):
                seen[at] = [a or b for a, b in zip(seen[at], stages, strict=True)]
        rows = []
        for flow, stages in zip(flows, seen, strict=True):
            for stage, passed in zip(STAGES, stages, strict=True):
                packet = _returning(flow, stage)
                verdict, what = self._oracle.judge(packet), "accept" if passed else "drop"
                rows.append(Row(packet, verdict, what, *_ends(self._oracle, packet)))
        return rows

    def _send(self, packets: Sequence[Packet], meanwhile: Callable[[Packet], None]) -> list[str]:
        """What the kernel does with the packets. `meanwhile` is called for each while the kernel works."""
        seen: list[str] = []
        waiting: list[int] = []
        for start in range(0, len(packets), _ROUND):
            batch = packets[start : start + _ROUND]
            self._world.post(self._next, [self._pack(each, at) for at, each in enumerate(batch, self._next)])
            self._next += len(batch)
            waiting.append(len(batch))
            for packet in batch:
                meanwhile(packet)
            if len(waiting) > 1:
                seen += map(_read, self._world.collect(waiting.pop(0)))
        for count in waiting:
            seen += map(_read, self._world.collect(count))
        return seen

    def _pack(self, packet: Packet, number: int) -> Parcel:
        to = packet.destination or self._plan.homes[packet.source.version]
        way = (to, packet.outgoing)
        if packet.asked_port:
            to = self._published[way]
        frame = build_frame(packet, to, number, detour=self._detours.get(way, 0))
        return Parcel(frame, packet.interface, packet.outgoing, packet.fragmented)


def _returning(flow: Flow, stage: str) -> Packet:
    """What comes back to whoever has begun the connection, in a stage of it."""
    words = f"{stage} of a connection that is open"
    if flow.begun or not flow.outgoing:
        return Packet(flow.source, flow.interface, _kind(flow), flow.port, flow.destination, flow=words)
    return Packet(
        flow.destination, flow.outgoing, _kind(flow), flow.port, flow.source, flow.interface, flow=words
    )


def _kind(flow: Flow) -> Kind:
    return "tcp" if flow.protocol == "tcp" else "udp"


def _ends(oracle: Oracle, packet: Packet) -> tuple[str, str]:
    """From and to, as a row has them."""
    zone = oracle.members.zone
    source = SPOOFED if oracle.is_spoofed(packet) else zone(packet.source, packet.interface) or UNZONED
    if packet.destination is None or not packet.outgoing:
        return source, THIS_HOST
    return source, zone(packet.destination, packet.outgoing) or UNZONED


def _read(flags: int) -> str:
    """An answer of a closed port is no refusal if the packet has reached this host."""
    if flags & STRAYED:
        return "stray"
    if flags & (DELIVERED | LEFT):
        return "accept, hidden" if flags & HIDDEN else "accept"
    return "reject" if flags & REFUSED else "drop"
