"""How `nginx-logs` looks: from sums and lines of logs to lines for a terminal, and to JSON. Pure."""

from __future__ import annotations

import textwrap
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tsstack.cli.amounts import count, duration, rate, size
from tsstack.cli.columns import Cell, Column, table
from tsstack.cli.glyphs import COLOUR_OF, Terminal, clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsstack.parts.proxy.access import Exchange
    from tsstack.parts.proxy.tally import Use
    from tsstack.parts.proxy.usage import Usage

_HTTP = (
    Column("", right=False),
    Column("SERVICE", right=False),
    Column("REQ"),
    Column("/S", 6),
    Column("2xx", 4),
    Column("WS", 1),
    Column("3xx", 9),
    Column("4xx", 3),
    Column("5xx"),
    Column("p50", 5),
    Column("p95"),
    Column("p99", 2),
    Column("UP50", 11),
    Column("UP95", 7),
    Column("UP99", 10),
    Column("SENT", 8),
    Column("LIMITED", 1),
    Column("DENIED", 1),
)
_TCP = (
    Column("", right=False),
    Column("SERVICE", right=False),
    Column("SESSIONS"),
    Column("/S", 6),
    Column("FAILED"),
    Column("p50", 5),
    Column("p95"),
    Column("p99", 3),
    Column("SENT", 2),
    Column("RECEIVED", 4),
)
_WEBSOCKETS = 5
"""Where their column stands; it is left out where there are none."""
_TOLD = 4
"""Sentences of a kind: a thousand services can have the same trouble."""


def describe(usage: Usage, terminal: Terminal, *, span: str, top: int, errors: bool) -> list[str]:
    """The screen: a line that says all, a table of each kind of service, who used them, what failed."""
    lines = [_headline(usage, terminal, span)]
    for tcp in (False, True):
        rows = [_row(use, terminal) for use in usage.uses if use.tcp is tcp]
        if rows:
            columns: tuple[Column, ...] = _TCP if tcp else _HTTP
            if not tcp and not any(use.classes["1xx"] for use in usage.uses):
                columns, rows = _without(_WEBSOCKETS, columns, rows)
            lines += ["", *table(terminal, columns, rows, stretch=1)]
    told = [f"{use.service}: {use.trouble}" for use in usage.uses if use.trouble]
    if len(told) > _TOLD:
        told[_TOLD:] = [f"and {len(told) - _TOLD} more services alike: see --json"]
    told += usage.notes[:_TOLD]
    if usage.broken:
        told.append(f"{usage.broken} lines could not be read and are left out")
    if told:
        lines.append("")
    for each in told:
        lines += textwrap.wrap(clean(each), max(20, terminal.width), subsequent_indent="  ")
    if top:
        for use in usage.uses:
            lines += _users(use, terminal)
    if errors:
        widest = max((len(name) for name, _ in usage.errors), default=0)
        lines += ["", terminal.paint("newest errors", "bold") if usage.errors else "no errors"]
        lines += [describe_line(name, each, terminal, widest) for name, each in usage.errors]
    return lines


