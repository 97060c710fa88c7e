"""What the host was told to be: the links and the record that `tsstack switch` leaves."""

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tsstack.status.shape import Generation, Pending


def read_generation(state: str) -> Generation:
    """The live generation, that of the next boot, and a switch that is not over. Never raises."""
    current = _target(f"{state}/current")
    made, source, error = _manifest(f"{state}/current/manifest.json") if current else (None, "", "")
    return {
        "current": current,
        "boot": _target(f"{state}/boot"),
        "made": made,
        "source": source,
        "pending": _pending(f"{state}/pending.json"),
        "error": error,
        "drift": [],
    }


def _manifest(path: str) -> tuple[float | None, str, str]:
    """When it was made, from which file, and why that cannot be read (empty: it can)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            manifest = json.load(file)
        return float(manifest["created_unix_s"]), str(manifest["source"]), ""
    except FileNotFoundError:
        return None, "", "it is not there"
    except PermissionError:
        return None, "", "reading it needs root"
    except (OSError, ValueError, KeyError, TypeError):
        return None, "", "its manifest is damaged"


def _target(link: str) -> int:
    try:
        name = os.path.basename(os.readlink(link))  # noqa: PTH115, PTH119
    except OSError:
        return 0
    return int(name) if name.isdigit() else 0


def _pending(path: str) -> Pending | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            record = json.load(file)
        deadline_s = record["deadline_s"]
        left_s = None if deadline_s is None else deadline_s - time.clock_gettime(time.CLOCK_BOOTTIME)
        return {
            "change": str(record["id"]),
            "generation": int(record["target"]),
            "phase": str(record["phase"]),
            "left_s": left_s,
        }
    except FileNotFoundError:
        return None
    except PermissionError:
        # Only root may read it; that it is there everyone sees.
        return {"change": "", "generation": 0, "phase": "unknown", "left_s": None}
    except (OSError, ValueError, KeyError, TypeError):
        return {"change": "", "generation": 0, "phase": "damaged", "left_s": None}
