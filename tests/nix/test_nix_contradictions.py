"""What cannot be meant is refused when the system is evaluated, and what is likely not meant is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from nix_engine import MODULES, Case, answers, evaluate
from option_cases import Remark, remarks

from tsstack import assets
from tsstack.model.loader import load_presets
from tsstack.model.services import WELL_KNOWN

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
    text = "".join((MODULES / name).read_text() for name in ("contradictions.nix", "lost.nix"))
    assert len(re.findall(r"\bwarn (?:\(|proxyClosed|keyElsewhere|sshFrom|sshShut)", text)) == len(
        {each.about for each in WARNED}
    )


def test_the_warnings_know_services_and_presets_as_tsstack_does() -> None:
    known = evaluate(f"import {MODULES}/known.nix")
    assert known["services"] == {name: list(map(str, ports)) for name, ports in WELL_KNOWN.items()}
    presets = load_presets(assets.folder("zones"))
    assert known["presets"] == json.loads(json.dumps(presets))


def test_where_tsstack_is_off_nixos_keeps_its_firewall(library: str, tmp_path: Path) -> None:
    zones = "kernelcore.network.security.firewall-zones.enable = true;"
    off = f"{{ {zones} kernelcore.tsstack.enable = false; }}"
    found = answers(library, [Case("off", off), Case("on", f"{{ {zones} }}")], tmp_path)
    assert (found["off"]["firewall"], found["on"]["firewall"]) == (True, False)


def test_an_option_that_nixos_has_removed_is_not_read(library: str, tmp_path: Path) -> None:
    split = 'kernelcore.network.dns.split."a.example" = [ "10.0.0.1" ];'
    module = f"{{ {split} services.resolved.enable = true; }}"
    answer = answers(library, [Case("newer", module, is_newer=True)], tmp_path)["newer"]
    assert not answer["thrown"]
    assert answer["warnings"] == []
