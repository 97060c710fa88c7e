"""The rendered table: golden files, determinism, safe quoting, and that every rule names its key path."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from firewall_stack import ROOT, stack_of
from hypothesis import given
from hypothesis import strategies as st

from tsstack.errors import ConfigError
from tsstack.model.facts import Facts, TailscaleFacts
from tsstack.parts.firewall import host, text
from tsstack.parts.firewall.desired import FILE, desired

GOLDEN = ROOT / "tests" / "golden" / "firewall"
EXAMPLE = (ROOT / "examples" / "kernelcore.yaml").read_text()
CASES = sorted(path.name for path in GOLDEN.iterdir())


def rendered(yaml: str, facts: Facts | None = None) -> str:
    return desired(stack_of(yaml), facts or Facts(default_interface="eth0"))[FILE]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """`TSSTACK_WRITE_GOLDEN=1` writes what is rendered now; read the diff before you commit it."""
    found = rendered((GOLDEN / case / "tsstack.yaml").read_text())
    expected = GOLDEN / case / "expected" / "tsstack.nft"
    if os.environ.get("TSSTACK_WRITE_GOLDEN"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(found)
    assert found == expected.read_text()


@pytest.mark.parametrize("case", CASES)
def test_nft_accepts_every_golden_file_without_root(case: str) -> None:
    path = GOLDEN / case / "expected" / "tsstack.nft"
    done = subprocess.run(
        ["unshare", "-Urn", "nft", "-c", "-f", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_firewall_no_file() -> None:
    assert desired(stack_of("dns: {}"), Facts()) == {}
    assert desired(stack_of("firewall: {enabled: false, zones: {dmz: {interfaces: [eth0]}}}"), Facts()) == {}


def test_the_host_side_names_the_same_file() -> None:
    assert host.FILE == FILE
    assert FILE.startswith(f"{host.PART.folder}/")


def test_pitfall_01_flush_ruleset_is_never_used() -> None:
    for source in (ROOT / "tsstack" / "parts" / "firewall").glob("*.py"):
        assert "flush" not in source.read_text(), source
    lines = rendered(EXAMPLE).splitlines()
    tables = [line for line in lines if "table " in line and not line.startswith("#")]
    assert tables == ["table inet tsstack", "delete table inet tsstack", "table inet tsstack {"]


def test_pitfall_07_no_marks() -> None:
    assert re.search(r"\bmark\b", rendered(EXAMPLE)) is None


def test_pitfall_05_router_advertisements_and_mld_are_bound_to_the_link() -> None:
    lines = rendered("firewall: {}").splitlines()
    for kind in ("nd-router-advert", "mld-listener-query"):
        (line,) = [line for line in lines if kind in line]
        assert "ip6 saddr fe80::/10" in line
    assert any("packet-too-big" in line for line in lines)


def _chains(zones: int, ports: int) -> dict[str, list[str]]:
    named = ", ".join(
        f"z{n}: {{interfaces: [wan{n}], sources: [10.0.{n}.0/24], tcp: {list(range(1, ports, 2))}}}"
        for n in range(zones)
    )
    text = rendered(f"firewall: {{zones: {{{named}}}}}")
    return {
        name: body.splitlines() for name, body in re.findall(r"\tchain (\S+) \{\n(.*?)\n\t\}", text, re.S)
    }


def test_pitfall_12_no_chain_grows_with_ports() -> None:
    assert {name: len(rules) for name, rules in _chains(3, 500).items()} == {
        name: len(rules) for name, rules in _chains(3, 4).items()
    }


@pytest.mark.parametrize(("zones", "most"), [(2, 4), (8, 16), (9, 20), (50, 30), (200, 60)])
def test_pitfall_12_the_way_to_a_zone_hardly_grows_with_zones(zones: int, most: int) -> None:
    """Up to eight zones are asked one by one, more by groups: the root of their number, twice a sort."""
    chains = _chains(zones, 4)
    plain = len(_chains(1, 4)["input"]) - 2

    def way(chain: str) -> int:
        within = [
            len(chains[found[1]]) for rule in chains[chain] if (found := re.search(r"goto (zones\S+)", rule))
        ]
        return len(chains[chain]) + 2 * max(within, default=0)

    assert way("input") - plain <= most


def test_tailscaled_port_comes_from_the_facts() -> None:
    facts = Facts(tailscale=TailscaleFacts((1, 102, 3), "Running", port=50000))
    assert "udp dport 50000 " in rendered("firewall: {}", facts)
    assert "udp dport 41641 " in rendered("firewall: {}")


def test_every_rule_leads_back_to_a_key_or_says_that_it_is_always_there() -> None:
    from tsstack.model.stack import Stack

    for case in CASES:
        stack = stack_of((GOLDEN / case / "tsstack.yaml").read_text())
        assert isinstance(stack, Stack)
        for line in (GOLDEN / case / "expected" / "tsstack.nft").read_text().splitlines():
            if not line.startswith("\t\t") or line.startswith(
                ("\t\t\t", "\t\ttype", "\t\tflags", "\t\telements", "\t\t}")
            ):
                continue
            found = re.search(r'comment "([^"]+)"$', line)
            assert found, line
            if not found[1].startswith("always: "):
                follow(stack, found[1])


def follow(value: object, path: str) -> object:
    """The value at a key path; fails if the path leads nowhere."""
    for name, index in re.findall(r"([a-z][a-z0-9_-]*)|\[(\d+)\]", path):
        if index:
            value = value[int(index)]  # type: ignore[index]
        elif isinstance(value, dict):
            value = value[name]
        else:
            value = getattr(value, name)
    return value


def test_the_same_file_gives_the_same_text() -> None:
    assert rendered(EXAMPLE) == rendered(EXAMPLE)


HOSTILE = ['x"; }', "a b", "a;b", "a\nb", "$x", "a{", "a}", "a'b", "*", "ä", ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_by_the_model(name: str) -> None:
    import json

    with pytest.raises(ConfigError):
        stack_of(f"firewall: {{zones: {{{json.dumps(name)}: {{}}}}}}")
    with pytest.raises(ConfigError):
        stack_of(f"firewall: {{zones: {{dmz: {{interfaces: [{json.dumps(name)}]}}}}}}")
    with pytest.raises(ConfigError):
        stack_of(f"firewall: {{services: {{{json.dumps(name)}: [tcp/1]}}}}")


@given(st.text())
def test_the_renderer_is_safe_on_its_own(raw: str) -> None:
    quoted = text.quote(raw)
    assert re.fullmatch(r'"[A-Za-z0-9 ._:/@+*()\[\]?-]{0,127}"', quoted)
    for refuse in (text.identifier, text.interface):
        try:
            assert re.fullmatch(r'"?[A-Za-z0-9_][A-Za-z0-9_.@-]*\*?"?', refuse(raw))
        except ValueError:
            continue


def test_a_comment_is_no_longer_than_the_kernel_keeps() -> None:
    assert len(text.quote("x" * 500)) == 127 + 2


@pytest.mark.parametrize(
    "keyword", ["ip", "accept", "masquerade", "drop", "set", "input", "fwd", "meta", "always"]
)
def test_a_zone_may_be_called_like_a_word_of_nft(keyword: str, tmp_path: Path) -> None:
    yaml = f"""
firewall:
  zones:
    {keyword}: {{interfaces: [eth0], sources: [10.0.0.0/8], tcp: [1]}}
    spoofed: {{interfaces: [eth1]}}
  forward: [{{from: {keyword}, to: spoofed, tcp: [1], masquerade: true}}]
"""
    path = tmp_path / "tsstack.nft"
    path.write_text(rendered(yaml))
    done = subprocess.run(
        ["unshare", "-Urn", "nft", "-c", "-f", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_refusal_names_the_line_and_the_key_path() -> None:
    lines = ["table inet tsstack {", '\t\t80 comment "firewall.zones.dmz.tcp[0]",', "\t\tbroken"]
    words = "/x/tsstack.nft:3:3-8: Error: syntax error\nmore"
    assert host.explain_refusal(words, "\n".join(lines)) == (
        "nft refuses line 3 (firewall.zones.dmz.tcp[0]): syntax error: broken"
    )
    assert "netlink: no buffer" in host.explain_refusal("netlink: no buffer", "x")