def _without(
    at: int, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> tuple[tuple[Column, ...], list[list[Cell]]]:
    return (*columns[:at], *columns[at + 1 :]), [[*row[:at], *row[at + 1 :]] for row in rows]


def describe_line(
    service: str, exchange: Exchange, terminal: Terminal, widest: int, *, clip: bool = True
) -> str:
    """One request or session in one line; `widest` is the length of the longest service's name."""
    code = f"{exchange.status:03d}"
    head = f"{_clock(exchange.unix_s)} {service:<{widest}} "
    narrow = clip and terminal.width < 50
    middle = "  " if narrow else f" {duration(exchange.took_s):>6} {size(exchange.sent_bytes):>6}  "
    who = f"{exchange.user} {exchange.client}" if exchange.user else exchange.client
    what = f"{exchange.method} {exchange.uri}"
    if exchange.tcp:
        what = f"{size(exchange.received_bytes)} received, upstream {exchange.upstream or 'none'}"
    why = " (rate limit)" if exchange.is_limited else " (not in allow)" if exchange.is_denied else ""
    tail = clean(f"{who}  {what}") + why
    if clip:
        tail = terminal.clip(tail, max(0, terminal.width - len(head) - len(code) - len(middle)))
    return f"{head}{terminal.paint(code, *_looks_of(exchange))}{middle}{tail}"


def usage_json(usage: Usage) -> dict[str, Any]:
    """What `--json` prints. Times in seconds, sizes in bytes."""
    return {
        "status": usage.level,
        "since_unix_s": usage.since_unix_s,
        "until_unix_s": usage.until_unix_s,
        "services": [_use_json(use) for use in usage.uses],
        "broken": usage.broken,
        "notes": list(usage.notes),
    }


def line_json(service: str, exchange: Exchange) -> dict[str, Any]:
    """One request or session, as `--json` prints it."""
    return {**exchange._asdict(), "service": service}


def _use_json(use: Use) -> dict[str, Any]:
    raw = asdict(use)
    raw["protocol"] = "tcp" if raw.pop("tcp") else "http"
    for name in ("clients", "users"):
        raw[name] = [{"name": who, "requests": often} for who, often in raw[name]]
    return raw


def _headline(usage: Usage, terminal: Terminal, span: str) -> str:
    requests = sum(use.requests for use in usage.uses if not use.tcp)
    sessions = sum(use.requests for use in usage.uses if use.tcp)
    told = [_counted(requests, "request")] if any(not use.tcp for use in usage.uses) else []
    told += [_counted(sessions, "session")] if any(use.tcp for use in usage.uses) else []
    services = f"{len(usage.uses)} service" + "s" * (len(usage.uses) != 1)
    bad = [use.service for use in usage.uses if use.level != "ok"]
    words = f" {usage.level}"
    rest = f"  {services}, {' and '.join(told)} in the last {span}"
    if bad:
        rest += f"; see {', '.join(bad)}"
    return (
        terminal.sign(usage.level)
        + terminal.level(usage.level, words)
        + terminal.clip(rest, terminal.width - len(words) - 1)
    )


def _counted(number: int, what: str) -> str:
    return f"{count(number)} {what}" + "s" * (number != 1)


def _row(use: Use, terminal: Terminal) -> list[Cell]:
    colour = COLOUR_OF[use.level]
    name = [Cell(_plain_sign(terminal, use.level), (colour,)), Cell(use.service, ("bold",))]
    if use.level == "unknown" and not use.requests:
        return [*name, *[Cell("?", ("dim",))] * (len(_TCP if use.tcp else _HTTP) - 2)]
    took = [Cell(duration(each)) for each in (use.took.p50_s, use.took.p95_s, use.took.p99_s)]
    if use.tcp:
        return [
            *name,
            Cell(count(use.requests)),
            Cell(rate(use.per_s)),
            _notable(use.failures, "red"),
            *took,
            Cell(size(use.sent_bytes)),
            Cell(size(use.received_bytes)),
        ]
    return [
        *name,
        Cell(count(use.requests)),
        Cell(rate(use.per_s)),
        _notable(use.classes["2xx"]),
        _notable(use.classes["1xx"]),
        _notable(use.classes["3xx"]),
        _notable(use.classes["4xx"], "yellow"),
        _notable(use.classes["5xx"], "red"),
        *took,
        *(Cell(duration(each)) for each in (use.upstream.p50_s, use.upstream.p95_s, use.upstream.p99_s)),
        Cell(size(use.sent_bytes)),
        _notable(use.limited, "yellow"),
        _notable(use.denied, "yellow"),
    ]


def _plain_sign(terminal: Terminal, level: str) -> str:
    """The sign without its colour: the cell brings its own."""
    return Terminal(colour=False, unicode=terminal.unicode, width=terminal.width).sign(level)


def _notable(number: int, *looks: str) -> Cell:
    return Cell(count(number), looks if number else ("dim",))


def _users(use: Use, terminal: Terminal) -> list[str]:
    lines = []
    for kind, names in (("clients", use.clients), ("users", use.users)):
        if names:
            listed = ", ".join(f"{clean(name) or 'unknown'} {count(often)}" for name, often in names)
            lines.append(terminal.clip(f"{use.service} {kind}: {listed}", terminal.width))
    return ["", *lines] if lines else []


def _looks_of(exchange: Exchange) -> Sequence[str]:
    if exchange.status >= 500 or exchange.status < 100:
        return ("red",)
    return ("yellow",) if exchange.status >= 400 else ("green",)


def _clock(unix_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))
