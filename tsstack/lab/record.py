"""What is remembered of a lab between two commands: a folder below /run with a lock and one JSON file.

The record is written before the first process starts, so whatever dies at whatever point, `down` knows
the token by which it finds what is left.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tsstack.errors import LockedError, UsageError
from tsstack.system.files import write_durably

ROOT = Path("/run/tsstack-lab")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """A fault that is in force: what, where, how much (percent or milliseconds; 0 where it has none)."""

    name: str
    target: str
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One lab. `pids` are the holder processes by node."""

    token: str
    clients: int
    phase: Literal["starting", "up"] = "starting"
    pids: dict[str, int] = field(default_factory=dict)
    faults: tuple[ActiveFault, ...] = ()
    programs: dict[str, str] = field(default_factory=dict)
    """Path of each engine."""


def new_token() -> str:
    """A token that no other lab has."""
    return f"tsstack-lab-{secrets.token_hex(16)}"


class Folder:
    """The lab's folder outside its namespaces."""

    def __init__(self, name: str, root: Path = ROOT) -> None:
        """Raises UsageError for a name that is not letters, digits and hyphens."""
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"not a lab's name: {name!r}", hint="lower-case letters, digits and -, 31 at most"
            )
        self.name = name
        self.path = root / name
        self._lock = root / f"{name}.lock"

    def log(self, node: str) -> Path:
        """Where a node's holder and daemon write."""
        return self.path / f"{node}.log"

    def read(self) -> Record | None:
        """The record, or None when there is no lab."""
        try:
            raw = json.loads((self.path / "lab.json").read_text())
        except FileNotFoundError:
            return None
        raw["faults"] = tuple(ActiveFault(**fault) for fault in raw["faults"])
        return Record(**raw)

    def write(self, record: Record) -> None:
        """Replace the record in one rename."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_durably(self.path / "lab.json", json.dumps(asdict(record), indent=2), mode=0o600)

    def update(self, **changes: object) -> Record:
        """Change some fields of the record. Raises UsageError when there is no lab."""
        record = self.read()
        if record is None:
            raise UsageError(f"there is no lab {self.name!r}", hint="tsstack lab up")
        changed = replace(record, **changes)  # type: ignore[arg-type]  # names are checked by replace
        self.write(changed)
        return changed

    def remove(self) -> None:
        """Forget the lab; the lock's file goes too, and the folder of all labs with the last of them."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.unlink(missing_ok=True)
        if self._lock.parent != ROOT:
            return
        try:
            ROOT.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise

    @contextmanager
    def locked(self, *, timeout_s: float = 120.0) -> Iterator[None]:
        """Nobody else changes the lab meanwhile. Raises LockedError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (descriptor := self._open_lock()) is None or not self._acquire(descriptor, deadline):
            continue
        try:
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int | None:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # The last lab's `down` took the folder away between the two calls.
            return None

    def _acquire(self, descriptor: int, deadline: float) -> bool:
        """Lock it; False, and closed, when `down` has removed the file meanwhile: it locks nothing now."""
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise LockedError(f"another command is busy with the lab {self.name!r}") from None
                time.sleep(0.05)
            else:
                break
        try:
            current = self._lock.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        if not current:
            os.close(descriptor)
        return current
