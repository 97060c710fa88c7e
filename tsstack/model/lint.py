"""Contradictions across the sections of a file that is valid in itself. Pure.

A rule is a function of `tsstack.model.rules`; it says which sections it reads, and a remark may say more
exactly what it rests on, so that the rest can still be judged where something is faulty.
"""

from __future__ import annotations

from collections.abc import Iterator

from tsstack.errors import ConfigError, Finding
from tsstack.model.facts import Facts
from tsstack.model.keypath import format_path
from tsstack.model.loaded import LoadedStack
from tsstack.model.remains import Remains
from tsstack.model.rules import firewall, host, proxy, tailnet
from tsstack.model.rules.view import RULES, View
from tsstack.model.words import redact

# Importing them registers their rules.
_MODULES = (firewall, proxy, tailnet, host)


def lint(loaded: LoadedStack, facts: Facts | None) -> tuple[Finding, ...]:
    """Every finding across sections, in the file's order. Without facts, what needs them is not judged."""
    return _sorted(_run(loaded, facts, None))


def lint_intact(loaded: LoadedStack, remains: Remains) -> tuple[Finding, ...]:
    """What is sure in a file with faults; `loaded` holds what remains of it."""
    return _sorted(_run(loaded, None, remains))


def require_sound(loaded: LoadedStack, facts: Facts | None) -> tuple[Finding, ...]:
    """The warnings and remarks on a file. Raises ConfigError, with all findings, when one is an error."""
    findings = lint(loaded, facts)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        count = "1 contradiction" if errors == 1 else f"{errors} contradictions"
        raise ConfigError(f"{loaded.document.file} is not valid: {count}", findings=findings)
    return findings


def _run(loaded: LoadedStack, facts: Facts | None, remains: Remains | None) -> Iterator[Finding]:
    view = View(loaded.stack, loaded.document, facts)
    for reads, rule in RULES:
        touched = remains is not None and any(path[0] in reads for path in remains.taken)
        for remark in rule(view):
            path = remains.in_file(remark.path) if remains else remark.path
            if remains and remark.rests_on is None and touched:
                continue
            if remains and not remains.leaves(path, map(remains.in_file, remark.rests_on or ())):
                continue
            file, line, column = loaded.place(path, value=remark.value)
            yield Finding(
                remark.code.code,
                remark.code.severity,
                format_path(path),
                redact(remark.message),
                redact(remark.hint),
                file,
                line,
                column,
            )


def _sorted(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(dict.fromkeys(findings), key=lambda found: (found.line, found.column, found.code)))
