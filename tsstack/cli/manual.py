"""`tsstack manual`: the manual pages, made from the commands and the types, for whoever makes a package.

man(7), man-pages(7): sections in their order, roff's own characters escaped, examples as they stand.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsstack import __version__
from tsstack.cli.completion import SCRIPTS, command_of
from tsstack.cli.options import unused_file_option
from tsstack.cli.output import result
from tsstack.errors import (
    ApplyFailed,
    CheckFailed,
    ConfigError,
    RollbackFailed,
    TsstackError,
    UsageError,
)

if TYPE_CHECKING:
    import argparse

_BRIEF = {
    "tsstack": "one declarative file makes a host on a tailnet",
    "ts-status": "whether all is well with this host, in one screen",
    "ts-quality": "how good each link of this host is",
    "ts-monitor-logs": "what the monitor saw and did",
    "ts-benchmark": "how good the way to a peer is",
    "fw-status": "the zones, what they let in, and what was dropped",
    "nginx-test": "judge the configuration that nginx has, and ours",
    "nginx-logs": "requests, errors and latency of each service",
}
_FILES = (
    ("/etc/tsstack/tsstack.yaml", "the file: tsstack.yaml(5)"),
    ("/var/lib/tsstack/generations", "what this host has been"),
    ("/var/lib/tsstack/current", "the generation that is live"),
    ("/var/lib/tsstack/boot", "the one that the next boot brings up"),
    ("/run/tsstack/monitor.sock", "where the monitor listens"),
)
_EXIT = (
    (0, "it is done, or nothing had to be done"),
    (TsstackError.exit_code, "it could not be done; or, of a check, a warning"),
    (UsageError.exit_code, "usage error; or, of a check, something critical"),
    (ConfigError.exit_code, "the file is not valid; or, of a check, that cannot be told"),
    (CheckFailed.exit_code, "refused before anything was changed"),
    (ApplyFailed.exit_code, "a change failed and was undone as a whole"),
    (RollbackFailed.exit_code, "a change failed and could not be undone wholly"),
)
_PLAIN_SCRIPTS = ("ts-status",)
"""Those that read their words by argparse."""


@click.command(hidden=True)
@unused_file_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def manual(folder: Path) -> None:
    """Write the manual pages into FOLDER/man1 and FOLDER/man5."""
    for name, text in pages().items():
        place = folder / f"man{name[-1]}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        result(str(place))


def pages() -> dict[str, str]:
    """All pages: `tsstack-switch.1` and the like, each with its text."""
    found = {"tsstack.yaml.5": _file_page()}
    for script in SCRIPTS:
        command = command_of(script)
        found[f"{script}.1"] = _command_page(script, command, _BRIEF[script])
        if script == "tsstack" and isinstance(command, click.Group):
            context = click.Context(command, info_name=script)
            for verb in command.list_commands(context):
                below = command.get_command(context, verb)
                if below is not None:
                    brief = below.get_short_help_str(200).rstrip(".")
                    found[f"{script}-{verb}.1"] = _command_page(f"{script} {verb}", below, _lower(brief))
    for script in _PLAIN_SCRIPTS:
        found[f"{script}.1"] = _parser_page(script)
    return found


def _command_page(name: str, command: click.Command, brief: str) -> str:
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    lines = [*_head(name, brief), ".SH SYNOPSIS", *_synopsis(context)]
    lines += [".SH DESCRIPTION", *_prose(command.help or "")]
    options = [*_options(context)]
    if options:
        lines += [".SH OPTIONS", *options]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_commands(name, command, context)]
    lines += _prose(command.epilog or "")
    if name == "tsstack":
        lines += _ends()
    lines += _examples(command.help or "", command.epilog or "")
    return _joined([*lines, *_see_also(name)])


def _head(name: str, brief: str) -> Iterator[str]:
    title = name.replace(" ", "-")
    yield f'.TH "{_escaped(title.upper())}" 1 "" "tsstack {__version__}" "tsstack"'
    yield ".SH NAME"
    yield f"{_escaped(title)} \\- {_escaped(brief)}"


def _synopsis(context: click.Context) -> Iterator[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield f".B {_escaped(context.info_name or '')}"
    yield _escaped(pieces)


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from _entry(*record)


def _commands(name: str, group: click.Group, context: click.Context) -> Iterator[str]:
    """Of `tsstack` a line for each verb, which has a page of its own; of a verb's commands all there is."""
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        if command is None or command.hidden:
            continue
        if name == "tsstack":
            yield from _entry(f"{name}-{each}(1)", command.get_short_help_str(200))
            continue
        below = click.Context(command, info_name=f"{name} {each}")
        yield f".SS {_escaped(each)}"
        yield from _synopsis(below)
        yield ".PP"
        yield from _prose(command.help or "")
        yield from _options(below)


