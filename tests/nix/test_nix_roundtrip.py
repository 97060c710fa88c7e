"""From each option to what tsstack's loader understands of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from nix_engine import Case, answers, options, refusal
from option_cases import BESIDE_THE_FILE, HOST, Meaning, meanings
from ruamel.yaml import YAML

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loaded import LoadedStack
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.section import Section
from tsstack.model.shape import below_all, flatten, known_keys
from tsstack.model.stack import Stack

PROXY = "kernelcore.network.proxy.nginx-tailscale."
MEANINGS = meanings()
_IDS = [f"{'+'.join(each.options).replace('network.', '')}-{index}" for index, each in enumerate(MEANINGS)]


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return answers(library, [each.case for each in MEANINGS], tmp_path_factory.mktemp("cases"))


def loaded(text: str, kind: str) -> LoadedStack:
    return parse_stack(text.encode(), Path(f"/etc/tsstack/{kind}"), load_presets(assets.folder("zones")))


def remarks(stack: LoadedStack) -> set[tuple[str, str]]:
    return {(each.code, each.path) for each in lint(stack, None)}


@pytest.mark.parametrize("meaning", MEANINGS, ids=_IDS)
def test_an_option_means_what_the_file_means(meaning: Meaning, evaluated: dict[str, dict[str, Any]]) -> None:
    answer = evaluated[meaning.case.name]
    assert not answer["thrown"]
    assert answer["refused"] == []
    from_nix, from_file = loaded(answer["text"], "nix.yaml"), loaded(meaning.file, "file.yaml")
    assert from_nix.stack == from_file.stack
    # What an option leaves unsaid must not be remarked on either.
    assert remarks(from_nix) == remarks(from_file)


def test_every_option_has_a_meaning_that_is_tested(library: str) -> None:
    tested = {f"kernelcore.{name}" for each in MEANINGS for name in each.options}
    beside = {f"kernelcore.{name}" for name in BESIDE_THE_FILE}
    assert {each["name"] for each in options(library)} == tested | beside


# Said by an option in another way: zones are switched by writing the section or not.
_SAID_OTHERWISE = {"firewall.enabled"}


def _keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of the file, `*` for names of one's own and for places in a list."""
    for key, annotation in known_keys(section).items():
        path = f"{prefix}{key}"
        yield path
        for kind in flatten(annotation):
            yield from _keys_below(kind, path)


def _keys_below(kind: Any, path: str) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, Section):
        yield from _keys(kind, f"{path}.")
    elif get_origin(kind) is dict:
        for inner in flatten(get_args(kind)[1]):
            yield from _keys_below(inner, f"{path}.*")
    elif get_origin(kind) is tuple:
        for inner in flatten(get_args(kind)[0]):
            yield from _keys_below(inner, f"{path}.*")


def _written(value: Any, kinds: tuple[Any, ...], path: str = "") -> Iterator[str]:
    """The keys that a file writes, spelled the same way."""
    closed = any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds)
    if isinstance(value, dict):
        for key, below in value.items():
            name = f"{path}.{key if closed else '*'}".removeprefix(".")
            if closed:
                yield name
            yield from _written(below, below_all(kinds, key), name)
    elif isinstance(value, list):
        for below in value:
            yield from _written(below, below_all(kinds, 0), f"{path}.*")


def test_every_key_of_the_file_can_be_said_in_nix() -> None:
    reader = YAML(typ="safe", pure=True)
    said = {key for each in MEANINGS for key in _written(reader.load(each.file), (Stack,))}
    assert set(_keys(Stack)) - said == _SAID_OTHERWISE


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({each.case.name for each in MEANINGS}) == len(MEANINGS)
    assert len(set(_IDS)) == len(_IDS)


def test_every_option_is_documented(library: str) -> None:
    for each in options(library):
        assert each["description"], each["name"]
        assert "example" in each, each["name"]
        # What has no default must be written: the two ends of a passage.
        if "default" not in each:
            assert each["name"].endswith((".forward.*.from", ".forward.*.to")), each["name"]


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ('kernelcore.network.vpn.tailscale.exitNode = "yes";', "exitNode"),
        ("kernelcore.network.vpn.tailscale.exitnode = true;", "exitnode"),
        (
            PROXY + 'services.a = { upstreamPort = 1; rateLimit = "20/s"; };',
            "rateLimit",
        ),
        (
            PROXY + 'services.a = { upstreamPort = 1; maxBodySize = "500M; }"; };',
            "maxBodySize",
        ),
        ("kernelcore.network.proxy.nginx-tailscale.httpPort = 70000;", "httpPort"),
        ('kernelcore.network.security.firewall-zones.defaultPolicy = "allow";', "defaultPolicy"),
        (
            'kernelcore.network.security.firewall-zones.zones.a.allowedTCPPorts = [ "ssh" ];',
            "allowedTCPPorts",
        ),
        ('kernelcore.network.bandwidth.eth0.egress = "10 mbit";', "egress"),
        ("kernelcore.network.monitoring.tailscale.checkInterval = 0;", "checkInterval"),
        ('kernelcore.tsstack.text = "{}";', "text"),
    ],
)
def test_a_wrong_value_is_refused_by_name(library: str, written: str, named: str, tmp_path: Path) -> None:
    # Values of what is not used are never looked at, so all is switched on.
    everything = "kernelcore.tsstack.enable = true; kernelcore.network.vpn.tailscale.enable = true; "
    everything += "kernelcore.network.security.firewall-zones.enable = true; "
    everything += "kernelcore.network.monitoring.tailscale.enable = true; "
    everything += (
        'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; }; '
    )
    module = f"{{ imports = [ {{ {everything} }} {{ {HOST} {written} }} ]; }}"
    assert refusal(library, Case("good", f"{{ {HOST} {everything} }}"), tmp_path) == ""
    assert named in refusal(library, Case("wrong", module), tmp_path)


def test_both_libraries_give_the_same(
    evaluated: dict[str, dict[str, Any]], library: str, tmp_path: Path
) -> None:
    """The stand-in is held against nixpkgs' own wherever that is; alone it is held against itself."""
    again = answers("stand-in", [each.case for each in MEANINGS], tmp_path)
    assert again == evaluated
    shown = [
        {key: each.get(key) for key in ("name", "default", "example", "description")}
        for each in options(library)
    ]
    assert shown == [
        {key: each.get(key) for key in ("name", "default", "example", "description")}
        for each in options("stand-in")
    ]
