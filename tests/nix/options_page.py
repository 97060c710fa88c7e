"""docs/nixos-options.md, from the options as Nix lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# In the order of a first day; the longest prefix wins.
_GROUPS = (
    ("network.proxy.tailscale-services", "The whole stack"),
    ("network.vpn.tailscale", "The tailnet"),
    ("network.proxy.nginx-tailscale", "The proxy"),
    ("network.proxy.nginx-tailscale.services.<name>", "One service"),
    ("network.security.firewall-zones", "The firewall"),
    ("network.security.firewall-zones.zones.<name>", "One zone"),
    ("network.security.firewall-zones.forward.*", "One passage between zones"),
    ("network.monitoring.tailscale", "The monitor"),
    ("network.monitoring.tailscale.targets.*", "One target"),
    ("network.tuning", "Kernel"),
    ("network.dns", "Split DNS"),
    ("network.bandwidth", "Bandwidth"),
    ("secrets.tailscale", "Secrets"),
    ("tsstack", "tsstack itself"),
)
_HEAD = """\
# Options of the NixOS modules

Every option below `kernelcore`. An option that is not set is a key that is not written: the own default of
[the file](file.md) holds. How to use them: [nixos.md](nixos.md). This page is made from the modules;
`UPDATE_GOLDEN=1 pytest tests/nix/test_nix_page.py` makes it anew.
"""


def render_page(options: Iterable[Mapping[str, Any]]) -> str:
    """The page. Every option must fall into a group; raises KeyError where one does not."""
    grouped: dict[str, list[Mapping[str, Any]]] = {prefix: [] for prefix, _ in _GROUPS}
    for option in options:
        name = option["name"].removeprefix("kernelcore.")
        prefixes = [prefix for prefix in grouped if name.startswith(prefix + ".") or name == prefix]
        if not prefixes:
            raise KeyError(name)
        grouped[max(prefixes, key=len)].append(option)
    pages = [_HEAD]
    for prefix, title in _GROUPS:
        pages.append(f"\n## {title}: `{prefix}`\n")
        pages.append("| option | type | default | example | meaning |\n|---|---|---|---|---|")
        pages += [_row(option, prefix) for option in grouped[prefix]]
    return "\n".join(pages) + "\n"


def _row(option: Mapping[str, Any], prefix: str) -> str:
    name = option["name"].removeprefix("kernelcore.").removeprefix(prefix).removeprefix(".")
    kind = option["type"]
    default = _shown(option["default"]) if "default" in option else "needed"
    meaning = " ".join(option["description"].split())
    cells = (f"`{name or prefix}`", kind, default, _shown(option["example"]), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(given: Mapping[str, Any]) -> str:
    if "expression" in given:
        return f"`{given['expression']}`"
    return "" if given["value"] is None else f"`{nix(given['value'])}`"


def nix(value: Any) -> str:
    """A JSON value as one writes it in Nix."""
    if isinstance(value, dict):
        return "{ " + "".join(f"{_key(name)} = {nix(each)}; " for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[ " + "".join(f"{nix(each)} " for each in value) + "]"
    return json.dumps(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_'-]*", name) else json.dumps(name)
