"""Every code and every error has a page, and its example does what it says."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tsstack import assets, errors
from tsstack.cli.main import run
from tsstack.errors import ConfigError, Finding, TsstackError, UsageError
from tsstack.explain.doctor_pages import FINDINGS
from tsstack.explain.error_pages import ERRORS
from tsstack.explain.examples import FILES, whole_file
from tsstack.explain.pages import all_pages, find_pages, render_pages
from tsstack.explain.status_pages import REMARKS
from tsstack.model.codes import CODES
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, load_stack, parse_stack

ROOT = Path(__file__).resolve().parents[3]
PRESETS = load_presets(assets.folder("zones"))
# No file shows these by itself; each has a test of its own below.
NO_FILE = {"TS001", "TS002", "TS008", "TS111"}
# A remark that is no fault: there is nothing else to write. And a module that is missing, not a line.
NOTHING_ELSE_TO_WRITE = {"TS214", "TS320"}


def findings(code: str, lines: str) -> tuple[Finding, ...]:
    try:
        loaded = parse_stack(whole_file(code, lines).encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    except ConfigError as error:
        return tuple(error.findings)
    return lint(loaded, FILES[code].facts)


def test_every_code_has_an_example_that_can_be_tried() -> None:
    assert set(FILES) | NO_FILE == set(CODES)
    assert not set(FILES) & NO_FILE


@pytest.mark.parametrize("code", FILES)
def test_the_wrong_lines_are_found_by_the_real_loader_and_lint(code: str) -> None:
    found = findings(code, CODES[code].wrong)
    assert code in {finding.code for finding in found}
    (first, *_) = [finding for finding in found if finding.code == code]
    assert first.severity == CODES[code].severity


@pytest.mark.parametrize("code", sorted(set(FILES) - NOTHING_ELSE_TO_WRITE))
def test_the_right_lines_make_a_valid_file_without_the_remark(code: str) -> None:
    found = findings(code, CODES[code].right)
    assert code not in {finding.code for finding in found}
    assert [str(finding) for finding in found if finding.severity == "error"] == []


def test_the_codes_that_no_file_shows(tmp_path: Path) -> None:
    def codes(path: Path) -> set[str]:
        with pytest.raises(ConfigError) as refused:
            load_stack(path, PRESETS)
        return {finding.code for finding in refused.value.findings}

    assert codes(tmp_path) == {"TS001"}
    wide = tmp_path / "utf16.yaml"
    wide.write_bytes("host: {name: a}".encode("utf-16"))
    assert codes(wide) == {"TS002"}
    bomb = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]" for at in range(1, 40))]
    bomb.write_text("\n".join(lines))
    assert "TS008" in codes(bomb)
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "t.yaml").write_text("host: {name: a}\nsecrets: {file: s.yaml}\n")
    assert codes(folder / "t.yaml") == {"TS111"}


def test_every_error_has_a_page_with_its_exit_code() -> None:
    pages = {page.name: page for page in ERRORS}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, TsstackError):
            assert pages[kind.__name__].exit_code == kind.exit_code
    for path in (ROOT / "tsstack").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & set(pages):
                assert node.name in pages, f"{path.name}: {node.name} can end a command and has no page"


def test_every_page_says_what_it_means_and_how_to_mend_it() -> None:
    pages = all_pages()
    told = (*REMARKS, *FINDINGS)
    assert len({page.code for page in pages}) == len(pages) == len(CODES) + len(told) + len(ERRORS)
    for page in pages:
        assert len(page.text) > 40, page.code
        assert page.wrong, page.code
        assert page.right, page.code
        assert page.wrong != page.right, page.code


def test_the_page_of_codes_is_in_step() -> None:
    assert (ROOT / "docs" / "codes.md").read_text() == render_pages()


@pytest.mark.parametrize(
    ("word", "codes"),
    [
        ("TS205", ["TS205"]),
        ("ts205", ["TS205"]),
        ("205", ["TS205"]),
        ("lockederror", ["LockedError"]),
        ("3", ["ConfigError"]),
        ("6", ["RollbackFailed"]),
    ],
)
def test_pages_are_found_as_people_type_them(word: str, codes: list[str]) -> None:
    assert [page.code for page in find_pages(word)] == codes


def test_an_unknown_code_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        find_pages("TS2O5")
    assert "TS205" in refused.value.hint
    with pytest.raises(UsageError) as refused:
        find_pages("LockError")
    assert "LockedError" in refused.value.hint


def test_the_command_lists_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(all_pages())
    assert run(["explain", "TS203"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("TS203 (error): An interface belongs to two zones")
    assert "    internal: {interfaces: [eth0, tailscale0]}" in out
    assert run(["explain", "TS203", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["severity"] == "error"
    loaded = parse_stack(page["example"].encode(), Path("t.yaml"), PRESETS)
    assert "TS203" in {finding.code for finding in lint(loaded, None)}
    assert run(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["codes"]) == len(lines)
    assert run(["explain", "TS999"]) == 2
    assert "the nearest" in capsys.readouterr().err
