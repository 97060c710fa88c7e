"""Compiled templates are kept between commands, and no kept file is ever worth more than its text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from tsstack.model.facts import Paths
from tsstack.parts.proxy import compiled
from tsstack.parts.proxy.compiled import Compiled
from tsstack.parts.proxy.compiled import _is_ours as ours
from tsstack.switch.facts import gather_facts
from tsstack.switch.intent import build_facts


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


def render(templates: Path, options: str = "options") -> tuple[str, int]:
    """What comes out, and how many templates were compiled for it."""
    loader = FileSystemLoader(templates / "templates")
    jinja = Counting(loader=loader, bytecode_cache=Compiled(templates / "kept", options))
    return jinja.get_template("hello").render(name="you"), jinja.compiled


def test_the_next_command_compiles_nothing(templates: Path) -> None:
    assert [render(templates), render(templates)] == [("hello you", 1), ("hello you", 0)]


def test_another_text_or_other_options_are_compiled_anew(templates: Path) -> None:
    render(templates)
    assert render(templates, options="others") == ("hello you", 1)
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


@pytest.mark.parametrize(("folder", "file"), [(0o775, 0o644), (0o757, 0o644), (0o755, 0o664), (0o755, 0o646)])
def test_what_others_could_have_written_is_not_run(templates: Path, folder: int, file: int) -> None:
    render(templates)
    (kept,) = (templates / "kept").iterdir()
    kept.chmod(file)
    (templates / "kept").chmod(folder)
    assert render(templates) == ("hello you", 1)


@pytest.mark.parametrize("whose", ["kept", "kept/hello"])
def test_what_others_have_written_is_not_run(
    templates: Path, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can give a file away, so the owner of one is said to be another."""
    render(templates)
    (templates / whose).touch()
    strange = (templates / whose).lstat().st_ino
    monkeypatch.setattr(compiled, "_is_ours", lambda status: status.st_ino != strange and ours(status))
    assert render(templates) == ("hello you", 1)


@pytest.mark.parametrize(("owner", "expected"), [(0, True), (1000, True), (1001, False), (65534, False)])
def test_ours_is_roots_and_our_own(owner: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ours(os.stat_result((0o100644, 1, 1, 1, owner, 0, 9, 0, 0, 0))) is expected


def test_a_build_runs_nothing_that_lies_where_it_builds(tmp_path: Path) -> None:
    facts = gather_facts(Paths(state=tmp_path / "state"))
    assert facts.paths.templates == tmp_path / "state" / "templates"
    assert build_facts(facts, tmp_path / "out").paths.templates is None


def test_without_a_folder_or_the_right_to_it_all_is_well(templates: Path) -> None:
    (templates / "kept").rmdir()
    assert [render(templates), render(templates)] == [("hello you", 1), ("hello you", 1)]
    (templates / "kept").write_text("no folder")
    assert render(templates) == ("hello you", 1)
