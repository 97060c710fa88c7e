"""The tests of the NixOS modules: all need nix, none may pass without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nix_engine import NIXPKGS_LIB, libraries


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.nix)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "library" in metafunc.fixturenames:
        metafunc.parametrize("library", libraries(), scope="session")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ran = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if "tests/nix/" in report.nodeid
    ]
    if not ran:
        return
    count = sum("[nixpkgs" in report.nodeid for report in ran)
    if NIXPKGS_LIB:
        terminalreporter.write_line(f"nixpkgs' own library: {count} tests ran with {NIXPKGS_LIB}")
    else:
        terminalreporter.write_line(
            "nixpkgs' own library: NOT TESTED, since NIXPKGS_LIB is not set; the stand-in's tests ran",
            yellow=True,
        )
