"""Golden messages: one folder for each kind of bad file, with every line that it earns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tsstack import assets
from tsstack.errors import ConfigError, Finding
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "bad-input"
PRESETS = load_presets(assets.folder("zones"))


def findings_of(folder: Path) -> tuple[Finding, ...]:
    source = (folder / "tsstack.yaml").read_bytes()
    try:
        loaded = parse_stack(source, Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    except ConfigError as error:
        assert "\n" not in error.message
        return error.findings
    return lint(loaded, None)


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_messages_are_as_expected(folder: Path) -> None:
    said = "".join(f"{finding}\n" for finding in findings_of(folder))
    expected = folder / "expected.txt"
    if os.environ.get("TSSTACK_REGENERATE"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_every_golden_folder_is_about_a_bad_file() -> None:
    for folder in GOLDEN.iterdir():
        findings = findings_of(folder)
        assert any(finding.severity == "error" for finding in findings), folder.name
        assert all(finding.file and finding.line for finding in findings), folder.name
