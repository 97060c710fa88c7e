"""What every verb works with: the host's paths, its parts, its clock and someone to tell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tsstack.errors import CheckFailed
from tsstack.model.facts import Facts, Paths
from tsstack.parts.part import Part, Report
from tsstack.parts.registry import all_parts
from tsstack.switch.facts import gather_facts
from tsstack.switch.generations import Store
from tsstack.system.clock import Clock, SystemClock


def _silent(_: str) -> None:
    return None


def _tolerant(report: Report) -> Report:
    """What cannot be said (a full disk, a terminal that went away) keeps nothing from being done."""

    def say(line: str) -> None:
        with suppress(OSError, ValueError):  # the latter of a closed stream; never Interrupted
            report(line)

    return say


@dataclass(frozen=True)
class Site:
    """One host, as the switch sees it. Tests give it other paths, parts, a clock of their own."""

    paths: Paths = field(default_factory=Paths)
    parts: tuple[Part, ...] = field(default_factory=all_parts)
    clock: Clock = field(default_factory=SystemClock)
    report: Report = _silent
    gather: Callable[[Paths], Facts] = gather_facts

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", _tolerant(self.report))

    @property
    def store(self) -> Store:
        return Store(self.paths.state)

    def facts(self) -> Facts:
        """Look at the machine now. Raises CheckFailed when it does not let us (no file left to open)."""
        try:
            return self.gather(self.paths)
        except OSError as error:
            raise CheckFailed(f"this machine cannot be looked at: {error}") from error
