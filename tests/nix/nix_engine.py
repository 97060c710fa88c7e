"""Nix as the tests run it: every evaluation is a real one, with the stand-in's library or with nixpkgs'."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = ROOT / "modules"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

STAND_IN = HERE / "standin" / "lib.nix"
NIXPKGS_LIB = os.environ.get("NIXPKGS_LIB", "")


def libraries() -> list[str]:
    """What the tests run with: the stand-in always, nixpkgs' own where NIXPKGS_LIB points to it."""
    return ["stand-in", "nixpkgs"] if NIXPKGS_LIB else ["stand-in"]


def library_path(name: str) -> Path:
    """The file or folder that Nix imports as `lib`. NIXPKGS_LIB may be a nixpkgs tree or its lib folder."""
    if name == "stand-in":
        return STAND_IN
    folder = Path(NIXPKGS_LIB)
    found = folder / "lib" if (folder / "lib" / "default.nix").is_file() else folder
    assert (found / "default.nix").is_file(), f"NIXPKGS_LIB={NIXPKGS_LIB} holds no library of nixpkgs"
    return found


def nix(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run nix-instantiate without a network, a daemon, a store or root: nothing is built."""
    program = shutil.which("nix-instantiate")
    assert program, "nix-instantiate is missing: apt install nix-bin"
    environment = {
        **os.environ,
        "HOME": "/nonexistent",
        "NIX_PATH": "",
        "NIX_CONFIG": "build-users-group =\nstore = dummy://\n",
    }
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def evaluate(expression: str) -> Any:
    """The value of an expression, as JSON carries it. Fails with Nix's own words."""
    done = nix("--eval", "--strict", "--json", "--show-trace", "-E", expression)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Case:
    """A module (the text of a Nix expression) to be evaluated beside tsstack's."""

    name: str
    module: str
    with_sops: bool = True
    is_newer: bool = False
    """A release of NixOS that has no `services.resolved.extraConfig` any more."""
    missing: tuple[str, ...] = ()
    """Packages that nixpkgs has not."""
    throwing: tuple[str, ...] = ()
    """Packages that are aliases in nixpkgs, which throw."""

    def as_nix(self) -> str:
        sops, newer = json.dumps(self.with_sops), json.dumps(self.is_newer)
        missing, throwing = (" ".join(map(json.dumps, each)) for each in (self.missing, self.throwing))
        flags = f"withSops = {sops}; isNewer = {newer}; missing = [ {missing} ]; throwing = [ {throwing} ];"
        return f"{{ name = {json.dumps(self.name)}; {flags} module = {self.module}; }}"


def answers(
    library: str, cases: list[Case], folder: Path, modules: Path = MODULES
) -> dict[str, dict[str, Any]]:
    """What the modules make of each case, in one run of Nix: see evaluate.nix."""
    file = folder / f"cases-{library}.nix"
    file.write_text("[\n" + "\n".join(case.as_nix() for case in cases) + "\n]\n")
    given = f"lib = import {library_path(library)}; cases = {file}; modules = {modules};"
    made = evaluate(f"import {HERE}/evaluate.nix {{ {given} }}")
    return {answer["name"]: answer for answer in made}


def refusal(library: str, case: Case, folder: Path, modules: Path = MODULES) -> str:
    """What Nix says when it refuses a case; empty when it does not."""
    file = folder / "refused.nix"
    file.write_text(f"[ ({case.as_nix()} // {{ direct = true; }}) ]\n")
    given = f"lib = import {library_path(library)}; cases = {file}; modules = {modules};"
    done = nix("--eval", "--strict", "--json", "-E", f"import {HERE}/evaluate.nix {{ {given} }}")
    return done.stderr if done.returncode else ""


@cache
def options(library: str) -> tuple[dict[str, Any], ...]:
    """Every option, as options.nix lists them."""
    return tuple(evaluate(f"import {HERE}/options.nix {{ lib = import {library_path(library)}; }}"))
