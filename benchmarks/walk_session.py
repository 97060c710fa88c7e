"""One walk in a private host, and the fresh host that its end is held against."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(CHECKOUT / "tests" / "fakes"))
from private_host import PrivateHost  # noqa: E402


class Broken(Exception):
    """The run could not be made; its words are in the message."""


def run(walks: int, steps: int, files: int, seed: int, *, quiet: bool = False) -> dict[str, Any]:
    """`walks` walks of `steps` steps over `files` random files each. Raises Broken."""
    from walk_files import random_files
    from walk_host import differences

    started_s = time.monotonic()
    faults: list[str] = []
    counts: Counter[str] = Counter()
    for number in range(walks):
        folder = Path(tempfile.mkdtemp(prefix="tsstack-walk-", dir="/var/tmp"))
        try:
            for at, text in enumerate(random_files(files, seed * 1000 + number)):
                (folder / f"file{at:03}.yaml").write_text(text)
            walked = _in_host(folder, "walk", steps, seed * 1000 + number, quiet=quiet)
            fresh = _in_host(folder, "fresh", quiet=quiet)
            counts += Counter(walked["counts"])
            found = [*walked["faults"], *fresh["faults"]]
            found += [
                f"not as a fresh host: {line}" for line in differences(fresh["picture"], walked["picture"])
            ]
            faults += [f"walk {number}: {line}" for line in found]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {
        "seed": seed,
        "duration_s": round(time.monotonic() - started_s, 1),
        "walks": walks,
        "steps": walks * steps,
        "files": walks * files,
        "verbs": dict(counts),
        "faults": faults,
    }


def _in_host(folder: Path, what: str, *numbers: int, quiet: bool) -> dict[str, Any]:
    host = PrivateHost()
    try:
        host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
        path = f"{CHECKOUT}:{CHECKOUT / 'benchmarks'}"
        done = subprocess.run(
            host.argv(
                sys.executable, CHECKOUT / "benchmarks" / "walk_host.py", what, folder, *map(str, numbers)
            ),
            env={**host.env(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Broken(f"{what} ended with {done.returncode}\n{done.stderr or ''}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    finally:
        host.close()
