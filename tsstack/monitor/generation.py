"""What `tsstack switch` leaves on disk that the monitor must know: a change at work, and what is live."""

from __future__ import annotations

import json
import time
from pathlib import Path

_LONGEST_CHANGE_S = 600.0
"""A record that is older was left by a command that was killed; the next one judges it."""


def is_switching(state: Path) -> bool:
    """Whether a switch, a rollback or the boot is changing the host now."""
    record = state / "pending.json"
    try:
        age_s = time.time() - record.stat().st_mtime
        phase = json.loads(record.read_bytes())["phase"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(phase == "activating") and abs(age_s) < _LONGEST_CHANGE_S


def live_generation(state: Path) -> str:
    """Where the link to the live generation points; empty without one."""
    try:
        return str((state / "current").readlink())
    except OSError:
        return ""


def is_without(state: Path) -> bool:
    """Whether the host was brought back to what it was without tsstack: that is generation 0."""
    return live_generation(state) == "generations/0"


def live_source(state: Path) -> tuple[Path, bytes] | None:
    """The file that the live generation was made from, as it was then; None where none was.

    Whatever file the monitor was started with: what it moves and withdraws is what that generation set up.
    """
    current = state / "current"
    try:
        name = json.loads((current / "manifest.json").read_bytes())["source"]
        source = (current / "source.yaml").read_bytes()
        return (Path(name), source) if name and source else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
