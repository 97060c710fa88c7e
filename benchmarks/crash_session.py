"""One run of the fault injector, in a private host whose state lies on this machine's disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_STATE = "/var/lib/tsstack"
_TOOLS = ("strace", "nginx", "nft", "unshare", "nsenter")

sys.path.insert(0, str(CHECKOUT / "tests" / "fakes"))
from private_host import PrivateHost  # noqa: E402


class Broken(Exception):
    """The run could not be made; its words are in the message."""


def crash(
    points: int | None, seed: int, only: Sequence[str] = (), *, recover: bool = True, quiet: bool = False
) -> dict[str, Any]:
    """Visit `points` points (None: every call of every scene) and return the counts as JSON data.

    `only`: names of scenes. `recover=False` judges each host as the kill has left it: what is torn then is
    what the recovery mends. Raises Broken, also when a tool is missing.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        raise Broken(f"not installed: {', '.join(missing)}")
    # Not on a tmpfs: renames and fsyncs are to be those of a real file system.
    disk = Path(tempfile.mkdtemp(prefix="tsstack-crash-", dir="/var/tmp"))
    host = PrivateHost()
    try:
        (disk / "state").mkdir()
        (disk / "logs").mkdir()
        host.run("mkdir", "-p", _STATE)
        host.run("mount", "--bind", disk / "state", _STATE)
        host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
        walker = [sys.executable, CHECKOUT / "benchmarks" / "crash_walk.py", disk / "logs"]
        path = f"{CHECKOUT}:{CHECKOUT / 'benchmarks'}"
        done = subprocess.run(
            host.argv(*walker, str(points or 0), str(seed), "recover" if recover else "", *only),
            env={**host.env(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Broken(f"the walk ended with {done.returncode}\n{done.stderr or ''}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    finally:
        host.close()
        shutil.rmtree(disk, ignore_errors=True)
