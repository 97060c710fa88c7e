"""`tsstack top`: the dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from tsstack.cli.known_names import complete_theme
from tsstack.cli.options import unused_file_option
from tsstack.cli.script import Every
from tsstack.errors import UsageError


@click.command()
@unused_file_option
@click.option(
    "--theme",
    metavar="NAME",
    shell_complete=complete_theme,
    help="Its colours; `t` goes through them.  [default: tsstack]",
)
@click.option(
    "--every",
    "every_s",
    type=Every(least=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often everyone is asked; tailscaled once a second at most.",
)
@click.option(
    "--state", default="/var/lib/tsstack", show_default=True, help="Where tsstack keeps its generations."
)
@click.option(
    "--run", default="/run/tsstack", show_default=True, help="Where it keeps what a reboot forgets."
)
@click.option(
    "--tailscaled", default="/var/run/tailscale/tailscaled.sock", show_default=True, help="Its socket."
)
@click.option(
    "--monitor", default="/run/tsstack/monitor.sock", show_default=True, help="The monitor's socket."
)
@click.option("--history", default="/var/lib/tsstack/monitor/history.db", hidden=True)
def top(
    *, theme: str | None, every_s: float, state: str, run: str, tailscaled: str, monitor: str, history: str
) -> None:
    """Watch this host on one screen: links, exit nodes, services, zones, events, generations.

    Reads as any user; what changes something is for root, and is asked once. Nothing on it ever waits for
    a daemon that is away: what it said last is shown dim.

    \b
    Examples:
      tsstack top                 ? shows all keys
      tsstack top --theme nord
      NO_COLOR=1 tsstack top      without colour
    """
    import os
    import sys

    from tsstack.cli.glyphs import locale_given
    from tsstack.status.gather import Sources
    from tsstack.status.words import speaks_utf8

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the dashboard needs a terminal", hint="ts-status and ts-status --json do not")
    from tsstack.tui.feed import Feed, Places

    sources = Sources(state=state, run=run, tailscaled=tailscaled, monitor=monitor, timeout_s=2.0)
    feed = Feed(Places(sources, Path(history)), every_s=every_s)
    feed.start()  # it asks while the screen's modules are loaded
    from tsstack.tui import look
    from tsstack.tui.app import Dashboard
    from tsstack.tui.cells import Signs

    if theme is not None and theme not in look.THEMES:
        raise UsageError(f"there is no theme {theme!r}", hint=f"there are: {', '.join(look.THEMES)}")
    plain = look.is_plain(os.environ)
    if not plain:
        os.environ.pop("NO_COLOR", None)  # empty: to Textual it would say the same as 1
    app = Dashboard(
        feed, Signs(unicode=speaks_utf8(locale_given())), theme=theme or look.THEMES[0], plain=plain
    )
    app.run()
    feed.stop()
    if app.return_code:
        raise click.exceptions.Exit(app.return_code)
