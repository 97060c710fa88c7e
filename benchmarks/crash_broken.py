"""Faults to put into tsstack, so that one sees that the injector finds them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def _no_record() -> None:
    """The change begins before anything says on disk that it is under way."""
    from tsstack.switch import transaction

    transaction.write_pending = lambda *_: None


def _no_fsync() -> None:
    """Nothing is made durable before the next step builds on it."""
    os.fsync = lambda _: None


def _no_fsync_of_folders() -> None:
    """Files are made durable, and their names are not."""
    from tsstack.switch import generations, record
    from tsstack.system import files

    for module in (files, generations, record):
        module.fsync_folder = lambda _: None  # type: ignore[attr-defined]


def _boot_link_after_the_record() -> None:
    """The record is cleared before the next boot is told of the change."""
    from tsstack.switch import transaction

    def commit(site: Any, pending: Any, mode: Any) -> None:
        transaction.clear_pending(site.paths.state)
        if mode.boot:
            site.store.point("boot", pending.target)

    transaction.commit = commit


def _prefs_stay() -> None:
    """The undoing forgets tailscaled."""
    from tsstack.parts.tailscale.host import TailscalePart

    TailscalePart.restore = lambda *_: None  # type: ignore[method-assign]


def _table_stays() -> None:
    """The undoing forgets the packet filter."""
    from tsstack.parts.firewall.host import Firewall

    Firewall.restore = lambda *_: None  # type: ignore[method-assign]


def _wall_clock() -> None:
    """Deadlines are kept by the wall clock."""
    from tsstack.system.clock import SystemClock

    SystemClock.now_s = lambda _: time.time()  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "no record": _no_record,
    "no fsync": _no_fsync,
    "no fsync of folders": _no_fsync_of_folders,
    "boot link after the record": _boot_link_after_the_record,
    "prefs stay": _prefs_stay,
    "table stays": _table_stays,
    "wall clock": _wall_clock,
}


def break_it(name: str) -> None:
    """Put one in force in this process and its forks; a dead man that is started is whole."""
    FAULTS[name]()
