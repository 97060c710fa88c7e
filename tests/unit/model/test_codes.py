"""Every code is declared once, documented, and used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tsstack.errors import ConfigError
from tsstack.explain.pages import all_pages
from tsstack.model.code import Code, declare
from tsstack.model.codes import CODES, DECLARING
from tsstack.model.document import parse_document

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "tsstack"
_DECLARING_FILES = {"file_codes.py", "lint_codes.py", "host_codes.py", "code.py", "codes.py"}


def names() -> dict[str, Code]:
    return {
        name: value for module in DECLARING for name, value in vars(module).items() if isinstance(value, Code)
    }


def test_every_declared_code_is_used() -> None:
    used: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name in _DECLARING_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name):
                used.add(node.id)
    assert set(names()) - used == set()


def test_every_code_that_is_written_out_has_a_page() -> None:
    pages = {page.code for page in all_pages()}
    assert set(CODES) < pages
    for path in PACKAGE.rglob("*.py"):
        for code in re.findall(r"\bTS\d{3}\b", path.read_text()):
            assert code in pages, f"{path.name}: {code}"


def test_every_code_says_what_is_wrong_and_what_is_right() -> None:
    assert len(CODES) == len(names())
    for code in CODES.values():
        assert re.fullmatch(r"TS[0-6]\d\d", code.code)
        assert code.severity in ("error", "warning", "info")
        assert code.title[0].isupper()
        assert not code.title.endswith(".")
        assert len(code.text) > 40, code.code
        assert code.text.endswith(".") or code.text.endswith(")"), code.code
        assert code.wrong != code.right, code.code
        assert code.text in code.explanation
        assert code.right.splitlines()[0] in code.explanation


def test_a_code_cannot_be_declared_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        declare("TS001", "error", "t", "t", "w", "r")


def test_right_examples_are_yaml() -> None:
    shell = {"TS001", "TS002", "TS008", "TS111", "TS320"}
    for code in CODES.values():
        if code.code in shell:
            continue
        try:
            parse_document(code.right.encode(), code.code)
        except ConfigError as error:
            # A list or one line out of a list is fine as an example.
            assert [finding.code for finding in error.findings] == ["TS014"], code.code
