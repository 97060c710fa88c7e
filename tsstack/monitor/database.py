"""The file of the history: its schema, its one writer, and its bounds.

WAL lets readers of other processes read while the daemon writes. `synchronous=NORMAL` means that a power cut
may cost the latest seconds, never the file (sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import inf
from pathlib import Path
from time import gmtime, strftime
from typing import Any, Literal, Self

from tsstack.monitor.buckets import bounds, bucket_rows, newest_before, of_tier
from tsstack.monitor.rollup import TIERS, Bucket, cut, pack, starts
from tsstack.monitor.snapshot import Event

VERSION = 1
APPLICATION = 0x7473746B  # "tstk"
PAGE_BYTES = 4096
CACHE_KIB = 1024
ASIDES = 3
"""So many damaged databases are kept, the newest."""
EVENTS_MOST, EVENTS_LEAST = 10_000, 1_000
"""Events that are kept, and that are kept even when room is short."""
_TEXT_MOST, _DATA_MOST = 1000, 4000
_FUTURE_S = 86400
_ROWS_AT_ONCE = 10_000
_ROLLED_AT_ONCE = 5000
_PATHS_MOST = 2000  # names beyond so many are looked through for those that nothing is kept of

Fault = Literal["damaged", "full", "locked", "unwritable"]
# By the primary code, the low byte: sqlite.org/rescode.html.
_BY_CODE: dict[int, Fault] = {
    sqlite3.SQLITE_CORRUPT: "damaged", sqlite3.SQLITE_NOTADB: "damaged", sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked", sqlite3.SQLITE_LOCKED: "locked",
}  # fmt: skip
Row = tuple[int, str, Bucket]
"""Start of a bucket of the finest tier, path, what happened."""


_SCHEMA = (
    "CREATE TABLE paths (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE)",
    *(
        of_tier(
            number,
            "CREATE TABLE BUCKETS (at INTEGER NOT NULL, path INTEGER NOT NULL, lost INTEGER NOT NULL,"
            " rtts BLOB NOT NULL, relayed INTEGER NOT NULL, known INTEGER NOT NULL, jitter_us INTEGER,"
            " worst INTEGER NOT NULL, answered INTEGER NOT NULL, PRIMARY KEY (at, path)) WITHOUT ROWID",
        )
        for number in range(len(TIERS))
    ),
    "CREATE TABLE events (id INTEGER PRIMARY KEY, at REAL NOT NULL, code TEXT NOT NULL,"
    " severity INTEGER NOT NULL, about TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL,"
    " over INTEGER NOT NULL)",
    "CREATE TABLE documents (name TEXT PRIMARY KEY, at REAL NOT NULL, boot TEXT NOT NULL,"
    " value TEXT NOT NULL) WITHOUT ROWID",
)
SEVERITY_CODES = {"info": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Document:
    """A small value that outlives the daemon."""

    name: str
    at: float
    """When it was kept, seconds since 1970."""
    boot: str
    """The boot that its monotonic times belong to (random(4): boot_id)."""
    value: dict[str, Any]


def fault_of(error: Exception) -> Fault:
    """What an error of SQLite or of the file system means for the history."""
    if isinstance(error, ValueError):
        return "damaged"
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return "full"
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return _BY_CODE.get(code & 0xFF, "unwritable")


class Database:
    """The history's file, open for writing. Used by one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path, limit_bytes: int) -> None:
        self._sql = connection
        self._path = path
        self._limit_bytes = limit_bytes
        self._inode = path.stat().st_ino
        self._ids: dict[str, int] = {}
        self._rolled: list[int | None] = [None] * len(TIERS)
        self._load()

    @classmethod
    def open(cls, path: Path, limit_bytes: int) -> Self:
        """Open or make it. Raises sqlite3.Error, OSError or ValueError: `fault_of` says what that means."""
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, limit_bytes)
            return cls(connection, path, limit_bytes)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Give the file back, with everything in it and no WAL beside it."""
        self._sql.close()

    @property
    def replaced(self) -> bool:
        """Whether the file at our path is not ours any more: removed, or another one put there."""
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def check(self) -> None:
        """Read all of it; sqlite3.DatabaseError or ValueError when it is damaged anywhere."""
        (found,) = self._sql.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(f"the database is damaged: {found}")

    def documents(self) -> dict[str, Document]:
        """All documents by name. ValueError for one that cannot be read."""
        rows = self._sql.execute("SELECT name, at, boot, value FROM documents")
        return {name: Document(name, at, boot, json.loads(value)) for name, at, boot, value in rows}

    def newest(self) -> int | None:
        """The start of the newest bucket of all; None for an empty history."""
        return max((last for tier in range(len(TIERS)) if (last := self._bounds(tier)[1])), default=None)

    def size_bytes(self) -> int:
        """What its files take on disk."""
        names = (self._path, *companions(self._path))
        return sum(each.stat().st_size for each in names if each.exists())

    def write(self, rows: Iterable[Row], events: Iterable[Event], documents: Iterable[Document]) -> None:
        """Keep all of these, or none when this raises."""
        with _Transaction(self._sql):
            for at, group in groupby(rows, key=lambda row: row[0]):
                self._add(at, [(key, bucket) for _, key, bucket in group])
            self._sql.executemany(
                "INSERT INTO events (at, code, severity, about, text, data, over)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (_event_row(each) for each in events),
            )
            self._sql.executemany(
                "INSERT OR REPLACE INTO documents (name, at, boot, value) VALUES (?, ?, ?, ?)",
                ((each.name, each.at, each.boot, json.dumps(each.value)) for each in documents),
            )

    def roll_up(self, now: float) -> None:
        """Make the coarse buckets whose time is over at `now` of the finer ones."""
        for tier in range(1, len(TIERS)):
            end = starts(tier, now)
            begin = self._rolled[tier]
            if begin is None:
                begin = self._begin(tier, end)
            # In steps, as it may be months: a clock that was behind is set right.
            while begin is not None and begin < end:
                step = self._step(tier, begin, end)
                self._roll(tier, begin, step)
                self._rolled[tier] = begin = step
                self.checkpoint()

    def prune(self, now: float) -> None:
        """Drop what is older than its tier keeps, what is of a time that has not come, and surplus events."""
        for number, tier in enumerate(TIERS):
            self._drop(number, -inf, cut(number, now - tier.keep_s))
            self._drop(number, now + _FUTURE_S, inf)
        self._drop_events(EVENTS_MOST)
        if len(self._ids) > _PATHS_MOST:
            self._sql.execute(
                "DELETE FROM paths WHERE id NOT IN (SELECT path FROM buckets_0 UNION SELECT path FROM"
                " buckets_1 UNION SELECT path FROM buckets_2 UNION SELECT path FROM buckets_3)"
            )
            self._load()

    def keep_within(self, now: float) -> None:
        """Drop the oldest of the finest until the file is within its limit; each tier's least goes last."""
        for floors in (True, False):
            for number, tier in enumerate(TIERS):
                while self._pages() > self._soft_pages() and self._thin(
                    number, now, tier.least_s if floors else 0
                ):
                    self.checkpoint()
            if floors and self._pages() > self._soft_pages():
                self._drop_events(EVENTS_LEAST)
        most = EVENTS_LEAST
        while most and self._pages() > self._soft_pages():
            most //= 2
            self._drop_events(most)
        # Given back in steps: all at once would go through the WAL as a whole.
        while self._sql.execute("PRAGMA freelist_count").fetchone()[0] > self._soft_pages() // 8:
            self._sql.execute("PRAGMA incremental_vacuum(256)").fetchall()
            self.checkpoint()

    @property
    def too_large(self) -> bool:
        """Whether it is past the size from which on it is made smaller."""
        return self._pages() > self._soft_pages()

    def checkpoint(self, *, always: bool = False) -> None:
        """Bring the WAL into the file when it has grown (or `always`); a busy reader puts it off.

        The WAL takes at most a share of the limit, and of what is free: else it would fill a small disk.
        """
        wal, disk = companions(self._path)[0], os.statvfs(self._path.parent)
        most = min(self._limit_bytes // 32, disk.f_bavail * disk.f_frsize // 4)
        if always or (wal.exists() and wal.stat().st_size > most):
            self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _load(self) -> None:
        self._ids = dict(self._sql.execute("SELECT key, id FROM paths").fetchall())

    def _id(self, key: str) -> int:
        found = self._ids.get(key)
        if found is None:
            self._sql.execute("INSERT OR IGNORE INTO paths (key) VALUES (?)", (key,))
            (found,) = self._sql.execute("SELECT id FROM paths WHERE key = ?", (key,)).fetchone()
            self._ids[key] = found
        return found

    def _add(self, at: int, buckets: list[tuple[str, Bucket]]) -> None:
        """Buckets of one time: what is there already (a restart, a clock set back) is added to."""
        for tier in range(1, len(TIERS)):
            rolled = self._rolled[tier]
            if rolled is not None and at < rolled:
                self._rolled[tier] = starts(tier, at)  # late, or the clock was set back: made again
        there = {path: bucket for _, path, bucket in self._span(0, at, at + 1)}
        rows = []
        for key, bucket in buckets:
            path = self._id(key)
            before = there.get(path)
            if before is not None:
                before.merge(bucket)
            merged = before if before is not None else bucket
            there[path] = merged
            rows.append(_bucket_row(at, path, merged))
        self._sql.executemany(
            of_tier(0, "INSERT OR REPLACE INTO BUCKETS VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"), rows
        )

    def _begin(self, tier: int, end: int) -> int | None:
        """From where on a tier has to be made: its newest bucket (which may be cut short), or all.

        What is of a time that has not come stands apart: the clock was set wrong, then or now.
        """
        newest = newest_before(self._sql, tier, end)
        if newest is not None:
            return newest
        oldest = self._bounds(tier - 1)[0]
        return None if oldest is None else starts(tier, oldest)

    def _step(self, tier: int, begin: int, end: int) -> int:
        """Until where a tier is made at once: few finer buckets, but those of one coarse bucket at least."""
        statement = "SELECT at FROM BUCKETS WHERE at >= ? AND at < ? ORDER BY at LIMIT 1 OFFSET ?"
        row = self._sql.execute(of_tier(tier - 1, statement), (begin, end, _ROLLED_AT_ONCE)).fetchone()
        return end if row is None else max(starts(tier, row[0]), begin + TIERS[tier].width_s)

    def _roll(self, tier: int, begin: int, end: int) -> None:
        finer = bucket_rows(self._sql, tier - 1, begin, end)
        with _Transaction(self._sql):
            for start, group in groupby(finer, key=lambda row: starts(tier, row[0])):
                self._put_rollup(tier, start, group)

    def _bounds(self, tier: int) -> tuple[int, int] | tuple[None, None]:
        return bounds(self._sql, tier)

    def _span(self, tier: int, start: int, end: int) -> list[tuple[int, int, Bucket]]:
        return list(bucket_rows(self._sql, tier, start, end))

    def _put_rollup(self, tier: int, start: int, rows: Iterable[tuple[int, int, Bucket]]) -> None:
        merged: dict[int, Bucket] = {}
        for _, path, bucket in rows:
            if path in merged:
                merged[path].merge(bucket)
            else:
                merged[path] = bucket
        # Made again of less (finer buckets are gone): the one that knows more stays.
        self._sql.executemany(
            of_tier(
                tier,
                "INSERT INTO BUCKETS VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (at, path) DO UPDATE SET"
                " lost = excluded.lost, rtts = excluded.rtts, relayed = excluded.relayed,"
                " known = excluded.known, jitter_us = excluded.jitter_us, worst = excluded.worst,"
                " answered = excluded.answered"
                " WHERE excluded.lost + excluded.answered >= lost + answered",
            ),
            [_bucket_row(start, path, bucket) for path, bucket in merged.items()],
        )

    def _drop(self, tier: int, first: float, end: float) -> None:
        """Delete what begins from `first` to before `end`, in steps, so that the WAL stays small."""
        while True:
            done = self._sql.execute(
                of_tier(
                    tier,
                    "DELETE FROM BUCKETS WHERE (at, path) IN"
                    " (SELECT at, path FROM BUCKETS WHERE at >= ? AND at < ? LIMIT ?)",
                ),
                (first, end, _ROWS_AT_ONCE),
            ).rowcount
            self.checkpoint()
            if done < _ROWS_AT_ONCE:
                return

    def _thin(self, tier: int, now: float, least_s: int) -> bool:
        """Drop the oldest eighth of a tier, but nothing of the last `least_s`; False: there is nothing."""
        oldest, newest = self._bounds(tier)
        if oldest is None or newest is None:
            return False
        step = TIERS[min(tier + 1, len(TIERS) - 1)].width_s
        bound = max(cut(tier, oldest + (newest - oldest) / 8), cut(tier, oldest) + step)
        if least_s and bound > cut(tier, now - least_s):
            return False
        rolled = self._rolled[tier + 1] if tier + 1 < len(TIERS) else None
        if rolled is not None and bound > rolled:
            return False  # what is not rolled up yet would be lost for the coarser tiers too
        self._drop(tier, -inf, bound)
        return True

    def _drop_events(self, most: int) -> None:
        self._sql.execute(
            "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?",
            (most,),
        )

    def _pages(self) -> int:
        (pages,) = self._sql.execute("PRAGMA page_count").fetchone()
        (free,) = self._sql.execute("PRAGMA freelist_count").fetchone()
        return int(pages) - int(free)

    def _soft_pages(self) -> int:
        return self._limit_bytes * 3 // 4 // PAGE_BYTES


def companions(path: Path) -> tuple[Path, Path]:
    """The WAL and its index, which SQLite keeps beside the file."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def set_aside(path: Path, now: float) -> Path:
    """Rename what cannot be used, with its WAL, and forget all but the newest few. Raises OSError."""
    name = f"{path.name}.damaged-{strftime('%Y%m%dT%H%M%SZ', gmtime(now))}"
    target, number = path.with_name(name), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{name}-{number}")
    wal, index = companions(path)
    path.rename(target)
    if wal.exists():
        wal.rename(companions(target)[0])
    index.unlink(missing_ok=True)
    _forget_asides(path)
    return target


def _forget_asides(path: Path) -> None:
    asides = [each for each in path.parent.glob(f"{path.name}.damaged-*") if not each.name.endswith("-wal")]
    asides.sort(key=lambda each: (each.lstat().st_ctime_ns, each.name))
    for old in asides[:-ASIDES]:
        companions(old)[0].unlink(missing_ok=True)
        # A directory that stood in the database's place is not ours to empty.
        if not old.is_dir() or old.is_symlink():
            old.unlink()


def _bucket_row(at: int, path: int, bucket: Bucket) -> tuple[object, ...]:
    jitter_us = None if bucket.jitter_s is None else round(bucket.jitter_s * 1e6)
    return (
        *(at, path, bucket.lost, pack(bucket.rtts.counts), bucket.relayed, bucket.known),
        *(jitter_us, bucket.worst, bucket.rtts.total),
    )


def _event_row(event: Event) -> tuple[object, ...]:
    data = json.dumps(event.data, default=str)
    if len(data) > _DATA_MOST:
        data = json.dumps({"left_out": f"{len(data)} characters"})
    text = event.text[:_TEXT_MOST]
    return event.at, event.code, SEVERITY_CODES[event.severity], event.about, text, data, int(event.over)


class _Transaction:
    """All or nothing. After an error SQLite may have rolled back by itself already."""

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql

    def __enter__(self) -> None:
        self._sql.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._sql.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")


def _prepare(sql: sqlite3.Connection, limit_bytes: int) -> None:
    """Settings, and the schema for a new file; ValueError for one that is not ours or of a newer release."""
    sql.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    tables = sql.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    (application,) = sql.execute("PRAGMA application_id").fetchone()
    if not tables and not version and not application:
        sql.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif application != APPLICATION or not 0 < version <= VERSION:
        raise ValueError(f"not a history of this release (application {application:#x}, version {version})")
    (mode,) = sql.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the database cannot have a WAL: journal_mode is {mode}")
    sql.execute("PRAGMA synchronous = NORMAL")
    sql.execute("PRAGMA wal_autocheckpoint = 0")  # we do it ourselves, where its errors can be told apart
    sql.execute(f"PRAGMA max_page_count = {limit_bytes * 7 // 8 // PAGE_BYTES}").fetchall()
    with _Transaction(sql):
        if not tables:
            for statement in _SCHEMA:
                sql.execute(statement)
            sql.execute(f"PRAGMA application_id = {APPLICATION}")
            sql.execute(f"PRAGMA user_version = {VERSION}")
        for step in range(version, VERSION) if tables else ():
            for statement in MIGRATIONS[step]:
                sql.execute(statement)
            sql.execute(f"PRAGMA user_version = {step + 1}")


MIGRATIONS: Mapping[int, tuple[str, ...]] = {}
"""The statements that lead from a version to the next one."""
