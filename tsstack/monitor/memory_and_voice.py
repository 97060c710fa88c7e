"""What remembers and tells, made of a file and kept over its reloads: history, alerts, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.monitor.alerts import Alerts
from tsstack.monitor.history import DEFAULT_PATH, History
from tsstack.monitor.metrics_server import MetricsServer

if TYPE_CHECKING:
    from tsstack.model.sections import Monitor
    from tsstack.monitor.voice import Voice

_ALERTS = "alerts"


class MemoryAndVoice:
    """Holds one of each. `follow` gives those that a file asks for, the same ones as before where it can."""

    def __init__(self, history_path: Path = DEFAULT_PATH) -> None:
        """Nothing is opened yet."""
        self.history = History(history_path)
        self.alerts: Alerts | None = None
        self.metrics: MetricsServer | None = None

    def follow(self, monitor: Monitor, host: str) -> tuple[Voice, ...]:
        """The listeners of a file. Those of before that are not among them are to be closed by the caller.

        The first call waits for the history's file, five seconds at most. The history comes last, so that
        it is closed after all that still has something to keep.
        """
        if self.alerts is None:
            self.history.start()
            saved = self.history.kept(_ALERTS)
            self.alerts = Alerts(
                monitor.alerts,
                host,
                saved=saved.value if saved else None,
                keep=lambda told: self.history.keep(_ALERTS, told),
            )
        else:
            self.alerts.follow(monitor.alerts, host)
        if self.metrics is not None and self.metrics.address != monitor.metrics:
            self.metrics.close()
            self.metrics = None
        if self.metrics is None and monitor.metrics is not None:
            self.metrics = MetricsServer(monitor.metrics, history=self.history, alerts=self.alerts)
        voices: tuple[Voice, ...] = (self.alerts, self.history)
        return (self.metrics, *voices) if self.metrics is not None else voices
