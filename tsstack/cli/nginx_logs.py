"""`nginx-logs`: what the proxied services are used for, from their access logs."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from tsstack.cli.ending import leave
from tsstack.cli.glyphs import UNCUT, clean, terminal
from tsstack.cli.options import json_option
from tsstack.cli.output import chatter
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.spans import Span, span_words
from tsstack.cli.used import describe, describe_line, line_json, usage_json
from tsstack.errors import CheckFailed, UsageError
from tsstack.model.facts import Paths
from tsstack.parts.proxy.plan import PLAN, read_plan

if TYPE_CHECKING:
    from tsstack.parts.proxy.plan import Plan


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    try:
        plan = read_plan(Paths().current)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in sorted(plan.services) if name.startswith(incomplete)] if plan else []


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  nginx-logs                       each service in the last hour
  nginx-logs wiki --top            who uses wiki most
  nginx-logs --since 15m --errors  what failed lately
  nginx-logs -f wiki api           lines as they come, through rotation
  nginx-logs --json | jq '.services[] | {service, p95: .took.p95_s}'
\b
Exit codes: 0 ok; 1 more than 1 % of a service's answers are 5xx, or of its lines cannot be read
(of at least 20); 2 more than 20 % are 5xx; 3 a log, or most of it, cannot be read.
""",
)
@click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=_complete)
@click.option(
    "--since",
    type=Span(),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="How far back: 90s, 15m, 1h, 2d, 1w.",
)
@click.option(
    "-f", "--follow", is_flag=True, help="Show each line as it comes, of all services in one stream."
)
@click.option("--errors", is_flag=True, help="Show what failed (4xx, 5xx); with -f, nothing else.")
@click.option(
    "--top",
    is_flag=False,
    flag_value=5,
    default=0,
    type=click.IntRange(0, 100),
    metavar="[N]",
    help="Show who uses each service most: five, or so many.",
)
@watch_option
@json_option
def command(
    *,
    services: tuple[str, ...],
    since: float,
    follow: bool,
    errors: bool,
    top: int,
    every_s: float | None,
    as_json: bool,
) -> int:
    """Show what the proxied services are used for: requests, states, times, limits, by service.

    Times are until the last byte was sent (p50, p95, p99) and what the upstream took of that (UP).
    WS are websockets that ended, whose time is in none of these. LIMITED are refused by rate_limit, DENIED
    by allow. A log is read from its end, as far as --since says.
    """
    if follow and every_s is not None:
        raise UsageError("--follow shows lines as they come: --watch has nothing to add")
    plan = _live_plan(services)
    if follow:
        return _follow(plan, services, errors=errors, as_json=as_json)

    def draw() -> tuple[str, str]:
        from tsstack.parts.proxy.usage import read_usage

        now_s = time.time()
        usage = read_usage(
            plan,
            Paths().log,
            since_unix_s=now_s - since,
            until_unix_s=now_s,
            services=services,
            top=top or 5,
        )
        if as_json:
            raw = usage_json(usage)
            if errors:
                raw["errors"] = [line_json(name, each) for name, each in usage.errors]
            return json.dumps(raw, indent=2 if every_s is None else None), usage.level
        return "\n".join(
            describe(usage, terminal(piped=UNCUT), span=span_words(since), top=top, errors=errors)
        ), usage.level

    return EXIT_CODE[watch(draw, every_s, as_json=as_json)]


def _live_plan(services: tuple[str, ...]) -> Plan:
    """The live generation's plan, which has all of `services`. Raises CheckFailed or UsageError."""
    current = Paths().current
    try:
        plan = read_plan(current)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{current / PLAN} is damaged: {error}", hint="switch again") from error
    except PermissionError as error:
        raise CheckFailed(f"{error.filename} may not be read by this user", hint="try with sudo") from error
    if plan is None or not plan.services:
        raise CheckFailed(
            "no generation with proxied services is live",
            hint="write proxy.services into the file, then `tsstack switch`",
        )
    for name in services:
        if name not in plan.services:
            import difflib

            near = difflib.get_close_matches(name, plan.services, n=1)
            raise UsageError(
                f"there is no service {clean(name)!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint=f"there are {', '.join(sorted(plan.services)[:20])}",
            )
    return plan


def _follow(plan: Plan, services: tuple[str, ...], *, errors: bool, as_json: bool) -> int:
    from tsstack.parts.proxy.access import parse_line
    from tsstack.parts.proxy.logfile import explain_unreadable
    from tsstack.parts.proxy.tail import follow
    from tsstack.parts.proxy.usage import Logs

    logs = Logs(plan, Paths().log, services)
    shut = {}
    for path in logs.paths:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            shut[path] = explain_unreadable(path, error)
    if len(shut) == len(logs.paths):
        raise CheckFailed(next(iter(shut.values())))
    for words in shut.values():
        chatter(f"warning: {words}")
    chatter(f"following {', '.join(logs.services[:8])}{', ...' * (len(logs.services) > 8)}; Ctrl-C ends it")
    widest = max(len(name) for name in logs.services)
    clip = sys.stdout.isatty()
    try:
        for path, line in follow(tuple(logs.paths)):
            exchange = parse_line(line)
            owner = logs.owner(path, exchange) if exchange else None
            if exchange is None or owner is None or (errors and not exchange.is_failure):
                continue
            if as_json:
                click.echo(json.dumps(line_json(owner, exchange)))
            else:
                click.echo(describe_line(owner, exchange, terminal(), widest, clip=clip))
    except KeyboardInterrupt:
        return EXIT_CODE["ok"]
    return EXIT_CODE["ok"]


def main() -> None:
    """Entry point of `nginx-logs`."""
    leave(run_script(command, "nginx-logs"))
