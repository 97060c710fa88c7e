"""Who listens to this daemon, from its file: the log, and what remembers and alerts."""

from __future__ import annotations

from collections.abc import Callable

from tsstack.monitor.events import EventPrinter
from tsstack.monitor.sample import Sample
from tsstack.monitor.settings import Settings
from tsstack.monitor.snapshot import Event, Snapshot, Trouble
from tsstack.monitor.voice import Voice


class Log:
    """Every event as a line on standard error, which is the journal's under systemd."""

    def __init__(self) -> None:
        self._printer = EventPrinter()

    def on_sample(self, sample: Sample) -> None:
        """Samples are no news."""

    def on_event(self, event: Event) -> None:
        """One line."""
        self._printer.print(event)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """The state is no news."""

    def troubles(self) -> tuple[Trouble, ...]:
        """None: a log that cannot be written has nobody to tell."""
        return ()

    def close(self) -> None:
        """Nothing to give back."""


def make_voices(settings: Settings, state: Callable[[], Snapshot]) -> tuple[Voice, ...]:
    """All listeners of a file."""
    return (Log(),)
