"""The tables of meanings.yaml and of contradictions/ as cases for Nix.

In contradictions/ stands what is refused, and what is only said, when a system is evaluated. `beside` names
what is switched on for it; @ in `module` is where the wrong value and the right one go; `words` are in what
is said of the wrong one. `about` names the remark, where more than one case is about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from nix_engine import HERE, Case
from ruamel.yaml import YAML

HOST = 'networking.hostName = "kernelcore";'

# Options that say nothing in the file, and where they are tested.
BESIDE_THE_FILE = {
    "tsstack.switchOnActivation": "test_nix_units.py",
    "tsstack.confirm": "test_nix_units.py",
    "tsstack.prove": "test_nix_units.py",
    "tsstack.checkAtBuild": "test_nix_units.py",
    "tsstack.file": "read in every test, as text",
    "tsstack.text": "read in every test",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """The options that a case is about (below `kernelcore.`), the case, and the file it must mean."""

    options: tuple[str, ...]
    case: Case
    file: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A configuration that is refused or warned of, its mended twin, and words of what is said."""

    name: str
    about: str
    wrong: Case
    right: Case
    words: str


def table(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((HERE / name).read_text())


def meanings() -> list[Meaning]:
    made = []
    for area in table("meanings.yaml"):
        for each in area["cases"]:
            options = tuple(f"{area['prefix']}.{name}" for name in each["options"].split())
            text = area["module"].replace("@", each.get("nix", ""))
            case = Case(f"{len(made)}", f"{{ config, lib, pkgs, ... }}: {{ {HOST} {text} }}")
            made.append(Meaning(options, case, area["file"].replace("@", each.get("file", ""))))
    return made


SWITCHED_ON = {
    "vpn": "{ kernelcore.network.vpn.tailscale.enable = true; }",
    "proxy": '{ kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; }; }',
    "serving": "{ kernelcore.network.proxy.nginx-tailscale = "
    '{ enable = true; tailnetDomain = "t.ts.net"; services.wiki.upstreamPort = 8000; }; }',
    "monitor": "{ kernelcore.network.monitoring.tailscale.enable = true; }",
    "zones": "{ kernelcore.network.security.firewall-zones.enable = true; }",
    "sshd": "{ services.openssh.enable = true; }",
    "nginx": "{ services.nginx.enable = true; }",
}


def remarks(kind: str) -> list[Remark]:
    """`kind` is refused or warned."""
    made = []
    tables = sorted((HERE / "contradictions").glob("*.yaml"))
    for each in chain.from_iterable(table(f"contradictions/{path.name}")[kind] for path in tables):
        beside = " ".join(SWITCHED_ON[name] for name in each.get("beside", ()))
        wrong, right = (
            Case(
                f"{each['name']}-{word}",
                f"{{ imports = [ {{ {HOST} }} {beside} {{ {each['module'].replace('@', each[word])} }} ]; }}",
                with_sops=each.get("sops-nix", True),
            )
            for word in ("wrong", "right")
        )
        made.append(Remark(each["name"], each.get("about", each["name"]), wrong, right, each["words"]))
    return made
