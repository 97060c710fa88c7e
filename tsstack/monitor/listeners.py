"""Who listens to this daemon, from its file: the log, and what remembers and alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsstack.errors import TsstackError
from tsstack.monitor.alerts import Alerts
from tsstack.monitor.archive import Archive
from tsstack.monitor.events import EventPrinter
from tsstack.monitor.history import History
from tsstack.monitor.metrics import More
from tsstack.monitor.metrics_server import MetricsServer
from tsstack.monitor.sample import Sample
from tsstack.monitor.settings import Settings
from tsstack.monitor.snapshot import Event, Snapshot, Trouble
from tsstack.monitor.voice import Voice

_ALERTS = "alerts"


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


def earlier_events(history: Path, limit: int = 1000) -> list[Event]:
    """What happened before this run, the latest last; nothing when that cannot be read."""
    try:
        return Archive(history).events(limit=limit)
    except TsstackError:
        return []  # the history itself says what is wrong with its file


class Audience:
    """All listeners of a daemon: the log, the history, alerts, metrics. Made before the first event."""

    def __init__(self, history: Path, settings: Settings, more: More | None = None) -> None:
        """Opens the history; what the alerts told before is taken up from it. `more`: for the metrics."""
        self._more = more
        self._history = History(history)
        self._history.start()
        told = self._history.kept(_ALERTS)
        saved = told.value if told is not None else None
        self._alerts = Alerts(settings.alerts, settings.host, saved=saved)
        self._log = Log()
        self._metrics: MetricsServer | None = None
        self._serve(settings.metrics)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Who is to be told; asked for anew after `follow`."""
        metrics = (self._metrics,) if self._metrics is not None else ()
        return (self._log, self._history, self._alerts, *metrics)

    def follow(self, settings: Settings) -> None:
        """The file, read anew: what stays goes on."""
        self._alerts.follow(settings.alerts, settings.host)
        self._serve(settings.metrics)

    def keep(self) -> None:
        """Have it remembered who was told of what, so that a recovery finds them after a restart."""
        self._history.keep(_ALERTS, self._alerts.export())

    def test(self) -> list[dict[str, Any]]:
        """Send a test alert to everyone. Blocks for as long as the slowest channel."""
        return self._alerts.test()

    def close(self) -> None:
        """Send and write what waits, within seconds."""
        self._alerts.close()
        self.keep()
        if self._metrics is not None:
            self._metrics.close()
        self._history.close()

    def _serve(self, address: str | None) -> None:
        if self._metrics is not None and self._metrics.address == address:
            return
        if self._metrics is not None:
            self._metrics.close()
        self._metrics = None
        if address is not None:
            self._metrics = MetricsServer(
                address, history=self._history, alerts=self._alerts, more=self._more
            )
