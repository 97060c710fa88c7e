"""The manual pages: all commands, all options, and nothing that roff reads as its own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from tsstack.cli import manual
from tsstack.cli.completion import SCRIPTS, command_of
from tsstack.cli.main import cli, run
from tsstack.model.schema import json_schema

PAGES = manual.pages()


def rendered(text: str) -> str:
    """As a terminal shows it; groff's warnings are failures."""
    words = ["groff", "-man", "-ww", "-Tascii", "-P-cbou"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    # Hyphens at the ends of lines and blocks of blanks are only layout.
    return re.sub(r"\s+", " ", re.sub(r"(?<=[a-z])-\n\s+", "", done.stdout))


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_whole_and_groff_has_nothing_against_it(name: str) -> None:
    text = rendered(PAGES[name])
    for section in ("NAME", "SYNOPSIS" if name.endswith(".1") else "DESCRIPTION", "SEE ALSO"):
        assert f" {section} " in text
    assert f"{name[:-2]} - " in text


def test_every_command_has_one() -> None:
    verbs = cli.list_commands(click.Context(cli))
    assert {f"tsstack-{verb}.1" for verb in verbs} | {f"{script}.1" for script in SCRIPTS} < set(PAGES)
    assert "ts-status.1" in PAGES
    assert "tsstack-recover.1" not in PAGES, "that is for units"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_there(script: str) -> None:
    text = rendered(PAGES[f"{script}.1"])
    for parameter in command_of(script).params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.opts[-1] in text


def test_every_key_of_the_file_is_there() -> None:
    text = rendered(PAGES["tsstack.yaml.5"])
    sections = list(json_schema()["properties"])
    assert sections
    for section in sections:
        assert f" {section} " in text


@pytest.mark.parametrize(
    "words", ["-- two\\three", ".TH of a page", "'so it is", "a 'b' \"c\" `d` ~e ^f \\- \\fB", "100% of it"]
)
def test_words_are_words_whatever_roff_makes_of_them(words: str) -> None:
    @click.command(help=f"{words}\n\nAnother.\n\n\b\nExamples:\n  {words}", epilog=words)
    def odd() -> None:
        pass

    text = rendered(manual._command_page("odd", odd, "odd"))
    assert text.count(words) == 3, "the help, its example, the epilog"


def test_they_are_written_where_man_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["manual", str(tmp_path)]) == 0
    assert (tmp_path / "man1" / "tsstack-switch.1").read_text() == PAGES["tsstack-switch.1"]
    assert (tmp_path / "man5" / "tsstack.yaml.5").exists()
    assert str(tmp_path / "man5" / "tsstack.yaml.5") in capsys.readouterr().out


def commands() -> list[tuple[str, click.Command]]:
    """Every command and verb that help lists, however deep."""
    found: list[tuple[str, click.Command]] = []

    def walk(command: click.Command, name: str) -> None:
        found.append((name, command))
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name)
            for each in command.list_commands(context):
                verb = command.get_command(context, each)
                assert verb is not None
                if not verb.hidden:
                    walk(verb, f"{name} {each}")

    for script in SCRIPTS:
        walk(command_of(script), script)
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_help_has_an_example_of_its_own_command(name: str, command: click.Command) -> None:
    told = command.get_help(click.Context(command, info_name=name))
    assert re.search(r"^ *examples?:$", told, re.IGNORECASE | re.MULTILINE), told
    words = r"\b.*".join(name.split())
    assert re.search(rf"^ +(.*\s)?{words}\b", told.partition("Usage:")[2].partition("\n")[2], re.MULTILINE), (
        told
    )
