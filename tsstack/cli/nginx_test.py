"""`nginx-test`: whether the nginx that runs, or would run, does what the file says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.ending import leave
from tsstack.cli.glyphs import UNCUT, screen_rows, terminal
from tsstack.cli.options import json_option
from tsstack.cli.output import finding_dict, print_findings, result, result_json
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.stood import describe, standing_json
from tsstack.errors import CheckFailed, ConfigError, Finding, UsageError
from tsstack.parts.proxy.plan import PLAN, read_plan

if TYPE_CHECKING:
    from tsstack.parts.proxy.plan import Plan
    from tsstack.switch.site import Site


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  nginx-test                          the nginx of this host, as it is now
  nginx-test /etc/tsstack/tsstack.yaml  what a switch to this file would make of it
  nginx-test --watch 5                again each 5 s, while you mend something
  nginx-test --json | jq '.vhosts[] | {name, days_left}'
\b
Exit codes: 0 ok; 1 a warning; 2 something is broken; 3 that cannot be told.
""",
)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@watch_option
@json_option
def command(file: Path | None, *, every_s: float | None, as_json: bool) -> int:
    """Judge nginx: its configuration, what it serves, the upstreams, the certificates. Changes nothing.

    Without FILE: lets nginx judge the host's whole configuration (`nginx -t`), asks each name at each of its
    addresses with a new connection whether the live generation serves it, looks at each certificate, and
    asks each upstream for an answer (HEAD /). With FILE: renders it and lets nginx judge the result as a
    switch would. Root sees most; others are told what they cannot see.
    """
    from tsstack.switch.site import Site

    site = Site()
    if file is not None:
        if every_s is not None:
            raise UsageError("--watch looks at the host: leave FILE out")
        return _judge_file(file, site, as_json=as_json)

    def draw() -> tuple[str, str]:
        from tsstack.parts.proxy.standing import look

        plan = _live_plan(site)
        standing = look(site.paths.current.resolve(), plan, site.facts(), _mend(site))
        if as_json:
            return json.dumps(standing_json(standing), indent=2 if every_s is None else None), standing.level
        rows = screen_rows() if every_s else None
        return "\n".join(describe(standing, terminal(piped=UNCUT), rows)), standing.level

    return EXIT_CODE[watch(draw, every_s, as_json=as_json)]


def _mend(site: Site) -> str:
    """What makes the host as its live generation says, whatever the file says by now."""
    from tsstack.status.fixes import reapply
    from tsstack.status.generation import read_generation

    generation = read_generation(str(site.paths.state))
    fix = reapply(generation["current"], generation["boot"], generation["pending"])
    return fix.partition("    # ")[0]


def _live_plan(site: Site) -> Plan:
    """The live generation's plan. Raises CheckFailed when there is none."""
    current = site.paths.current
    try:
        plan = read_plan(current)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{current / PLAN} is damaged: {error}", hint="switch again") from error
    except PermissionError as error:
        raise CheckFailed(f"{error.filename} may not be read by this user", hint="try with sudo") from error
    if plan is None:
        raise CheckFailed(
            "no generation with a proxy is live",
            hint="`nginx-test FILE` judges a file; `tsstack switch` makes it live",
        )
    return plan


def _judge_file(file: Path, site: Site, *, as_json: bool) -> int:
    """Print what nginx thinks of what `file` renders to; returns the exit code."""
    findings: tuple[Finding, ...] = ()
    told: dict[str, Any] = {"status": "critical", "refused": "", "hint": "", "warnings": [], "changes": []}
    try:
        findings = _render_and_check(file, site, told)
    except ConfigError as error:
        findings, told["refused"] = error.findings, error.message
    except CheckFailed as error:
        told["refused"], told["hint"] = error.message, error.hint
    warned = told["warnings"] or any(each.severity == "warning" for each in findings)
    if not told["refused"]:
        told["status"] = "warning" if warned else "ok"
    if as_json:
        result_json({**told, "findings": [finding_dict(each) for each in findings]})
        return EXIT_CODE[told["status"]]
    screen = terminal()
    print_findings([each for each in findings if each.severity != "info"], to_stdout=True)
    for line in told["warnings"]:
        result(f"{screen.sign('warning')} {line}")
    if told["refused"]:
        result(f"{screen.sign('critical')} {told['refused']}")
        if told["hint"]:
            result(f"  {screen.sign('arrow')} {told['hint']}")
    else:
        result(f"{screen.sign(told['status'])} nginx accepts what {file} renders to")
        for line in told["changes"]:
            result(f"  {line}")
        if not told["changes"] and os.geteuid() == 0:
            result("  a switch would change nothing in it")
    return EXIT_CODE[told["status"]]


def _render_and_check(file: Path, site: Site, told: dict[str, Any]) -> tuple[Finding, ...]:
    """Fill `warnings` and `changes` of `told`; returns the findings.

    Raises ConfigError, CheckFailed, and UsageError for a file without a proxy.
    """
    from tsstack.parts.proxy.host import PART, find_drift
    from tsstack.switch.generations import write_tree
    from tsstack.switch.intent import load, located
    from tsstack.system.scratch import Scratch

    if not os.access(file, os.R_OK):
        raise UsageError(f"{file} is not there, or may not be read by this user")
    facts = site.facts()
    loaded, findings = load(file, facts)
    if loaded.stack.proxy is None:
        raise UsageError(f"{file} has no proxy: it asks nothing of nginx")
    with Scratch() as folder, located(loaded):
        write_tree(folder, PART.desired(loaded.stack, facts))
        PART.check(folder, facts)
        told["warnings"] = list(PART.warnings(folder, facts))
        if os.geteuid() == 0:
            told["changes"] = [str(each) for each in find_drift(folder, facts)]
    return findings


def main() -> None:
    """Entry point of `nginx-test`."""
    leave(run_script(command, "nginx-test"))
