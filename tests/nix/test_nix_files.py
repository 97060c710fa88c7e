"""Every .nix file parses; the package and the flake evaluate, with names for nixpkgs' packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nix_engine import HERE, PROJECT, ROOT, evaluate, library_path, nix

from tsstack import assets
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack

FILES = sorted([ROOT / "flake.nix", *(ROOT / "modules").rglob("*.nix"), *HERE.rglob("*.nix")])
# What nixpkgs calls differently.
_NIXPKGS_NAMES = {
    "pip-nftables": "nftables",
    "ruamel.yaml": "ruamel-yaml",
    "ruamel.yaml.clib": "ruamel-yaml-clib",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_parses(path: Path) -> None:
    done = nix("--parse", path)
    assert done.returncode == 0, done.stderr


def test_the_repository_locks_nothing() -> None:
    """A lock file would name download hosts; the user's own flake pins."""
    assert "flake.lock" in (ROOT / ".gitignore").read_text().splitlines()


def package(library: str, wanted: str) -> Any:
    nixpkgs = f"import {HERE}/standin/nixpkgs.nix {{ lib = import {library_path(library)}; }}"
    return evaluate(
        f"let package = ({nixpkgs}).callPackage {ROOT}/modules/package.nix {{ src = {ROOT}; }}; in {wanted}"
    )


def test_the_package_takes_what_the_project_needs(library: str) -> None:
    needed = {re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]}
    taken = package(library, "map (each: each.name) package.passthru.library.attrs.dependencies")
    assert set(taken) == {_NIXPKGS_NAMES.get(name, name) for name in needed}


def test_the_package_has_the_project_s_version(library: str) -> None:
    assert package(library, "package.passthru.library.attrs.version") == PROJECT["version"]
    assert package(library, "package.name") == f"tsstack-{PROJECT['version']}"


def test_the_package_puts_every_program_on_the_path(library: str) -> None:
    """Every program that tsstack starts, by the package of nixpkgs that has it."""
    homes = {
        "age": {"age-keygen"},
        "ethtool": {"ethtool"},
        "iperf3": {"iperf3"},
        "iproute2": {"ip", "ss", "tc"},
        "kmod": {"modprobe"},
        "nftables": {"nft"},
        "nginx": {"nginx"},
        "sops": {"sops"},
        "systemd": {"journalctl", "systemctl", "systemd-run", "resolvectl"},
        "tailscale": {"tailscale", "tailscaled"},
        "util-linux": {"unshare", "umount", "setpriv", "nsenter"},
    }
    started = set()
    for path in sorted((ROOT / "tsstack").rglob("*.py")):
        if "lab" not in path.parts:  # the lab builds its own engines
            started |= set(re.findall(r"(?:run|which|start|spawn)\(\s*\[?\"([a-z0-9-]+)\"", path.read_text()))
    assert started <= set().union(*homes.values())
    needed = {home for home, programs in homes.items() if programs & started}
    assert needed <= set(package(library, "map (each: each.name) package.passthru.programs"))


