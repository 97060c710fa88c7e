"""What the console scripts beside `tsstack` share: how they end, and how they watch.

They serve as check plugins: 0 all is well, 1 a warning, 2 critical, and 3 where that cannot be told
(monitoring plugins' development guidelines, "plugin return codes").
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from tsstack.cli.glyphs import redrawn, redraws
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


def run_script(command: click.Command, name: str) -> int:  # noqa: PLR0911  each way to end has its code
    """Run a console script's command on sys.argv; returns its exit code. What failed is 3, told on stderr."""
    open_closed_streams()
    shared = Shared()
    try:
        code = command.main(sys.argv[1:], prog_name=name, standalone_mode=False, obj=shared)
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
    except BrokenPipeError:  # `ts-quality | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODE["unknown"]
    except (KeyboardInterrupt, click.Abort):
        return 130
    except OSError as error:
        chatter(f"error: {error}")
        return EXIT_CODE["unknown"]
    except Exception:  # noqa: BLE001  a fault of ours: told whole, and no warning of a check plugin
        import traceback

        traceback.print_exc()
        return EXIT_CODE["unknown"]
    return code if isinstance(code, int) else 0


def watch(draw: Callable[[], tuple[str, str]], every_s: float | None) -> str:
    """Print what `draw` gives (a text and a level), once or each `every_s` seconds; returns the last level.

    On a terminal each text replaces the one before; elsewhere they follow each other after an empty line.
    Ends with Ctrl-C.
    """
    text, level = draw()
    if every_s is None:
        click.echo(text)
        return level
    in_place = redraws(sys.stdout)
    try:
        while True:
            if in_place:
                sys.stdout.write(redrawn(text))
                sys.stdout.flush()
            else:
                click.echo(f"{text}\n")
            time.sleep(every_s)
            text, level = draw()
    except KeyboardInterrupt:
        return level
