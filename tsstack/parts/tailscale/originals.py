"""What tailscaled's prefs were before tsstack first managed them, kept on disk across generations.

A file that no longer speaks of tailscale puts them back. Only prefs are kept, by their names in
tailscale's ipn/prefs.go; no key is among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tsstack.errors import CheckFailed
from tsstack.system.files import write_durably

FILE = "before.json"
_HELD = "tailscaled's settings from before tsstack"

# An exit node is held in three prefs, of which the daemon lets but one stand (ipn/prefs.go).
_EXIT_NODE = ("ExitNodeID", "ExitNodeIP", "AutoExitNode")
# Up stays up: taking the tailnet down could cut off the very person who asks for it.
_NEVER = frozenset({"WantRunning"})
# Asked for while joining; they are the node's identity from then on.
_JOINED_WITH = frozenset({"AdvertiseTags"})


def read_originals(state: Path) -> dict[str, Any] | None:
    """The original prefs; None where tsstack manages none. Raises CheckFailed when damaged."""
    originals = read_noted(state / FILE, _HELD)
    if originals is None or isinstance(originals, dict):
        return originals
    raise damaged(state / FILE, "no object", _HELD)


def remember_originals(
    state: Path, live: Mapping[str, Any], managed: Iterable[str], *, enrolled: bool
) -> None:
    """Note, before the first of `managed` is changed, what each is; what is noted already stays so.

    Of a node that has not joined these are the daemon's defaults. Raises CheckFailed, OSError.
    """
    left_out = _NEVER if enrolled else _NEVER | _JOINED_WITH
    names = {*managed, *_EXIT_NODE} - left_out
    known = read_originals(state)
    # Without a value the daemon leaves a pref out of its answer (ipn/prefs.go: omitempty).
    noted = {name: live.get(name, "") for name in sorted(names)} | (known or {})
    if noted != known:
        write_originals(state, noted)


def write_originals(state: Path, originals: Mapping[str, Any] | None) -> None:
    """Keep just these, on disk before this returns; None forgets them. Idempotent. Raises OSError."""
    if originals is None:
        (state / FILE).unlink(missing_ok=True)
        return
    state.mkdir(parents=True, exist_ok=True)
    write_durably(state / FILE, json.dumps(originals, indent=2, sort_keys=True) + "\n", mode=0o600)


def read_noted(path: Path, what: str) -> Any:
    """The JSON of a file in the state folder, None when there is no such file; `what` it holds.

    Raises CheckFailed when it cannot be read, saying what to do.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(path, str(error), what) from error


def damaged(path: Path, why: str, what: str) -> CheckFailed:
    """The error for such a file."""
    return CheckFailed(
        f"{path} cannot be read: {why}", hint=f"it holds {what}; move it away to go on without them"
    )
