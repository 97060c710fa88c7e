"""The guide's Nix snippets, unchanged but for their comments: from option to what goes on a host."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from guide import AS_IT_STANDS, CHANGES, LEFT_OPEN, ON, SNIPPETS, TOGETHER, Change, snippet, together
from nix_engine import HERE, MODULES, PROJECT, ROOT, Case, answers, evaluate, library_path
from option_cases import HOST

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loaded import LoadedStack
from tsstack.model.loader import load_presets, load_stack
from tsstack.model.stack import Stack

LEAVING_OUT = {f"without-{change.option}": change for change in CHANGES}


def changed(*left_out: Change) -> str:
    return LEFT_OPEN + " ".join(change.as_nix() for change in CHANGES if change not in left_out)


_CASES = [
    # Alone, and with tsstack switched on: many a snippet asks for nothing by itself, and nothing is said.
    *(Case(name, together([name])) for name in AS_IT_STANDS),
    *(Case(f"{name}-on", together([name], ON)) for name in AS_IT_STANDS),
    Case("whole", together(TOGETHER)),
    Case("whole-changed", together(TOGETHER, changed())),
    *(Case(name, together(TOGETHER, changed(change))) for name, change in LEAVING_OUT.items()),
    Case("both-sizes", together(AS_IT_STANDS)),
]


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return answers(library, _CASES, tmp_path_factory.mktemp("snippets"))


def loaded(answer: dict[str, Any], folder: Path) -> LoadedStack:
    file = folder / "tsstack.yaml"
    file.write_text(answer["text"])
    return load_stack(file, load_presets(assets.folder("zones")))


def errors(stack: LoadedStack) -> set[str]:
    return {each.code for each in lint(stack, None) if each.severity == "error"}


def test_the_guide_has_thirteen_snippets() -> None:
    assert {path.stem for path in SNIPPETS.glob("*.txt")} == {*AS_IT_STANDS, "flake"}
    assert len(AS_IT_STANDS) == 12


@pytest.mark.parametrize("switched", ["", "-on"])
@pytest.mark.parametrize("name", AS_IT_STANDS)
def test_a_snippet_evaluates_as_it_stands(
    name: str, switched: str, evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    answer, fate = evaluated[name + switched], AS_IT_STANDS[name]
    assert not answer["thrown"]
    assert answer["refused"] == []
    assert errors(loaded(answer, tmp_path)) == set(fate.codes)
    expected = fate.warnings if answer["enabled"] else ()
    assert len(answer["warnings"]) == len(expected)
    for words, warning in zip(expected, answer["warnings"], strict=True):
        assert words in warning


def test_the_page_says_where_a_snippet_means_something_else() -> None:
    """docs/nixos.md and the table say the same: no code or warning that the page is silent about."""
    section = (
        (ROOT / "docs" / "nixos.md")
        .read_text()
        .partition("## Options under familiar names")[2]
        .partition("\n## ")[0]
    )
    for name, fate in AS_IT_STANDS.items():
        for words in (*fate.page, *fate.codes):
            assert words in section, name
        assert fate.page or not fate.warnings, name
    refused = {code for fate in AS_IT_STANDS.values() for code in fate.codes}
    assert set(re.findall(r"TS\d+", section)) == refused
    for change in CHANGES:
        assert change.option.rpartition(".")[2] in section


def test_the_guide_as_one_host_needs_two_changes_and_no_more(
    evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    whole, mended = evaluated["whole"], evaluated["whole-changed"]
    needed = [change.refused for change in CHANGES if change.refused]
    assert [words in said for words, said in zip(needed, whole["refused"], strict=True)] == [True]
    assert errors(loaded(whole, tmp_path)) == {code for change in CHANGES for code in change.codes}
    assert mended["refused"] == []
    assert errors(loaded(mended, tmp_path)) == set()
    # The smaller alternative sets other values for the same options.
    assert evaluated["both-sizes"]["thrown"]


@pytest.mark.parametrize("name", LEAVING_OUT)
def test_each_change_is_needed(name: str, evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    change, answer = LEAVING_OUT[name], evaluated[name]
    assert [change.refused in each for each in answer["refused"]] == ([True] if change.refused else [])
    assert errors(loaded(answer, tmp_path)) == set(change.codes)


def stack_of(name: str, evaluated: dict[str, dict[str, Any]], folder: Path) -> Stack:
    return loaded(evaluated[name], folder).stack


def test_the_vpn_snippet_means_what_it_says(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    tailscale = stack_of("vpn", evaluated, tmp_path).tailscale
    assert tailscale is not None
    assert tailscale.auth_key is not None
    assert tailscale.auth_key.file == "/run/secrets/tailscale-authkey"
    assert tailscale.advertise.exit_node
    assert [str(each) for each in tailscale.advertise.routes] == ["192.168.15.0/24"]
    assert tailscale.tags == ("tag:server", "tag:desktop")
    assert tailscale.accept_dns
    assert evaluated["vpn"]["tailscaled"]


def test_the_proxy_snippet_means_what_it_says(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    stack = stack_of("proxy", evaluated, tmp_path)
    assert stack.proxy is not None
    assert stack.fqdn == "kernelcore.your-tailnet.ts.net"
    assert (stack.proxy.http3, stack.proxy.keepalive) == (True, 32)
    assert evaluated["proxy"]["nginx"] == "nginx-quic"
    ollama, llama = stack.proxy.services["ollama"], stack.proxy.services["llamacpp"]
    assert [str(each) for each in (*ollama.upstream, *llama.upstream)] == [
        "http://127.0.0.1:11434",
        "http://127.0.0.1:8080",
    ]
    assert (str(ollama.rate_limit), str(llama.rate_limit)) == ("20r/s", "10r/s")
    assert (ollama.max_body_size, llama.subdomain) == (500 * 1024**2, "llama")


def test_the_zones_snippet_means_what_it_says(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    stack = stack_of("whole-changed", evaluated, tmp_path)
    assert stack.firewall is not None
    zones = stack.firewall.zones
    assert [str(each) for each in (*zones["dmz"].tcp, *zones["dmz"].udp)] == ["80", "443", "443"]
    assert zones["dmz"].interfaces == ("eth0",)
    assert zones["internal"].services == ("ssh", "postgresql", "ollama")
    assert [str(each) for each in stack.ports_of("ollama")] == ["tcp/11434"]
    assert zones["admin"].allow == "all"
    assert not evaluated["whole-changed"]["firewall"]


def test_the_monitoring_snippets_mean_what_they_say(
    evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    monitor = stack_of("complete-stack", evaluated, tmp_path).monitor
    assert monitor is not None
    assert (monitor.interval_s, monitor.max_latency_s, monitor.max_loss, monitor.failover) == (
        30.0,
        0.2,
        5.0,
        True,
    )
    # Thresholds without `enable` switch nothing on.
    assert stack_of("low-resource", evaluated, tmp_path).monitor is None


def test_a_new_service_asks_who_it_is_and_lets_nobody_in_yet(
    evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    proxy = stack_of("whole-changed", evaluated, tmp_path).proxy
    assert proxy is not None
    assert proxy.services["myservice"].allow == ()
    assert any("nobody is let in" in warning for warning in evaluated["whole-changed"]["warnings"])


def test_the_guide_as_a_whole_renders_to_a_host(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """All snippets in one system, and what `tsstack build` makes of it with the real engines' syntax."""
    from tsstack.cli.main import run

    answer = evaluated["whole-changed"]
    assert answer["refused"] == []
    assert errors(loaded(answer, tmp_path)) == set()
    out = tmp_path / "out"
    assert run(["-c", str(tmp_path / "tsstack.yaml"), "build", "--out", str(out)]) == 0
    rules = (out / "nftables" / "tsstack.nft").read_text()
    assert "100.64.0.10" in rules
    assert "table inet tsstack" in rules
    assert "myservice" in "".join(path.read_text() for path in (out / "nginx").glob("*.conf"))


