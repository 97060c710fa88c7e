"""The runs of the past: one JSON file each, a bounded number of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tsstack.system.files import read_bounded, write_durably

MOST_RUNS_PER_PEER = 30
MOST_RUNS = 300
_VERSION = 1
_LARGEST_BYTES = 1 << 20
_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[a-z0-9_-]{1,40}\.json")


class Kept(NamedTuple):
    """What lies in a folder of runs."""

    runs: tuple[dict[str, Any], ...]
    """Reports as `Report.as_json` gave them, the oldest first."""
    damaged: tuple[Path, ...]
    """Files that hold no run."""


def usual_folder(environment: Mapping[str, str], *, root: bool) -> Path:
    """Where this user's runs lie: root's are the host's, others have their own (XDG base directories)."""
    if root:
        return Path("/var/lib/tsstack/benchmarks")
    told = environment.get("XDG_STATE_HOME", "")
    state = Path(told) if told.startswith("/") else Path(environment.get("HOME") or "/") / ".local" / "state"
    return state / "tsstack" / "benchmarks"


def save(folder: Path, run: Mapping[str, Any]) -> Path:
    """Keep a run, drop the oldest beyond the bounds; returns its file. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    stamp = re.sub(r"[-:]", "", str(run["at"]))
    peer = re.sub(r"[^a-z0-9_-]", "_", str(run["peer"]).lower())[:40] or "_"
    path = folder / f"{stamp}-{peer}.json"
    write_durably(path, json.dumps({"version": _VERSION, "run": run}, indent=1) + "\n", mode=0o640)
    _drop_oldest(folder, peer)
    return path


def load(folder: Path, peer: str = "") -> Kept:
    """The runs that are kept, of one peer where one is named: by its name, full name or address.

    Raises OSError when they may not be read.
    """
    runs, damaged = [], []
    for path in _files(folder):
        run = _read(path)
        if run is None:
            damaged.append(path)
        elif not peer or _is_of(run, peer.lower().rstrip(".")):
            runs.append(run)
    return Kept(tuple(runs), tuple(damaged))


def _is_of(run: Mapping[str, Any], name: str) -> bool:
    """Whether a run was to who has this name, as `peers.choose` takes it but for other host names."""
    label = str(run["peer"]).lower()
    return name in {label, run.get("address")} or name.startswith(f"{label}.")


def _read(path: Path) -> dict[str, Any] | None:
    data = read_bounded(path, limit_bytes=_LARGEST_BYTES)
    try:
        held = json.loads(data)
    except ValueError:
        return None
    run = held.get("run") if isinstance(held, dict) and held.get("version") == _VERSION else None
    if (
        not isinstance(run, dict)
        or not isinstance(run.get("peer"), str)
        or not isinstance(run.get("at"), str)
    ):
        return None
    return run


def _files(folder: Path) -> list[Path]:
    """Ours alone, by time; a folder that is not there holds none."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if _NAME.fullmatch(name)]


def _drop_oldest(folder: Path, peer: str) -> None:
    files = _files(folder)
    of_peer = [path for path in files if path.name.partition("-")[2] == f"{peer}.json"]
    too_many = {*of_peer[: -MOST_RUNS_PER_PEER or None], *files[: -MOST_RUNS or None]}
    for path in too_many:
        path.unlink(missing_ok=True)
