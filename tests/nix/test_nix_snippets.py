"""The guide's Nix snippets, unchanged but for their comments: from option to what goes on a host."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from nix_engine import HERE, MODULES, Case, answers, evaluate, library_path
from option_cases import HOST

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loaded import LoadedStack
from tsstack.model.loader import load_presets, load_stack
from tsstack.model.stack import Stack

SNIPPETS = HERE / "snippets"
SOPS = "sops.defaultSopsFile = ./secrets.yaml;"
ON = "kernelcore.tsstack.enable = true;"


def snippet(name: str) -> str:
    """As one would paste it: a whole module, or lines of one."""
    text = (SNIPPETS / f"{name}.txt").read_text()
    return f"({text})" if text.startswith("{") else f"({{ config, ... }}: {{ {text} }})"


def together(*names: str, beside: str = "") -> str:
    return "{ imports = [ { " + HOST + SOPS + ON + beside + " } " + " ".join(map(snippet, names)) + " ]; }"


ALONE = tuple(sorted(path.stem for path in SNIPPETS.glob("*.txt") if path.stem != "flake"))
WHOLE = (
    "complete-stack",
    "vpn",
    "zones",
    "new-service",
    "debug",
    "sysctl",
    "nginx-tuning",
    "docker-routes",
    "split-dns",
)
# What the guide leaves to the reader, so that the whole of it is a host.
NARROWED = (
    'kernelcore.tsstack.uplink = "eth0"; '
    'kernelcore.network.security.firewall-zones.zones.admin.allowedIPs = lib.mkForce [ "100.64.0.10" ];'
)
_CASES = [
    *(Case(name, together(name)) for name in ALONE),
    Case("narrowed", "{ lib, ... }: " + together(*WHOLE, beside=NARROWED)),
    Case("zones-narrowed", "{ lib, ... }: " + together("zones", beside=NARROWED)),
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
    assert len(ALONE) == 12
    assert (SNIPPETS / "flake.txt").exists()


@pytest.mark.parametrize("name", ALONE)
def test_a_snippet_evaluates_as_it_stands(
    name: str, evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    answer = evaluated[name]
    assert not answer["thrown"]
    assert answer["refused"] == []
    # The guide's admin zone holds every node of the tailnet: written as it stands, refused by the code that
    # refuses it in a file, and said when the system is evaluated.
    expected = {"TS205"} if name == "zones" else set()
    assert errors(loaded(answer, tmp_path)) == expected
    assert [any("TS205" in warning for warning in answer["warnings"])] == [bool(expected)]


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
    stack = stack_of("zones-narrowed", evaluated, tmp_path)
    assert stack.firewall is not None
    zones = stack.firewall.zones
    assert [str(each) for each in (*zones["dmz"].tcp, *zones["dmz"].udp)] == ["80", "443", "443"]
    assert zones["dmz"].interfaces == ("eth0",)
    assert zones["internal"].services == ("ssh", "postgresql", "ollama")
    assert [str(each) for each in stack.ports_of("ollama")] == ["tcp/11434"]
    assert zones["admin"].allow == "all"
    assert not evaluated["zones-narrowed"]["firewall"]


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
    proxy = stack_of("narrowed", evaluated, tmp_path).proxy
    assert proxy is not None
    assert proxy.services["myservice"].allow == ()
    assert any("nobody is let in" in warning for warning in evaluated["narrowed"]["warnings"])


def test_the_guide_as_a_whole_renders_to_a_host(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """All snippets in one system, and what `tsstack build` makes of it with the real engines' syntax."""
    from tsstack.cli.main import run

    answer = evaluated["narrowed"]
    assert answer["refused"] == []
    assert errors(loaded(answer, tmp_path)) == set()
    out = tmp_path / "out"
    assert run(["-c", str(tmp_path / "tsstack.yaml"), "build", "--out", str(out)]) == 0
    rules = (out / "nftables" / "tsstack.nft").read_text()
    assert "100.64.0.10" in rules
    assert "table inet tsstack" in rules
    assert "myservice" in "".join(path.read_text() for path in (out / "nginx").glob("*.conf"))


def test_the_flake_snippet_finds_the_modules_at_their_paths(library: str, tmp_path: Path) -> None:
    shutil.copytree(MODULES, tmp_path / "modules")
    (tmp_path / "flake.nix").write_text((SNIPPETS / "flake.txt").read_text())
    made = evaluate(
        f"""
        let
          lib = import {library_path(library)};
          stub = name: {{ type = "derivation"; inherit name; outPath = "/nix/store/${{name}}"; }};
          pkgs = {{
            tsstack = stub "tsstack";
            nginx = stub "nginx";
            jq = stub "jq";
            runCommand = name: _: _: stub name;
          }};
          flake = import {tmp_path}/flake.nix;
          outputs = flake.outputs {{
            self = {{ }};
            nixpkgs.lib.nixosSystem = {{ modules }}: lib.evalModules {{
              modules = modules ++ [
                (import {HERE}/standin/nixos.nix {{ withSops = false; }})
                {snippet("complete-stack")}
              ];
              specialArgs = {{ inherit pkgs; }};
            }};
            # sops-nix, as far as it matters: its options.
            sops-nix.nixosModules.sops = {{ lib, ... }}: {{
              options.sops = {{
                defaultSopsFile = lib.mkOption {{ type = lib.types.path; }};
                secrets = lib.mkOption {{ type = lib.types.attrsOf lib.types.anything; default = {{ }}; }};
              }};
            }};
          }};
        in
        outputs.nixosConfigurations.your-host.config.kernelcore.tsstack.text
        """
    )
    assert json.loads(made)["host"]["tailnet"] == "your-tailnet-name.ts.net"


@pytest.mark.parametrize("path", re.findall(r"\./modules/(\S+)", (SNIPPETS / "flake.txt").read_text()))
def test_each_module_alone_brings_all(library: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    shutil.copytree(MODULES, folder)
    (folder / "default.nix").write_text(f"{{ imports = [ ./{path} ]; }}\n")
    answer = answers(library, [Case("whole", together("complete-stack"))], tmp_path, folder)["whole"]
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
