"""What the monitor is told by a generation: its section of the file, as settings that can be compared. Pure.

The daemon reads the file itself, as the live generation was made from it; the settings are in the tree so
that a change of them alone makes a generation too, is shown, and can be rolled back.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tsstack.parts.part import Change

if TYPE_CHECKING:
    from tsstack.model.sections import Monitor
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Tree

FOLDER = "monitor"
FILE = f"{FOLDER}/settings.json"
_UNITS = {"interval": "s", "probe": "s", "max_latency": "s", "restore_after": "s", "max_loss": "%"}


def render(stack: Stack) -> Tree:
    """The settings as sorted JSON, empty without a `monitor` section."""
    if stack.monitor is None:
        return {}
    return {FILE: json.dumps(_settings(stack.monitor), indent=2, sort_keys=True) + "\n"}


def _settings(monitor: Monitor) -> dict[str, Any]:
    told: dict[str, Any] = monitor.model_dump(mode="json", by_alias=True)
    # An address of an alert may hold a token, and what is rendered is shown in diffs.
    told["alerts"] = [f"{_kind(each)} {_digest(each)}" for each in told["alerts"]]
    told["targets"] = [
        f"{kind} {what}" for each in told["targets"] for kind, what in each.items() if what is not None
    ]
    return told


def _kind(alert: Any) -> str:
    return alert.partition(":")[0] if isinstance(alert, str) else "command"


def _digest(alert: Any) -> str:
    return hashlib.sha256(json.dumps(alert, sort_keys=True).encode()).hexdigest()[:8]


def compare(before: str | None, after: str | None) -> tuple[Change, ...]:
    """A line for each setting that differs; `before` and `after` are texts of FILE, None where there is none.

    A text that cannot be read (ValueError) counts as none: it is about to be replaced.
    """
    old, new = _read(before), _read(after)
    if old is None and new is None:
        return ()
    if old is None or new is None:
        shown = "as the file says"
        return (Change("monitor", None if old is None else shown, None if new is None else shown),)
    return tuple(
        Change(f"monitor.{key}", _shown(key, old.get(key)), _shown(key, new.get(key)))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )


def _read(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _shown(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float | int):
        return f"{value:g} {_UNITS[key]}" if key in _UNITS else f"{value:g}"
    return str(value)
