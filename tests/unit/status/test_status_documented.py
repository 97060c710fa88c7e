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


INNER = {
    "Uplink": "uplinks", "Tailnet": "tailnet", "Offer": "tailnet", "Exit": "exit", "Bypass": "exit",
    "Peer": "peers", "Proxy": "proxy", "Service": "services", "Certificate": "certificates",
    "Firewall": "firewall", "Zone": "firewall", "Counter": "firewall",
    "Generation": "generation", "Pending": "generation", "Monitor": "monitor", "Warning_": "warnings",
}  # fmt: skip
"""Under which key of the status each shape is described; `open` and `rules` have values of their own."""


def test_every_key_is_described_where_it_stands() -> None:
    items = PAGE.partition("## The status as JSON")[2].partition("\n## ")[0].split("\n- ")[1:]
    described = [re.findall(r"`(\w+)`", item) for item in items]
    tops = {name for names in described for name in names[:1]} | {*described[0]}
    assert set(shapes()["Status"]) <= tops
    inner = {names[0]: {*names[1:]} for names in described}
    for name in {*shapes()} - {"Status", "Opening", "Rule"}:
        assert set(shapes()[name]) <= inner[INNER[name]], name


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
