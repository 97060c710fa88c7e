"""`tsstack secrets`: edit the encrypted file, and see whether all that the host needs can be read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tsstack.cli.options import file_option, group_options, json_option
from tsstack.cli.output import chatter, result, result_json, style
from tsstack.errors import SecretError

if TYPE_CHECKING:
    from tsstack.model.section import Section
    from tsstack.model.sections import SecretRef
    from tsstack.model.stack import Stack

# sops, cmd/sops/codes/codes.go: FileHasNotBeenModified, NoEditorFound
_SOPS_UNCHANGED = 200
_SOPS_NO_EDITOR = 201
# What it says before it waits for a key, when the editor left something that cannot be read.
_SOPS_ASKS = "to return to the editor"


@click.group()
@group_options
def secrets() -> None:
    """Secrets: kept in a sops file, decrypted in memory at switch time only.

    \b
    Examples:
      tsstack secrets edit
      tsstack secrets check
    """


@secrets.command()
@click.argument("secrets_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@file_option
@json_option
def edit(secrets_file: Path | None, file: Path, as_json: bool) -> None:
    """Open an encrypted file in your editor; it is made if it is new.

    Without FILE it is the one that `secrets.file` of the host's file names.

    On first use this host gets an age identity of its own, /etc/tsstack/age.key, readable by root alone.
    Keep a copy of it in a safe place: without it the file cannot be opened again.

    \b
    Example:
      tsstack secrets edit
      tsstack secrets edit /etc/tsstack/secrets.yaml
    """
    from tsstack.system.command import run_attached, run_until
    from tsstack.system.secrets import identity_file, prepare_edit

    target = secrets_file or _named_in(file)
    fresh = not identity_file().exists()
    argv, env = prepare_edit(target)
    if fresh:
        chatter(f"made this host's age identity, {identity_file()}: keep a copy of it in a safe place")
    # Without a terminal nobody can answer, and sops would ask for ever.
    code = run_attached(argv, env=env) if sys.stdin.isatty() else run_until(argv, env=env, phrase=_SOPS_ASKS)
    if code is None:
        raise SecretError(
            f"what the editor left cannot be read; {target} is as it was",
            hint="it must be one mapping of names to values",
        )
    if code == _SOPS_NO_EDITOR:
        raise SecretError("sops found no editor", hint="set EDITOR, for example EDITOR=nano")
    if code not in (0, _SOPS_UNCHANGED):
        raise SecretError(f"sops ended with {code}; {target} is as it was", hint="its message is above")
    changed = code == 0
    if as_json:
        result_json({"file": str(target), "changed": changed})
    elif not changed:
        result(f"{target} is as it was")


def _named_in(file: Path) -> Path:
    """The sops file that the host's file names."""
    from tsstack.switch.intent import load

    stack = load(file, None)[0].stack
    if stack.secrets is None:
        raise SecretError(
            f"{file} names no secrets file", hint="write secrets: {file: /etc/tsstack/secrets.yaml}"
        )
    return Path(stack.secrets.file)


@secrets.command()
@file_option
@json_option
def check(file: Path, as_json: bool) -> None:
    """Say of each secret that the file refers to whether it can be read. Values are never shown.

    Exit code 4 when one of them cannot.

    \b
    Example:
      tsstack secrets check
    """
    from tsstack.switch.intent import load

    loaded, _ = load(file, None)
    lines = [_judge(path, reference, loaded.stack) for path, reference in references(loaded.stack)]
    if as_json:
        result_json({"secrets": lines})
    for line in lines if not as_json else ():
        word = style("found", fg="green") if line["found"] else style("missing", fg="red", bold=True)
        result(f"{word}  {line['path']}  {line['source']}")
        if not line["found"]:
            result(f"    {line['message']}")
            if line["hint"]:
                result(f"    {style('help:', fg='green')} {line['hint']}")
    if not lines and not as_json:
        result("the file refers to no secret")
    if not all(line["found"] for line in lines):
        raise click.exceptions.Exit(SecretError.exit_code)


def references(section: Section, path: str = "") -> Iterator[tuple[str, SecretRef]]:
    """Every secret that a section or one below it refers to, with its key path."""
    from tsstack.model.section import Section
    from tsstack.model.sections import SecretRef

    if isinstance(section, SecretRef):
        yield path, section
        return
    for name in type(section).model_fields:
        value = getattr(section, name)
        below = f"{path}.{name}" if path else name
        for step, each in _members(value, below):
            if isinstance(each, Section):
                yield from references(each, step)


def _members(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{path}.{key}", each) for key, each in value.items()]
    if isinstance(value, tuple):
        return [(f"{path}[{index}]", each) for index, each in enumerate(value)]
    return [(path, value)]


def _judge(path: str, reference: SecretRef, stack: Stack) -> dict[str, Any]:
    from tsstack.system.secrets import read_key_file, read_secret

    source = (
        reference.file or f"{stack.secrets.file if stack.secrets else 'secrets.file'}: {reference.secret}"
    )
    line = {"path": path, "source": source, "found": True, "message": "", "hint": ""}
    try:
        if reference.file is not None:
            read_key_file(Path(reference.file))
        elif stack.secrets is None:
            raise SecretError(
                "secrets.file is missing", hint="write secrets: {file: /etc/tsstack/secrets.yaml}"
            )
        else:
            read_secret(Path(stack.secrets.file), str(reference.secret))
    except SecretError as error:
        line |= {"found": False, "message": error.message, "hint": error.hint}
    return line
