"""One run of the fault injector: its parts, each in a private host of its own, side by side if asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_STATE = "/var/lib/tsstack"
_TOOLS = ("strace", "nginx", "nft", "unshare", "nsenter", "mkfs.ext4")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PART_POINTS = 500
"""So many points a part visits, about."""
TAILNET_EVERY = 3
"""Each third part has a real tailscaled."""

sys.path.insert(0, str(CHECKOUT / "tests" / "fakes"))
import crash_disk  # noqa: E402
from private_host import PrivateHost  # noqa: E402


class Broken(Exception):
    """The run could not be made; its words are in the message."""


@dataclass(frozen=True)
class Order:
    """What a run is to visit."""

    points: int = 1000
    """0: every call of every scene."""
    seed: int = 1
    only: tuple[str, ...] = ()
    """Names of scenes; empty: all."""
    recovers: bool = True
    """Else each host is judged as the accident has left it: what is torn then, the recovery mends."""
    jobs: int = 1
    results: Path | None = None
    """Keeps what each part found. Parts that are in it already, of this very code, are not run again."""
    tailnet: bool | None = None
    """A real tailscaled in all parts, or in none; None: in each third."""
    then: str = ""
    match: str = ""
    broken: str = ""

    @property
    def parts(self) -> int:
        return max(1, round(self.points / PART_POINTS)) if self.points else 20

    def has_tailnet(self, part: int) -> bool:
        return part % TAILNET_EVERY == TAILNET_EVERY - 1 if self.tailnet is None else self.tailnet


def crash(order: Order) -> dict[str, Any]:
    """Visit the points and return the counts as JSON data. Raises Broken, also when a tool is missing."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        raise Broken(f"not installed: {', '.join(missing)}")
    kept = _Results(order)
    waiting = [part for part in range(order.parts) if not kept.get(part).get("complete")]
    with ThreadPoolExecutor(order.jobs) as pool:
        try:
            for _ in pool.map(lambda part: _run_part(order, part, kept), waiting):
                continue
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for walk in _running:
                walk.terminate()
            raise
    return {
        "seed": order.seed,
        "code": kept.code,
        **merge(kept.all()),
    }


_running: set[subprocess.Popen[bytes]] = set()


class _Results:
    """What the parts found, in a file if asked. Threads may share it."""

    def __init__(self, order: Order) -> None:
        self.path = order.results
        self.code = code_stamp()
        self._order = f"{order.points} points, seed {order.seed}, {','.join(order.only)}"
        self._lock = threading.Lock()
        self._all: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._all = json.loads(self.path.read_text())

    def _key(self, part: int) -> str:
        return f"{self.code}, {self._order}, part {part}"

    def get(self, part: int) -> dict[str, Any]:
        """What is known of a part: empty for nothing, `complete` once it is."""
        found: dict[str, Any] = self._all.get(self._key(part), {})
        return found

    def all(self) -> list[dict[str, Any]]:
        """What is known of the parts of this order, and of any other of the same code."""
        return [found for key, found in self._all.items() if key.startswith(f"{self.code}, ")]

    def put(self, part: int, found: dict[str, Any]) -> None:
        with self._lock:
            self._all[self._key(part)] = found
            if self.path is not None:
                staged = self.path.with_name(f".{self.path.name}.new")
                staged.write_text(json.dumps(self._all, indent=1))
                staged.rename(self.path)


def code_stamp() -> str:
    """Names the code that is hurt: a digest over all of the package and its shipped files."""
    digest = hashlib.sha256()
    for folder in ("tsstack", "templates", "zones"):
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and path.suffix in {".py", ".j2", ".yaml", ".conf"}:
                digest.update(str(path.relative_to(CHECKOUT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def merge(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several parts as those of one."""
    merged: dict[str, Any] = {name: 0 for name in ("points", "old", "new", "torn", "not_reached")}
    merged |= {"duration_s": 0.0, "notes": Counter(), "torn_points": [], "wrong_ends": []}
    merged |= {"scenes": {}, "kinds": {}}
    for part in found:
        for name in (
            "points",
            "old",
            "new",
            "torn",
            "not_reached",
            "duration_s",
            "torn_points",
            "wrong_ends",
        ):
            merged[name] += part[name]
        merged["notes"].update(part["notes"])
        for table in ("scenes", "kinds"):
            for name, counts in part[table].items():
                row = merged[table].setdefault(name, dict.fromkeys(counts, 0))
                for state, count in counts.items():
                    row[state] += count
    for table in ("scenes", "kinds"):
        merged[table] = dict(sorted(merged[table].items()))
    return merged


def _run_part(order: Order, part: int, kept: _Results) -> None:
    earlier = kept.get(part)
    # Not on a tmpfs: renames and fsyncs are to be those of a real file system.
    disk = Path(tempfile.mkdtemp(prefix="tsstack-crash-", dir="/var/tmp"))
    image = disk / "state.img"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, disk, ignore_errors=True)
        crash_disk.make(image)
        (disk / "logs").mkdir()
        host = PrivateHost()
        stack.callback(host.close)
        host.run("mkdir", "-p", _STATE)
        host.run("rm", "-f", "/etc/nginx/sites-enabled/default")
        tailscaled = ""
        if order.has_tailnet(part):
            from crash_tailnet import KEY, control_server

            tailscaled, key = stack.enter_context(control_server(host.pid))
            host.write(KEY, f"{key}\n")
        walk = {
            "folder": str(disk / "logs"), "image": str(image), "points": order.points // order.parts,
            "done": earlier.get("done", {}), "seed": order.seed,
            "part": part, "parts": order.parts, "only": order.only,
            "recovers": order.recovers, "tailscaled": tailscaled, "then": order.then, "match": order.match,
            "broken": order.broken,
        }  # fmt: skip
        path = f"{CHECKOUT}:{CHECKOUT / 'benchmarks'}"
        walking = subprocess.Popen(
            host.argv(sys.executable, CHECKOUT / "benchmarks" / "crash_walk.py", json.dumps(walk)),
            env={**host.env(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
        )
        _running.add(walking)
        code = walking.wait()
        _running.discard(walking)
        if (disk / "logs" / "found.json").exists():
            found = json.loads((disk / "logs" / "found.json").read_text())
            together = merge([each for each in (earlier, found) if each])
            kept.put(part, {**together, "done": found["done"], "complete": code == 0})
        if code != 0:
            raise Broken(f"part {part} ended with {code}")
