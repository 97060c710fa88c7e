"""What the services of a plan were used for in a span of time, from their access logs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tsstack.parts.proxy.access import Exchange, parse_line
from tsstack.parts.proxy.logfile import Span, explain_unreadable
from tsstack.parts.proxy.plan import SHARED_LOG, log_name
from tsstack.parts.proxy.tally import Level, Tally, Use, judge_reading, worst

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tsstack.parts.proxy.plan import Plan

_RECENT = 20


@dataclass(frozen=True, slots=True)
class Usage:
    """All that `nginx-logs` shows of a span."""

    since_unix_s: float
    until_unix_s: float
    uses: tuple[Use, ...]
    broken: int
    """Lines that could not be read, of all logs."""
    notes: tuple[str, ...]
    """What of rotated logs could not be read."""
    errors: tuple[tuple[str, Exchange], ...]
    """(service, exchange): the newest 20 failures, the newest last."""

    @property
    def level(self) -> Level:
        """The worst of all services; unknown of none."""
        return worst([use.level for use in self.uses])


class Logs:
    """The access logs of the chosen services of a plan, and whose each line in them is."""

    def __init__(self, plan: Plan, folder: Path, chosen: Iterable[str] = ()) -> None:
        self.services = tuple(dict.fromkeys(chosen)) or tuple(sorted(plan.services))
        self._chosen = frozenset(self.services)
        served = len(plan.services)
        self.paths: dict[Path, list[str]] = {}
        for service in self.services:
            self.paths.setdefault(folder / log_name(service, served), []).append(service)
        # nginx-test, the doctor and a switch look in this way whether a port answers.
        self._own = {"127.0.0.1", "::1", *(each.address for each in plan.listeners)}
        self._tcp = {urlsplit(plan.urls[name]).port: name for name in plan.services if is_tcp(plan, name)}

    def owner(self, path: Path, exchange: Exchange) -> str | None:
        """The chosen service that a line of the log at `path` is about, None when it is another's, or a look
        from this very host: a session in which nothing came from it.

        In the log that all share a TCP line does not name its service: the port that was asked tells.
        """
        # What was sent says nothing: an SSH or SMTP server greets whoever connects.
        silent = not exchange.received_bytes and not exchange.is_failure
        if exchange.tcp and silent and exchange.client in self._own:
            return None
        if path.name != SHARED_LOG:
            return self.paths[path][0]
        name = self._tcp.get(exchange.port, "") if exchange.tcp else exchange.service
        return name if name in self._chosen else None


def is_tcp(plan: Plan, service: str) -> bool:
    """Whether it is a TCP service."""
    return plan.urls.get(service, "").startswith("tcp://")


def read_usage(
    plan: Plan, folder: Path, *, since_unix_s: float, until_unix_s: float, services: Iterable[str], top: int
) -> Usage:
    """Read the logs in `folder` from `since_unix_s` on. Never raises for what stands in them.

    A log that cannot be read makes its services unknown, and their `trouble` says why.
    """
    logs = Logs(plan, folder, services)
    tallies = {name: Tally(name, tcp=is_tcp(plan, name)) for name in logs.services}
    troubles: dict[str, str] = {}
    readings: dict[str, Level] = {}
    notes: list[str] = []
    recent: list[tuple[str, Exchange]] = []
    broken = 0
    for path, names in logs.paths.items():
        span = Span(path, since_unix_s)
        try:
            lines, lost, failed = _count(span, logs, tallies)
        except OSError as error:
            troubles |= dict.fromkeys(names, explain_unreadable(path, error))
            readings |= dict.fromkeys(names, "unknown")
            continue
        if (reading := judge_reading(lines, lost)) != "ok":
            troubles |= dict.fromkeys(names, f"{lost} of {lines} lines of {path} could not be read")
            readings |= dict.fromkeys(names, reading)
        broken += lost
        if len(names) == 1:
            tallies[names[0]].broken += lost
        recent += failed
        notes += span.notes
    span_s = until_unix_s - since_unix_s
    return Usage(
        since_unix_s,
        until_unix_s,
        tuple(
            tally.use(span_s, top=top, trouble=troubles.get(name, ""), reading=readings.get(name, "ok"))
            for name, tally in tallies.items()
        ),
        broken,
        tuple(notes),
        tuple(sorted(recent, key=lambda one: one[1].unix_s)[-_RECENT:]),
    )


def _count(
    span: Span, logs: Logs, tallies: dict[str, Tally]
) -> tuple[int, int, Iterable[tuple[str, Exchange]]]:
    """Add a log's lines to the tallies; returns how many, how many of them broken, its newest failures."""
    lines = broken = 0
    recent: deque[tuple[str, Exchange]] = deque(maxlen=_RECENT)
    for line in span.lines():
        lines += 1
        exchange = parse_line(line)
        if exchange is None:
            broken += 1
            continue
        owner = logs.owner(span.path, exchange)
        if owner is not None:
            tallies[owner].add(exchange)
            if exchange.is_failure:
                recent.append((owner, exchange))
    return lines, broken, recent