def test_the_flake_snippet_finds_the_modules_at_their_paths(library: str, tmp_path: Path) -> None:
    """In a checkout, with a nixpkgs that knows nothing of tsstack; of sops-nix its options suffice."""
    shutil.copytree(MODULES, tmp_path / "modules")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "flake.nix").write_text((SNIPPETS / "flake.txt").read_text())
    made = evaluate(
        f"""
        let
          lib = import {library_path(library)};
          pkgs = import {HERE}/standin/nixpkgs.nix {{ inherit lib; }};
          outputs = (import {tmp_path}/flake.nix).outputs {{
            self = {{ }};
            nixpkgs.lib.nixosSystem = {{ modules }}: lib.evalModules {{
              modules = modules ++ [
                (import {HERE}/standin/nixos.nix {{ withSops = false; }})
                {snippet("complete-stack")}
              ];
              specialArgs = {{ inherit pkgs; }};
            }};
            sops-nix.nixosModules.sops = {{ lib, ... }}: {{
              options.sops = {{
                defaultSopsFile = lib.mkOption {{ type = lib.types.path; }};
                secrets = lib.mkOption {{ type = lib.types.attrsOf lib.types.anything; default = {{ }}; }};
              }};
            }};
          }};
          inherit (outputs.nixosConfigurations.your-host) config;
        in
        {{
          file = config.kernelcore.tsstack.text;
          packages = map (each: each.name) config.environment.systemPackages;
        }}
        """
    )
    assert json.loads(made["file"])["host"]["tailnet"] == "your-tailnet-name.ts.net"
    assert made["packages"] == [f"tsstack-{PROJECT['version']}"]


@pytest.mark.parametrize("path", re.findall(r"\./modules/(\S+)", (SNIPPETS / "flake.txt").read_text()))
def test_each_module_alone_brings_all(library: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    shutil.copytree(MODULES, folder)
    (folder / "default.nix").write_text(f"{{ imports = [ ./{path} ]; }}\n")
    answer = answers(library, [Case("whole", together(["complete-stack"]))], tmp_path, folder)["whole"]
    assert not answer["thrown"]
    assert errors(loaded(answer, tmp_path)) == set()


def test_secrets_beside_copied_modules_are_found(library: str, tmp_path: Path) -> None:
    """The guide's layout: /etc/nixos/modules and /etc/nixos/secrets/tailscale.yaml, with sops-nix."""
    shutil.copytree(MODULES, tmp_path / "modules")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "tailscale.yaml").touch()
    module = f"{{ imports = [ {{ {HOST} }} {snippet('complete-stack')} {snippet('vpn')} ]; }}"
    answer = answers(library, [Case("layout", module)], tmp_path, tmp_path / "modules")["layout"]
    assert not answer["thrown"]
    assert answer["secrets"]["tailscale-authkey"]["sopsFile"] == "tailscale.yaml"
    key = loaded(answer, tmp_path).stack.tailscale
    assert key is not None
    assert key.auth_key is not None
    assert key.auth_key.file == "/run/secrets/tailscale-authkey"
