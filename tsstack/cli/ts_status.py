"""`ts-status`: whether all is well, in one screen. Its start is measured, so what it imports is counted."""

from __future__ import annotations

import sys

from tsstack.cli.ending import leave
from tsstack.status.gather import Sources, gather

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from tsstack.status.shape import Status

EXIT_CODE = {"ok": 0, "warning": 1, "critical": 2}
CANNOT_TELL = 3
_UNCUT = 100_000
"""Columns, where nobody reads a screen: what is cut cannot be found by grep(1), or pasted."""
_EPILOG = """\
Ends with 0 when all is well, 1 with a warning, 2 with something critical and 3 when that cannot be told, as
check plugins do. `tsstack explain CODE` says more of each remark. Zone counters and certificates need root.

examples:
  ts-status
  ts-status --watch 1
  ts-status --json | jq .warnings
"""


class Options:
    """The command line. Without words it is the defaults, and nothing has to be read."""

    __slots__ = ("all", "every_s", "json", "sources")

    def __init__(
        self, *, all_: bool = False, json: bool = False, every_s: float = 0.0, sources: Sources | None = None
    ) -> None:
        self.all = all_
        self.json = json
        self.every_s = every_s
        """Seconds between two screens; 0: one screen."""
        self.sources = sources or Sources()


def main() -> None:
    """The console script."""
    leave(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Show the status once, or again and again; returns the exit code."""
    level = ""
    if sys.stdout is None:  # `>&-`: there is nobody to tell, but for the exit code
        return EXIT_CODE[gather((read_options(words) if words else Options()).sources)["level"]]
    try:
        options = read_options(words) if words else Options()
        while True:
            status = gather(options.sources)
            level = status["level"]
            _show(status, options)
            if not options.every_s:
                return EXIT_CODE[level]
            import time

            time.sleep(options.every_s)
    except KeyboardInterrupt:
        return EXIT_CODE.get(level, CANNOT_TELL)
    except BrokenPipeError:  # `ts-status | head`
        _let_go_of_output()
        return EXIT_CODE.get(level, CANNOT_TELL)
    except OSError as error:  # a full disk behind `ts-status > FILE`
        _let_go_of_output()
        sys.stderr.write(f"ts-status: {error.strerror or error}\n")
        return CANNOT_TELL
    except Exception:  # noqa: BLE001  a fault of ours: told whole, and no warning of a check plugin
        import traceback

        traceback.print_exc()
        return CANNOT_TELL


def _let_go_of_output() -> None:
    """What is still in the buffer would fail once more at the end."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_options(words: list[str]) -> Options:
    """The options that `words` say. SystemExit with 0 after `--help`, with 3 for words that are none."""
    given = make_parser().parse_args(words)
    sources = Sources(state=given.state, run=given.run, tailscaled=given.tailscaled, monitor=given.monitor)
    return Options(all_=given.all, json=given.json, every_s=given.watch, sources=sources)


def make_parser() -> argparse.ArgumentParser:
    """The command line, for those who give words, and for completion."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]  # it does not return either
            self.print_usage(sys.stderr)
            self.exit(CANNOT_TELL, f"ts-status: {message}\n")

    parser = Parser(
        prog="ts-status",
        description="Whether all is well with this host, in one screen: its tailnet, the exit node in\n"
        "use and why, what it offers, peers, nginx and its services, zones, links, the live\n"
        "generation, and what should be looked at.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Sources()
    parser.add_argument(
        "-a", "--all", action="store_true", help="all peers, services and zones, however low the window is"
    )
    parser.add_argument(
        "-w", "--watch", nargs="?", type=_duration, const=2.0, default=0.0, metavar="SECONDS",
        help="again and again, each 2 s or so many",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    for name, about in (
        ("state", "where tsstack keeps its generations"),
        ("run", "where it keeps what a reboot forgets"),
        ("tailscaled", "tailscaled's socket"),
        ("monitor", "the monitor's socket"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", default=default, metavar="PATH", help=f"{about}  [{default}]")
    return parser


def _duration(text: str) -> float:
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"seconds from 0.1 to 86400 are wanted, not {text!r}")
    return value


def _show(status: Status, options: Options) -> None:
    if options.json:
        import json

        indent = None if options.every_s else 2  # a line for each when they follow each other
        sys.stdout.write(json.dumps(status, indent=indent) + "\n")
    else:
        from tsstack.cli.glyphs import redrawn, redraws, screen_rows, terminal, write_whatever_comes
        from tsstack.cli.short_screen import HIGHER
        from tsstack.cli.status_screen import status_lines

        write_whatever_comes(sys.stdout)
        # Who asks for all has a window to scroll in; what others see fits, and begins with how the host is.
        rows = screen_rows() if options.every_s or not options.all else None
        out = terminal(piped=_UNCUT)
        more = HIGHER if options.every_s else "ts-status --all"
        text = "\n".join(status_lines(status, out, everything=options.all, rows=rows, more=more)) + "\n"
        sys.stdout.write(redrawn(text) if options.every_s and redraws(sys.stdout) else text)
    sys.stdout.flush()
