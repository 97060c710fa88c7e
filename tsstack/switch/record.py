"""The pending record: written before the first change, cleared after the last.

It holds all that is needed to bring the host back: the snapshot of each part that will be touched and
where the links pointed. While it exists, the host is between two generations, and whoever takes the
lock next decides which one it becomes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tsstack.errors import CheckFailed, RollbackFailed
from tsstack.parts.part import Snapshot
from tsstack.system.files import fsync_folder, write_durably

NAME = "pending.json"
RESERVE = "reserve"
_RESERVE_BYTES = 128 * 1024
OVER = f".{NAME}.over"
"""Its name while it is cleared."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that is made or undone (`activating`) or waits for its confirmation (`unconfirmed`)."""

    id: str
    phase: Literal["activating", "unconfirmed"]
    target: int
    new_generation: bool
    """Whether `target` was made for this change, so that undoing it drops it."""
    set_boot: bool
    """Whether the boot link follows once the change is done."""
    previous_current: int
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    """What each part saw before it was touched, in activation order."""
    boot_id: str = ""
    """The boot in which it was written (/proc/sys/kernel/random/boot_id)."""
    deadline_s: float | None = None
    """CLOCK_BOOTTIME at which the dead man rolls back; None without --confirm."""
    holder_pid: int = 0
    holder_start: str = ""
    """Start time of the holder (proc(5), stat field 22), so that a reused pid is not mistaken for it."""
    previous_boot: int | None = None
    """Where the boot link pointed; None in a record that did not note it."""
    sessions: tuple[str, ...] = ()
    """The sessions that were open before the change; they prove nothing about new ones."""
    source: str = ""
    """`digest_of` the file that the change is from; empty for a rollback."""
    waited: bool = False
    """Whether it waited for its confirmation, before its undoing began."""


def digest_of(source: bytes) -> str:
    """Tells one file from another (SHA-256); empty for none."""
    return hashlib.sha256(source).hexdigest() if source else ""


def read_boot_id() -> str:
    """Identifies this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def write_pending(state: Path, pending: Pending) -> None:
    """Make the record durable. On a full disk the reserve makes room for it. Raises OSError."""
    text = json.dumps(asdict(pending)) + "\n"
    try:
        write_durably(state / NAME, text, mode=0o600)
    except OSError as error:
        if error.errno != errno.ENOSPC or not (state / RESERVE).exists():
            raise
        (state / RESERVE).unlink()
        write_durably(state / NAME, text, mode=0o600)


def keep_reserve(state: Path) -> None:
    """Set some room aside, so that a rollback works on a disk that is full. Best effort by its nature.

    Raises CheckFailed when the disk cannot be written at all.
    """
    reserve = state / RESERVE
    if reserve.exists():
        return
    try:
        write_durably(reserve, bytes(_RESERVE_BYTES), mode=0o600)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise CheckFailed(
                f"{reserve} cannot be written: {error.strerror}", hint="nothing was changed; mend the disk"
            ) from error


def read_pending(state: Path) -> Pending | None:
    """The record, or None when the host is wholly one generation.

    Raises RollbackFailed when it is there and cannot be understood: guessing would be worse.
    """
    path = state / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        pending = Pending(**{**fields, "sessions": tuple(fields.get("sessions", ()))})
        if pending.phase not in {"activating", "unconfirmed"} or not isinstance(pending.snapshots, dict):
            raise ValueError("neither a change under way nor one that waits")
    except (ValueError, TypeError, AttributeError) as error:
        raise RollbackFailed(
            f"{path} cannot be understood: {error}",
            hint=f"move it away, then `tsstack rollback --to N`: {state}/boot names the N of the next boot",
        ) from error
    return pending


def clear_pending(state: Path) -> None:
    """The change is over, durably.

    Raises RollbackFailed when the disk does not take that; the record is then where it was, so that the
    change can be undone, by the next command too.
    """
    record, over = state / NAME, state / OVER
    if not record.exists():  # on a read-only disk rename(2) does not even look
        return
    try:
        record.rename(over)
        try:
            fsync_folder(state)
        except OSError:
            over.rename(record)
            raise
    except OSError as error:
        raise RollbackFailed(
            f"{record} cannot be removed: {error}", hint="mend the disk: the next command goes on from there"
        ) from error
    # It is over and cannot be undone any more; the next change removes what is left of a disk that fails now.
    with contextlib.suppress(OSError):
        over.unlink()
