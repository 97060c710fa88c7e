"""Labs for tests: one for the whole session, and one of its own for a module that leaves marks."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsstack.lab.lab import Lab, take_down

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from monitor_bed import Bed, Client


def unique_name() -> str:
    return f"t{os.getpid()}-{secrets.token_hex(3)}"


def _bring_up() -> Iterator[Lab]:
    name = unique_name()
    try:
        yield Lab.up(name=name)
    finally:
        take_down(name=name)


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    yield from _bring_up()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The session's lab. Leave its nodes as they are; faults are healed after each test."""
    yield shared_lab
    shared_lab.heal()


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """A lab for one module, which may do with it what it likes."""
    yield from _bring_up()


@pytest.fixture(scope="module")
def whole_bed() -> Iterator[Bed]:
    with Bed.up() as bed:
        yield bed


@pytest.fixture
def bed(whole_bed: Bed) -> Iterator[Bed]:
    """On exit-b, all well, with a monitor that remembers nothing."""
    whole_bed.host.path("/var/lib/tsstack/monitor/state.json").unlink(missing_ok=True)
    whole_bed.use("exit-b")
    yield whole_bed
    whole_bed.lab.heal()


@pytest.fixture
def client(bed: Bed) -> Iterator[Client]:
    with bed.client() as client:
        yield client
