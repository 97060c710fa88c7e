"""The monitor's memory: what each path did, what happened, and what must outlive a restart.

Taking something in costs a few dictionary operations and never waits. A thread of its own writes each ten
seconds, in one transaction. When the disk is full or the file cannot be written, it keeps the latest in
memory, says so once, and goes on when it can. `Archive` reads, from any process.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from threading import Event as Signal
from typing import Any

from tsstack.monitor.aging import Aging
from tsstack.monitor.database import Database, Document, Row, fault_of, set_aside
from tsstack.monitor.rollup import SEVERITY, TIERS, Bucket, starts
from tsstack.monitor.sample import Sample
from tsstack.monitor.snapshot import Event, Snapshot, Trouble
from tsstack.monitor.troubles import Troubles
from tsstack.system.clock import Clock, SystemClock

DEFAULT_PATH = Path("/var/lib/tsstack/monitor/history.db")
LIMIT_BYTES = 50_000_000
"""All of its files together, WAL and index included."""
ROWS_MOST, EVENTS_MOST = 20_000, 1_000
"""What is kept in memory while nothing can be written: the newest; about 5 MB."""
RETRY_S = 30.0
_TIDY_S = 600.0
_GATHER_S = 1.0
_ROWS_AT_ONCE, _EVENTS_AT_ONCE = 500, 50
_ABOUT = "history"
_CLOCK = "clock"
_RANK = {level: number for number, level in enumerate(SEVERITY)}
_WIDTH_S = TIERS[0].width_s


@dataclass(frozen=True, slots=True)
class HistoryStatus:
    """How the memory itself does."""

    size_bytes: int
    limit_bytes: int
    writing: bool
    """False while the file cannot be written."""
    waiting: int
    """Buckets and events that are not written yet."""
    dropped: int
    """Buckets and events that were lost since the start because nothing could be written for too long."""


class History:
    """Takes in samples, events and small documents; a `Voice`. All but `start` and `close` return at once."""

    def __init__(
        self,
        path: Path = DEFAULT_PATH,
        *,
        limit_bytes: int = LIMIT_BYTES,
        retry_s: float = RETRY_S,
        clock: Clock | None = None,
        boot_id: str | None = None,
    ) -> None:
        """Nothing is opened before `start`. ValueError for a limit that leaves no room (below 1 MB)."""
        if limit_bytes < 1_000_000:
            raise ValueError("a history needs a limit of 1 MB at least")
        self.path = path
        self._limit_bytes = limit_bytes
        self._retry_s = retry_s
        self._clock = clock or SystemClock()
        self._boot = boot_id if boot_id is not None else _boot_id()
        self._open: dict[str, Bucket] = {}
        self._start = 0
        self._levels: dict[str, int] = {}
        self._jitters: dict[str, float | None] = {}
        # Shared with the writer, under the condition's lock.
        self._wake = Condition()
        self._rows: deque[Row] = deque()
        self._events: deque[Event] = deque()
        self._dirty: dict[str, Document] = {}
        self._documents: dict[str, Document] = {}
        self._dropped = 0
        self._ending = False
        self._writing = True
        self._size_bytes = 0
        # The writer's own.
        self._database: Database | None = None
        self._asides: list[Path] = []
        self._tidied_s: float | None = None
        self._aging: Aging | None = None
        self._troubles = Troubles()
        self._ready = Signal()
        self._thread = Thread(target=self._run, name="history", daemon=True)

    def start(self, *, wait_s: float = 5.0) -> None:
        """Open the file; waits so long at most for it, so that `kept` knows what an earlier run left."""
        self._thread.start()
        self._ready.wait(wait_s)

    def close(self, *, wait_s: float = 5.0) -> None:
        """Write what is left; waits so long at most."""
        self._hand_over(self._open)
        self._open = {}
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def on_sample(self, sample: Sample) -> None:
        """Count one probe's outcome, in the bucket of now: a lost one is known a moment later."""
        now = self._clock.unix_s()
        if not self._start <= now < self._start + _WIDTH_S:
            self._turn(now)
        bucket = self._open.get(sample.path)
        if bucket is None:
            bucket = self._open[sample.path] = Bucket(worst=self._levels.get(sample.path, 0))
        if sample.rtt_s is None:
            bucket.lost += 1
            return
        bucket.rtts.add(sample.rtt_s)
        if sample.via != "unknown":
            bucket.known += 1
            bucket.relayed += sample.via == "relay"

    def on_event(self, event: Event) -> None:
        """Keep an event; `path-LEVEL` also marks the path's bucket."""
        level = event.code.removeprefix("path-")
        if level != event.code and level in _RANK:
            self._mark(event.about, _RANK[level])
        with self._wake:
            self._events.append(event)
            self._bound()
            self._wake.notify()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Take the levels and the jitter of all paths."""
        self._levels = {each.key: _RANK[each.level] for each in snapshot.paths}
        self._jitters = {each.key: each.windows[0].jitter_s for each in snapshot.paths if each.windows}
        for key, level in self._levels.items():
            self._mark(key, level)
        now = self._clock.unix_s()
        if not self._start <= now < self._start + _WIDTH_S:
            self._turn(now)

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a small document (JSON values) with this boot's id. The same again costs nothing."""
        text = json.loads(json.dumps(value))
        with self._wake:
            before = self._documents.get(name)
            if before is not None and before.value == text and before.boot == self._boot:
                return
            document = Document(name, self._clock.unix_s(), self._boot, text)
            self._documents[name] = self._dirty[name] = document
            self._wake.notify()

    def kept(self, name: str) -> Document | None:
        """A document as it was kept last, by this run or one before."""
        with self._wake:
            return self._documents.get(name)

    def troubles(self) -> tuple[Trouble, ...]:
        """What stands in its way now."""
        return self._troubles.standing()

    def status(self) -> HistoryStatus:
        """How it does."""
        with self._wake:
            waiting = len(self._rows) + len(self._events)
            return HistoryStatus(self._size_bytes, self._limit_bytes, self._writing, waiting, self._dropped)

    def _mark(self, key: str, level: int) -> None:
        self._levels[key] = level
        bucket = self._open.get(key)
        if bucket is not None and level > bucket.worst:
            bucket.worst = level

    def _turn(self, now: float) -> None:
        """The time of the open buckets is over (or the clock was set): hand them to the writer."""
        done, self._open = self._open, {}
        self._hand_over(done)
        self._start = starts(0, now)

    def _hand_over(self, done: dict[str, Bucket]) -> None:
        if not done:
            return
        for key, bucket in done.items():
            bucket.jitter_s = self._jitters.get(key)
        with self._wake:
            self._rows.extend((self._start, key, bucket) for key, bucket in done.items())
            self._bound()
            self._wake.notify()

    def _bound(self) -> None:
        """The oldest go when nothing could be written for too long."""
        while len(self._rows) > ROWS_MOST:
            self._rows.popleft()
            self._dropped += 1
        while len(self._events) > EVENTS_MOST:
            self._events.popleft()
            self._dropped += 1

    # From here on: the writer's thread.

    def _run(self) -> None:
        failed = not self._attempt()
        self._ready.set()
        while True:
            with self._wake:
                if failed:
                    self._wake.wait_for(lambda: self._ending, timeout=self._retry_s)
                else:
                    self._wake.wait_for(self._has_work, timeout=_TIDY_S)
                    # What comes within a second is one transaction.
                    self._wake.wait_for(lambda: self._ending, timeout=_GATHER_S)
                ending = self._ending
            failed = not self._attempt()
            if ending:
                break
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # what was written stays; the next run reads the WAL
                self._database.close()

    def _has_work(self) -> bool:
        return self._ending or bool(self._rows or self._events or self._dirty)

    def _attempt(self) -> bool:
        """Write what there is, step by step; False when the rest has to be tried again later."""
        mended = False
        while True:
            rows, events, dirty = self._take()
            try:
                database = self._write(rows, events, dirty)
                rows, events, dirty = [], [], {}
                self._tidy(database)
            except (sqlite3.Error, OSError, ValueError) as error:
                self._give_back(rows, events, dirty)
                if mended or fault_of(error) != "damaged" or not self._replace(error):
                    self._tell_failure(error)
                    return False
                mended = True
                continue
            with self._wake:
                if not (self._rows or self._events or self._dirty):
                    break
        self._tell_success()
        return True

    def _take(self) -> tuple[list[Row], list[Event], dict[str, Document]]:
        """What the next transaction writes: not too much, so that the WAL stays small."""
        with self._wake:
            rows = [self._rows.popleft() for _ in range(min(len(self._rows), _ROWS_AT_ONCE))]
            events = [self._events.popleft() for _ in range(min(len(self._events), _EVENTS_AT_ONCE))]
            dirty, self._dirty = self._dirty, {}
        return rows, events, dirty

    def _give_back(self, rows: list[Row], events: list[Event], dirty: dict[str, Document]) -> None:
        with self._wake:
            self._rows.extendleft(reversed(rows))
            self._events.extendleft(reversed(events))
            self._dirty = {**dirty, **self._dirty}
            self._bound()

    def _write(self, rows: list[Row], events: list[Event], dirty: dict[str, Document]) -> Database:
        if self._database is not None and self._database.replaced:
            self._database.close()
            self._database = None
        if self._database is None:
            self._database = self._reopen(dirty)
        if not (rows or events or dirty):
            return self._database
        try:
            self._database.write(rows, events, dirty.values())
        except sqlite3.Error as error:
            # Full may mean our own limit, which is helped by making room.
            if fault_of(error) != "full" or not self._database.too_large:
                raise
            self._database.keep_within(self._clock.unix_s())
            self._database.write(rows, events, dirty.values())
        return self._database

    def _reopen(self, dirty: dict[str, Document]) -> Database:
        """Open the file; what this run knows and the file lacks becomes `dirty`."""
        database = Database.open(self.path, self._limit_bytes)
        try:
            # A WAL that a full disk left behind would take the room that the next attempt needs.
            database.checkpoint(always=True)
            found = database.documents()
            database.check()
        except BaseException:
            database.close()
            raise
        if self._aging is None:
            self._aging = self._resume(found.get(_CLOCK), database.newest())
        with self._wake:
            for name, document in self._documents.items():
                if name not in found:
                    dirty.setdefault(name, document)
            self._documents = {**found, **self._documents}
        return database

    def _resume(self, kept: Document | None, newest: int | None) -> Aging | None:
        """What is known of time: what an earlier run believed, else the newest bucket; None: nothing is."""
        now_s = self._clock.now_s()
        if kept is not None:
            with contextlib.suppress(ValueError):
                return Aging.restored(kept.value, now_s, same_boot=kept.boot == self._boot != "")
        if newest is None:
            return None
        aging = Aging(newest, now_s)
        self.keep(_CLOCK, aging.export())  # buckets have the time of this clock from now on
        return aging

    def _replace(self, error: Exception) -> bool:
        """Put a damaged file aside, so that the next attempt makes a new one."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # it is damaged: closing it may fail like all else
                self._database.close()
            self._database = None
        try:
            aside = set_aside(self.path, self._clock.unix_s())
        except OSError as refused:
            self._troubles.begin(
                _ABOUT,
                f"{self.path} cannot be read ({_words(error)}) and not be renamed ({_words(refused)})",
                f"move {self.path} away; measuring goes on without a history",
            )
            return False
        self._asides.append(aside)
        self._troubles.begin(
            f"{_ABOUT} damaged",
            f"{self.path} could not be read ({_words(error)}): a new one is begun",
            f"the old one is {aside}: `sqlite3 {aside} .recover` may read it; delete it when it is of no use",
        )
        return True

    def _tidy(self, database: Database) -> None:
        """Roll up each time; drop what is too old each ten minutes, and what is too much at once."""
        wall, steady = self._clock.unix_s(), self._clock.now_s()
        database.roll_up(wall)
        database.checkpoint()
        if self._tidied_s is None:
            self._tidied_s = steady
        elif steady - self._tidied_s >= _TIDY_S:
            self._tidied_s = steady
            if self._may_age_out(wall, steady):
                database.prune(wall)
        if database.too_large:
            database.keep_within(wall)
        with self._wake:
            self._size_bytes = database.size_bytes()
        self._asides = [each for each in self._asides if each.exists()]
        if not self._asides:
            self._troubles.end(f"{_ABOUT} damaged")

    def _may_age_out(self, wall: float, steady: float) -> bool:
        """Whether the clock is believed. Asked each ten minutes alone, as after a start it may be set yet."""
        believed = self._aging is not None and self._aging.believes(wall, steady)
        if self._aging is None:
            self._aging = Aging(wall, steady)
        self.keep(_CLOCK, self._aging.export())
        return believed

    def _tell_failure(self, error: Exception) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # it is opened anew at the next attempt
                self._database.close()
            self._database = None
        with self._wake:
            self._writing = False
        if any(each.about == _ABOUT for each in self._troubles.standing()):
            return
        hint = _hint(self.path, error)
        self._troubles.begin(
            _ABOUT,
            f"the history cannot be written: {_words(error)} ({self.path})",
            f"{hint}; measuring goes on, the latest is kept in memory",
        )

    def _tell_success(self) -> None:
        with self._wake:
            self._writing = True
        self._troubles.end(_ABOUT)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _boot_id() -> str:
    """random(4): /proc/sys/kernel/random/boot_id; empty where there is no proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _hint(path: Path, error: Exception) -> str:
    folder = path.parent
    match fault_of(error):
        case "full":
            return f"make room on the file system of {folder} (`df {folder}`)"
        case "locked":
            return f"end the program that holds it (`fuser -v {path}`)"
    return f"{folder} must be writable for the monitor (`ls -ld {folder}`, `findmnt -T {folder}`)"
