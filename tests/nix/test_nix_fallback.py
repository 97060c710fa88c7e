"""What stands on NixOS while no generation has a firewall: what NixOS's own firewall would let in."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from nix_engine import Case, answers
from option_cases import HOST

from tsstack import assets
from tsstack.model.facts import Facts
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack
from tsstack.prove.expected import Oracle, Packet

_ZONES = "kernelcore.network.security.firewall-zones.enable = true;"
_CASES = {
    "bare": f"{HOST} {_ZONES}",
    "nixos": f"""{HOST} {_ZONES}
      services.openssh = {{ enable = true; ports = [ 2222 ]; }};
      networking.firewall = {{
        allowPing = false;
        allowedTCPPorts = [ 22 80 80 ];
        allowedTCPPortRanges = [ {{ from = 8000; to = 8010; }} ];
        allowedUDPPorts = [ 5353 ];
        trustedInterfaces = [ "lo" "veth+" "br0" ];
        interfaces.eth1.allowedTCPPorts = [ 9100 ];
        interfaces.br0.allowedTCPPorts = [ 1 ];
        interfaces.veth0.allowedTCPPorts = [ 1 ];
        interfaces."en+".allowedTCPPorts = [ 1234 ];
        interfaces.en0.allowedTCPPorts = [ 1235 ];
        interfaces.eth1.allowedUDPPortRanges = [ {{ from = 60000; to = 61000; }} ];
      }};""",
    "reject": f"{HOST} {_ZONES} networking.firewall.rejectPackets = true;",
    "trusted": f'{HOST} {_ZONES} networking.firewall.trustedInterfaces = [ "tailscale0" ];',
    "whoever": f'{HOST} {_ZONES} networking.firewall.trustedInterfaces = [ "+" ];',
    "none": f"{HOST} kernelcore.network.vpn.tailscale.enable = true;",
}


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    cases = [Case(name, f"{{ {text} }}") for name, text in _CASES.items()]
    return answers(library, cases, tmp_path_factory.mktemp("fallback"))


def oracle(answer: dict[str, Any]) -> Oracle:
    loaded = parse_stack(
        answer["fallback"].encode(), Path("fallback.yaml"), load_presets(assets.folder("zones"))
    )
    assert [each for each in lint(loaded, None) if each.severity == "error"] == []
    return Oracle(loaded.stack, Facts(default_interface="eth0"))


def action(asked: Oracle, interface: str, service: str, outgoing: str = "") -> str:
    protocol, _, port = service.partition("/")
    address = ipaddress.ip_address("100.64.0.7" if interface == "tailscale0" else "192.0.2.7")
    to = ipaddress.ip_address("198.51.100.1") if outgoing else None
    packet = Packet(address, interface, protocol, int(port or 0), to, outgoing)  # type: ignore[arg-type]
    return str(asked.judge(packet).action)


@pytest.mark.parametrize(
    ("interface", "service", "expected"),
    [
        ("eth0", "tcp/22", "accept"),
        ("eth0", "tcp/80", "accept"),
        ("eth0", "tcp/8005", "accept"),
        ("eth0", "udp/5353", "accept"),
        ("eth0", "tcp/9100", "drop"),
        ("eth0", "tcp/2222", "drop"),
        ("eth0", "udp/22", "drop"),
        ("eth0", "icmp", "drop"),
        ("Wan", "tcp/22", "accept"),
        ("eth1", "tcp/9100", "accept"),
        ("eth1", "tcp/22", "accept"),
        ("eth1", "udp/60500", "accept"),
        ("eth1", "tcp/9101", "drop"),
        ("veth7", "tcp/9999", "accept"),
        ("br0", "udp/9999", "accept"),
        ("veth0", "tcp/9999", "accept"),
        ("en0", "tcp/1235", "accept"),
        ("en0", "tcp/1234", "accept"),
        ("en1", "tcp/1235", "drop"),
        ("tailscale0", "tcp/2222", "accept"),
        ("tailscale0", "tcp/9999", "drop"),
    ],
)
def test_what_nixos_lets_in_is_let_in_and_nothing_else(
    evaluated: dict[str, dict[str, Any]], interface: str, service: str, expected: str
) -> None:
    assert action(oracle(evaluated["nixos"]), interface, service) == expected


@pytest.mark.parametrize("way", [("eth0", "eth1"), ("br0", "eth0"), ("eth0", "br0"), ("eth0", "wlan0")])
def test_what_is_on_its_way_through_is_left_alone(
    evaluated: dict[str, dict[str, Any]], way: tuple[str, str]
) -> None:
    assert action(oracle(evaluated["nixos"]), way[0], "tcp/9999", way[1]) == "accept"


def test_without_a_word_nothing_is_open_but_ping(evaluated: dict[str, dict[str, Any]]) -> None:
    asked = oracle(evaluated["bare"])
    asks = ("tcp/22", "udp/53", "icmp")
    assert [action(asked, "eth0", each) for each in asks] == ["drop", "drop", "accept"]
    assert action(oracle(evaluated["reject"]), "eth0", "tcp/22") == "reject"
    assert action(oracle(evaluated["trusted"]), "tailscale0", "tcp/9999") == "accept"
    assert action(oracle(evaluated["whoever"]), "eth7", "tcp/9999") == "accept"


def test_the_unit_stands_before_the_switch_and_is_not_stopped_by_a_shutdown(
    evaluated: dict[str, dict[str, Any]],
) -> None:
    unit = evaluated["bare"]["services"]["tsstack-fallback"]
    assert unit["before"] == ["tsstack-switch.service"]
    assert unit["unitConfig"]["DefaultDependencies"] is False
    words = {
        name: str(line).partition("/bin/")[2]
        for name, line in unit["serviceConfig"].items()
        if name.startswith("Exec")
    }
    assert words["ExecStart"] == words["ExecReload"] == "tsstack fallback set /etc/tsstack/fallback.yaml"
    assert words["ExecStop"] == "tsstack fallback remove"


def test_the_first_boot_has_it_before_any_network(evaluated: dict[str, dict[str, Any]]) -> None:
    """tsstack-early finds none yet, and what waits for the network is too late."""
    unit = evaluated["bare"]["services"]["tsstack-fallback-first"]
    assert "network-pre.target" in unit["before"]
    assert unit["wants"] == ["network-pre.target"]
    assert not any("network" in each for each in unit["after"])
    assert unit["unitConfig"] == {
        "ConditionPathExists": "!/var/lib/tsstack/fallback", "DefaultDependencies": False,
    }  # fmt: skip
    assert str(unit["serviceConfig"]["ExecStart"]).endswith("tsstack fallback set /etc/tsstack/fallback.yaml")


def test_where_zones_are_off_nixos_keeps_its_own(evaluated: dict[str, dict[str, Any]]) -> None:
    assert evaluated["none"]["firewall"] is True
    assert evaluated["none"]["fallback"] == ""
    assert "tsstack-fallback" not in evaluated["none"]["services"]
