"""Random files and random packets: the kernel and the model think alike."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from prove_bed import Limits, prove, render, stack_of
from random_files import files

from tsstack.errors import ConfigError

pytestmark = pytest.mark.netns

# A nightly run sets it to some hundreds: 100,000 checks and more.
EXAMPLES = int(os.environ.get("TSSTACK_PROVE_EXAMPLES", "12"))
LIMITS = Limits(arriving=600, passing=600)
KEPT = sorted((Path(__file__).parent / "regressions").glob("*.yaml"))


def differences(text: str, seed: int, limits: Limits = LIMITS) -> list[tuple[str, ...]]:
    stack = stack_of(text)
    with tempfile.TemporaryDirectory() as folder:
        proof = prove(Path(folder), stack, render(stack), seed, limits)
    return [
        (str(row.packet), row.source, row.target, row.expected.outcome, row.path, row.seen)
        for row in proof.mismatches
    ]


@settings(
    max_examples=EXAMPLES,
    derandomize="TSSTACK_PROVE_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(text=files(), seed=st.integers(1, 1000))
def test_the_kernel_agrees_with_the_model_on_random_files(text: str, seed: int) -> None:
    note(text)
    assert differences(text, seed) == []


def test_a_difference_that_was_found_once_stays_mended() -> None:
    for path in KEPT:
        for seed in range(1, 4):
            assert differences(path.read_text(), seed, Limits()) == [], path.name


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
