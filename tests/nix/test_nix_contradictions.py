"""What cannot be meant is refused when the system is evaluated, and what is likely not meant is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from nix_engine import MODULES, Case, answers
from option_cases import Remark, remarks

# Three cases are about one warning, which ports no zone opens; five about SSH from the tailnet alone.
_SAME_WARNING = 6
REFUSED, WARNED = remarks("refused"), remarks("warned")


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    cases = [case for each in (*REFUSED, *WARNED) for case in (each.wrong, each.right)]
    return answers(library, cases, tmp_path_factory.mktemp("contradictions"))


@pytest.mark.parametrize("remark", REFUSED, ids=lambda remark: remark.name)
def test_a_contradiction_is_refused(remark: Remark, evaluated: dict[str, dict[str, Any]]) -> None:
    wrong, right = evaluated[remark.wrong.name], evaluated[remark.right.name]
    assert not wrong["thrown"]
    assert not right["thrown"]
    assert [remark.words in each for each in wrong["refused"]] == [True]
    assert all(each.startswith("tsstack: ") for each in wrong["refused"])
    assert right["refused"] == []


@pytest.mark.parametrize("remark", WARNED, ids=lambda remark: remark.name)
def test_what_is_hardly_meant_is_said(remark: Remark, evaluated: dict[str, dict[str, Any]]) -> None:
    wrong, right = evaluated[remark.wrong.name], evaluated[remark.right.name]
    assert not wrong["thrown"]
    assert not right["thrown"]
    assert wrong["refused"] == right["refused"] == []
    assert [remark.words in each for each in wrong["warnings"]] == [True]
    assert right["warnings"] == []


def test_every_refusal_is_tested(evaluated: dict[str, dict[str, Any]]) -> None:
    """Each assertion that any of these systems makes, held or not, is one that a case above breaks."""
    made = {message for answer in evaluated.values() for message in answer["messages"]}
    untested = [message for message in made if not any(each.words in message for each in REFUSED)]
    assert untested == []


def test_every_warning_is_tested() -> None:
    text = (MODULES / "contradictions.nix").read_text()
    assert (
        len(re.findall(r"\bwarn (?:\(|proxyClosed|sshFromTailnetAlone)", text))
        == len({each.name for each in WARNED}) - _SAME_WARNING
    )


def test_an_option_that_nixos_has_removed_is_not_read(library: str, tmp_path: Path) -> None:
    module = '{ kernelcore.network.dns.split."a.example" = [ "10.0.0.1" ]; }'
    answer = answers(library, [Case("newer", module, is_newer=True)], tmp_path)["newer"]
    assert not answer["thrown"]
    assert answer["warnings"] == []
