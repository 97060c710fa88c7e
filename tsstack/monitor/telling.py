"""Events as they are made of reasons and of levels: severity, words, and what ends what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tsstack.monitor.book import Change
from tsstack.monitor.reasons import Code, Reason
from tsstack.monitor.snapshot import EXIT_NODE, Event, Severity
from tsstack.monitor.verdict import RANK, Level

_SEVERITY: dict[Code, Severity] = {
    "moved": "warning",
    "unproven": "warning",
    "returned": "warning",
    "blocked": "critical",
    "direct": "critical",
    "nothing-better": "warning",
    "report-only": "warning",
    "no-daemon": "warning",
    "drift": "warning",
    "repaired": "warning",
    "fought": "critical",
    "withdrawn": "warning",
    "backup": "warning",
}
_OVER: frozenset[Code] = frozenset({"home", "unblocked", "restored", "primary"})
# Said at every turn of a quiet day: the state shows them, the log need not.
_SILENT: frozenset[Code] = frozenset({"stays", "waiting", "held", "asks", "settling"})
_OF_LEVEL: dict[Level, Severity] = {"suspect": "warning", "poor": "warning", "dead": "critical"}


# They stand as long as what they are of does, which may come and go with every probe.
_STANDING: frozenset[Code] = frozenset({"nothing-better", "report-only"})
_STANDING_S = 60.0


class Standing:
    """Which reasons are news to people: one that comes and goes is said once a minute at most."""

    def __init__(self) -> None:
        self._said: dict[tuple[Code, str], float] = {}

    def news(self, reasons: Iterable[Reason], now_s: float) -> Iterator[Reason]:
        """Those to be told now. What is told of a move makes the standing ones news again."""
        for reason in reasons:
            key = (reason.code, reason.name)
            if reason.code in _STANDING:
                if now_s - self._said.get(key, -_STANDING_S) < _STANDING_S:
                    continue
                self._said[key] = now_s
            elif reason.code not in _SILENT:
                self._said.clear()
            yield reason


def event_of_reason(reason: Reason, at: float, about: str = EXIT_NODE) -> Event | None:
    """A reason that is news, as an event; None for what is no news to people."""
    if reason.code in _SILENT:
        return None
    severity = _SEVERITY.get(reason.code, "info")
    return Event(at, reason.code, severity, about, str(reason), reason.as_json(), reason.code in _OVER)


def event_of_change(change: Change, at: float) -> Event:
    """A path's level that changed, as an event."""
    verdict = change.verdict
    said = "; ".join(map(str, verdict.causes)) or "answers well"
    words = f"is {verdict.level}" if not change.over else "is good again"
    data = {
        "before": change.before,
        "level": verdict.level,
        "source": change.path.source,
        "loss": verdict.loss,
        "rtt_s": verdict.rtt_s,
        "causes": [{"rule": each.rule, "seen": each.seen, "limit": each.limit} for each in verdict.causes],
    }
    mends = RANK[verdict.level] > RANK[change.before] > 0
    severity: Severity = "info" if mends else _OF_LEVEL.get(verdict.level, "info")
    text = f"{words}: {said}"
    return Event(at, f"path-{verdict.level}", severity, change.path.key, text, data, change.over)
