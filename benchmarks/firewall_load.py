"""Loading the firewall's table, beside `nft -f` of the very same text. Needs root.

    python benchmarks/firewall_load.py [--rounds N]

Everything happens in a network namespace that unshare(1) makes and that ends with the program.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tsstack.model.facts import Facts, Paths
from tsstack.model.stack import Stack
from tsstack.parts.firewall.host import PART


def stack(addresses: int, ports: int, zones: int) -> Stack:
    named = {f"zone{n}": {"interfaces": [f"wan{n}"], "tcp": [80, 443]} for n in range(zones)}
    sources = [f"10.{n >> 14 & 255}.{n >> 6 & 255}.{(n & 63) * 4}/32" for n in range(addresses)]
    named["office"] = {"sources": sources, "tcp": [20000 + 2 * n for n in range(ports)]}
    return Stack.model_validate({"host": {"name": "bench"}, "firewall": {"zones": named}})


def median_ms(rounds: int, action: Callable[[], object]) -> float:
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        spent.append((time.perf_counter() - start) * 1000)
    return statistics.median(spent)


def measure(title: str, wanted: Stack, rounds: int, folder: Path) -> None:
    facts = Facts(paths=Paths(run=folder / "run"))
    generation = folder / "generation"
    path = generation / "nftables" / "tsstack.nft"
    path.parent.mkdir(parents=True, exist_ok=True)
    render = median_ms(rounds, lambda: PART.desired(wanted, facts))
    tree = PART.desired(wanted, facts)
    path.write_text(tree["nftables/tsstack.nft"])
    subprocess.run(["nft", "-f", path], check=True)
    raw = median_ms(rounds, lambda: subprocess.run(["nft", "-f", path], check=True))
    ours = median_ms(rounds, lambda: PART.activate(generation, facts, lambda line: None))
    check = median_ms(rounds, lambda: PART.check(generation, facts))
    observe = median_ms(rounds, lambda: PART.changes(tree, PART.observe(tree, facts)))
    print(
        f"{title:34} render {render:7.1f} ms  check {check:7.1f}  activate {ours:7.1f}  "
        f"nft -f {raw:7.1f}  ratio {ours / raw:4.2f}  observe {observe:6.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    if "TSSTACK_BENCHMARK_NAMESPACE" not in os.environ:
        os.environ["TSSTACK_BENCHMARK_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])  # noqa: S606
    with tempfile.TemporaryDirectory() as folder:
        for title, addresses, ports, zones in (
            ("4 zones", 4, 4, 3),
            ("50 zones, 500 ports", 10, 500, 50),
            ("1,000 addresses", 1000, 10, 3),
            ("10,000 addresses", 10_000, 10, 3),
            ("10,000 ports", 10, 10_000, 3),
        ):
            measure(title, stack(addresses, ports, zones), rounds, Path(folder))


if __name__ == "__main__":
    main()