def _parser_page(name: str) -> str:
    from tsstack.cli.ts_status import make_parser

    parser = make_parser()
    lines = [*_head(name, _BRIEF[name]), ".SH SYNOPSIS", f".B {_escaped(name)}", "[OPTIONS]"]
    lines += [".SH DESCRIPTION", *_prose(parser.description or ""), ".SH OPTIONS"]
    for action in parser._actions:  # argparse has no other way
        lines += _entry(_words_of(action), action.help or "")
    lines += [".SH EXIT STATUS", *_prose(parser.epilog or ""), *_examples(parser.epilog or "")]
    return _joined([*lines, *_see_also(name)])


def _words_of(action: argparse.Action) -> str:
    value = f" [{action.metavar}]" if action.nargs == "?" else f" {action.metavar}" if action.metavar else ""
    return ", ".join(f"{word}{value}" for word in action.option_strings)


def _ends() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for code, meaning in _EXIT:
        yield from _entry(str(code), meaning)
    yield ".SH FILES"
    for path, meaning in _FILES:
        yield from _entry(path, meaning)


def _see_also(name: str) -> Iterator[str]:
    others = ["tsstack(1)", "tsstack.yaml(5)", *(f"{script}(1)" for script in _BRIEF if script != "tsstack")]
    yield ".SH SEE ALSO"
    yield ",\n".join(f".BR {_escaped(other[:-3])} ({other[-2]})" for other in others if other[:-3] != name)


def _file_page() -> str:
    """tsstack.yaml(5) from the reference of the file, whose tables become entries."""
    from tsstack.model.schema import render_reference

    title, *parts = render_reference().split("\n## ")
    lines = [
        f'.TH "TSSTACK.YAML" 5 "" "tsstack {__version__}" "tsstack"',
        ".SH NAME",
        "tsstack.yaml \\- the file that describes a host",
        ".SH DESCRIPTION",
        *_prose(_unmarked(title.partition("\n")[2])),
    ]
    for part in parts:
        heading, _, body = part.partition("\n")
        lines.append(f".SH {_escaped(_unmarked(heading))}")
        for line in body.splitlines():
            if not line.startswith("|"):
                lines += [_escaped(_unmarked(line))] if line else []
                continue
            key, form, default, meaning = (
                _unmarked(cell.strip().replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]
            )
            if set(key) != {"-"} and key != "key":
                given = "needed" if default == "needed" else f"default: {default}" if default else ""
                lines += _entry(key, meaning, f"{form}; {given}" if given else form)
    lines += [".SH SEE ALSO", f".BR {_escaped('tsstack')} (1)"]
    return _joined(lines)


def _entry(term: str, *texts: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_escaped(term)}"
    for at, text in enumerate(texts):
        if at:
            yield ".br"
        yield _escaped(" ".join(text.split()))


_EXAMPLES = re.compile(r"examples?:", re.IGNORECASE)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs without the examples; one that begins with click's `\\b` stands as it is."""
    for kept, lines in _paragraphs(text):
        if lines and not _EXAMPLES.fullmatch(lines[0].strip()):
            yield ".PP"
            yield from _as_it_stands(lines) if kept else (_escaped(" ".join(" ".join(lines).split())),)


def _examples(*texts: str) -> Iterator[str]:
    """What stands below a line `Examples:`."""
    for text in texts:
        for _, lines in _paragraphs(text):
            if lines and _EXAMPLES.fullmatch(lines[0].strip()):
                yield ".SH EXAMPLES"
                yield from _as_it_stands(lines[1:])


def _paragraphs(text: str) -> Iterator[tuple[bool, list[str]]]:
    """Each with whether its lines are to be kept (click's `\\b`)."""
    for paragraph in textwrap.dedent(text).strip().split("\n\n"):
        lines = paragraph.splitlines()
        kept = bool(lines) and lines[0].strip() == "\b"
        yield kept, lines[kept:]


def _as_it_stands(lines: Sequence[str]) -> Iterator[str]:
    yield from (".nf", *map(_escaped, textwrap.dedent("\n".join(lines)).splitlines()), ".fi")


def _unmarked(text: str) -> str:
    return text.replace("`", "")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_ESCAPES = str.maketrans(
    {
        "\\": "\\e",
        "-": "\\-",
        '"': "\\(dq",
        "'": "\\(aq",
        "`": "\\(ga",
        "~": "\\(ti",
        "^": "\\(ha",
    }
)


def _escaped(text: str) -> str:
    """Text that roff prints as it stands (groff_char(7)); a line must not begin with its `.`."""
    told = text.translate(_ESCAPES)
    return f"\\&{told}" if told.startswith(".") else told


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
