"""A host's links as tests need them: states, a history on disk, and a socket that really serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event as Signal
from threading import Thread
from typing import Any, cast

from tsstack.monitor.book import kind_of
from tsstack.monitor.control import Control
from tsstack.monitor.daemon import Listeners, Monitor
from tsstack.monitor.database import Database
from tsstack.monitor.quality import Histogram, Quality, bucket
from tsstack.monitor.reasons import Cause
from tsstack.monitor.rollup import SEVERITY, Bucket
from tsstack.monitor.snapshot import Event, ExitStatus, PathStatus, RouteStatus, Snapshot, Trouble
from tsstack.monitor.verdict import Level

NOON = 1_800_014_400.0


def quality(window_s: float, rtt_s: float | None, loss: float = 0.0, relayed: float | None = None) -> Quality:
    if rtt_s is None:
        return Quality(window_s, window_s, 100, 100, None, None, None, None, None)
    lost = round(100 * loss)
    return Quality(window_s, window_s, 100, lost, rtt_s, rtt_s * 1.3, rtt_s * 2, rtt_s / 10, relayed)


def path(
    key: str,
    level: Level = "good",
    rtt_s: float | None = 0.02,
    *,
    loss: float = 0.0,
    relayed: float | None = None,
    causes: tuple[Cause, ...] = (),
    since: float = NOON - 252,
    error: str = "",
) -> PathStatus:
    windows = tuple(quality(each, rtt_s, loss, relayed) for each in (10.0, 60.0, 900.0))
    return PathStatus(
        key, kind_of(key), "monitor", level, causes, since, windows, rtt_s, "direct", "tailscale0", error
    )


def state(
    *paths: PathStatus,
    at: float = NOON,
    exit_status: ExitStatus | None = None,
    routes: tuple[RouteStatus, ...] = (),
    troubles: tuple[Trouble, ...] = (),
) -> Snapshot:
    return Snapshot(at, at - 3600, "mint", "0.1.0", paths, exit_status, routes, troubles)


Row = tuple[float, str, float | None, Level]
"""When, which path, its round trip (None: lost), and what it was."""


def write_history(file: Path, rows: Sequence[Row], events: Sequence[Event] = (), probes: int = 20) -> None:
    """A history with one bucket of ten seconds for each row."""
    base = Database.open(file, 50_000_000)
    buckets = []
    for at, key, rtt_s, level in rows:
        rtts = Histogram() if rtt_s is None else Histogram({bucket(rtt_s): probes})
        lost = probes if rtt_s is None else 0
        jitter_s = None if rtt_s is None else rtt_s / 10
        buckets.append((int(at) // 10 * 10, key, Bucket(lost, rtts, 0, 0, jitter_s, SEVERITY.index(level))))
    buckets.sort(key=lambda each: each[0])
    base.write(buckets, events, ())
    base.roll_up(max((at for at, *_ in rows), default=0) + 30)
    base.close()


class Watching:
    """What the socket needs of a monitor: a state, and events to tell."""

    def __init__(self, snapshot: Snapshot, events: Sequence[Event] = ()) -> None:
        self.now = snapshot
        self.listeners = Listeners()
        self.listeners.recent.extend(events)
        self.loop: asyncio.AbstractEventLoop | None = None

    def snapshot(self) -> Snapshot:
        return self.now

    def tell(self, *events: Event) -> None:
        """From the test's thread."""
        assert self.loop is not None
        for event in events:
            self.loop.call_soon_threadsafe(self.listeners.tell, event)


@contextlib.contextmanager
def served(socket: Path, watching: Watching) -> Iterator[Watching]:
    """The real socket beside the test, as the daemon serves it."""
    began, ending = Signal(), Signal()

    async def nothing() -> Any:
        return ""

    async def main() -> None:
        control = Control(socket, lambda: cast("Monitor", watching), reload=nothing, test_alert=nothing)
        await control.start()
        watching.loop = asyncio.get_running_loop()
        began.set()
        try:
            while not ending.is_set():
                await asyncio.sleep(0.02)
        finally:
            await control.close()

    thread = Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert began.wait(10), "the socket is not served"
        yield watching
    finally:
        ending.set()
        thread.join(10)
        assert not thread.is_alive()
