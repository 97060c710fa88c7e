"""The JSON Schema, judged by a small validator of the words it uses, and the reference page."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack import assets
from tsstack.model.document import parse_document
from tsstack.model.schema import DRAFT, duration_text, json_schema, render_reference
from tsstack.model.section import Section
from tsstack.model.units import parse_duration_s

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = json_schema()
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_KNOWN = {
    *(
        "$schema",
        "$defs",
        "$ref",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "pattern",
        "properties",
        "required",
    ),
    *("additionalProperties", "patternProperties", "items", "minItems", "minLength", "minimum", "maximum"),
    *("exclusiveMinimum", "description", "default", "examples", "title"),
}


def errors(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    if "$ref" in schema:
        yield from errors(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    for word, enough in (("anyOf", lambda n: n > 0), ("oneOf", lambda n: n == 1)):
        if word in schema and not enough(sum(not list(errors(value, arm, path)) for arm in schema[word])):
            yield path
    kind = schema.get("type")
    if kind in _TYPES and not isinstance(value, _TYPES[kind]):
        yield path
    if kind in ("integer", "number") and (not isinstance(value, int) or isinstance(value, bool)):
        yield path
    if "enum" in schema and value not in schema["enum"]:
        yield path
    if "const" in schema and value != schema["const"]:
        yield path
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield path
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield path
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield path
        for index, item in enumerate(value):
            yield from errors(item, schema.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict):
        yield from (path for key in schema.get("required", ()) if key not in value)
        for key, below in value.items():
            known = [schema["properties"][key]] if key in schema.get("properties", {}) else []
            known += [
                arm for pattern, arm in schema.get("patternProperties", {}).items() if re.search(pattern, key)
            ]
            if not known and schema.get("additionalProperties") is False:
                yield f"{path}.{key}"
            for arm in known:
                yield from errors(below, arm, f"{path}.{key}")


def example() -> dict[str, Any]:
    text = (assets.folder("examples") / "kernelcore.yaml").read_bytes()
    return json.loads(json.dumps(parse_document(text, "f").plain()))


def test_the_example_fits_the_schema() -> None:
    assert list(errors(example(), SCHEMA)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("host", "nme"), "x"),
        (("host", "name"), "a b"),
        (("tailscale", "accept_dns"), "yes"),
        (("tailscale", "auth_key"), {"secret": "a", "file": "b"}),
        (("proxy", "names"), "subdomian"),
        (("proxy", "tls"), {"certificate": "a"}),
        (("proxy", "services", "Wiki"), {"upstream": 1}),
        (("proxy", "services", "wiki"), {}),
        (("proxy", "services", "wiki", "upstream"), []),
        (("proxy", "services", "wiki", "port"), 70000),
        (("proxy", "services", "wiki", "upstream"), "x y;"),
        (("firewall", "zones", "dmz", "sources"), ["nonsense;"]),
        (("dns",), {"split": {"a.b": ["fe80::1%;}"]}}),
        (("firewall", "zones", "dmz", "tcp"), ["http"]),
        (("firewall", "zones", "dmz", "interface"), ["eth0"]),
        (("firewall", "forward"), [{"from": "a"}]),
        (("kernel", "sysctl"), {"a": 1}),
        (("bandwidth", "eth0"), {}),
        (("monitor", "interval"), 30),
        (("monitor", "targets"), [{"icmp": "1.1.1.1", "dns": "a.b"}]),
        (("nonsense",), 1),
    ],
)
def test_broken_variants_do_not_fit(path: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(example())
    node = data
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert list(errors(data, SCHEMA)) != []


def test_single_values_and_empty_zones_fit() -> None:
    data = example()
    data["proxy"]["services"]["wiki"]["upstream"] = "192.168.15.9:8000 backup"
    data["dns"] = {"split": {"a.test": "100.100.100.100"}}
    data["firewall"]["zones"]["isolated"] = None
    assert list(errors(data, SCHEMA)) == []


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for word, below in value.items():
            for inner in below.values() if word in ("properties", "$defs", "patternProperties") else [below]:
                yield from nodes(inner)
    elif isinstance(value, list):
        for below in value:
            yield from nodes(below)


def test_it_is_draft_2020_12_and_uses_only_words_that_are_judged_here() -> None:
    assert SCHEMA["$schema"] == DRAFT
    json.dumps(SCHEMA)
    for node in nodes({key: value for key, value in SCHEMA.items() if key != "default"}):
        if "type" in node or "$ref" in node:
            assert set(node) <= _KNOWN, node


def test_every_key_has_a_description_and_files_spelling() -> None:
    for name, definition in {**SCHEMA["$defs"], "Stack": SCHEMA}.items():
        assert definition["additionalProperties"] is False, name
        for key, described in definition["properties"].items():
            assert described["description"], f"{name}.{key}"
            assert not key.endswith(("_s", "_zone")), f"{name}.{key}"


def test_defaults_are_written_as_in_the_file() -> None:
    monitor = SCHEMA["$defs"]["Monitor"]["properties"]
    assert [monitor[key]["default"] for key in ("interval", "probe", "max_loss", "restore_after")] == [
        "30s",
        "500ms",
        "5%",
        "2m",
    ]
    for definition in SCHEMA["$defs"].values():
        for key, described in definition["properties"].items():
            default = described.get("default")
            if default is not None and default != {}:
                assert list(errors(default, described)) == [], key


@pytest.mark.parametrize("seconds", [0.0005, 0.4, 0.5, 1.5, 30, 60, 90, 3600, 86400, 604800])
def test_a_duration_survives_being_written(seconds: float) -> None:
    assert parse_duration_s(duration_text(seconds)) == pytest.approx(seconds)


def test_every_section_is_on_the_reference_page() -> None:
    page = render_reference()

    def below(section: type[Section]) -> Iterator[type[Section]]:
        for each in section.__subclasses__():
            if each.__module__.startswith("tsstack.model"):
                yield each
                yield from below(each)

    for section in below(Section):
        for key in section.model_fields.values():
            if key.alias:
                assert f"| `{key.alias}` |" in page
        assert " ".join(section.__doc__.split()) in page


def test_the_reference_page_is_in_step() -> None:
    assert (ROOT / "docs" / "file.md").read_text() == render_reference()
