"""The file: can it be read, is it sound, is it what is live? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tsstack import errors
from tsstack.doctor.finding import Finding, Level

_LEVELS: dict[str, Level] = {"error": "error", "warning": "warning"}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The file as it was found. `fault`: why it could not be read or made into anything; empty: it could."""

    path: str
    present: bool
    asked: bool = False
    """Whether somebody named it, so that its absence is a fault."""
    findings: tuple[errors.Finding, ...] = ()
    fault: str = ""
    hint: str = ""
    live: int = 0
    live_source: str = ""
    """Where the live generation's file lay."""
    same_as_live: bool | None = None
    """Whether the file still is what the live generation was made from; None: of another file, or none."""


def check_file(facts: FileFacts) -> Iterator[Finding]:
    """Every fault of the file with its place, and whether it waits for a switch."""
    if not facts.present:
        yield _absent(facts)
        return
    if not facts.fault and all(each.severity == "info" for each in facts.findings):
        count = len(facts.findings)
        notes = f", {count} remark{'' if count == 1 else 's'} (tsstack check)" if count else ""
        yield Finding("TS801", "ok", "file", f"{facts.path}: no faults{notes}")
    for each in facts.findings:
        if each.severity == "info":
            continue
        place = f"{each.file}:{each.line}:{each.column}: " if each.line else ""
        path = f"{each.path}: " if each.path else ""
        fix = each.hint or f"tsstack explain {each.code}"
        yield Finding(each.code, _LEVELS[each.severity], "file", f"{place}{path}{each.message}", fix)
    if facts.fault:
        yield Finding("TS803", "error", "file", facts.fault, facts.hint)
    if facts.same_as_live is False:
        yield Finding(
            "TS802",
            "warning",
            "file",
            f"{facts.path} is not what generation {facts.live} was made from: it was changed since",
            f"tsstack -c {facts.path} dry-activate",
        )


def _absent(facts: FileFacts) -> Finding:
    words = f"there is no {facts.path}"
    if facts.asked:
        return Finding("TS801", "error", "file", words, f"tsstack init > {facts.path}")
    if facts.live:
        words += f"; generation {facts.live} was made from {facts.live_source or 'another file'}"
        return Finding("TS801", "ok", "file", words)
    return Finding("TS801", "ok", "file", f"{words} yet: `tsstack init` writes a first one")
