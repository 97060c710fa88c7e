"""What stands in somebody's way until it is mended: kept by each part of the monitor, told by the daemon."""

from __future__ import annotations

import re
from collections.abc import Iterable
from threading import Lock

from tsstack.monitor.snapshot import Event, Trouble


class Troubles:
    """The troubles that stand now. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._standing: dict[str, Trouble] = {}

    def begin(self, about: str, message: str, hint: str = "") -> None:
        """Something is wrong. Said again, it replaces what was said of the same thing."""
        with self._lock:
            self._standing[about] = Trouble(about, message, hint)

    def end(self, about: str) -> None:
        """It is mended, or never was."""
        with self._lock:
            self._standing.pop(about, None)

    def standing(self) -> tuple[Trouble, ...]:
        """What stands now, the oldest first."""
        with self._lock:
            return tuple(self._standing.values())


def changes(before: Iterable[Trouble], after: Iterable[Trouble], at: float) -> list[Event]:
    """The events that make one set of troubles into the other: each begins once and ends once.

    One that stands with other words is another fault, and told; other numbers alone are no news.
    """
    old = {each.about: each for each in before}
    new = {each.about: each for each in after}
    events = []
    for about, trouble in new.items():
        if about not in old or _words(old[about]) != _words(trouble):
            hint = f" ({trouble.hint})" if trouble.hint else ""
            data = {"message": trouble.message, "hint": trouble.hint}
            events.append(Event(at, "trouble", "warning", about, trouble.message + hint, data))
    for about, trouble in old.items():
        if about not in new:
            data = {"message": trouble.message}
            events.append(Event(at, "trouble", "info", about, f"over: {trouble.message}", data, over=True))
    return events


def _words(trouble: Trouble) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", trouble.message)
