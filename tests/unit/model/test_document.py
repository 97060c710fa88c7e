"""YAML to data with places."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tsstack.errors import ConfigError
from tsstack.model import document as document_module
from tsstack.model import yaml_events
from tsstack.model.document import Document, parse_document, read_document
from tsstack.model.keypath import format_path


def parse(text: str) -> Document:
    return parse_document(text.encode(), "f.yaml")


def refusal(text: str | bytes) -> tuple[str, int, int]:
    with pytest.raises(ConfigError) as caught:
        parse_document(text.encode() if isinstance(text, str) else text, "f.yaml")
    (finding,) = caught.value.findings
    assert caught.value.exit_code == 3
    return finding.code, finding.line, finding.column


@pytest.fixture(params=["libyaml", "pure"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure":
        monkeypatch.setattr(document_module, "parser_of", yaml_events.pure_parser_of)


@pytest.mark.usefixtures("_parser")
def test_scalars_follow_the_core_schema_of_yaml_1_2() -> None:
    text = "{a: no, b: on, c: 0o14, d: 0x1F, e: 1_0, f: 1e3, g: 010, h: ~, i: True, j: 12:30, k: '5', l: -7}"
    assert parse(text).plain() == {
        "a": "no",
        "b": "on",
        "c": 12,
        "d": 31,
        "e": "1_0",
        "f": 1000.0,
        "g": 10,
        "h": None,
        "i": True,
        "j": "12:30",
        "k": "5",
        "l": -7,
    }


@pytest.mark.usefixtures("_parser")
def test_colons_inside_flow_scalars_need_no_quotes() -> None:
    text = 'a: [tag:server, fd00::/64, ::1, https://x/y?z=1, \'p:q\', "r:s"]\nb: {c: tag:x, "d":1}'
    parsed = parse(text)
    assert parsed.plain() == {
        "a": ("tag:server", "fd00::/64", "::1", "https://x/y?z=1", "p:q", "r:s"),
        "b": {"c": "tag:x", "d": 1},
    }
    assert parsed.place("a[3]") == ("f.yaml", 1, text.index("https") + 1)


@pytest.mark.usefixtures("_parser")
def test_json_is_read_as_it_is() -> None:
    value = {"a": 'q"\\/\n', "b": [1, 2.5, True, None], "c": {"d": "\u00e9\U0001f600"}, "e": "\\ud83d"}
    for text in (json.dumps(value), json.dumps(value, indent="\t"), json.dumps(value, separators=(",", ":"))):
        plain = parse(text.replace("/", "\\/")).plain()
        assert plain == {**value, "b": (1, 2.5, True, None)}


def test_places_behind_an_escaped_surrogate_pair_are_those_of_the_source() -> None:
    text = json.dumps({"a": "\U0001f600\U0001f600", "b": 1})
    assert parse(text).place("b") == ("f.yaml", 1, text.index('"b"') + 1)


def test_places_of_keys_and_values_count_from_1() -> None:
    parsed = parse("host:\n  name: x\nfirewall:\n  zones:\n    dmz: {tcp: [80, 443]}\n")
    assert parsed.place("host.name") == ("f.yaml", 2, 3)
    assert parsed.place("host.name", value=True) == ("f.yaml", 2, 9)
    assert parsed.place("firewall.zones.dmz.tcp[1]") == ("f.yaml", 5, 21)
    assert parsed.place(("firewall", "zones", "dmz", "udp")) == ("f.yaml", 5, 5)
    assert parsed.place("nowhere.at[3].all") == ("f.yaml", 1, 1)


def test_keys_with_dots_are_found_with_and_without_quotes() -> None:
    parsed = parse("kernel:\n  sysctl:\n    net.core: 1\n    net.core.rmem_max: 2\n")
    path = ("kernel", "sysctl", "net.core.rmem_max")
    assert format_path(path) == 'kernel.sysctl["net.core.rmem_max"]'
    for written in ("kernel.sysctl.net.core.rmem_max", format_path(path)):
        assert parsed.split(written) == path
        assert parsed.place(written)[1] == 4


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("TS003", 1, 1)),
        ("# only a comment\n", ("TS003", 1, 1)),
        ("---\n...\n", ("TS003", 1, 1)),
        ("- a\n", ("TS014", 1, 1)),
        ("word\n", ("TS014", 1, 1)),
        ("a: 1\n---\nb: 2\n", ("TS007", 2, 1)),
        ("a:\n\tb: 1\n", ("TS005", 2, 1)),
        ("a: 'x\nb: 1\n", ("TS004", 1, 4)),
        ("a: [1, 2\nb: 3\n", ("TS004", 1, 4)),
        ("a: b: c\n", ("TS004", 1, 5)),
        ("a: @x\n", ("TS004", 1, 4)),
        ("a:\n  - b\n c: d\n", ("TS004", 3, 2)),
        ("a: *nobody\n", ("TS012", 1, 4)),
        ("a: &x [*x]\n", ("TS012", 1, 8)),
        ("? [a]\n: b\n", ("TS011", 1, 3)),
        ("a: \x07\n", ("TS013", 1, 4)),
        ("a: " + "[" * 60 + "]" * 60, ("TS008", 1, 44)),
        ("[" * 100_000, ("TS008", 1, 42)),
    ],
)
def test_each_fault_of_the_text_has_its_code_and_place(text: str, expected: tuple[str, int, int]) -> None:
    assert refusal(text) == expected


def test_an_unknown_escape_is_shown_where_it_stands() -> None:
    assert refusal('a: "\\q"\n') == ("TS004", 1, 5)


def test_a_byte_that_is_not_utf8_has_a_place() -> None:
    assert refusal("a: 1\nb: é".encode("latin-1")) == ("TS002", 2, 4)
    assert refusal("a: 1".encode("utf-16"))[0] == "TS002"


def test_a_byte_order_mark_is_left_out_and_shifts_nothing() -> None:
    assert parse_document(b"\xef\xbb\xbfa: 1", "f").place("a") == ("f", 1, 1)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: 1\na: 2\n", "TS006"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "TS009"),
        ("a: !env HOME\n", "TS010"),
        ("a: !!int x\n", "TS010"),
        ("a: !!python/object:os.system x\n", "TS010"),
        ("%YAML 1.1\n---\na: 1\n", "TS010"),
    ],
)
def test_faults_that_leave_the_rest_readable_are_findings(text: str, code: str) -> None:
    parsed = parse(text)
    assert [finding.code for finding in parsed.findings] == [code]
    assert "a" in parsed.plain()


def test_yaml_1_2_may_be_asked_for() -> None:
    assert parse("%YAML 1.2\n---\na: no\n").plain() == {"a": "no"}


def test_the_first_of_duplicate_keys_is_kept() -> None:
    assert parse("a: 1\na: 2\n").plain() == {"a": 1}


def test_aliases_repeat_values_but_no_bomb_is_built() -> None:
    assert parse("a: &x [1]\nb: *x\n").plain() == {"a": (1,), "b": (1,)}
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert refusal("\n".join(lines))[0] == "TS008"


def test_a_folder_a_missing_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    unreadable = Path("/proc/self/mem")  # opens, but its first page cannot be read, even by root
    for path in (tmp_path, tmp_path / "none.yaml", Path("a\0b"), unreadable):
        with pytest.raises(ConfigError) as caught:
            read_document(path)
        assert [finding.code for finding in caught.value.findings] == ["TS001"]


def test_a_device_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(Path("/dev/zero"))
    assert [finding.code for finding in caught.value.findings] == ["TS001"]


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"host: {name: a}\n")
    os.close(writing)
    try:
        assert read_document(Path(f"/dev/fd/{reading}")).plain() == {"host": {"name": "a"}}
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("host: [\n", (1, 7)),
        ("host: {\n", (1, 7)),
        ("a: [1, 2\n", (1, 4)),
        ("a: [1]\nb: {c: [1, 2],\n  d: [\n", (3, 6)),
        ("a: {b: [1],\n", (1, 4)),
        ("a: [1,\n- 2\n", (1, 4)),
    ],
)
def test_an_open_bracket_is_shown_where_it_opens(text: str, place: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text.encode(), "f")
    (finding,) = caught.value.findings
    assert (finding.code, finding.line, finding.column) == ("TS004", *place)
    assert "the bracket that opens here" in finding.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError) as caught:
            read_document(path)
        (finding,) = caught.value.findings
        assert finding.code == "TS001"
        assert str(path) in finding.message
