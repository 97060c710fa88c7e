"""Advertised routes that the monitor keeps back while their LAN side is dead: no drift while it runs."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path


def withdrawn_routes(state: Path) -> tuple[str, ...]:
    """The networks that a running monitor keeps withdrawn; `state` is tsstack's own state folder.

    Without a monitor nobody would bring them back: then the file counts, and there are none.
    """
    folder = state / "monitor"
    try:
        if not _is_held(folder / "lock"):
            return ()
        off = json.loads((folder / "state.json").read_bytes())["standby"]["off"]
        return tuple(sorted(str(name) for kind, name in off if kind == "route"))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


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
