"""The words of the monitor's socket: one JSON object on each line, both ways. Pure.

docs/monitor-socket.md describes them for others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from tsstack.monitor.snapshot import Event

VERSION = 1
LINE_BYTES = 16384
"""A request that is longer is refused."""
READING = frozenset({"state", "events", "subscribe"})
COMMANDS = frozenset({"exit-node", "maintenance", "offer", "reload", "test-alert"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request: what to do, with what, and the mark that its answer bears."""

    do: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mark: Any = None


class BadRequest(ValueError):
    """What was sent is no request; `code` is stable, the message a sentence."""

    def __init__(self, code: str, message: str, mark: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.mark = mark


def parse_request(line: bytes) -> Request:
    """One line as a request. Raises BadRequest for anything else."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("garbled", "a request is one JSON object on one line") from None
    if not isinstance(data, dict):
        raise BadRequest("garbled", "a request is one JSON object on one line")
    mark = data.get("id")
    if not isinstance(mark, str | int | float | None):  # it comes back as it was sent
        raise BadRequest("garbled", "`id` is a string or a number")
    if isinstance(mark, float) and not isfinite(mark):
        raise BadRequest("garbled", "`id` is a number that JSON knows")
    version = data.get("v")
    if type(version) is not int or version != VERSION:
        raise BadRequest("version", f'this monitor speaks version {VERSION}: send "v": {VERSION}', mark)
    do = data.get("do")
    if not isinstance(do, str) or do not in READING | COMMANDS:
        raise BadRequest("unknown", f"`do` is one of {', '.join(sorted(READING | COMMANDS))}", mark)
    return Request(do, {name: value for name, value in data.items() if name not in {"v", "id", "do"}}, mark)


def request_line(do: str, **arguments: Any) -> bytes:
    """A request as it is sent."""
    return _line({"v": VERSION, "do": do, **arguments})


def answer_line(mark: Any, result: Any) -> bytes:
    """The answer to a request that went well."""
    return _line({"v": VERSION, "id": mark, "ok": True, "result": result})


def error_line(mark: Any, code: str, message: str, hint: str = "") -> bytes:
    """The answer to one that did not."""
    error = {"code": code, "message": message, "hint": hint}
    return _line({"v": VERSION, "id": mark, "ok": False, "error": error})


def event_line(event: Event) -> bytes:
    """An event, to those who subscribed."""
    return _line({"v": VERSION, "event": asdict(event)})


def state_line(state: Mapping[str, Any]) -> bytes:
    """The state, to those who subscribed to it."""
    return _line({"v": VERSION, "state": state})


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
