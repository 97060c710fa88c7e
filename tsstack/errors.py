"""The exception tree. Each class carries the exit code that the command line ends with.

Only `tsstack.cli` prints these and exits; everything below raises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on the file: a fault, a contradiction or a hint, with its place.

    `code` is stable (`TS###`, see `tsstack.model.codes`). `path` is the key path in the file
    (`firewall.zones.dmz.tcp[0]`), empty for the file as a whole. `line` and `column` count from 1;
    0 means that the finding has no place in the file.
    """

    code: str
    severity: Severity
    path: str
    message: str
    hint: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.severity} {self.code}: {path}{self.message}{hint}"


class TsstackError(Exception):
    """Any failure that tsstack foresees; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TsstackError):
    """The command line asks for something that cannot be asked."""

    exit_code = 2


class ConfigError(TsstackError):
    """The file is invalid; `findings` holds every fault that was found in one run."""

    exit_code = 3

    def __init__(self, message: str, *, findings: Sequence[Finding] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class CheckFailed(TsstackError):
    """A check refused the change before anything on the host was touched."""

    exit_code = 4


class SecretError(CheckFailed):
    """A secret cannot be read. The message never holds any of its content."""


class LockedError(CheckFailed):
    """Another tsstack command holds the host's lock."""


class ApplyFailed(TsstackError):
    """Activation or verification failed; the host was rolled back to what it was."""

    exit_code = 5


class RollbackFailed(TsstackError):
    """The rollback itself is incomplete; the message says what is left and where the backup lies."""

    exit_code = 6


class CommandFailed(TsstackError):
    """An engine's process ended badly. Mapped to one of the above by whoever called it."""

    def __init__(self, message: str, *, returncode: int, stderr: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.stderr = stderr
