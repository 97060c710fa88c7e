"""What the documents say is true of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, load_stack

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
VERB = re.compile(r"tsstack (?:-c \S+ )?(?:--json )?([a-z][a-z-]+)(?= |$)")


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_verb_that_is_shown_exists() -> None:
    from tsstack.cli.main import _VERBS

    for document in DOCUMENTS:
        blocks = re.findall(
            r"`(tsstack [^`\n]+)`|^(?: {4}|\$ )(tsstack .+)$", document.read_text(), re.MULTILINE
        )
        for inline, line in blocks:
            verb = VERB.match(inline or line)
            if verb and "drop:" not in (inline or line):  # the prefix of a log line
                assert verb[1] in _VERBS, f"{document.name}: {inline or line}"


@pytest.mark.parametrize(
    "name", ["README.md", "docs/migrate-from-nginx.md", "docs/migrate-from-firewalld-or-foomuuri.md"]
)
def test_the_first_file_of_a_document_is_valid(name: str, tmp_path: Path) -> None:
    (text, *_) = re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    file = tmp_path / "tsstack.yaml"
    file.write_text(text)
    loaded = load_stack(file, load_presets(assets.folder("zones")))
    assert [str(each) for each in lint(loaded, None) if each.severity != "info"] == []


def test_the_example_is_valid() -> None:
    loaded = load_stack(ROOT / "examples" / "kernelcore.yaml", load_presets(assets.folder("zones")))
    assert [str(each) for each in lint(loaded, None) if each.severity != "info"] == []


def test_the_console_of_the_readme_prints_what_it_shows(tmp_path: Path) -> None:
    (text, *_) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "tsstack.yaml"
    file.write_text(text.replace("{interfaces: [eth0], tcp:", "{interfaces: [eth0], tpc:"))
    shown = re.search(
        r"tsstack.yaml:(\d+):(\d+): error (TS\d+): (\S+): (.*)", (ROOT / "README.md").read_text()
    )
    assert shown is not None
    from tsstack.errors import ConfigError

    with pytest.raises(ConfigError) as refused:
        load_stack(file, load_presets(assets.folder("zones")))
    (finding, *_) = refused.value.findings
    assert (str(finding.line), str(finding.column), finding.code) == shown.groups()[:3]
    assert (finding.path, finding.message) == shown.groups()[3:]


def test_no_document_names_a_machine_or_a_registry() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        for word in ("/work/", "pypi.org", "proxy.golang", "deb.debian", "pythonhosted"):
            assert word not in text, f"{document.name} names {word}"
