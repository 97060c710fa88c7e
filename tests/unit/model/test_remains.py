"""Faults and contradictions together: one run tells both, and tells nothing false."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack import assets
from tsstack.errors import ConfigError
from tsstack.model.document import parse_document
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack

PRESETS = load_presets(assets.folder("zones"))

# Valid, without a contradiction, and so knit together that a key that is left out would make one.
KNIT = """
host: {name: core, tailnet: tail.test, uplink: eth0}
secrets: {file: s.yaml}
tailscale:
  login_server: https://hs.example.com
  auth_key: {secret: k}
  exit_node: {use: [a, b], otherwise: direct}
proxy:
  names: path
  tls: local-ca
  http_port: 8080
  https_port: 8443
  listen: all
  services:
    a: {upstream: 1, path: /b}
    b: {upstream: [443, "80 backup"], path: /a}
    c: {upstream: 5, protocol: tcp, port: 443}
    d: {upstream: 443, protocol: tcp, port: 80}
    e: {upstream: 6, path: /b, enabled: false}
    f: {upstream: 7, path: /x, rate_limit: 3r/s, rate_burst: 1}
firewall:
  enabled: true
  services: {own: [tcp/8443]}
  zones:
    internal: {interfaces: [tailscale0], services: [own, ssh, http, https]}
    ops: {preset: admin, sources: [192.168.1.1/32]}
    rest: {interfaces: [eth0], services: [own], udp: [443]}
    wide: {preset: isolated, interfaces: ["eth*"]}
  forward:
    - {from: rest, to: internal, services: [own]}
dns: {split: {example.org: [100.100.100.100]}}
kernel: {sysctl: {net.core.rmem_max: 5}}
bandwidth: {eth0: {egress: 1mbit, burst: 32kb}}
monitor: {probe: 20s, interval: 60s, failures: 4, restore_after: 5m, max_loss: 6%, failover: true}
"""


def load(text: str) -> list[tuple[str, str, int]]:
    try:
        parse_stack(text.encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    except ConfigError as error:
        return [(finding.code, finding.path, finding.line) for finding in error.findings]
    return []


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in below:
        yield (*path, step)
        yield from paths(inner, (*path, step))


def damaged(data: dict[str, Any], path: tuple[Any, ...], how: str) -> str:
    data = copy.deepcopy(data)
    owner: Any = data
    for step in path[:-1]:
        owner = owner[step]
    if how == "value":
        owner[path[-1]] = [{"?": []}] if isinstance(owner[path[-1]], dict) else {"?": []}
    else:
        owner[f"{path[-1]}?" if how == "name" else "?"] = owner.pop(path[-1])
    return json.dumps(data)


FILES = {
    "example": (assets.folder("examples") / "kernelcore.yaml").read_bytes(),
    "knit": KNIT.encode(),
}


@pytest.mark.parametrize("how", ["value", "name", "another name"])
@pytest.mark.parametrize("file", FILES)
def test_one_fault_in_a_sound_file_makes_no_contradiction_anywhere(file: str, how: str) -> None:
    data = json.loads(json.dumps(parse_document(FILES[file], "f").plain()))
    loaded = parse_stack(FILES[file], Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    sound = [finding for finding in lint(loaded, None) if finding.severity == "info"]
    for path in paths(data):
        if how != "value" and not isinstance(path[-1], str):
            continue
        wrong = load(damaged(data, path, how))
        if how == "another name" and path[:-1] in (("firewall", "services"), ("firewall", "zones")):
            continue  # Then the old name is really unknown.
        optional = how != "value" and path[-1] == "net.core.rmem_max"
        assert wrong or optional, path
        said = {code for code, *_ in wrong if not code.startswith("TS1")}
        assert said <= {finding.code for finding in sound}, path


def test_the_knit_file_is_sound_and_would_show_a_contradiction() -> None:
    loaded = parse_stack(KNIT.encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    assert [f for f in lint(loaded, None) if f.severity != "info"] == []
    loaded = parse_stack(KNIT.replace("path: /a", "port: 9").encode(), Path("/f"), PRESETS)
    assert "TS303" in [f.code for f in lint(loaded, None)]


def test_entries_behind_a_faulty_one_keep_their_places() -> None:
    text = (
        "host: {name: a}\nfirewall:\n  zones:\n    z:\n      interfaces: [eth0]\n      services:\n"
        "        - Bad Name\n        - ssh\n        - sssh\n"
    )
    assert load(text) == [
        ("TS104", "firewall.zones.z.services[0]", 7),
        ("TS208", "firewall.zones.z.services[2]", 9),
    ]


def test_a_forward_rule_without_a_required_key_goes_and_the_next_is_judged() -> None:
    text = (
        "host: {name: a}\nfirewall:\n  zones: {z: {interfaces: [eth0]}}\n  forward:\n"
        "    - {from: z, allow: all}\n    - {from: nowhere, to: z, allow: all}\n"
    )
    assert load(text) == [
        ("TS102", "firewall.forward[0].to", 5),
        ("TS209", "firewall.forward[1].from", 6),
    ]


def test_a_misspelt_key_may_be_any_that_is_absent() -> None:
    text = "host: {name: a}\nfirewall:\n  zoness: {z: {}}\n  forward: [{from: z, to: z, allow: all}]\n"
    assert [code for code, *_ in load(text)] == ["TS101"]


def test_what_is_switched_by_a_faulty_value_is_not_judged() -> None:
    text = (
        "host: {name: a}\nfirewall:\n  enabled: no\n  zones: {z: {interfaces: [e]}, y: {interfaces: [e]}}\n"
    )
    assert [code for code, *_ in load(text)] == ["TS103"]
