"""Options that all verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_FILE = Path("/etc/tsstack/tsstack.yaml")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Shared:
    """What was given before the verb."""

    file: Path | None = None
    as_json: bool = False


def file_option(command: F) -> F:
    """`-c FILE`, before or after the verb; the verb gets it as `file`."""
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path),
        callback=lambda context, _, value: value or context.ensure_object(Shared).file or DEFAULT_FILE,
        help=f"The file that describes the host.  [default: {DEFAULT_FILE}]",
    )(command)


def unused_file_option(command: F) -> F:
    """`-c FILE` on verbs that read no file, so that it may stand on every command line alike."""
    return click.option("-c", "--config", expose_value=False, type=click.Path(path_type=Path), hidden=True)(
        command
    )


def json_option(command: F) -> F:
    """`--json`, before or after the verb; the verb gets it as `as_json`."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        shared = context.ensure_object(Shared)
        shared.as_json = shared.as_json or value
        return shared.as_json

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, help="Print the result as JSON."
    )(command)


def group_options(group: F) -> F:
    """`-c FILE` and `--json` between a group's name and its command, as anywhere else on the line."""

    def remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        shared = context.ensure_object(Shared)
        shared.file = value or shared.file

    with_file = click.option(
        "-c", "--config", expose_value=False, type=click.Path(path_type=Path), callback=remember, hidden=True
    )
    return with_file(_hidden_json(group))


def _hidden_json(group: F) -> F:
    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        shared = context.ensure_object(Shared)
        shared.as_json = shared.as_json or value

    return click.option("--json", is_flag=True, expose_value=False, callback=remember, hidden=True)(group)


class Seconds(click.ParamType[float]):
    """A duration as in the file: 60s, 5m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        import re

        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,6})(s|m|h)", value)
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 60s or 5m", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
