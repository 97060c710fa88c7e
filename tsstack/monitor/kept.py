"""What must outlive the daemon: the choice by hand, the hold-downs, what is withdrawn, what links are like.

One small file, replaced in one rename by a thread, so that a slow or full disk stalls nothing. It is apart
from the history: a damaged database must not cost the choice that a person made.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tsstack.monitor.choice import State, state_from_json
from tsstack.monitor.snapshot import Trouble
from tsstack.monitor.troubles import Troubles
from tsstack.system.files import write_durably

VERSION = 1
_ABOUT = "state"
_LARGEST_BYTES = 8 << 20


class Kept:
    """The file. Read once, when this is made; `troubles` says when it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._troubles = Troubles()
        self._saved: Mapping[str, Any] = self._read()
        self._boot = _boot_id()
        self._written = ""
        self._unwritten = ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kept")

    def horizon_s(self, now_s: float) -> float:
        """The latest time that what was kept can be of: none at all after a reboot."""
        return now_s if self._saved.get("boot") == self._boot else float("-inf")

    def failover(self, now_s: float) -> State | None:
        """What an earlier run knew of the failover; None when there is none, or it is damaged."""
        saved = self._saved.get("failover")
        if not isinstance(saved, Mapping):
            return None
        try:
            return state_from_json(saved, self.horizon_s(now_s))
        except ValueError as error:
            self._troubles.begin(_ABOUT, str(error), "it begins anew")
            return None

    def standby(self) -> object:
        """What was withdrawn, for `Withdrawal.restore`."""
        return self._saved.get("standby") or {"off": [], "records": []}

    def learnt(self) -> Mapping[str, Any]:
        """What was learnt of each link."""
        learnt = self._saved.get("learnt")
        return learnt if isinstance(learnt, Mapping) else {}

    def maintenance(self) -> bool:
        """Whether maintenance was on."""
        return self._saved.get("maintenance") is True

    def maintenance_until(self) -> float | None:
        """When maintenance is to end, seconds since 1970."""
        until = self._saved.get("maintenance_until")
        return float(until) if isinstance(until, int | float) else None

    def keep(
        self,
        *,
        failover: State | None,
        standby: Mapping[str, Any],
        learnt: Mapping[str, Any],
        maintenance: bool = False,
        maintenance_until: float | None = None,
    ) -> None:
        """Write this soon, if it is another than before. Does not wait."""
        saved = {
            "version": VERSION,
            "boot": self._boot,
            # What was kept stays until tailscaled has answered.
            "failover": failover.as_json() if failover else self._saved.get("failover"),
            "standby": standby,
            "maintenance": maintenance,
            "maintenance_until": maintenance_until,
            "learnt": learnt,
        }
        self._saved = saved
        self._pool.submit(self._write, json.dumps(saved))

    def retry(self) -> None:
        """Write what could not be written. Does not wait."""
        if self._unwritten:
            self._pool.submit(self._write, self._unwritten)

    def troubles(self) -> tuple[Trouble, ...]:
        """Why it cannot be read or written now."""
        return self._troubles.standing()

    def close(self) -> None:
        """Wait until it is written."""
        self._pool.shutdown()

    def _read(self) -> Mapping[str, Any]:
        try:
            with self.path.open("rb") as file:
                saved = json.loads(file.read(_LARGEST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._set_aside()
            self._troubles.begin(_ABOUT, f"{self.path} cannot be read: {error}", "the monitor begins anew")
            return {}
        if not isinstance(saved, dict) or saved.get("version") != VERSION:
            return {}
        return saved

    def _set_aside(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rename(self.path.with_suffix(".damaged"))

    def _write(self, text: str) -> None:
        if text == self._written:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, text + "\n", mode=0o600)
        except OSError as error:
            self._unwritten = text
            self._troubles.begin(
                _ABOUT,
                f"{self.path} cannot be written: {error.strerror}",
                "a choice by hand and the hold-downs would not survive a restart",
            )
            return
        self._written, self._unwritten = text, ""
        self._troubles.end(_ABOUT)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