def build(folder: Path) -> Path:
    """Run the package's own build script, with this checkout's interpreter in place of Nix's."""
    python = folder / "python" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = evaluate(
        f"""
        let
          nixpkgs = import {HERE}/standin/nixpkgs.nix {{ }};
          python3 = nixpkgs.python3 // {{ withPackages = _: {{ outPath = "{python.parents[1]}"; }}; }};
        in
        (nixpkgs.callPackage {ROOT}/modules/package.nix {{ src = "{ROOT}"; inherit python3; }}).script
        """
    )
    out = folder / "out"
    done = subprocess.run(
        ["bash", "-c", (HERE / "build.sh").read_text() + script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "out": str(out), "HOME": "/homeless-shelter"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_package_s_build_script_makes_a_program_and_units(tmp_path: Path) -> None:
    out = build(tmp_path)
    program = out / "bin" / "tsstack"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert PROJECT["version"] in said.stdout
    refused = subprocess.run([program, "swich"], capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, "did you mean 'switch'" in refused.stderr) == (2, True)
    scripts = PROJECT["scripts"]
    assert {path.name for path in (out / "bin").iterdir()} == set(scripts)
    for name in scripts:
        shown = subprocess.run(
            [out / "bin" / name, "--help"], capture_output=True, text=True, timeout=60, check=True
        )
        assert name in shown.stdout.splitlines()[0]
        assert (out / "share" / "man" / "man1" / f"{name}.1").is_file()
        for place in (f"bash-completion/completions/{name}", f"zsh/site-functions/_{name}"):
            assert name in (out / "share" / place).read_text()
    units = {path.name: path.read_text() for path in (out / "lib" / "systemd" / "system").iterdir()}
    kinds = {".service", ".socket", ".timer", ".path"}
    assert {path.name for path in (ROOT / "monitor").iterdir() if path.suffix in kinds} == set(units)
    for name, text in units.items():
        assert "/usr/" not in text, name
    assert f"ExecStart={program} monitor\n" in units["tsstack-monitor.service"]
    assert "ExecReload=/nix/store/util-linux/bin/kill -HUP" in units["tsstack-monitor.service"]


def flake(library: str, wanted: str) -> Any:
    """The flake with a nixpkgs of names; `machine` evaluates one of the VM test with our own options."""
    return evaluate(
        f"""
        let
          lib = import {library_path(library)};
          self = outputs // {{ outPath = {ROOT}; }};
          nixpkgs = {HERE}/standin/nixpkgs.nix;
          outputs = (import {ROOT}/flake.nix).outputs {{ inherit self nixpkgs; }};
          test = outputs.checks.x86_64-linux.tailnet.test;
          machine = name: (lib.evalModules {{
            modules = [
              (import {HERE}/standin/nixos.nix {{ }})
              {HERE}/standin/node.nix
              test.nodes.${{name}}
            ];
            specialArgs.pkgs = import nixpkgs {{ overlays = [ outputs.overlays.default ]; }};
          }}).config;
        in
        {wanted}
        """
    )


def test_the_flake_offers_what_it_should(library: str) -> None:
    assert flake(library, "builtins.attrNames outputs") == [
        "checks", "devShells", "nixosModules", "overlays", "packages",
    ]  # fmt: skip
    assert flake(library, "builtins.attrNames outputs.nixosModules") == ["default", "tsstack"]
    name = f"tsstack-{PROJECT['version']}"
    for system in ("x86_64-linux", "aarch64-linux"):
        assert flake(library, f"outputs.packages.{system}.default.name") == name
        assert flake(library, f"outputs.checks.{system}.package.name") == name
        assert "pytest" in flake(
            library,
            f"map (each: each.name) (builtins.head outputs.devShells.{system}.default.packages).chosen",
        )


def test_the_package_takes_the_nginx_that_the_proxy_names(library: str) -> None:
    ours = "outputs.packages.x86_64-linux.default"
    made = f'map (each: each.name) ({ours}.override {{ nginx = {{ name = "other"; }}; }}).programs'
    assert "other" in flake(library, made)


def test_the_machines_of_the_vm_test_evaluate(library: str) -> None:
    refused = 'map (each: each.message) (builtins.filter (each: !each.assertion) (machine "host").assertions)'
    assert flake(library, refused) == []
    assert flake(library, '(machine "host").warnings') == []
    text = flake(library, '(machine "host").kernelcore.tsstack.text')
    loaded = parse_stack(
        text.encode(), Path("/etc/tsstack/tsstack.yaml"), load_presets(assets.folder("zones"))
    )
    assert [str(each) for each in lint(loaded, None) if each.severity == "error"] == []
    assert loaded.stack.host.name == "host"
    assert flake(library, '(machine "client").services.tailscale.enable') is True
    assert (
        flake(library, '(machine "control").services.headscale.settings.dns.base_domain')
        == loaded.stack.host.tailnet
    )


def test_the_script_of_the_vm_test_is_python(library: str) -> None:
    script = flake(library, "test.testScript")
    compile(script, "testScript", "exec")
    from tsstack.cli.main import _VERBS

    verbs = re.findall(r"\"(?:.*\()?tsstack ([a-z-]+)", script)
    assert {"switch", "certificates", "monitor"} <= set(verbs)
    assert set(verbs) <= set(_VERBS)
