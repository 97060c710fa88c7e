"""What the model refuses of a limit, held against what tc and the kernel make of it."""

from __future__ import annotations

import itertools

import pytest
from ruamel.yaml import YAML

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.model.bucket import default_burst_bytes, why_not_held
from tsstack.model.facts import Facts, Paths
from tsstack.model.stack import Stack
from tsstack.parts.kernel import links
from tsstack.parts.kernel.host import PART

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("network")]

RATES = (1, 8, 100, 120, 512, 1000, 64_000, 10**7, 10**9, 10**10, 4 * 10**10, 10**11, 4 * 10**11)
RATES += (99_999_999 * 10**9,)
BURSTS = (None, 4096, 40 * 1024**2, 2**32 - 10**6, 2**32 + 10**6)
LATENCIES_S = (0.01, 0.4, 3.0, 10.0)


def is_held(spec: dict[str, float]) -> bool:
    try:
        links.set_egress("v0", spec)
    except CommandFailed:
        return False
    return links.is_same(links.observe_links(["v0"])["v0"].egress, spec)


def test_what_is_refused_is_what_the_kernel_does_not_hold() -> None:
    wrong = []
    for rate, burst, latency_s in itertools.product(RATES, BURSTS, LATENCIES_S):
        spec = {"rate_bps": rate, "burst_bytes": burst or default_burst_bytes(rate), "latency_s": latency_s}
        if is_held(spec) == bool(why_not_held(rate, burst, latency_s)[0]):
            wrong.append((rate, burst, latency_s))
    assert wrong == []


def test_a_default_burst_that_a_large_mtu_makes_too_long_is_refused_before_anything(tmp_path) -> None:
    facts = Facts(interfaces=("lo",), paths=Paths(state=tmp_path))
    stack = Stack.model_validate({"host": {"name": "h"}, "bandwidth": {"lo": {"egress": "1kbit"}}})
    for name, text in PART.desired(stack, facts).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckFailed, match=r"bandwidth\.lo\.egress: a burst of 65614 bytes .*MTU 65536"):
        PART.check(tmp_path, facts)


@pytest.mark.parametrize("limit", ["{egress: 1gbit, burst: 1580b}", "{egress: 40gbit, burst: 4kb}"])
def test_a_burst_that_rounds_to_less_than_a_packet_is_refused(limit: str, tmp_path) -> None:
    """tc counts a burst in whole microseconds: 1580 bytes at 1gbit become 1500, less than a frame."""
    facts = Facts(interfaces=("v0",), paths=Paths(state=tmp_path))
    stack = Stack.model_validate({"host": {"name": "h"}, "bandwidth": {"v0": YAML(typ="safe").load(limit)}})
    for name, text in PART.desired(stack, facts).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckFailed, match=r"bandwidth\.v0\.burst"):
        PART.check(tmp_path, facts)
