"""tailscaled's own pings on a real tailnet: direct and relayed, and while the daemon dies and returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tsstack.lab.lab import Lab
from tsstack.monitor.probes.probe import Notice, Probe
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.sample import Path, Sample

pytestmark = pytest.mark.lab

PEER = Path("exit:exit-b", "tailscale.exit_node.use[0]")


def watch(
    lab: Lab, body: Callable[[Prober, list[Sample]], Awaitable[None]], **options: Any
) -> tuple[list[Sample], list[Notice]]:
    """Probe from laptop, through its tailscaled's socket."""
    samples: list[Sample] = []
    notices: list[Notice] = []

    async def main() -> None:
        daemon = lab.node("laptop").api.path
        settings = {"fast_s": 0.2, "slow_s": 0.2, **options}
        async with Prober(samples.append, tell=notices.append, daemon=daemon, **settings) as prober:
            await body(prober, samples)

    asyncio.run(main())
    return samples, notices


async def until(happened: Callable[[], object], *, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not happened():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["disco", "tsmp", "peer-icmp"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_is_pinged_by_name(lab: Lab, kind: Any, family: Any) -> None:
    async def body(prober: Prober, samples: list[Sample]) -> None:
        prober.add(Probe(PEER, kind, host="exit-b", family=family))
        await until(lambda: len([sample for sample in samples if sample.ok]) >= 5)

    samples, _ = watch(lab, body)
    good = [sample for sample in samples if sample.ok]
    assert all(0 < (sample.rtt_s or 0) < 1 for sample in good)
    assert len(good) >= len(samples) - 2  # while the two still look for each other
    if kind == "disco":
        assert good[-1].via == "direct"


def test_tsmp_samples_know_what_disco_told(lab: Lab) -> None:
    async def body(prober: Prober, samples: list[Sample]) -> None:
        prober.update([Probe(PEER, "tsmp", host="exit-b"), Probe(PEER, "disco", host="exit-b", judges=False)])
        await until(lambda: samples and samples[-1].via == "direct")

    samples, _ = watch(lab, body)
    assert {sample.kind for sample in samples} == {"tsmp"}


def test_a_relayed_peer_is_told_from_a_direct_one(lab: Lab) -> None:
    """Without direct UDP between the two, traffic goes through Headscale's relay."""
    world = lab.node("world")
    rules = (
        "table inet no_direct { chain f { type filter hook forward priority 0; "
        "ip saddr 10.77.2.2 ip daddr 10.77.3.2 meta l4proto udp drop\n"
        "ip saddr 10.77.3.2 ip daddr 10.77.2.2 meta l4proto udp drop\n"
        "ip6 saddr fd77:0:0:2::2 ip6 daddr fd77:0:0:3::2 meta l4proto udp drop\n"
        "ip6 saddr fd77:0:0:3::2 ip6 daddr fd77:0:0:2::2 meta l4proto udp drop\n}\n}\n"
    )
    world.run(["nft", "-f", "-"], stdin=rules)
    try:

        async def body(prober: Prober, samples: list[Sample]) -> None:
            prober.add(Probe(PEER, "disco", host="exit-b"))
            await until(lambda: samples and samples[-1].via == "relay")

        samples, _ = watch(lab, body)
        assert samples[-1].ok
    finally:
        world.run(["nft", "delete", "table", "inet", "no_direct"])


def test_a_cut_link_is_silence_and_healing_it_ends_that(lab: Lab) -> None:
    async def body(prober: Prober, samples: list[Sample]) -> None:
        prober.add(Probe(PEER, "tsmp", host="exit-b"))
        await until(lambda: samples and samples[-1].ok)
        await asyncio.to_thread(lab.fault, "cut", "exit-b")
        await until(lambda: {sample.error for sample in samples[-3:]} == {"timeout"})
        await asyncio.to_thread(lab.heal)
        await until(lambda: samples[-1].ok)

    watch(lab, body)


def test_a_daemon_that_dies_and_returns_is_a_value_said_once(lab: Lab) -> None:
    async def body(prober: Prober, samples: list[Sample]) -> None:
        prober.add(Probe(PEER, "tsmp", host="exit-b"))
        await until(lambda: samples and samples[-1].ok)
        await asyncio.to_thread(lab.fault, "kill", "laptop")
        await until(lambda: samples[-1].error == "tailscaled does not answer")
        await asyncio.to_thread(lab.heal)
        await until(lambda: samples[-1].ok)

    _, notices = watch(lab, body)
    assert [(notice.about, notice.over) for notice in notices if notice.about == "tailscaled"] == [
        ("tailscaled", False),
        ("tailscaled", True),
    ]


def test_a_node_that_does_not_exist(lab: Lab) -> None:
    async def body(prober: Prober, samples: list[Sample]) -> None:
        prober.add(Probe(Path("exit:nobody", ""), "tsmp", host="nobody"))
        prober.add(Probe(Path("exit:strange", ""), "tsmp", host="100.99.99.99", timeout_s=0.5))
        await until(lambda: {"exit:nobody", "exit:strange"} <= {sample.path for sample in samples})

    samples, notices = watch(lab, body)
    assert {sample.error for sample in samples if sample.path == "exit:nobody"} == {
        "no such node on the tailnet"
    }
    assert all(not sample.ok for sample in samples)
    assert [notice.message for notice in notices] == ["nobody is no node of this tailnet"]
