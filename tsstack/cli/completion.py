"""`tsstack completion`: what a shell needs to complete all our commands."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from tsstack.cli.options import unused_file_option
from tsstack.cli.output import result

if TYPE_CHECKING:
    import argparse

# Console script -> (module, its command). `ts-status` reads its words itself, so that it starts quickly.
SCRIPTS = {
    "tsstack": ("main", "cli"),
    "ts-quality": ("ts_quality", "command"),
    "ts-monitor-logs": ("ts_monitor_logs", "command"),
    "ts-benchmark": ("ts_benchmark", "command"),
    "fw-status": ("fw_status", "command"),
    "nginx-test": ("nginx_test", "command"),
    "nginx-logs": ("nginx_logs", "command"),
}
SHELLS = ("bash", "zsh", "fish")


@click.command()
@unused_file_option
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion of `tsstack` and of the commands beside it for a shell.

    \b
    Examples:
      eval "$(tsstack completion bash)"      in ~/.bashrc
      eval "$(tsstack completion zsh)"       in ~/.zshrc, after compinit
      tsstack completion fish | source       in ~/.config/fish/config.fish
    """
    result(completion_script(shell))


def completion_script(shell: str) -> str:
    """The text for one of SHELLS."""
    return "\n".join(completion_files(shell).values())


def completion_files(shell: str) -> dict[str, str]:
    """The same by command, as shells look for it in folders of the distribution."""
    found = {name: _of_command(shell, name) for name in SCRIPTS}
    return {**found, "ts-status": _of_status(shell)}


def command_of(name: str) -> click.Command:
    """The click command behind a console script."""
    module, attribute = SCRIPTS[name]
    found: click.Command = getattr(importlib.import_module(f"tsstack.cli.{module}"), attribute)
    return found


def _of_command(shell: str, name: str) -> str:
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click knows no shell {shell}")
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    # Its `source()` would run bash to ask for its version; the text is the same.
    return kind.source_template % kind(command_of(name), {}, name, variable).source_vars()


def _of_status(shell: str) -> str:
    from tsstack.cli.ts_status import make_parser

    options = [
        action for action in make_parser()._actions if action.option_strings
    ]  # argparse has no other way
    words = [word for option in options for word in option.option_strings]
    if shell == "bash":
        return f"complete -W '{' '.join(words)}' ts-status\n"
    if shell == "zsh":
        told = " ".join(f"'{word}[{_told(option)}]'" for option in options for word in option.option_strings)
        # In a folder of `fpath` it is the function itself (zshcompsys(1), "Autoloaded files"), else it has
        # to say what it is for.
        return (
            f"#compdef ts-status\n_ts_status() {{ _arguments {told} }}\n"
            'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _ts_status "$@"; '
            "else compdef _ts_status ts-status; fi\n"
        )
    lines = []
    for option in options:
        names = [
            f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in option.option_strings
        ]
        lines.append(f"complete -c ts-status -f {' '.join(names)} -d '{_told(option)}'")
    return "\n".join(lines) + "\n"


def _told(option: argparse.Action) -> str:
    """Its help without what a shell or `_arguments` would read."""
    return "".join(letter for letter in option.help or "" if letter not in "'%[]:\\")
