"""The tables of the history's buckets, read: what their writer and its readers in other processes share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator

from tsstack.monitor.quality import Histogram
from tsstack.monitor.rollup import TIERS, Bucket, Kept, unpack


def of_tier(tier: int, statement: str) -> str:
    """A statement on a tier's own table: rows are appended at its end, which leaves no page half full."""
    return statement.replace("BUCKETS", f"buckets_{tier}")


def bucket_rows(
    sql: sqlite3.Connection, tier: int, start: int, end: int, paths: Collection[int] | None = None
) -> Iterator[tuple[int, int, Bucket]]:
    """Start, path id and bucket of a tier from `start` to before `end` (of these paths), oldest first."""
    rows = sql.execute(
        of_tier(
            tier,
            "SELECT at, path, lost, rtts, relayed, known, jitter_us, worst FROM BUCKETS"
            " WHERE at >= ? AND at < ? AND (? OR path IN (SELECT value FROM json_each(?)))"
            " ORDER BY at, path",
        ),
        (start, end, paths is None, json.dumps(sorted(paths or ()))),
    )
    for at, id_, lost, rtts, relayed, known, jitter_us, worst in rows:
        jitter_s = None if jitter_us is None else jitter_us / 1e6
        yield at, id_, Bucket(lost, Histogram(unpack(rtts)), relayed, known, jitter_s, worst)


def levels_of(
    sql: sqlite3.Connection, tier: int, start: int, end: int, paths: Collection[int]
) -> Iterator[tuple[int, int, int]]:
    """Path id, start and worst level (its place in `SEVERITY`) of these paths' buckets, oldest first."""
    yield from sql.execute(
        of_tier(
            tier,
            "SELECT path, at, worst FROM BUCKETS WHERE at >= ? AND at < ?"
            " AND path IN (SELECT value FROM json_each(?)) ORDER BY at",
        ),
        (start, end, json.dumps(sorted(paths))),
    )


def worst_of(sql: sqlite3.Connection, tier: int, start: int, end: int) -> dict[int, int]:
    """The worst level of each path in a tier's buckets of a span, by path id."""
    statement = "SELECT path, max(worst) FROM BUCKETS WHERE at >= ? AND at < ? GROUP BY path"
    return dict(sql.execute(of_tier(tier, statement), (start, end)).fetchall())


def newest_of(sql: sqlite3.Connection, tier: int, start: int) -> Iterator[tuple[int, int, int]]:
    """Path id, start and worst level of each path's newest bucket from `start` on."""
    # SQLite gives the other columns of the row that max() came from (sqlite.org/lang_select.html, 2.5).
    statement = "SELECT path, max(at), worst FROM BUCKETS WHERE at >= ? GROUP BY path"
    yield from sql.execute(of_tier(tier, statement), (start,))


def kept_by(sql: sqlite3.Connection) -> list[Kept | None]:
    """What each tier holds."""
    found: list[Kept | None] = []
    for number, tier in enumerate(TIERS):
        first, last = bounds(sql, number)
        found.append(None if first is None or last is None else Kept(first, last + tier.width_s))
    return found


def bounds(sql: sqlite3.Connection, tier: int) -> tuple[int, int] | tuple[None, None]:
    """The starts of a tier's oldest and newest bucket."""
    # Two questions: SQLite answers min() or max() alone by one look into the index, both by reading all.
    (first,) = sql.execute(of_tier(tier, "SELECT min(at) FROM BUCKETS")).fetchone()
    (last,) = sql.execute(of_tier(tier, "SELECT max(at) FROM BUCKETS")).fetchone()
    return (None, None) if first is None else (int(first), int(last))


def newest_before(sql: sqlite3.Connection, tier: int, end: int) -> int | None:
    """The start of a tier's newest bucket that begins before `end`."""
    (last,) = sql.execute(of_tier(tier, "SELECT max(at) FROM BUCKETS WHERE at < ?"), (end,)).fetchone()
    return None if last is None else int(last)
