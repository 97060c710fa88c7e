"""`ts-quality`: how good each link is, now and over a span."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from tsstack.cli.ending import leave
from tsstack.cli.glyphs import Terminal, clean, screen_rows, terminal
from tsstack.cli.known_names import complete_path
from tsstack.cli.link_table import severity_of, table
from tsstack.cli.options import json_option
from tsstack.cli.output import chatter
from tsstack.cli.script import EXIT_CODE, run_script, watch, watch_option
from tsstack.cli.spans import Span
from tsstack.monitor.archive import Archive
from tsstack.monitor.client import DEFAULT_PATH as SOCKET
from tsstack.monitor.client import Client
from tsstack.monitor.history import DEFAULT_PATH as HISTORY
from tsstack.monitor.links import POINTS, Asked, Report, read, report_json, worst_first

WINDOWS_S = {"10s": 10.0, "1m": 60.0, "15m": 900.0}
_WINDOW = "1m"
_PLOT_POINTS = 240
_PIPED_WIDTH = 160  # wide enough for whole names: nobody wants half of one in a pipe


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("words", nargs=-1, metavar="[PATH]...", shell_complete=complete_path)
@click.option(
    "--window",
    type=click.Choice(list(WINDOWS_S)),
    show_default=_WINDOW,
    help="What the figures are of: the last ten seconds, minute or quarter of an hour.",
)
@click.option(
    "--since",
    "span_s",
    type=Span(),
    metavar="SPAN",
    help="Figures of the last 90m, 24h or 7d, from the history, with the worst level and the bad time.",
)
@click.option("--worst", "most", type=click.IntRange(min=1), metavar="N", help="Only the N worst.")
@click.option("--all", "every", is_flag=True, help="All, even if there are hundreds that are well.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw round trips and loss over time, to FILE.svg or FILE.png.",
)
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
    words: tuple[str, ...],
    window: str | None,
    span_s: float | None,
    most: int | None,
    every: bool,
    plot: Path | None,
    as_json: bool,
    every_s: float | None,
    socket: Path,
    history: Path,
) -> int:
    """Show how good each link is: loss, round trips (RTT), jitter, share relayed, and its last hour.

    PATH is a part of a path's name (exit-a, 1.1.1.1, wiki) or a kind: exit, target, route, service, peer.
    The worst comes first, with what speaks against it and the file's limit. Without a running monitor this
    shows what the last one wrote.

    \b
    Examples:
      ts-quality                             every link, of the last minute
      ts-quality exit 1.1.1.1 --watch        the exit nodes and a target, again and again
      ts-quality --since 24h                 the last day: worst level, time that was bad
      ts-quality --worst 5                   of a thousand links those that need a look
      ts-quality exit-a --since 7d --plot week.svg
      ts-quality --json | jq '.paths[] | select(.level != "good").key'

    \b
    Exit code: 0 all are good (or not measured yet), 1 one is suspect or poor, or a dead upstream's service
    has others, or the monitor has trouble, 2 one is dead, 3 it cannot be told: no monitor runs.
    """
    if plot is not None and every_s is not None:
        raise click.UsageError("--plot draws once: leave --watch out")
    if window is not None and span_s is not None:
        raise click.UsageError("--since has the figures of its span: leave --window out")
    if most is not None and every:
        raise click.UsageError("say either --worst or --all")
    if plot is not None:
        _check_picture(plot)
    all_of_it = every or plot is not None or (as_json and most is None)
    points = _PLOT_POINTS if plot is not None else POINTS
    asked = Asked(WINDOWS_S[window or _WINDOW], span_s, points, words, None if all_of_it else most, all_of_it)
    client, archive = Client(socket), Archive(history)

    def draw() -> tuple[str, str]:
        report = read(client, archive, asked)
        level = severity_of(report)
        if as_json:
            shown = report if most is None else replace(report, links=tuple(worst_first(report.links)[:most]))
            # One line: a thousand links are long enough.
            return json.dumps({**report_json(shown), "status": level}), level
        out = terminal(piped=_PIPED_WIDTH)
        lines = table(report, out, most=most, every=every)
        notes = [*map(clean, (*report.troubles, *report.notes))]
        if every_s is None:
            for note in notes:
                chatter(note)
        else:
            lines = fit([*(out.clip(each, out.width) for each in notes), *lines], out, screen_rows())
        if plot is not None:
            _plot(report, plot)
        return "\n".join(lines), level

    return EXIT_CODE[watch(draw, every_s, as_json=as_json)]


def fit(lines: list[str], out: Terminal, rows: int | None) -> list[str]:
    """As many lines as a screen that is drawn in place has room for, and how many there would be more."""
    if rows is None or len(lines) <= rows:
        return lines
    left = len(lines) - rows + 1
    return [
        *lines[: rows - 1],
        out.paint(out.clip(f"and {left} lines more: a larger terminal", out.width), "dim"),
    ]


def _check_picture(file: Path) -> None:
    """Before anything is read: the kind of picture, and whether what draws it is there."""
    if file.suffix.lower() not in {".svg", ".png"}:
        raise click.BadParameter("write FILE.svg or FILE.png", param_hint="--plot")
    if file.suffix.lower() == ".png":
        from tsstack.cli.link_picture import need_pillow

        need_pillow()


def _plot(report: Report, file: Path) -> None:
    from tsstack.cli.link_plot import MOST, drawing, svg

    links = worst_first(report.links)
    if len(links) > MOST:
        chatter(f"the plot has the {MOST} worst of {len(links)} paths: name those that you want")
    picture = drawing(replace(report, links=tuple(links[:MOST])))
    if file.suffix.lower() == ".svg":
        file.write_text(svg(picture), encoding="utf-8")
    else:
        from tsstack.cli.link_picture import write_png

        write_png(picture, file)
    chatter(f"wrote {file}")


def main() -> None:
    """The console script."""
    leave(run_script(command, "ts-quality"))
