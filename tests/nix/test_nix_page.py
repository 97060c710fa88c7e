"""The reference page, and the page for people, against the modules."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from nix_engine import HERE, PROJECT, ROOT, Case, answers, evaluate, library_path, options
from options_page import nix, render_page

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack

PAGE = ROOT / "docs" / "nixos-options.md"
GUIDE = ROOT / "docs" / "nixos.md"


def test_the_reference_is_that_of_the_modules() -> None:
    made = render_page(options("stand-in"))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        PAGE.write_text(made)
    assert PAGE.read_text() == made


def test_an_example_is_written_as_nix_reads_it() -> None:
    for value in ({"a.b": [1, "x", True], "c": {}}, [], "a\nb", 2.5, None):
        assert evaluate(nix(value)) == value


def nix_blocks() -> list[str]:
    return re.findall(r"```nix\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def blocks() -> list[str]:
    """The configurations that docs/nixos.md shows; a flake is none."""
    return [text for text in nix_blocks() if "outputs" not in text]


@pytest.mark.parametrize("number", range(len(blocks())))
def test_what_the_page_shows_evaluates_and_is_valid(library: str, number: int, tmp_path: Path) -> None:
    text = blocks()[number]
    module = text if text.lstrip().startswith("{") else f"{{ config, lib, pkgs, ... }}: {{ {text} }}"
    name = 'networking.hostName = lib.mkDefault "gw1"; sops.defaultSopsFile = lib.mkDefault ./a.yaml;'
    on = "kernelcore.tsstack.enable = true;"
    case = Case("shown", f"{{ lib, ... }}: {{ imports = [ {{ {name} {on} }} ({module}) ]; }}")
    answer = answers(library, [case], tmp_path)["shown"]
    assert not answer["thrown"]
    assert answer["refused"] == []
    loaded = parse_stack(
        answer["text"].encode(), Path("/etc/tsstack/tsstack.yaml"), load_presets(assets.folder("zones"))
    )
    assert [str(each) for each in lint(loaded, None) if each.severity == "error"] == []


@pytest.mark.parametrize("overlay", [True, False])
def test_the_flake_that_the_page_shows_makes_a_host(library: str, overlay: bool, tmp_path: Path) -> None:
    """As it stands, with the page's own host; and where the overlay that it brings has no effect."""
    (flake,) = [text for text in nix_blocks() if "outputs" in text]
    (tmp_path / "flake.nix").write_text(flake)
    host = next(text for text in blocks() if "firewall-zones" in text)
    (tmp_path / "configuration.nix").write_text(
        f"{{ config, ... }}: {{ sops.defaultSopsFile = ./a.yaml; {host} }}\n"
    )
    overlays = "[ tsstack.overlays.default ]" if overlay else "[ ]"
    made = evaluate(
        f"""
        let
          lib = import {library_path(library)};
          names = {HERE}/standin/nixpkgs.nix;
          tsstack = (import {ROOT}/flake.nix).outputs {{
            self = tsstack // {{ outPath = {ROOT}; }};
            nixpkgs = names;
          }};
          nixpkgs.lib.nixosSystem = {{ modules }}: lib.evalModules {{
            modules = modules ++ [
              (import {HERE}/standin/nixos.nix {{ }})
              {HERE}/standin/node.nix
            ];
            specialArgs.pkgs = import names {{ inherit lib; overlays = {overlays}; }};
          }};
          outputs = (import {tmp_path}/flake.nix).outputs {{ inherit nixpkgs tsstack; }};
          inherit (outputs.nixosConfigurations.gw1) config;
        in
        {{
          name = config.kernelcore.tsstack.file.host.name;
          packages = map (each: each.name) config.environment.systemPackages;
        }}
        """
    )
    assert made == {"name": "gw1", "packages": [f"tsstack-{PROJECT['version']}"]}


def test_every_option_that_the_page_names_exists() -> None:
    names = {re.sub(r"\.(<name>|\*)", "", each["name"]) for each in options("stand-in")}
    whole = {name for each in names for name in _above(each)}
    for shown in re.findall(r"`(kernelcore\.[a-zA-Z.-]+[a-zA-Z])`", GUIDE.read_text()):
        assert shown in whole, shown


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
