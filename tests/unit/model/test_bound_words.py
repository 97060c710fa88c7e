"""Bounds are told in the unit that the file is written in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack.errors import ConfigError
from tsstack.model.loader import parse_stack


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("monitor: {interval: 2d}", "1d at most is allowed"),
        ("monitor: {probe: 1ms}", "50ms or more is needed"),
        ("monitor: {failures: 2000}", "1000 at most is allowed"),
        ("bandwidth: {eth0: {egress: 1mbit, latency: 11s}}", "10s at most is allowed"),
        ("proxy: {worker_connections: 2000000}", "1000000 at most is allowed"),
    ],
)
def test_a_bound_has_its_unit(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_stack(f"host: {{name: a}}\n{line}\n".encode(), Path("f"), {})
    (finding,) = refused.value.findings
    assert said in finding.message
