"""What `ts-status --json` prints is described, key by key, and is what the types say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

from status_bed import a_status

from tsstack.status import shape

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "status.md").read_text()


def shapes() -> dict[str, dict[str, Any]]:
    found = {name: value for name, value in vars(shape).items() if is_typeddict(value)}
    return {name: get_type_hints(value) for name, value in found.items()}


def test_every_key_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", PAGE.partition("## The status as JSON")[2]))
    # Inner values of `open` and `rules`, and the monitor's own state, which has a page of its own.
    inner = {*shapes()["Opening"], *shapes()["Rule"]}
    missing = {
        key for name, keys in shapes().items() if name not in {"Opening", "Rule"} for key in keys
    } - described
    assert missing - inner == set()


def test_the_bed_of_these_tests_has_the_shape() -> None:
    status = a_status()
    assert set(status) == set(shapes()["Status"])
    for key, name in (
        ("tailnet", "Tailnet"),
        ("exit", "Exit"),
        ("firewall", "Firewall"),
        ("generation", "Generation"),
        ("monitor", "Monitor"),
    ):
        assert set(status[key]) == set(shapes()[name]), key
    for key, name in (
        ("peers", "Peer"),
        ("services", "Service"),
        ("certificates", "Certificate"),
        ("uplinks", "Uplink"),
    ):
        assert set(status[key][0]) == set(shapes()[name]), key
    assert set(status["firewall"]["zones"][0]) == set(shapes()["Zone"])
