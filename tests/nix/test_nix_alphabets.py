"""What an option takes and what the file takes: the same, where a type can say it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nix_engine import Case, answers, options
from option_cases import SWITCHED_ON, table

from tsstack import assets
from tsstack.errors import ConfigError
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.stack import Stack

# Texts that the file does not hold, or that only `tsstack check` judges.
FREE = {
    "tsstack.settings",
    "tsstack.file",
    "tsstack.text",
    "tsstack.confirm",
    "secrets.tailscale.ageKeyFile",
    "secrets.tailscale.extraKeys",
    "secrets.tailscale.sopsFile",
}


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an option, in Nix and in the file, and whether it may stand there."""

    options: tuple[str, ...]
    case: Case
    file: str
    good: bool


def _values() -> list[Value]:
    made = []
    for row in table("alphabets.yaml"):
        beside = " ".join(SWITCHED_ON[name] for name in row.get("on", "").split())
        for good in (True, False):
            for value in row["good" if good else "bad"]:
                name = f"{row['options'].split()[0].replace('network.', '')}-{json.dumps(value)}"
                module = row["nix"].replace("@", _nix(value))
                host = 'networking.hostName = "a"; kernelcore.secrets.tailscale.enable = lib.mkDefault false;'
                case = Case(
                    name, f"{{ lib, ... }}: {{ imports = [ {{ {host} }} {beside} {{ {module} }} ]; }}"
                )
                made.append(Value(tuple(row["options"].split()), case, _file(row["file"], value), good))
    return made


def _nix(value: Any) -> str:
    if isinstance(value, list):
        return "[ " + "".join(f"{_nix(each)} " for each in value) + "]"
    return json.dumps(value)


def _file(text: str, value: Any) -> str:
    """A unit behind the @ goes into the same text: 30 and `@s` is 30s."""
    for unit in ("s", "ms", "%"):
        text = text.replace(f"@{unit}}}", f"{value}{unit}}}")
    return text.replace("@", json.dumps(value))


VALUES = _values()


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return answers(library, [each.case for each in VALUES], tmp_path_factory.mktemp("alphabets"))


def loaded(text: str) -> Stack | None:
    try:
        return parse_stack(text.encode(), Path("/etc/tsstack/a"), load_presets(assets.folder("zones"))).stack
    except ConfigError:
        return None


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.case.name)
def test_nix_and_the_file_take_the_same_values(value: Value, evaluated: dict[str, dict[str, Any]]) -> None:
    answer = evaluated[value.case.name]
    from_file = loaded(value.file)
    from_nix = not answer["thrown"] and answer["refused"] == []
    assert (from_nix, from_file is not None) == (value.good, value.good)
    if value.good:
        assert loaded(answer["text"]) == from_file


def test_every_text_of_an_option_has_an_alphabet(library: str) -> None:
    tested = {f"kernelcore.{name}" for each in VALUES for name in each.options}
    free = {f"kernelcore.{name}" for name in FREE}
    plain = {
        each["name"]
        for each in options(library)
        if "one of" not in each["type"]
        and any(word in each["type"] for word in ("string", "anything", "path", "signed integer"))
    }
    assert plain - tested - free == set()
