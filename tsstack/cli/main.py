"""`tsstack`: the command line. Verbs are loaded when they are used, so that the tool starts quickly."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path

import click

from tsstack import __version__
from tsstack.cli.ending import leave
from tsstack.cli.options import DEFAULT_FILE, Shared, json_option
from tsstack.cli.output import chatter, open_closed_streams, print_error
from tsstack.errors import TsstackError

# verb -> (module, attribute, what it does), in the order of a first day with tsstack
_GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "The file": {
        "init": ("file", "init", "Write a starter file from what this host has."),
        "check": ("file", "check", "Judge the file: faults, contradictions, what the engines say."),
        "build": ("file", "build", "Render everything into a folder; no root, no effect."),
        "prove": ("prove", "prove", "Prove with real packets that the rules do what the file says."),
        "diff": ("file", "diff", "Show how the rendered files differ from the live ones."),
        "schema": ("file", "schema", "Print the JSON Schema of the file, for editors."),
        "explain": ("explain", "explain", "Say why a packet passes or not, or what a code means."),
        "secrets": ("secrets", "secrets", "Edit and check the encrypted secrets."),
    },
    "The host": {
        "dry-activate": ("change", "dry_activate", "Say what a switch would change, and stop there."),
        "switch": ("change", "switch", "Make the host so, now and for every boot."),
        "test": ("change", "test", "Make the host so until the next reboot."),
        "boot": ("change", "boot", "Make the host so at the next boot."),
        "confirm": ("change", "confirm", "Keep a switch that waits for its confirmation."),
        "rollback": ("change", "rollback", "Go back to an earlier generation."),
        "fallback": ("fallback", "fallback", "The firewall for a host without a generation's."),
        "generations": ("show", "generations", "List what this host has been."),
        "doctor": ("doctor", "doctor", "Look for what is wrong, all along from the file to a packet."),
        "certificates": ("certificates", "certificates", "Renew certificates; hand out the local CA's root."),
        "units": ("units", "units", "The systemd units: what a boot needs, renewal, the monitor."),
    },
    "The links": {
        "top": ("top", "top", "Watch it all on one screen: the dashboard."),
        "monitor": ("monitor", "monitor", "Watch the links and fail over; ask the monitor that runs."),
        "exit-node": ("exit_node", "exit_node", "Show the exit nodes with their quality; choose one."),
    },
    "Trying it": {
        "completion": ("completion", "completion", "Print what a shell needs to complete these commands."),
        "lab": ("lab", "lab", "A whole tailnet in namespaces: Headscale, nodes, faults."),
    },
    "": {  # called by units and packages, not by people
        "manual": ("manual", "manual", "Write the manual pages into a folder."),
        "recover": (
            "change",
            "recover",
            "Judge what a killed command left; with --boot, bring up the boot generation.",
        ),
    },
}
_VERBS = {name: entry for group in _GROUPS.values() for name, entry in group.items()}


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for title, group in _GROUPS.items() if title for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, attribute, _ = _VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"tsstack.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _VERBS, n=1)
            ctx.fail(f"there is no verb {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in _GROUPS.items():
            if title:
                with formatter.section(title):
                    formatter.write_dl([(name, text) for name, (_, _, text) in group.items()])


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  tsstack init > tsstack.yaml            start from what this host has
  tsstack -c tsstack.yaml check          all faults at once, each with its line
  tsstack -c tsstack.yaml dry-activate   what a switch would change
  tsstack switch --confirm 60s           undone by itself unless you confirm
  tsstack rollback                       back to the generation before
""",
)
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help=f"The file that describes the host.  [default: {DEFAULT_FILE}]",
)
@json_option
@click.version_option(__version__, prog_name="tsstack")
@click.pass_context
def cli(context: click.Context, file: Path | None, as_json: bool) -> None:
    """One file makes this host: its tailnet, proxy, firewall zones, kernel, DNS and bandwidth."""
    shared = context.ensure_object(Shared)
    shared.file, shared.as_json = file, as_json


def main() -> None:
    """Entry point: the only place that turns exceptions into exit codes."""
    # A verb lives for a second or so: to look for reference cycles all along would cost a tenth of it.
    gc.set_threshold(500_000, 50, 100)
    open_closed_streams()
    # Validation runs as root: no other package's plugin has a part in it, and none has to be looked for.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    shared = Shared()
    try:
        code = cli.main(arguments, prog_name="tsstack", standalone_mode=False, obj=shared)
    except click.exceptions.Exit as end:
        return end.exit_code
    except TsstackError as error:
        print_error(error, as_json=shared.as_json)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except BrokenPipeError:  # `tsstack ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (click.Abort, OSError) as error:  # outside a transaction: Ctrl-C, a broken disk
        chatter(f"error: {_words(error)}" if isinstance(error, OSError) else "interrupted")
        return 1
    return code if isinstance(code, int) else 0


def _words(error: OSError) -> str:
    """Without its number, which is nobody's business: what went wrong, and with which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
