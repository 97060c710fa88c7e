"""Interfaces that cannot be asked: an error of the check and no other."""

from __future__ import annotations

import json

import pytest

from tsstack.errors import CheckFailed, CommandFailed
from tsstack.parts.kernel import links
from tsstack.system.command import Result

OURS = [
    {"kind": "ingress", "handle": "ffff:", "dev": "lo"},
    {
        "kind": "tbf",
        "handle": links.HANDLE,
        "dev": links.ingress_device("lo"),
        "root": True,
        "options": {"rate": 125000, "burst": 2000, "lat": 50000},
    },
]


@pytest.fixture(autouse=True)
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program but `tc qdisc show` goes on for ever, and the interfaces are there."""

    def answer(words: list[str], **_: object) -> Result:
        if words[:2] == ["tc", "-j"]:
            return Result(0, json.dumps(OURS), "")
        raise CommandFailed(f"{words[0]} did not finish within 30 s", returncode=-1, stderr="")

    monkeypatch.setattr(links, "run", answer)
    monkeypatch.setattr(links, "_mtu", lambda interface: 1500)


def test_an_ethtool_that_hangs_fails_the_check() -> None:
    with pytest.raises(CheckFailed, match="offloads of eth0 cannot be read: ethtool did not finish"):
        links.observe_features("eth0")


def test_a_tc_that_hangs_fails_the_check() -> None:
    with pytest.raises(CheckFailed, match="filters of lo cannot be read: tc did not finish"):
        links.observe_links(["lo"])
