"""`ts-monitor-logs`: what happened, as people read it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from tsstack.cli.ending import leave
from tsstack.cli.event_lines import EventLines, standing_lines
from tsstack.cli.glyphs import newest, screen_rows, terminal
from tsstack.cli.options import json_option
from tsstack.cli.output import chatter
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.spans import Span
from tsstack.monitor.archive import Archive
from tsstack.monitor.client import DEFAULT_PATH as SOCKET
from tsstack.monitor.client import Client
from tsstack.monitor.episodes import Told, standing
from tsstack.monitor.history import DEFAULT_PATH as HISTORY
from tsstack.monitor.journal import Filter, Journal, follow, named, read
from tsstack.monitor.snapshot import Severity

_COUNT = 50
_LEVEL = {"info": "ok", "warning": "warning", "critical": "critical"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-n", "count", type=click.IntRange(min=0), metavar="N", help=f"The newest N (usually {_COUNT})."
)
@click.option("--since", "span_s", type=Span(), metavar="SPAN", help="All of the last 90m, 24h or 7d.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on as they happen, until Ctrl-C.")
@click.option("--about", metavar="NAME", help="Of one thing: exit-node, exit:exit-a, or a part of a name.")
@click.option(
    "--severity",
    "least",
    type=click.Choice(get_args(Severity)),
    default="info",
    show_default=True,
    help="So severe at least. What is over is shown if its beginning is.",
)
@click.option("--full", is_flag=True, help="Whole sentences on a terminal, on as many lines as they take.")
@json_option
@watch_option
@click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),
    default=SOCKET,
    help="Where the monitor listens.",
)
@click.option(
    "--history",
    type=click.Path(path_type=Path, readable=False),
    default=HISTORY,
    help="Where the monitor keeps its memory.",
)
def command(
    *,
    count: int | None,
    span_s: float | None,
    follows: bool,
    about: str | None,
    least: Severity,
    full: bool,
    as_json: bool,
    every_s: float | None,
    socket: Path,
    history: Path,
) -> int:
    """Show what happened: levels of paths, moves of the exit node, troubles, and why.

    The latest is last. Beside what lasts stands how long, until it changed, or `stands` while it does; beside
    what is over, the whole time. Works without a running monitor, from what the last one wrote.

    \b
    Examples:
      ts-monitor-logs                              the newest 50
      ts-monitor-logs -f                           and go on as they happen
      ts-monitor-logs --since 24h --severity warning
      ts-monitor-logs --about exit-node -n 10      the moves of the exit node
      ts-monitor-logs --json --since 7d | jq -r 'select(.lasted_s > 60).text'

    \b
    Exit code: 0 nothing stands, 1 a warning stands, 2 something critical stands,
    3 it cannot be told: a monitor runs and does not answer, say.
    """
    if follows and every_s is not None:
        raise click.UsageError("say either --follow or --watch")
    client, archive = Client(socket), Archive(history)

    def wanted(journal: Journal) -> Filter:
        since = time.time() - span_s if span_s is not None else 0.0
        return Filter(since, named(about, journal.names) if about else "", least)

    def draw() -> tuple[str, str]:
        journal = read(client, archive)
        asked = wanted(journal)
        if every_s is None:
            _say(journal.notes)
        shown = _newest(journal.episodes.told, asked, count, span_s)
        lines = [*_writer(as_json=as_json, full=full)(shown)]
        stands = [each for each in journal.stands if asked.concerns(each)]
        if sys.stdout.isatty() and not as_json and not follows:
            lines += standing_lines(stands, terminal(), time.time())
        if every_s is not None and not as_json:
            lines = newest(lines, screen_rows(), terminal())
        return "\n".join(lines), "unknown" if journal.silent else _level(stands)

    if not follows:
        return EXIT_CODE[_show(draw, every_s, as_json=as_json)]
    journal = read(client, archive)
    asked, write = wanted(journal), _writer(as_json=as_json, full=full)
    _say(journal.notes)
    for line in write(_newest(journal.episodes.told, asked, count, span_s)):
        click.echo(line)
    return _follow(client, journal, asked, write)


Writer = Callable[[Iterable[Told]], Iterable[str]]


def _writer(*, as_json: bool, full: bool) -> Writer:
    if as_json:
        return lambda told: (json.dumps(each.as_json()) for each in told)
    return EventLines(terminal(), piped=not sys.stdout.isatty(), full=full).lines


def _show(draw: Callable[[], tuple[str, str]], every_s: float | None, *, as_json: bool) -> str:
    """As `watch`, but no line at all where there is nothing to show."""
    if every_s is not None:
        return watch(draw, every_s, as_json=as_json)
    text, level = draw()
    if text:
        click.echo(text)
    return level


def _follow(client: Client, journal: Journal, asked: Filter, write: Writer) -> int:
    """Each event as it happens. Ctrl-C is the way to end it."""
    episodes = journal.episodes
    try:
        for event in follow(client, [each.event for each in episodes.told], say=chatter):
            told = episodes.add(event)
            # It has only just begun: that it stands goes without saying.
            fresh = replace(told, stands=False) if told.stands else told
            for line in write([fresh] if asked.wants(told) else []):
                click.echo(line)
    except KeyboardInterrupt:
        pass
    return EXIT_CODE[_level(each for each in standing(episodes.told, None) if asked.concerns(each))]


def _newest(told: Iterable[Told], asked: Filter, count: int | None, span_s: float | None) -> list[Told]:
    """The newest so many, of a span all unless a number is given."""
    found = [each for each in told if asked.wants(each)]
    most = _COUNT if count is None and span_s is None else count
    return found if most is None else found[max(0, len(found) - most) :]


def _level(stands: Iterable[Told]) -> str:
    worst = max((EXIT_CODE[_LEVEL[each.worst]] for each in stands), default=0)
    return next(name for name, code in EXIT_CODE.items() if code == worst)


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        chatter(note)


def main() -> None:
    """The console script."""
    leave(run_script(command, "ts-monitor-logs"))
