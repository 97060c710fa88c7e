"""What the doctor says: one finding after the other, bad ones and good ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
EXIT_CODE: dict[Level, int] = {"ok": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. No field ever holds a secret."""

    code: str
    """Stable; `tsstack explain CODE` says more. A good finding has the code of what it rules out."""
    level: Level
    about: str
    """What was looked at: `nginx`, a service's name, a port."""
    evidence: str
    """What was seen, in one sentence."""
    fix: str = ""
    """A command, or what to write; empty where all is well."""


def worst(findings: Iterable[Finding]) -> Level:
    """The worst of their levels; ok without any."""
    return max((each.level for each in findings), key=EXIT_CODE.__getitem__, default="ok")


def listed(words: Iterable[str], most: int = 5) -> str:
    """`a, b and 3 more`: many things of one kind in one sentence."""
    known = list(dict.fromkeys(words))
    if len(known) <= most:
        return ", ".join(known)
    return f"{', '.join(known[:most])} and {len(known) - most} more"
