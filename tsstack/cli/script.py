"""What the console scripts beside `tsstack` share: how they end, and how they watch.

They serve as check plugins: 0 all is well, 1 a warning, 2 critical, and 3 where that cannot be told
(monitoring plugins' development guidelines, "plugin return codes").
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from tsstack.cli.glyphs import clean, redrawn, redraws
from tsstack.cli.options import Shared
from tsstack.cli.output import chatter, open_closed_streams, print_error
from tsstack.errors import TsstackError

EXIT_CODE = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}


class Every(click.ParamType[float]):
    """Seconds between two screens: `least` to a day."""

    name = "seconds"

    def __init__(self, least: float = 0.2) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not self.least <= seconds <= 86400:  # false of nan, too
            self.fail(f"{value!r} is no number of seconds from {self.least} to 86400", param, ctx)
        return seconds


watch_option = click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=Every(),
    metavar="[SECONDS]",
    help="Show it again and again, each 2 s or so many.",
)


def run_script(command: click.Command, name: str) -> int:
    """Run a console script's command on sys.argv; returns its exit code. What failed is 3, told on stderr."""
    open_closed_streams()
    shared = Shared()
    return exit_code_of(
        lambda: command.main(sys.argv[1:], prog_name=name, standalone_mode=False, obj=shared), shared
    )


def exit_code_of(work: Callable[[], Any], shared: Shared) -> int:
    """The code that a check plugin ends with after `work`, which gives one, or fails: that is 3, and told."""
    try:
        return _code_of(work, shared)
    except BrokenPipeError:  # `ts-quality | head`
        _let_go_of_output()
    except OSError as error:  # a full disk behind `ts-quality > FILE`, also where an error was to be told
        _let_go_of_output()
        chatter(f"error: {error}")
    except Exception:  # noqa: BLE001  a fault of ours: told whole, and no warning of a check plugin
        import traceback

        traceback.print_exc()
    return EXIT_CODE["unknown"]


def _let_go_of_output() -> None:
    """What is still in the buffer would fail once more at the end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # it has no descriptor


def _code_of(work: Callable[[], Any], shared: Shared) -> int:
    try:
        code = work()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (
        SystemExit
    ) as end:  # click's own way to end where nobody listens any more (EPIPE), and a completion's
        return end.code if isinstance(end.code, int) and end.code != 1 else EXIT_CODE["unknown"]
    except TsstackError as error:
        print_error(error, as_json=shared.as_json)
        return EXIT_CODE["unknown"]
    except click.ClickException as error:
        error.show()
        return EXIT_CODE["unknown"]
    except (KeyboardInterrupt, click.Abort):
        return 130
    return code if isinstance(code, int) else 0


class CheckVerb(click.Command):
    """A verb of `tsstack` that serves as a check plugin: it ends as the console scripts do."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Words that are none are no error of the host's."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(EXIT_CODE["unknown"]) from error

    def invoke(self, ctx: click.Context) -> Any:
        """The verb, and its exit code."""
        code = exit_code_of(lambda: super(CheckVerb, self).invoke(ctx), ctx.ensure_object(Shared))
        raise click.exceptions.Exit(code)


def watch(draw: Callable[[], tuple[str, str]], every_s: float | None, *, as_json: bool = False) -> str:
    """Print what `draw` gives (a text and a level), once or each `every_s` seconds; returns the last level.

    On a terminal each text replaces the one before; elsewhere they follow each other after an empty line. As
    JSON each is a line. Who stops answering is waited for: it was there, so it will be again. Ends with
    Ctrl-C, or when nobody reads any more.
    """
    text, level = draw()
    in_place = redraws(sys.stdout) and not as_json
    try:
        if every_s is None:
            click.echo(text)
            return level
        while True:
            if in_place:
                sys.stdout.write(redrawn(text))
                sys.stdout.flush()
            elif text or not as_json:
                click.echo(text if as_json else f"{text}\n")
            time.sleep(every_s)
            try:
                text, level = draw()
            except TsstackError as error:
                text, level = _waiting(error, as_json=as_json), "unknown"
    except KeyboardInterrupt:
        return level
    except BrokenPipeError:  # `ts-quality | head`
        _let_go_of_output()
        return level


def _waiting(error: TsstackError, *, as_json: bool) -> str:
    if as_json:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        return json.dumps({"error": {**told, "exit_code": EXIT_CODE["unknown"]}})
    return f"{clean(error.message)}: waiting for it"
