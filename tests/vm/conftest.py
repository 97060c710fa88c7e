"""Two machines on a lab's tailnet, booted and switched once for all tests of this tier."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from powercut_host import Host
from powercut_session import Session


@pytest.fixture(scope="session")
def powercuts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The session with its machines, each prepared with generations of two files."""
    with Session(tmp_path_factory.mktemp("powercut"), machines=2) as session:
        yield session


@pytest.fixture
def host(powercuts: Session) -> Iterator[Host]:
    """The first machine, running, of the first file; what a test does to it is gone afterwards."""
    found = powercuts.hosts[0]
    found.resume("first")
    yield found
    found.cut()
