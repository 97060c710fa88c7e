"""Compiled templates are kept between commands, and no kept file is ever worth more than its text."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from tsstack.parts.proxy.compiled import Compiled


class Counting(Environment):
    """Counts how often something is compiled."""

    compiled = 0

    def _compile(self, source: str, filename: str) -> object:
        self.compiled += 1
        return super()._compile(source, filename)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "templates" / "hello").write_text("hello {{ name }}")
    return tmp_path


def render(templates: Path, stamp: str = "options", **options: bool) -> tuple[str, int]:
    """What comes out, and how many templates were compiled for it."""
    loader = FileSystemLoader(templates / "templates")
    jinja = Counting(loader=loader, bytecode_cache=Compiled(templates / "kept", stamp), **options)
    return jinja.get_template("hello").render(name="you"), jinja.compiled


def test_the_next_command_compiles_nothing(templates: Path) -> None:
    assert [render(templates), render(templates)] == [("hello you", 1), ("hello you", 0)]


def test_another_text_or_other_options_are_compiled_anew(templates: Path) -> None:
    render(templates)
    assert render(templates, stamp="others") == ("hello you", 1)
    (templates / "templates" / "hello").write_text("bye {{ name }}")
    assert [render(templates), render(templates)] == [("bye you", 1), ("bye you", 0)]


@pytest.mark.parametrize("harm", ["cut", "turned", "empty"])
def test_a_damaged_file_is_compiled_anew(templates: Path, harm: str) -> None:
    render(templates)
    (kept,) = (templates / "kept").iterdir()
    data = bytearray(kept.read_bytes())
    data[-9] ^= 1
    kept.write_bytes({"cut": bytes(data[:-9]), "turned": bytes(data), "empty": b""}[harm])
    assert [render(templates), render(templates)] == [("hello you", 1), ("hello you", 0)]


def test_without_a_folder_or_the_right_to_it_all_is_well(templates: Path) -> None:
    (templates / "kept").rmdir()
    assert [render(templates), render(templates)] == [("hello you", 1), ("hello you", 1)]
    (templates / "kept").write_text("no folder")
    assert render(templates) == ("hello you", 1)
