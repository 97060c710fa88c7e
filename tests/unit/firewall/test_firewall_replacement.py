"""A packet that is on its way through the old table while it is replaced finds nothing in its maps."""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "firewall"
TABLES = sorted(GOLDEN.glob("*/expected/tsstack.nft"))
BY_MAP = "meta nfproto vmap { ipv4 : accept, ipv6 : accept }"


def chains_of(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in text.split("\tchain ")[1:]:
        name, _, body = block.partition(" {\n")
        found[name] = [line.strip() for line in body.partition("\n\t}")[0].splitlines()]
    return found


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parts[-3])
def test_pitfall_02_what_fell_past_a_map_is_accepted_by_a_map_alone(path: Path) -> None:
    """Six packets in 1,500 replacements reached closed ports behind the host: none of the maps of the dying

    table claimed them, so they looked as if they came from no zone. A map that is as silent must end it.
    """
    chains = chains_of(path.read_text())
    assert chains["forward"][-2].startswith(BY_MAP)
    assert chains["forward"][-1].startswith("drop ")
    for name, rules in chains.items():
        after_map = False
        for rule in rules:
            unconditional = rule.startswith(("accept", "counter")) and BY_MAP not in rule
            assert not (after_map and unconditional and " accept" in f" {rule}"), f"{name}: {rule}"
            after_map = after_map or "vmap @" in rule


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parts[-3])
def test_pitfall_02_open_connections_pass_without_a_map(path: Path) -> None:
    chains = chains_of(path.read_text())
    for hook in ("input", "forward"):
        assert chains[hook][1].startswith("ct state established,related accept"), chains[hook][1]
