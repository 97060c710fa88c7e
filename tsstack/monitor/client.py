"""Asking the monitor that runs, from any other process."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tsstack.errors import CheckFailed, TsstackError
from tsstack.monitor import protocol

DEFAULT_PATH = Path("/run/tsstack/monitor.sock")
_CHUNK_BYTES = 1 << 16
_LINE_BYTES = 32 << 20
"""The longest answer: a thousand links are some 2 MB."""
_RESULTS: dict[str, type] = {"state": dict, "events": list}
"""What docs/monitor-socket.md says of an answer's shape."""
_START = "systemctl start tsstack-monitor    # where there is no such unit: tsstack units install --monitor"


class NotRunning(CheckFailed):
    """No monitor answers: nobody listens, or whoever does is stuck (`silent`)."""

    def __init__(self, message: str, *, hint: str = "", silent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.silent = silent


class Client:
    """The monitor by its socket. Each call makes a connection of its own.

    Raises NotRunning when nobody listens, CheckFailed when the monitor refuses, with its words.
    """

    def __init__(self, path: Path = DEFAULT_PATH, *, timeout_s: float = 5.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def ask(self, do: str, *, timeout_s: float | None = None, **arguments: Any) -> Any:
        """One request's result."""
        for answer in self._lines(protocol.request_line(do, **arguments), timeout_s or self.timeout_s):
            result = self._result(answer)
            if not isinstance(result, _RESULTS.get(do, object)):
                raise self._stranger()
            return result
        raise TsstackError("the monitor closed the connection without an answer")

    def follow(self, *, state: bool = False, begun: bool = False) -> Iterator[dict[str, Any]]:
        """What happens from now on: objects with `event`, or `state` each second if asked for.

        `begun`: the first is `{"subscribed": True}`, at once; from then on no event is missed.
        """
        lines = self._lines(protocol.request_line("subscribe", state=state), None)
        for number, answer in enumerate(lines):
            if number == 0:
                subscribed = self._result(answer)
                if begun:
                    yield subscribed
            else:
                yield answer

    def _lines(self, request: bytes, timeout_s: float | None) -> Iterator[dict[str, Any]]:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(str(self.path))
                connection.sendall(request)
                buffer = bytearray()
                while data := connection.recv(_CHUNK_BYTES):
                    buffer += data
                    whole: list[bytearray] = []
                    if b"\n" in data:
                        *whole, buffer = buffer.split(b"\n")
                    for line in whole:
                        answer = json.loads(line)
                        if not isinstance(answer, dict):
                            raise self._stranger()
                        yield answer
                    if len(buffer) > _LINE_BYTES:
                        raise self._stranger()
                    if end_s is not None:
                        if (left_s := end_s - time.monotonic()) <= 0:
                            raise TimeoutError
                        connection.settimeout(left_s)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"no monitor listens on {self.path}", hint=_START) from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NotRunning(
                "the monitor closed the connection", hint="systemctl status tsstack-monitor"
            ) from error
        except TimeoutError as error:
            raise NotRunning(
                f"the monitor did not answer within {timeout_s:g} s",
                hint="systemctl restart tsstack-monitor",
                silent=True,
            ) from error
        except (ValueError, RecursionError) as error:
            raise self._stranger() from error

    def _stranger(self) -> TsstackError:
        return TsstackError(f"what listens on {self.path} is no monitor", hint=f"ss -xlp | grep {self.path}")

    def _result(self, answer: dict[str, Any]) -> Any:
        if answer.get("ok") and "result" in answer:
            return answer["result"]
        error = answer.get("error")
        if not isinstance(error, dict):
            raise self._stranger()
        raise CheckFailed(str(error.get("message", "the monitor refused")), hint=str(error.get("hint", "")))
