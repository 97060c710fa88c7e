"""Reading the history, from any process that may read its file: figures over a span, plots, events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from tsstack.errors import TsstackError
from tsstack.monitor.buckets import bucket_rows, kept_by, levels_of, newest_of, worst_of
from tsstack.monitor.database import APPLICATION, SEVERITY_CODES, VERSION
from tsstack.monitor.history import DEFAULT_PATH
from tsstack.monitor.quality import Quality
from tsstack.monitor.rollup import SEVERITY, TIERS, Bucket, Piece, cover, layers
from tsstack.monitor.snapshot import Event, Severity
from tsstack.monitor.verdict import Level

_SEVERITIES: dict[int, Severity] = {code: name for name, code in SEVERITY_CODES.items()}  # type: ignore[misc]
_SUSPECT = SEVERITY.index("suspect")


@dataclass(frozen=True, slots=True)
class Past:
    """What one path did over a span."""

    key: str
    since: float
    until: float
    """The span of the buckets that this was made of; at its edges up to one bucket more than was asked."""
    quality: Quality
    worst: Level
    """The worst that it was in that time."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values, with the loss written out."""
        data = asdict(self)
        data["quality"]["loss"] = self.quality.loss
        return data


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a plot. Nothing was measured when `quality.sent` is 0."""

    at: float
    """Its start, seconds since 1970."""
    quality: Quality
    worst: Level


@dataclass(frozen=True, slots=True)
class BadTime:
    """How long one path was not good within a span, seconds."""

    suspect_s: float = 0.0
    poor_s: float = 0.0
    dead_s: float = 0.0
    to_s: int = TIERS[0].width_s
    """The width of the coarsest bucket that this was counted in."""

    @property
    def bad_s(self) -> float:
        """Poor or dead. A suspicion that passed is not bad."""
        return self.poor_s + self.dead_s


class Archive:
    """The history's file, for reading. Each call opens and closes it, so nothing holds the writer up.

    Every method raises TsstackError when there is no history or it cannot be read; call them off the event
    loop (`asyncio.to_thread`).
    """

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self.path = path

    def paths(self) -> list[str]:
        """The keys of all paths that something is kept of."""
        with self._reading() as sql:
            return [key for (key,) in sql.execute("SELECT key FROM paths ORDER BY key")]

    def qualities(self, since: float, until: float, keys: Iterable[str] | None = None) -> list[Past]:
        """The figures of each path (or of these) over a span, those without any probe left out.

        Quantiles are those of all probes of the span. The latest ten to twenty seconds are not written yet.
        """
        wanted = None if keys is None else set(keys)
        with self._reading() as sql:
            pieces = cover(kept_by(sql), since, until)
            names = dict(sql.execute("SELECT id, key FROM paths").fetchall())
            only = None if wanted is None else {id_ for id_, key in names.items() if key in wanted}
            merged: dict[int, Bucket] = {}
            for _, _, path, bucket in _rows(sql, pieces, only):
                if path in merged:
                    merged[path].merge(bucket)
                else:
                    merged[path] = bucket
        if not pieces:
            return []
        start, end = min(since, pieces[0].start), max(until, pieces[-1].end)
        start = max(start, pieces[0].start)
        end = min(end, pieces[-1].end)
        return [
            Past(names[path], start, end, bucket.quality(end - start), SEVERITY[bucket.worst])
            for path, bucket in sorted(merged.items(), key=lambda each: names.get(each[0], ""))
            if path in names and (wanted is None or names[path] in wanted)
        ]

    def series(self, key: str, since: float, until: float, *, points: int = 60) -> list[Point]:
        """One path's figures in so many equal steps, oldest first, for a plot or a sparkline.

        ValueError for less than one point or an empty span. A step shorter than what is still kept of that
        time repeats nothing: the bucket stands at its start, the steps after it are empty.
        """
        return self.many_series([key], since, until, points=points)[key]

    def many_series(
        self, keys: Iterable[str], since: float, until: float, *, points: int = 60
    ) -> dict[str, list[Point]]:
        """`series` of several paths by key, read at once. A path that nothing is kept of has empty steps."""
        if points < 1 or since >= until:
            raise ValueError("a plot needs a point and a span")
        step = max((until - since) / points, TIERS[0].width_s)
        prefer = max(number for number, tier in enumerate(TIERS) if tier.width_s <= step)
        count = max(1, round((until - since) / step))
        steps = {key: [Bucket() for _ in range(count)] for key in keys}
        with self._reading() as sql:
            found = {id_: steps[key] for id_, key in sql.execute("SELECT id, key FROM paths") if key in steps}
            pieces = layers(kept_by(sql), since, until, prefer) if found else []
            for tier, at, path, bucket in _rows(sql, pieces, found):
                middle = at + TIERS[tier].width_s / 2
                place = min(count - 1, max(0, int((middle - since) / step)))
                found[path][place].merge(bucket)
        return {
            key: [
                Point(since + number * step, bucket.quality(step), SEVERITY[bucket.worst])
                for number, bucket in enumerate(buckets)
            ]
            for key, buckets in steps.items()
        }

    def bad_times(self, since: float, until: float) -> dict[str, BadTime]:
        """How long each path was how bad in a span; those that were never bad are left out.

        A bucket keeps the worst of its time, so each bad spell counts up to a bucket more than it lasted: ten
        seconds in the last day, a minute in the last week (`BadTime.to_s`). What was not measured is not bad.
        """
        spent: dict[int, list[float]] = {}
        coarsest: dict[int, int] = {}
        with self._reading() as sql:
            names = dict(sql.execute("SELECT id, key FROM paths").fetchall())
            for piece in layers(kept_by(sql), since, until, 0):
                width = TIERS[piece.tier].width_s
                worst = worst_of(sql, piece.tier, piece.start, piece.end)
                bad = {path for path, level in worst.items() if level >= _SUSPECT}
                for path, seen in _by_path(levels_of(sql, piece.tier, piece.start, piece.end, bad)).items():
                    each = spent.setdefault(path, [0.0] * len(SEVERITY))
                    coarsest[path] = max(coarsest.get(path, 0), width)
                    for level, from_s, to_s in _spells(seen, width):
                        each[level] += max(0.0, min(to_s, until) - max(from_s, since))
        found = {}
        for path, each in spent.items():
            suspect_s, poor_s, dead_s = each[_SUSPECT:]
            if path in names:
                found[names[path]] = BadTime(suspect_s, poor_s, dead_s, coarsest[path])
        return found

    def begin(self) -> float:
        """When the oldest that is kept begins, seconds since 1970; 0 for an empty history."""
        with self._reading() as sql:
            kept = kept_by(sql)
        return float(min((each.first for each in kept if each), default=0))

    def end(self) -> float:
        """When the newest that is kept ends, seconds since 1970; 0 for an empty history."""
        with self._reading() as sql:
            kept = kept_by(sql)
        return float(next((each.end for each in kept if each), 0))

    def levels(self, since: float) -> dict[str, Level]:
        """What each path was in the newest that is kept of it; paths without anything from `since` on are
        left out.
        """
        with self._reading() as sql:
            tier = next((number for number, each in enumerate(kept_by(sql)) if each), 0)
            names = dict(sql.execute("SELECT id, key FROM paths").fetchall())
            newest = list(newest_of(sql, tier, int(since)))
        return {names[path]: SEVERITY[worst] for path, _, worst in newest if path in names}

    def events(
        self, *, since: float = 0.0, about: str = "", least: Severity = "info", limit: int = 100
    ) -> list[Event]:
        """The newest events, oldest first: from `since` on, about this very thing, at least so severe.

        What is over is shown with the severity of a recovery (`info`) even where `least` asks for more, so
        that a beginning never stands without its end.
        """
        with self._reading() as sql:
            rows = sql.execute(
                "SELECT at, code, severity, about, text, data, over FROM events"
                " WHERE at >= ? AND (? = '' OR about = ?) AND (severity >= ? OR over)"
                " ORDER BY id DESC LIMIT ?",
                (since, about, about, SEVERITY_CODES[least], max(0, limit)),
            ).fetchall()
        return [
            Event(at, code, _SEVERITIES[severity], what, text, json.loads(data), bool(over))
            for at, code, severity, what, text, data, over in reversed(rows)
        ]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self.path.open("rb"):  # SQLite says of a closed door only that it could not open
                pass
        except FileNotFoundError:
            raise TsstackError(
                f"there is no history at {self.path}", hint="it begins with the first run of the monitor"
            ) from None
        except PermissionError as error:
            raise TsstackError(
                f"the history {self.path} cannot be read: {error.strerror}", hint="it is root's: use sudo"
            ) from error
        except OSError as error:
            raise TsstackError(f"the history {self.path} cannot be read: {error.strerror}") from error
        try:
            with closing(self._connect()) as sql:
                (application,) = sql.execute("PRAGMA application_id").fetchone()
                (version,) = sql.execute("PRAGMA user_version").fetchone()
                if (application, version) != (APPLICATION, VERSION):
                    raise TsstackError(f"{self.path} is no history of this release")
                sql.execute("BEGIN")
                yield sql
        except (sqlite3.Error, ValueError) as error:
            raise TsstackError(
                f"the history {self.path} cannot be read: {error}", hint="the monitor mends it by itself"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.resolve()))}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=2.0, isolation_level=None)


def _rows(
    sql: sqlite3.Connection, pieces: Iterable[Piece], paths: Collection[int] | None
) -> Iterator[tuple[int, int, int, Bucket]]:
    """Tier, start, path id and bucket."""
    for piece in pieces:
        for at, id_, bucket in bucket_rows(sql, piece.tier, piece.start, piece.end, paths):
            yield piece.tier, at, id_, bucket


def _by_path(rows: Iterable[tuple[int, int, int]]) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for path, at, level in rows:
        found.setdefault(path, []).append((at, level))
    return found


def _spells(seen: list[tuple[int, int]], width: int) -> Iterator[tuple[int, int, int]]:
    """Level, begin and end of each bad bucket of one path (start and level, oldest first).

    A path that is probed each half minute has a bucket in three: what it showed holds until the next one.
    A longer pause (the monitor did not run) is not bad.
    """
    gaps = [after - before for (before, _), (after, _) in pairwise(seen)]
    usual = max(width, int(median(gaps))) if gaps else width
    for (at, level), gap in zip(seen, [*gaps, usual], strict=True):
        if level >= _SUSPECT:
            yield level, at, at + (gap if gap <= 3 * usual else usual)
