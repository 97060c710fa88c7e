"""Events as lines of a log: for journald with their priority, for a terminal without."""

from __future__ import annotations

import contextlib
import sys
from time import localtime, strftime
from typing import TextIO

from tsstack.monitor.redaction import redacted
from tsstack.monitor.snapshot import Event, Severity

MOST_CHARACTERS = 1000
"""A line of the log is cut after so many; journald takes 48 K, people less."""

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the worst."""

# sd-daemon(3): SD_CRIT "<2>", SD_WARNING "<4>", SD_NOTICE "<5>", SD_INFO "<6>".
_PRIORITY: dict[Severity, int] = {"critical": 2, "warning": 4, "info": 6}
_NOTICE = 5
# Whatever a terminal or a log could take for an end of line or a command: C0, DEL, C1, line separators.
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def priority(event: Event) -> int:
    """The event's priority of syslog(3); what is over is a notice, so that it stands out from plain news."""
    return _NOTICE if event.over else _PRIORITY[event.severity]


def line(event: Event, *, terminal: bool = False) -> str:
    """The event on one line, without control characters and without what addresses may hide."""
    text = f"{redacted(event.about)}: {redacted(event.text)} [{event.code}]".translate(_UNPRINTABLE)
    if len(text) > MOST_CHARACTERS:
        text = text[: MOST_CHARACTERS - 1] + "…"
    if terminal:
        return f"{strftime('%H:%M:%S', localtime(event.at))} {event.severity:8} {text}\n"
    return f"<{priority(event)}>{text}\n"


class EventPrinter:
    """Writes each event as a line, by default on standard error, which is journald's under systemd."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()

    def print(self, event: Event) -> None:
        """Write one line. A stream that takes nothing any more (its reader is gone) is no reason to end."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line(event, terminal=self._terminal))
            self._stream.flush()
