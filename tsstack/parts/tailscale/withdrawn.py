"""What a running monitor has set otherwise than the file says, for a reason: no drift while it runs."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from tsstack.parts.tailscale.desired import PREFS_FILE


def withdrawn_routes(state: Path) -> tuple[str, ...]:
    """The networks that a running monitor keeps withdrawn; `state` is tsstack's own state folder.

    Without a monitor nobody would bring them back: then the file counts, and there are none.
    """
    try:
        off = _kept(state)["standby"]["off"]
        return tuple(sorted(str(name) for kind, name in off if kind == "route"))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def stands_direct(state: Path) -> bool:
    """Whether a running monitor goes out by the bare uplink now (`otherwise: direct`, or chosen by hand).

    Only what is live counts: what was kept of an earlier file says nothing of a new one.
    """
    try:
        live = json.loads((state / "current" / PREFS_FILE).read_bytes())["exit_node"]
        return bool(live["otherwise"] == "direct" and _kept(state)["failover"]["at"] == "")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _kept(state: Path) -> Any:
    """What a running monitor keeps on disk. Raises OSError, also where none runs, and ValueError."""
    folder = state / "monitor"
    if not _is_held(folder / "lock"):
        raise FileNotFoundError(folder / "lock")
    return json.loads((folder / "state.json").read_bytes())


def _is_held(lock: Path) -> bool:
    """Whether a monitor holds its lock (flock(2)); a lock of ours is let go at once."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
