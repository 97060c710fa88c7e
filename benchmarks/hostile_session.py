"""A run of the hostile files: workers in namespaces of their own, and their counts as one."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_MEMORY_BYTES = 1024**3
# One input may not keep a worker for longer, whatever it does.
_HANG_S = 60


class Broken(Exception):
    """The run could not be made; its words are in the message."""


def run(inputs: int, seed: int, processes: int, *, engines: bool) -> dict[str, Any]:
    """Judge `inputs` files in `processes` workers; the counts as JSON data. Raises Broken."""
    started_s = time.monotonic()
    shares = [inputs // processes + (number < inputs % processes) for number in range(processes)]
    enter = ["unshare", "--net", "--mount"] if engines else []
    workers = [
        subprocess.Popen(
            [*enter, sys.executable, __file__, str(share), str(seed * 1000 + number), "engines" * engines],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, share in enumerate(shares)
    ]
    found: dict[str, Any] = {}
    for worker in workers:
        said, words = worker.communicate()
        if worker.returncode != 0:
            raise Broken(f"a worker ended with {worker.returncode}: {words[-3000:]}")
        found = _joined(found, json.loads(said))
    return {"seed": seed, "duration_s": round(time.monotonic() - started_s, 1), **found}


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if not one:
        return other
    joined: dict[str, Any] = {}
    for name, value in one.items():
        if isinstance(value, dict):
            joined[name] = dict(Counter(value) + Counter(other[name]))
        elif name in {"slowest_s", "slowest", "peak_mib"}:
            slower = other if other["slowest_s"] > one["slowest_s"] else one
            joined[name] = max(value, other[name]) if name == "peak_mib" else slower[name]
        else:
            joined[name] = value + other[name]
    return joined


def seed_texts() -> tuple[bytes, ...]:
    """The files of the checkout that are damaged as they stand."""
    golden = sorted((CHECKOUT / "tests" / "golden").glob("*/*/*.yaml"))
    return tuple(path.read_bytes() for path in [CHECKOUT / "examples" / "kernelcore.yaml", *golden])


def work(inputs: int, seed: int, *, engines: bool) -> dict[str, Any]:
    """Judge `inputs` files here; the counts as JSON data."""
    import faulthandler

    from hostile_inputs import Generator
    from hostile_judge import Judge

    judge = Judge(engines=engines)
    generator = Generator(seed, seed_texts())
    for given in generator.inputs(inputs):
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        judge.judge(given)
    faulthandler.cancel_dump_traceback_later()
    judge_behind_the_model(judge, random.Random(seed), inputs // 10)  # noqa: S311  a sample, no secret
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**vars(judge.tally), "peak_mib": peak_mib}


def judge_behind_the_model(judge: Any, chance: random.Random, count: int) -> None:
    """Put hostile words where the model would never let them: the parts' own walls must hold."""
    from hostile_judge import MACHINES, stacks, words_of
    from hostile_words import HOSTILE, LITERALS

    places = [
        (stack, word) for stack in stacks(judge.presets) for word in words_of(stack) if word not in LITERALS
    ]
    for _ in range(count):
        stack, word = chance.choice(places)
        hostile = chance.choice([text for text in HOSTILE if text])
        if chance.random() < 0.5:
            hostile = word + hostile
        judge.behind_the_model(stack, chance.choice(MACHINES), word, hostile)


def main() -> int:
    """Be a worker."""
    inputs, seed, engines = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as tsstack.cli.main has it
    json.dump(work(int(inputs), int(seed), engines=bool(engines)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
