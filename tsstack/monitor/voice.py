"""Who listens to the monitor: history, metrics, alerts, the log. The seam between watching and telling."""

from __future__ import annotations

from typing import Protocol

from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event, Snapshot, Trouble


class Voice(Protocol):
    """Told of everything, within the event loop's thread: be quick, do not block, do not raise.

    What takes time (a disk, a network) belongs into a task or thread of the listener's own.
    """

    def on_sample(self, sample: Sample) -> None:
        """One probe's outcome. Called hundreds of times a second."""

    def on_event(self, event: Event) -> None:
        """Something happened."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """All that is known, each ten seconds."""

    def troubles(self) -> tuple[Trouble, ...]:
        """What keeps this listener from its work now; the monitor tells it once, and when it is over."""

    def close(self) -> None:
        """The daemon ends: write what is left, give everything back."""
