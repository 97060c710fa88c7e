"""What the kernel part wants, from the file's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tsstack.errors import ConfigError
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.kernel import desired

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "kernel"
FACTS = Facts(interfaces=("eth0", "lo"), default_interface="eth0")


def stack(text: str) -> Stack:
    return Stack.model_validate(YAML(typ="safe").load(f"host: {{name: h, tailnet: tail.test}}\n{text}"))


def values(text: str) -> dict[str, str]:
    return json.loads(desired.render(stack(text), FACTS).get("kernel/sysctl.json", "{}"))


def test_a_file_that_asks_for_nothing_gives_no_files():
    assert desired.render(stack(""), FACTS) == {}


@pytest.mark.parametrize("profile", ["throughput", "router", "low-latency"])
def test_profiles_are_as_recorded(profile):
    tree = desired.render(stack(f"kernel: {{profile: {profile}}}"), FACTS)
    assert tree["kernel/sysctl.conf"] == (GOLDEN / f"{profile}.conf").read_text()


def test_own_keys_win_over_the_profile_in_any_spelling():
    found = values("kernel: {profile: throughput, sysctl: {net/core/rmem_max: 1000000}}")
    assert found["net.core.rmem_max"] == "1000000"
    assert found["net.core.wmem_max"] == "67108864"


@pytest.mark.parametrize(
    ("written", "canonical", "file"),
    [
        ("net.core.rmem_max", "net.core.rmem_max", ("net", "core", "rmem_max")),
        (
            "net/ipv4/conf/eth0.100/rp_filter",
            "net.ipv4.conf.eth0/100.rp_filter",
            ("net", "ipv4", "conf", "eth0.100", "rp_filter"),
        ),
        (
            "net.ipv4.conf.eth0/100.rp_filter",
            "net.ipv4.conf.eth0/100.rp_filter",
            ("net", "ipv4", "conf", "eth0.100", "rp_filter"),
        ),
    ],
)
def test_interface_names_with_dots_keep_them(written, canonical, file):
    assert desired.canonical_name(written) == canonical
    assert desired.canonical_name(canonical) == canonical
    assert desired.segments(canonical) == file


def test_one_parameter_in_two_spellings_with_two_values_is_refused():
    with pytest.raises(ConfigError, match=r"also written as net\.core\.rmem_max"):
        values("kernel: {sysctl: {net.core.rmem_max: 1, net/core/rmem_max: 2}}")


@pytest.mark.parametrize(
    "text",
    [
        "tailscale: {advertise: {routes: [192.168.1.0/24]}}",
        "tailscale: {advertise: {exit_node: true}}",
        "firewall: {zones: {a: {interfaces: [eth0]}, b: {interfaces: [eth1]}}, "
        "forward: [{from: a, to: b, allow: all}]}",
    ],
)
def test_routing_switches_forwarding_on_for_both_families(text):
    found = values(text)
    assert found["net.ipv4.ip_forward"] == found["net.ipv6.conf.all.forwarding"] == "1"


def test_accept_ra_is_raised_before_forwarding_so_that_no_ipv6_default_route_is_lost():
    names = list(values("tailscale: {advertise: {exit_node: true}}"))
    assert names.index("net.ipv6.conf.eth0.accept_ra") < names.index("net.ipv6.conf.all.forwarding")


def test_a_host_that_manages_router_advertisements_itself_keeps_doing_so():
    name = "net.ipv6.conf.eth0.accept_ra"
    origins = {name: "tailscale.advertise"}
    assert desired.targets({name: "2"}, origins, {name: "0"}, {}) == {name: "0"}
    assert desired.targets({name: "2"}, origins, {name: "1"}, {}) == {name: "2"}
    assert desired.targets({name: "2"}, {name: "kernel.sysctl." + name}, {name: "0"}, {}) == {name: "2"}


@pytest.mark.parametrize(
    "text", ["tailscale: {exit_node: {use: a}}", "tailscale: {advertise: {exit_node: true}}"]
)
def test_pitfall_09_rp_filter_is_loose_where_an_exit_node_is_used_or_offered(text):
    assert values(text)["net.ipv4.conf.all.rp_filter"] == "2"


def test_a_client_without_exit_node_keeps_its_rp_filter():
    assert values("tailscale: {accept_dns: true}") == {}


def test_a_profile_never_lowers_what_the_host_already_has():
    name = "net.ipv4.tcp_rmem"
    origins = {name: "kernel.profile"}
    live = {name: "8192 87380 134217728"}
    wanted = {name: "4096 131072 67108864"}
    assert desired.targets(wanted, origins, live, {}) == {name: "8192 131072 134217728"}


def test_a_smaller_profile_counts_from_the_original_and_not_from_the_larger_profile_before_it():
    name = "net.core.rmem_max"
    found = desired.targets(
        {name: "16777216"}, {name: "kernel.profile"}, {name: "67108864"}, {name: "212992"}
    )
    assert found == {name: "16777216"}


def test_bandwidth_has_a_burst_that_lets_packets_pass():
    tree = desired.render(stack("bandwidth: {eth0: {egress: 1mbit}, eth1: {ingress: 1gbit}}"), FACTS)
    links = json.loads(tree["kernel/links.json"])
    assert links["eth0"]["egress"]["burst_bytes"] == 4096
    assert links["eth1"]["ingress"]["burst_bytes"] == 1_250_000


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("tailscale: {advertise: {exit_node: true}}", "if possible"),
        ("kernel: {udp_gro: true}", "required"),
        ("tailscale: {advertise: {exit_node: true}}\nkernel: {udp_gro: false}", None),
        ("tailscale: {accept_dns: true}", None),
    ],
)
def test_udp_gro_is_for_routers_unless_the_file_says_otherwise(text, wish):
    links = json.loads(desired.render(stack(text), FACTS).get("kernel/links.json", "{}"))
    assert links.get("eth0", {}).get("udp_gro") == wish
