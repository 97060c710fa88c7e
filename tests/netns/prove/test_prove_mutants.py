"""A renderer that errs is caught: each rule, port, order and base rule of a rendered table broken once.

Here a sample by seed, so many of each table; all of them with TSSTACK_PROVE_MUTANTS=all (four minutes), which
is what `benchmarks/prove --mutants` does. Each must be found out with the packets that a switch sends, or be
listed as equivalent with its reason.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from mutants import EQUIVALENT, Mutant, all_mutants, reason_of
from prove_bed import FACTS, render, stack_of
from slips import all_slips
from test_prove_kernel import FILE, ROOT

from tsstack.errors import CheckFailed
from tsstack.prove.expected import Oracle
from tsstack.prove.plan import QUICK, Plan, plan_packets
from tsstack.prove.proof import send_plan

pytestmark = pytest.mark.netns

TABLES = {"example": (ROOT / "examples" / "kernelcore.yaml").read_text(), "everything": FILE}
SAMPLE = os.environ.get("TSSTACK_PROVE_MUTANTS", "70")
# These are tried in every run: what nobody would notice until it hurts.
ALWAYS = (
    "without input | ct state established",
    "without forward | ct state established",
    "'ct state established,related' is",
    "flush ruleset",
    "begins with ct status dnat",
    "zoned.ip",
    "udp sport 66-67",
    "udp dport 68-69",
    "udp dport 546-547",
    "ip6 daddr fe80::/9",
    'input starts with iifname "lo*"',
    "input starts with ct status dnat",
    "192.168.15.0/24 ct status dnat",
    "192.168.15.0/24 is 192.168.14.255",
    "interfaces: tailscale0 is tailscale*",
    "what this host sends: meta l4proto 17",
)


def pauses() -> Iterator[float]:
    """What tells two tables apart does so always; a packet that a busy machine loses does not for seconds."""
    for pause_s in (0.5, 1.0, 2.0):
        time.sleep(pause_s)
        yield pause_s


def found_out(plan: Plan, oracle: Oracle, mutant: Mutant, table: Path) -> str:
    """By what the mutant was told from the whole table; empty if it was not."""
    table.write_text(mutant.text)
    try:
        differing = [row for row in send_plan(plan, oracle, table) if not row.agrees]
    except CheckFailed as error:
        assert "nft refuses" not in error.message, f"{mutant.name} is no table: {error.message}"
        return error.message
    return "; ".join(f"{row.packet}: {row.expected.outcome}, seen {row.seen}" for row in differing[:3])


@pytest.mark.parametrize("name", TABLES)
def test_every_broken_table_is_caught(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stack = stack_of(TABLES[name])
    every = [*all_mutants(render(stack)), *all_slips(render(stack), name)]
    assert len(every) > 250
    assert [each.name for each in every if each.text == render(stack)] == []
    oracle, plan = Oracle(stack, FACTS), plan_packets(stack, FACTS, 1, QUICK)
    chosen = every
    if SAMPLE != "all":
        seed = int(os.environ.get("TSSTACK_PROVE_SEED", "1"))
        some = Random(seed).sample(every, min(int(SAMPLE), len(every)))  # noqa: S311  to be repeated
        chosen = [each for each in every if each in some or any(sign in each.name for sign in ALWAYS)]
    caught, alike, missed, wronged = 0, 0, [], []
    for mutant in chosen:
        found = found_out(plan, oracle, mutant, tmp_path / "table.nft")
        caught += bool(found)
        if found and reason_of(mutant, name):
            again = [found_out(plan, oracle, mutant, tmp_path / "again.nft") for _ in pauses()]
            if all(again):
                wronged.append(f"{mutant.name}: {found} / {again[-1]}")
        elif not found and reason_of(mutant, name):
            alike += 1
        elif not found:
            missed.append(mutant.name)
    with capsys.disabled():
        told = f"{len(chosen)} of {len(every)} broken tables, {caught} caught, {alike} equivalent"
        print(f"\n{name}: {told}, {len(missed)} missed")  # noqa: T201  the count is what a nightly run is for
    assert missed == [], "\n".join(missed)
    assert wronged == [], "no equivalent ones, packets tell them apart:\n" + "\n".join(wronged)


def test_each_reason_is_needed() -> None:
    names = [each.name for text in TABLES.values() for each in all_mutants(render(stack_of(text)))]
    unused = [pattern for _, pattern, _ in EQUIVALENT if not any(re.search(pattern, name) for name in names)]
    assert unused == [], "\n".join(unused)
