"""One channel that alerts go by: a notification address or a program. Blocking; each has a thread of its own.

Nothing that an address holds is ever in argv, in the environment, in a log or in what is said of a failure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from threading import BoundedSemaphore
from time import localtime, strftime
from typing import Any

from tsstack.errors import CommandFailed
from tsstack.monitor.alert_sender import UNKNOWN
from tsstack.monitor.redaction import redacted, redacted_values, scheme_of
from tsstack.monitor.snapshot import Event
from tsstack.system import command

SEND_S = 20.0
"""A notification that is not sent by then has failed."""
COMMAND_S = 30.0
"""A program that has not ended by then is killed with all it started."""
SENDERS = 2
"""So many processes with the notification library at once, whatever the number of channels: 50 MB each."""
FORMAT = 1

_senders = BoundedSemaphore(SENDERS)
# What notification services call these: apprise.NotifyType.
_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told: one event of one host."""

    host: str
    event: Event
    note: str = ""
    """Said below, for example how many alerts could not be sent before."""

    @property
    def title(self) -> str:
        """Host, what it is about, and how bad: what a telephone shows first."""
        word = "recovered" if self.event.over else self.event.severity
        return redacted(f"{self.host}: {self.event.about} {word}")

    @property
    def body(self) -> str:
        """The sentence with its numbers, and when that was."""
        when = strftime("%Y-%m-%d %H:%M:%S %Z", localtime(self.event.at))
        return "\n".join(
            each for each in (redacted(self.event.text), f"{when} [{self.event.code}]", self.note) if each
        )

    @property
    def type(self) -> str:
        """As notification services colour it."""
        return "success" if self.event.over else _TYPES[self.event.severity]

    def as_json(self) -> dict[str, Any]:
        """What a program gets on its standard input."""
        event = redacted_values(asdict(self.event))
        return {
            "format": FORMAT,
            "host": self.host,
            "title": self.title,
            "body": self.body,
            "event": event,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt."""

    to: str
    error: str = ""
    """Empty when it was sent."""
    hint: str = ""
    final: bool = False
    """Trying again cannot help until the file changes."""

    @property
    def ok(self) -> bool:
        """Whether it was sent."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Address:
    """A notification address, for example `ntfy://topic`."""

    url: str
    source: str
    """Key path of the file's line."""

    @property
    def to(self) -> str:
        """How it is called without telling its secrets."""
        return f"{self.source} ({scheme_of(self.url)})"

    @property
    def id(self) -> str:
        """The same for the same address, and only that."""
        return sha256(self.url.encode()).hexdigest()[:16]

    def check(self) -> Outcome:
        """Whether the library knows such an address. Nothing is sent."""
        return self._ask({"check": True})

    def send(self, alert: Alert) -> Outcome:
        """Send it; waits `SEND_S` at most, and for its turn."""
        return self._ask({"title": alert.title, "body": alert.body, "type": alert.type})

    def _ask(self, what: dict[str, Any]) -> Outcome:
        asked = json.dumps({"url": self.url, "timeout_s": SEND_S, **what})
        argv = [sys.executable, "-P", "-m", "tsstack.monitor.alert_sender"]
        with _senders:
            try:
                done = command.run_limited(argv, stdin=asked, timeout_s=SEND_S)
            except CommandFailed as error:
                # Of the message only what is ours: it names the interpreter, which helps nobody.
                late = "finish" in error.message
                wrong = f"no answer within {SEND_S:g} s" if late else "the sender cannot be started"
                return Outcome(self.to, wrong, "check the address, and that this host may reach it")
        try:
            told = json.loads(done.stdout)
            wrong, hint = str(told["error"]), str(told["hint"])
        except (ValueError, KeyError, TypeError):
            late = done.returncode < 0
            wrong = f"no answer within {SEND_S:g} s" if late else "the sender failed"
            return Outcome(self.to, wrong, "check that tsstack is installed whole: `pip check`")
        return Outcome(self.to, wrong, hint, final=wrong == UNKNOWN)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that gets the alert as JSON on its standard input; its arguments are the file's alone."""

    argv: tuple[str, ...]
    source: str

    @property
    def to(self) -> str:
        """The program alone: its arguments may be nobody else's business."""
        return f"{self.source} ({self.argv[0]})"

    @property
    def id(self) -> str:
        """The same for the same command, and only that."""
        return sha256("\0".join(self.argv).encode()).hexdigest()[:16]

    def check(self) -> Outcome:
        """Whether there is such a program. It is not run."""
        if command.which(self.argv[0]) is None:
            return Outcome(self.to, "there is no such program", f"install {self.argv[0]}, or mend the path")
        return Outcome(self.to)

    def send(self, alert: Alert) -> Outcome:
        """Run it; waits `COMMAND_S` at most. It has to end with 0."""
        try:
            done = command.run_limited(
                self.argv, stdin=json.dumps(alert.as_json()) + "\n", timeout_s=COMMAND_S
            )
        except CommandFailed as error:
            return Outcome(self.to, error.message, error.hint or "a command for alerts has to end by itself")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
            said = f": {redacted(lines[-1].strip())[:200]}" if lines else ""
            word = f"signal {-done.returncode}" if done.returncode < 0 else f"{done.returncode}"
            hint = f"try it by hand: `echo '{{}}' | {self.argv[0]} ...; echo $?`"
            return Outcome(self.to, f"it ended with {word}{said}", hint)
        return Outcome(self.to)


Channel = Address | Program


def channels_of(alerts: Sequence[str | Sequence[str]]) -> tuple[Channel, ...]:
    """The channels of `monitor.alerts`: text is an address, anything else the words of a command."""
    return tuple(
        Address(each, f"monitor.alerts[{number}]")
        if isinstance(each, str)
        else Program(tuple(each), f"monitor.alerts[{number}]")
        for number, each in enumerate(alerts)
    )
