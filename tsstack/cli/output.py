"""How results, progress and errors are printed. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from tsstack.cli.glyphs import clean, takes_colour, write_whatever_comes
from tsstack.errors import ConfigError, Finding, TsstackError

# ECMA-48: SGR is what `style` writes; C0 but for tab and newline, DEL and C1 are for others to misuse.
_ACTS = re.compile(r"(\x1b\[[0-9;]*m)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SEVERITY_STYLE = {"error": "red", "warning": "yellow", "info": "blue"}


def open_closed_streams() -> None:
    """Where the caller has closed stdout or stderr (`>&-`) Python has none: what goes there is for nobody."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - for the rest of the process
    write_whatever_comes(sys.stdout)


def colour() -> bool:
    """Whether stdout takes colour, as `takes_colour` judges it."""
    return takes_colour(sys.stdout)


def style(text: str, **how: Any) -> str:
    """`text` in colour, or as it is where colour is not wanted."""
    return click.style(text, **how) if colour() else text


def result(text: str = "") -> None:
    """One line of the result."""
    click.echo(_harmless(text))


def result_json(value: Any) -> None:
    """The result as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def chatter(text: str) -> None:
    """One line for a person, on stderr. A terminal that went away is no reason to stop."""
    try:
        click.echo(_harmless(text), err=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - stays open for the rest of the process


def progress(quiet: bool) -> Callable[[str], None]:
    """A reporter that prints each step with the time since the start."""
    started_s = time.monotonic()

    def report(line: str) -> None:
        if quiet:
            return
        elapsed = f"{time.monotonic() - started_s:7.2f} s"
        if takes_colour(sys.stderr):
            elapsed = click.style(elapsed, dim=True)
        chatter(f"{elapsed}  {line}")

    return report


def _harmless(text: str) -> str:
    """Our own colours stay, nothing else that a terminal acts on: engines and peers have a say in many."""
    return _ACTS.sub(lambda found: found[1] or "?", text)


def clean_lines(text: str) -> str:
    """Words of others in lines, such as an engine's complaint, without what a terminal would act on."""
    return "\n".join(clean(line) for line in text.expandtabs().split("\n"))


def finding_dict(finding: Finding) -> dict[str, Any]:
    """A finding as the contract of `check --json` spells it."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "path": finding.path,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "message": finding.message,
        "hint": finding.hint,
    }


def print_findings(findings: Iterable[Finding], *, to_stdout: bool) -> None:
    """A line or two for each finding: place, severity and code, what and why, and what to write instead."""
    for finding in findings:
        place = f"{finding.file}:{finding.line}:{finding.column}: " if finding.line else ""
        severity = style(
            f"{finding.severity} {finding.code}", fg=_SEVERITY_STYLE[finding.severity], bold=True
        )
        path = f"{style(finding.path, bold=True)}: " if finding.path else ""
        lines = [f"{place}{severity}: {path}{clean_lines(finding.message)}"]
        if finding.hint:
            lines.append(f"    {style('help:', fg='green')} {clean_lines(finding.hint)}")
        for line in lines:
            result(line) if to_stdout else chatter(line)


def print_error(error: TsstackError, *, as_json: bool) -> None:
    """An error, with its findings and its hint; as JSON on stdout where that was asked for."""
    findings = error.findings if isinstance(error, ConfigError) else ()
    if as_json:
        result_json(
            {
                "error": {
                    "kind": type(error).__name__,
                    "message": error.message,
                    "hint": error.hint,
                    "exit_code": error.exit_code,
                },
                "findings": [finding_dict(each) for each in findings],
            }
        )
        return
    print_findings(findings, to_stdout=False)
    chatter(f"{style('error:', fg='red', bold=True)} {clean_lines(error.message)}")
    if error.hint:
        chatter(f"{style('help:', fg='green')} {clean_lines(error.hint)}")
