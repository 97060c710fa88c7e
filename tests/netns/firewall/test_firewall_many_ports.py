"""Very many single ports: what they cost the kernel, and that they are the same afterwards."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
from firewall_stack import stack_of
from firewall_world import run

from tsstack.model.facts import Facts
from tsstack.parts.firewall.desired import FILE
from tsstack.parts.firewall.host import PART

pytestmark = pytest.mark.netns

FACTS = Facts(default_interface="eth0")
LOAD = "nft -f {0} && nft list set inet tsstack open.lan.tcp"


def rendered(ports: range) -> str:
    listed = ", ".join(f"tcp/{port}" for port in ports)
    zones = "zones: {lan: {interfaces: [eth0], services: [many]}}"
    return PART.desired(stack_of(f"firewall: {{services: {{many: [{listed}]}}, {zones}}}"), FACTS)[FILE]


def load(folder: Path, ports: range) -> tuple[str, float]:
    """How the kernel lists them, in a network of its own, and what of a processor that took, in seconds."""
    file = folder / "many.nft"
    file.write_text(rendered(ports))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    listed = run("unshare", "-n", "sh", "-c", LOAD.format(file))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return listed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_four_times_the_ports_take_about_four_times_as_long(tmp_path: Path) -> None:
    """The kernel walked all of them for each new one: half a minute for 65,535."""
    small_s, large_s = (min(load(tmp_path, range(1, size))[1] for _ in range(2)) for size in (10_000, 40_000))
    assert large_s < 6 * small_s + 0.5


@pytest.mark.parametrize("ports", [range(1, 900), range(1, 3_000), range(1, 9_000, 3)])
def test_they_are_the_same_in_the_kernel(tmp_path: Path, ports: range) -> None:
    listed, _ = load(tmp_path, ports)
    assert [int(each) for each in re.findall(r"\b(\d+) comment", listed)] == [*ports]
    assert "-" not in re.sub(r'"[^"]*"', "", listed)
