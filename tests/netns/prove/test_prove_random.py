"""Random files and random packets: the kernel and the model think alike."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from kept import FOLDER, keep, recall
from prove_bed import FACTS, Limits, prove, render, stack_of
from random_files import files

from tsstack.errors import ConfigError
from tsstack.prove.expected import Packet
from tsstack.prove.proof import FILE, Proof, Row, send_packets

pytestmark = pytest.mark.netns

# A nightly run sets it to some hundreds: 100,000 checks and more.
EXAMPLES = int(os.environ.get("TSSTACK_PROVE_EXAMPLES", "12"))
LIMITS = Limits(arriving=600, passing=600)


def rows_of(text: str, seed: int, limits: Limits = LIMITS, broken: Callable[[str], str] = str) -> Proof:
    stack = stack_of(text)
    with tempfile.TemporaryDirectory() as folder:
        return prove(Path(folder), stack, broken(render(stack)), seed, limits)


def told(rows: tuple[Row, ...]) -> list[tuple[str, ...]]:
    return [
        (str(row.packet), row.source, row.target, row.expected.outcome, row.path, row.seen) for row in rows
    ]


@dataclass
class Count:
    """What a search has sent, and the last difference that it saw: the smallest, as Hypothesis shrinks."""

    files: int = 0
    packets: int = 0
    text: str = ""
    seed: int = 0
    rows: tuple[Row, ...] = ()


def search(
    count: Count,
    examples: int,
    broken: Callable[[str], str] = str,
    limits: Limits = LIMITS,
    phases: tuple[Phase, ...] = tuple(Phase),
) -> None:
    """Prove so many random files. Raises AssertionError for a difference, which `count` then holds."""

    @settings(
        phases=phases,
        max_examples=examples,
        derandomize="TSSTACK_PROVE_EXAMPLES" not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(text=files(), seed=st.integers(1, 1000))
    def proven(text: str, seed: int) -> None:
        note(text)
        proof = rows_of(text, seed, limits, broken)
        count.files += 1
        count.packets += proof.checks
        if proof.mismatches:
            count.text, count.seed, count.rows = text, seed, proof.mismatches
        assert told(proof.mismatches) == []

    proven()


def test_the_kernel_agrees_with_the_model_on_random_files(capsys: pytest.CaptureFixture[str]) -> None:
    count = Count()
    try:
        search(count, EXAMPLES)
    except AssertionError as error:
        kept = keep(FOLDER, count.text, count.seed, count.rows)
        raise AssertionError(f"kept as {kept}: commit it once it is mended") from error
    finally:
        with capsys.disabled():
            said = f"{count.files} random files, {count.packets} packets, {len(count.rows)} differences"
            print(f"\n{said}")  # noqa: T201  a nightly run is for its count


def test_a_difference_that_was_found_once_stays_mended() -> None:
    for file in sorted(FOLDER.glob("*.yaml")):
        text, seed, packets = recall(file)
        assert told(resend(text, packets)) == [], file.name
        assert told(rows_of(text, seed).mismatches) == [], file.name


def resend(text: str, packets: tuple[Packet, ...], broken: Callable[[str], str] = str) -> tuple[Row, ...]:
    stack = stack_of(text)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / FILE
        table.parent.mkdir()
        table.write_text(broken(render(stack)))
        return send_packets(stack, FACTS, Path(folder), packets).mismatches


@pytest.mark.parametrize("zones", [8, 9, 17])
def test_many_zones_that_are_asked_in_groups_are_told_apart_like_few(zones: int) -> None:
    """A packet that no rule of its zone hides fell out of the group, and the interface's zone hid it."""
    named = [f"  z{n}: {{interfaces: [eth{n}], sources: [10.{n}.0.0/16], tcp: [22]}}" for n in range(zones)]
    rules = [
        "  - {from: z0, to: wan, tcp: [80], masquerade: true}",
        "  - {from: z0, to: wan, tcp: [443]}",
        *(f"  - {{from: z{n}, to: wan, allow: all, masquerade: true}}" for n in range(1, zones)),
    ]
    text = "\n".join(["firewall:", " zones:", "  wan: {interfaces: [wan0]}", *named, " forward:", *rules])
    source, far = ipaddress.ip_address("10.0.0.5"), ipaddress.ip_address("203.0.113.9")
    packets = [
        Packet(source, f"eth{at}", "tcp", port, far, "wan0")
        for at in (0, 1, zones - 1)
        for port in (80, 443, 25)
    ]
    packets += [Packet(ipaddress.ip_address(f"10.{n}.0.5"), "eth0", "tcp", 22) for n in range(zones)]
    assert told(resend(text, tuple(packets))) == []
    assert told(rows_of(text, 1, Limits(300, 100)).mismatches) == []


def test_a_difference_is_found_kept_and_sent_again(tmp_path: Path) -> None:
    """With a renderer that accepts where it should drop. (Not shrunk here: that takes minutes.)"""

    def careless(text: str) -> str:
        return text.replace("type filter hook input priority filter; policy drop;", "").replace(
            "drop comment", "accept comment"
        )

    count = Count()
    with pytest.raises(AssertionError):
        search(count, 30, careless, Limits(100, 100), (Phase.generate,))
    assert count.rows
    file = keep(tmp_path, count.text, count.seed, count.rows)
    text, seed, packets = recall(file)
    assert (text.rstrip("\n"), seed) == (count.text.rstrip("\n"), count.seed)
    assert packets == tuple(row.packet for row in count.rows)[:20]
    assert len(resend(text, packets, careless)) == len(packets), "the packets alone show it again"
    assert resend(text, packets) == (), "and not once it is mended"


def test_the_strategy_makes_files_that_load() -> None:
    seen = []

    @settings(max_examples=30, derandomize=True, database=None, deadline=None)
    @given(text=files())
    def load(text: str) -> None:
        try:
            seen.append(stack_of(text).firewall)
        except ConfigError as error:
            raise AssertionError([str(each) for each in error.findings]) from error

    load()
    assert any(firewall and firewall.forward for firewall in seen)
