"""The throwaway world is whole when it says so, whatever else makes and drops networks meanwhile."""

from __future__ import annotations

import ipaddress
import multiprocessing
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from tsstack.prove.agent import DELIVERED, HEAD, RECORD, TO_HOST, build_world, send_round
from tsstack.prove.expected import Packet
from tsstack.prove.frames import build_frame
from tsstack.prove.terrain import LINK_LOCAL, LOCAL
from tsstack.system.namespaces import Offshoot

pytestmark = pytest.mark.netns

NAMES = [f"x{at}" for at in range(40)]
ORDER = {
    "table": "",
    "interfaces": NAMES,
    "local": [each.packed.hex() for each in (*LOCAL, LINK_LOCAL)],
    "routes": [],
    "detours": [],
}
NEIGHBOUR, STRANGER = ipaddress.ip_address("fe80::77"), ipaddress.ip_address("2001:db8:5::7")


def _build_and_send(source: BinaryIO, answers: BinaryIO) -> None:
    """One world, without any rules to load, and one round at once."""
    wires = build_world(ORDER)
    count, first = HEAD.unpack(source.read(HEAD.size))
    answers.write(send_round(wires, count, first, source))
    answers.flush()


def _build_crowded(_: BinaryIO, answers: BinaryIO) -> None:
    """A world in a network that has an interface of one of its names: a tunnel's module makes some."""
    subprocess.run(["ip", "link", "add", NAMES[0], "type", "bridge"], check=True, stdin=subprocess.DEVNULL)
    build_world(ORDER)
    answers.write(b"built")
    answers.flush()


def _ask(packets: list[Packet]) -> bytes:
    frames = [build_frame(each, each.destination or LINK_LOCAL, at) for at, each in enumerate(packets, 1)]
    world = Offshoot(_build_and_send)
    try:
        world.input.write(HEAD.pack(len(frames), 1))
        for each, frame in zip(packets, frames, strict=True):
            world.input.write(RECORD.pack(NAMES.index(each.interface), TO_HOST, len(frame)) + frame)
        world.input.flush()
        return world.output.read(len(frames)) or world.last_words().encode()
    finally:
        world.close()


def _come_and_go() -> None:
    while True:
        _ask([])


@contextmanager
def crowd(size: int = 3) -> Iterator[None]:
    """Others on this computer whose networks come and go: the kernel has one lock for all links."""
    others = [multiprocessing.get_context("fork").Process(target=_come_and_go) for _ in range(size)]
    for each in others:
        each.start()
    try:
        yield
    finally:
        for each in others:
            each.kill()
            each.join()


def test_all_addresses_answer_from_the_first_packet_on() -> None:
    packets = [
        *(Packet(NEIGHBOUR, name, "udp", 546, LINK_LOCAL, source_port=547) for name in NAMES),
        *(Packet(STRANGER, NAMES[0], "udp", 53, own) for own in LOCAL if own.version == 6),
    ]
    with crowd():
        for _ in range(12):
            seen = _ask(packets)
            assert len(seen) == len(packets), seen
            assert [f"{a}" for a, flags in zip(packets, seen, strict=True) if not flags & DELIVERED] == []


def test_a_device_of_the_kernels_own_makes_way() -> None:
    world = Offshoot(_build_crowded)
    try:
        assert (world.output.read() or world.last_words().encode()) == b"built"
    finally:
        world.close()
