"""What is no longer as the live generation says, as far as that costs next to nothing: prefs and parameters.

The firewall's table has its own remark; queues, links in /etc and all else are for `tsstack doctor`.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

# Sets, whose order means nothing. The exit node is the monitor's to move, so it is not compared.
_SETS = frozenset({"AdvertiseRoutes", "AdvertiseTags", "AdvertiseServices"})
_MOVED = frozenset({"ExitNodeID"})
# Values of a profile that this kernel does not have are left out by a switch, and that is no drift.
_PROFILE = "kernel.profile"


def read_drift(
    generation: str, prefs: Mapping[str, Any] | None, withdrawn: Sequence[str], *, proc: str = "/proc/sys"
) -> list[str]:
    """A sentence for each difference. `prefs` None: tailscaled could not be asked. Never raises.

    `withdrawn` are routes that the monitor has taken back for now.
    """
    found: list[str] = []
    if prefs is not None:
        wanted = _json(f"{generation}/tailscale/prefs.json").get("prefs")
        found += _prefs(wanted if isinstance(wanted, dict) else {}, prefs, withdrawn)
    origins = _json(f"{generation}/kernel/origins.json")
    for name, value in _json(f"{generation}/kernel/sysctl.json").items():
        if origins.get(name) != _PROFILE and (live := _parameter(proc, name)) not in {None, value}:
            found.append(f"{name} is {live}, not {value}")
    return found


def _prefs(wanted: Mapping[str, Any], live: Mapping[str, Any], withdrawn: Sequence[str]) -> Iterator[str]:
    for name, value in wanted.items():
        if name in _MOVED:
            continue
        if name in _SETS:
            there, meant = {*(live.get(name) or ()), *withdrawn}, {*value, *withdrawn}
            same = there == meant
        else:
            same = (live.get(name) if live.get(name) is not None else "") == value
        if not same:
            yield f"tailscaled's {name} is {_shown(live.get(name))}, not {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _parameter(proc: str, name: str) -> str | None:
    """The live value, blanks normalised; None where there is no such parameter or it may not be read."""
    path = "/".join(part.replace("/", ".") for part in name.split("."))
    try:
        with open(f"{proc}/{path}", "rb") as file:  # noqa: PTH123
            return " ".join(file.read(4096).decode("ascii", "replace").split())
    except OSError:
        return None


def _json(path: str) -> Mapping[str, Any]:
    """A file of the generation; empty where it has none, or none that can be read (TS754 tells that)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            read = json.load(file)
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
