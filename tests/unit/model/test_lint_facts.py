"""Contradictions of the file with the machine, and those that no golden file shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsstack import assets
from tsstack.errors import ConfigError
from tsstack.model.facts import Facts, NginxFacts, TailscaleFacts
from tsstack.model.lint import lint, require_sound
from tsstack.model.loader import load_presets, parse_stack

PRESETS = load_presets(assets.folder("zones"))
HOST = "host: {name: kernelcore, tailnet: tail.test}\n"
HEADSCALE = "tailscale: {login_server: https://hs.example.com}\n"


def said(text: str, facts: Facts | None = None) -> list[tuple[str, str]]:
    loaded = parse_stack(text.encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    return [(finding.code, finding.path) for finding in lint(loaded, facts)]


def test_without_facts_nothing_is_said_about_the_machine() -> None:
    text = (
        HOST
        + "proxy: {tls: local-ca, http3: true}\nfirewall: {zones: {a: {interfaces: [nope0], tcp: [22]}}}\n"
    )
    assert said(text) == said(text, Facts()) == []


def test_pitfall_20_http3_with_an_nginx_that_has_none() -> None:
    text = HOST + HEADSCALE + "proxy: {tls: local-ca, http3: true}\n"
    old, new = NginxFacts((1, 22, 1)), NginxFacts((1, 26, 0), http3=True)
    assert said(text, Facts(nginx=old)) == [("TS313", "proxy.http3")]
    assert said(text, Facts(nginx=new)) == []


def test_modules_that_nginx_lacks() -> None:
    text = (
        HOST + HEADSCALE + "proxy: {tls: local-ca, services: {db: {upstream: 5432, protocol: tcp}, "
        "w: {upstream: 1, allow: [a@b]}}}\n"
    )
    facts = Facts(nginx=NginxFacts((1, 22, 1), stream=False, auth_request=False))
    assert said(text, facts) == [("TS320", "proxy.services.db.protocol"), ("TS320", "proxy.services.w.allow")]


def test_interfaces_that_are_not_here_with_the_nearest_that_is() -> None:
    text = (
        "host: {name: a, uplink: ehh0}\nbandwidth: {eth7: {egress: 1mbit}}\n"
        "firewall: {zones: {a: {interfaces: [eth0, tailscale0, 'veth*', wg0], tcp: [22]}}}\n"
    )
    assert said(text, Facts(interfaces=("lo", "eth0"))) == [
        ("TS506", "host.uplink"),
        ("TS506", "bandwidth.eth7"),
        ("TS506", "firewall.zones.a.interfaces[3]"),
    ]


def test_the_uplink_comes_from_the_machine_where_the_file_names_none() -> None:
    text = "host: {name: a}\nfirewall: {zones: {w: {interfaces: [ens3], allow: all}}}\n"
    assert said(text) == []
    assert said(text, Facts(default_interface="ens3")) == [("TS207", "firewall.zones.w.interfaces[0]")]


def test_what_tailscaled_says_of_another_tailnet_and_login() -> None:
    text = HOST + "tailscale: {}\n"
    live = TailscaleFacts(
        (1, 102, 3), "Running", magic_dns_suffix="other.ts.net", control_url="https://hs.example.com"
    )
    assert said(text, Facts(tailscale=live)) == [
        ("TS412", "host.tailnet"),
        ("TS412", "tailscale.login_server"),
    ]
    new = TailscaleFacts((1, 102, 3), "NeedsLogin")
    assert said(text, Facts(tailscale=new)) == [("TS413", "tailscale")]


def test_pitfall_18_subdomains_on_the_hosted_control_plane_do_not_resolve() -> None:
    proxy = "proxy: {tls: local-ca, services: {wiki: {upstream: 8000}}}\n"
    assert ("TS306", "proxy.names") in said("host: {name: a, tailnet: x.ts.net}\n" + proxy)
    assert said("host: {name: a, tailnet: own.example.com}\n" + proxy) == []
    assert said(HOST + HEADSCALE + proxy) == []


def test_pitfall_18_services_need_tags() -> None:
    proxy = "proxy: {names: service, services: {wiki: {upstream: 8000}}}\n"
    assert said(HOST + proxy) == [("TS307", "proxy.names")]
    assert said(HOST + proxy + "tailscale: {tags: [tag:server]}\n") == []


def test_pitfall_19_certificates_of_tailscale_need_its_control_plane_and_cover_one_name() -> None:
    services = "services: {wiki: {upstream: 8000}}}\n"
    assert said(HOST + HEADSCALE + "proxy: {tls: tailscale, " + services) == [("TS309", "proxy.tls")]
    assert said(HOST + "proxy: {tls: tailscale, " + services) == [("TS310", "proxy.tls")]
    assert said(HOST + "proxy: {tls: tailscale, names: path, " + services) == []


def test_pitfall_09_strict_rp_filter_with_an_exit_node() -> None:
    def text(name: str, exits: str) -> str:
        return f"host: {{name: a, uplink: eth0}}\ntailscale: {exits}\nkernel: {{sysctl: {{{name}: 1}}}}\n"

    uses, offers = "{exit_node: {use: [b]}}", "{advertise: {exit_node: true}}"
    for name in (
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.eth0.rp_filter",
        "net/ipv4/conf/tailscale0/rp_filter",
    ):
        for exits in (uses, offers):
            assert [code for code, _ in said(text(name, exits))] == ["TS502"]
    assert said(text("net.ipv4.conf.eth9.rp_filter", uses)) == []
    assert said(text("net.ipv4.conf.all.rp_filter", "{}")) == []


def test_pitfall_29_accepting_routes_on_a_subnet_router() -> None:
    text = "host: {name: a}\ntailscale: {accept_routes: true, advertise: {routes: [192.168.1.0/24]}}\n"
    assert said(text) == [("TS402", "tailscale.accept_routes")]


def test_pitfall_08_tailnet_sources_are_said_to_be_bound() -> None:
    text = "host: {name: a}\nfirewall: {zones: {admin: {sources: [100.64.0.7/32]}}}\n"
    assert said(text) == [("TS214", "firewall.zones.admin.sources")]


@pytest.mark.parametrize(
    "entry", ["100.64.0.0/10", "fd7a:115c:a1e0::/48", "0.0.0.0/0", "'::/0'", "100.0.0.0/8"]
)
def test_an_admin_zone_must_not_swallow_the_tailnet(entry: str) -> None:
    swallowed = said(
        f"host: {{name: a}}\nfirewall: {{zones: {{ops: {{preset: admin, sources: [{entry}]}}}}}}\n"
    )
    assert ("TS205", "firewall.zones.ops.sources[0]") in swallowed
    named = said(f"host: {{name: a}}\nfirewall: {{zones: {{ops: {{allow: all, sources: [{entry}]}}}}}}\n")
    assert ("TS206", "firewall.zones.ops.sources[0]") in named


def test_more_exact_entries_beside_wider_ones_are_no_contradiction() -> None:
    text = (
        "host: {name: a}\nfirewall:\n  zones:\n"
        "    a: {interfaces: ['eth*'], sources: [10.0.0.0/8], services: [ssh]}\n"
        "    b: {interfaces: [eth0, 'eth1*'], sources: [10.1.0.0/16]}\n"
    )
    assert said(text) == []


def test_a_zone_of_interfaces_is_shadowed_when_sources_cover_everything() -> None:
    zones = "a: {{interfaces: [eth0], services: [ssh]}}, b: {{sources: [{}], services: [ssh]}}"
    text = "host: {{name: a}}\nfirewall: {{zones: {{" + zones + "}}}}\n"
    halves = "0.0.0.0/1, 128.0.0.0/1"
    assert said(text.format(f"{halves}, '::/0'")) == [("TS202", "firewall.zones.a")]
    assert said(text.format(halves)) == []


def test_served_ports_must_be_open_to_the_tailnet() -> None:
    def with_zone(keys: str) -> list[tuple[str, str]]:
        services = "services: {w: {upstream: 1}, db: {upstream: 5432, protocol: tcp}}"
        zones = f"lan: {{interfaces: [eth0], allow: all}}, t: {{interfaces: [tailscale0], {keys}}}"
        proxy = f"proxy: {{tls: local-ca, http3: true, {services}}}\n"
        return said(f"{HOST}{HEADSCALE}{proxy}firewall: {{zones: {{{zones}}}}}\n")

    assert with_zone("services: [ssh]") == [("TS213", "proxy"), ("TS213", "proxy.services.db")]
    assert with_zone("tcp: [443, 5000-6000]") == [("TS319", "proxy.http3")]
    assert with_zone("services: [https, http3, postgresql]") == []


def test_ports_of_listeners_are_told_apart() -> None:
    text = (
        HOST
        + HEADSCALE
        + (
            "proxy: {names: port, tls: local-ca, services: {a: {upstream: 1, port: 8443}, b: {upstream: 2}, "
            "c: {upstream: 8443, protocol: tcp}, d: {upstream: 'unix:/run/d', protocol: tcp}}}\n"
        )
    )
    assert said(text) == [
        ("TS305", "proxy.services.b"),
        ("TS304", "proxy.services.c"),
        ("TS305", "proxy.services.d"),
    ]
    clash = HOST + HEADSCALE + "proxy: {tls: local-ca, services: {c: {upstream: 443, protocol: tcp}}}\n"
    assert said(clash) == [("TS304", "proxy.services.c")]
    metrics = HOST + HEADSCALE + 'proxy: {tls: local-ca}\nmonitor: {metrics: "127.0.0.1:9180"}\n'
    assert said(metrics) == [("TS304", "monitor.metrics")]


def test_two_paths_that_differ_by_a_slash_are_one() -> None:
    text = HOST + "proxy: {names: path, services: {a: {upstream: 1}, b: {upstream: 2, path: /a/}}}\n"
    assert said(text) == [("TS303", "proxy.services.b.path")]


def test_a_service_that_is_off_is_not_judged() -> None:
    text = (
        HOST
        + "proxy: {names: path, services: {a: {upstream: 1}, b: {upstream: 2, path: /a, enabled: false}}}\n"
    )
    assert said(text) == []


def test_a_proxy_without_the_tailnets_name() -> None:
    assert ("TS301", "proxy") in said("host: {name: a}\nproxy: {names: path, services: {w: {upstream: 1}}}\n")


def test_a_loop_through_the_proxy_itself() -> None:
    text = HOST + "proxy: {names: path, listen: all, services: {w: {upstream: 443}}}\n"
    assert said(text) == [("TS316", "proxy.services.w.upstream")]


def test_tailscale_ssh_is_a_way_in() -> None:
    zones = "firewall: {zones: {a: {interfaces: [eth0], tcp: [80]}}}\n"
    assert said("host: {name: a}\n" + zones) == [("TS211", "firewall")]
    assert said("host: {name: a}\ntailscale: {ssh: true}\n" + zones) == []


def test_failover_with_one_exit_node() -> None:
    text = "host: {name: a}\ntailscale: {exit_node: {use: [b]}}\nmonitor: {failover: true}\n"
    assert said(text) == [("TS602", "monitor.failover")]


def test_split_dns_that_covers_the_login_server_only_inside_the_tailnet() -> None:
    text = (
        "host: {{name: a}}\n"
        + HEADSCALE.replace("{", "{{").replace("}", "}}")
        + "dns: {{split: {{example.com: [{}]}}}}\n"
    )
    assert said(text.format("100.100.100.100")) == [("TS504", 'dns.split["example.com"]')]
    assert said(text.format("192.0.2.53")) == []


def test_errors_among_the_contradictions_refuse_the_file() -> None:
    text = "host: {name: a}\ntailscale: {exit_node: {use: [b]}, advertise: {exit_node: true}}\n"
    loaded = parse_stack(text.encode(), Path("f"), PRESETS)
    with pytest.raises(ConfigError) as caught:
        require_sound(loaded, None)
    assert [finding.code for finding in caught.value.findings] == ["TS401"]


@pytest.mark.parametrize(
    "name",
    [
        "net.ipv6.conf.all.disable_ipv6",
        "net.ipv6.conf.default.disable_ipv6",
        "net/ipv6/conf/eth0.100/disable_ipv6",
        "net.ipv6.conf.eth0/100.disable_ipv6",
    ],
)
def test_ipv6_cannot_be_switched_off_because_no_rollback_brings_the_addresses_back(name: str) -> None:
    def text(value: str) -> str:
        return f"host: {{name: a}}\nkernel: {{sysctl: {{{name}: {value}}}}}\n"

    for value in ("1", "'1'", "' 1 '", "'0x1'", "2"):
        loaded = parse_stack(text(value).encode(), Path("f"), PRESETS)
        (finding,) = lint(loaded, None)
        assert (finding.code, finding.severity, finding.line) == ("TS507", "error", 2)
        assert "/etc/sysctl.d" in finding.hint
    for value in ("0", "'0'", "'0x0'"):
        assert said(text(value)) == []


def test_parameters_that_hold_no_value_to_go_back_to() -> None:
    names = ("net.ipv4.route.flush", "net/ipv6/route/flush", "net.ipv6.conf.eth0.stable_secret")
    for name in (*names, "kernel.hostname", "kernel/domainname"):
        text = f"host: {{name: a}}\nkernel: {{sysctl: {{{name}: 1}}}}\n"
        assert [code for code, _ in said(text)] == ["TS507"]
    for name in ("net.ipv6.conf.all.accept_ra", "net.ipv4.conf.all.forwarding", "net.core.rmem_max"):
        assert said(f"host: {{name: a}}\nkernel: {{sysctl: {{{name}: 1}}}}\n") == []


@pytest.mark.parametrize(
    ("name", "zones", "told"),
    [
        ("net.ipv4.icmp_echo_ignore_all: 1", "a: {interfaces: [eth0]}", ["zone a", "of ICMP,"]),
        ("net/ipv4/icmp_echo_ignore_all: '0x1'", "a: {interfaces: [eth0]}", ["zone a", "of ICMP,"]),
        (
            "net.ipv6.icmp.echo_ignore_all: 1",
            "a: {interfaces: [eth0]}, b: {interfaces: [eth1]}",
            ["zones a, b are", "ICMPv6"],
        ),
        ("net.ipv4.icmp_echo_ignore_all: 0", "a: {interfaces: [eth0]}", []),
        ("net.ipv6.icmp.echo_ignore_all: 1", "a: {interfaces: [eth0], ping: false}", []),
        ("net.ipv4.icmp_echo_ignore_broadcasts: 1", "a: {interfaces: [eth0]}", []),
    ],
)
def test_a_zone_that_answers_pings_beside_a_kernel_that_does_not(
    name: str, zones: str, told: list[str]
) -> None:
    text = f"host: {{name: a}}\nfirewall: {{zones: {{{zones}}}}}\nkernel: {{sysctl: {{{name}}}}}\n"
    every = lint(parse_stack(text.encode(), Path("f"), PRESETS), None)
    found = [each for each in every if each.code == "TS509"]
    assert [(each.severity, each.line) for each in found] == [("warning", 3)] * bool(told)
    assert all(words in each.message for each in found for words in told)
    assert "TS509" not in {
        code for code, _ in said(text.replace("firewall: {", "firewall: {enabled: false, "))
    }


@pytest.mark.parametrize(
    ("sysctl", "routes", "forwards"),
    [
        ("net.ipv4.ip_forward: 0", ["TS501"], ["TS510"]),
        ("net/ipv4/conf/all/forwarding: '00'", ["TS501"], ["TS510"]),
        ("net.ipv6.conf.all.forwarding: 0", ["TS501"], ["TS510"]),
        ("net.ipv4.ip_forward: 0, net.ipv6.conf.all.forwarding: 0", ["TS501"] * 2, ["TS501"] * 2),
        ("net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1", [], []),
        ("net.ipv4.conf.eth0.forwarding: 0", [], []),
        ("net.ipv4.ip_forward: 0, net.ipv4.conf.eth0/7.forwarding: 1", ["TS501"], []),
        ("net.ipv4.ip_forward: 0, net.ipv4.conf.eth0.forwarding: 0", ["TS501"], ["TS510"]),
        ("net.ipv6.conf.all.forwarding: 0, net.ipv6.conf.eth0.forwarding: 1", ["TS501"], ["TS510"]),
        (
            "net.ipv4.ip_forward: 0, net.ipv4.conf.eth0.forwarding: 1, net.ipv6.conf.all.forwarding: 0",
            ["TS501"] * 2,
            ["TS510"],
        ),
    ],
)
def test_forwarding_that_is_off_beside_what_needs_it(
    sysctl: str, routes: list[str], forwards: list[str]
) -> None:
    off = f"kernel: {{sysctl: {{{sysctl}}}}}\n"
    zones = "zones: {a: {interfaces: [eth0]}, b: {interfaces: [eth1]}}"
    rules = f"firewall: {{{zones}, forward: [{{from: a, to: b, tcp: [80]}}]}}\n"

    def codes(text: str) -> list[str]:
        found = lint(parse_stack(f"host: {{name: a}}\n{text}{off}".encode(), Path("f"), PRESETS), None)
        assert all(
            each.line == 3 and "sysctl" in each.path for each in found if each.code in {*routes, *forwards}
        )
        return [each.code for each in found if each.code in {"TS501", "TS510"}]

    assert codes("tailscale: {advertise: {exit_node: true}}\n") == routes
    assert codes("tailscale: {advertise: {routes: [192.168.9.0/24]}}\n") == routes
    assert codes(rules) == forwards
    assert codes(rules.replace("firewall: {", "firewall: {enabled: false, ")) == []
    assert codes(f"firewall: {{{zones}}}\n") == []


@pytest.mark.parametrize(
    ("lan", "told"),
    [
        ("sources: [10.0.0.0/8]", []),
        ("sources: [10.0.0.0/8, 2001:db8::/32]", ["TS509", "TS510"]),
        ("sources: [10.0.0.0/8], interfaces: [eth1]", ["TS509", "TS510"]),
    ],
)
def test_of_zones_of_ipv4_networks_alone_nothing_is_told_about_ipv6(lan: str, told: list[str]) -> None:
    zones = f"a: {{interfaces: [eth0], ping: false}}, b: {{{lan}}}"
    rules = f"firewall: {{zones: {{{zones}}}, forward: [{{from: a, to: b, tcp: [80]}}]}}\n"
    off = "net.ipv6.conf.all.forwarding: 0, net.ipv6.icmp.echo_ignore_all: 1"
    found = [code for code, _ in said(f"host: {{name: a}}\n{rules}kernel: {{sysctl: {{{off}}}}}\n")]
    assert sorted({"TS501", "TS509", "TS510"} & {*found}) == told


def test_forward_rules_of_ipv4_networks_alone_need_its_forwarding() -> None:
    zones = "a: {sources: [192.168.9.0/24]}, b: {sources: [10.0.0.0/8]}"
    rules = f"firewall: {{zones: {{{zones}}}, forward: [{{from: a, to: b, tcp: [80]}}]}}\n"
    found = [
        code
        for code, _ in said(f"host: {{name: a}}\n{rules}kernel: {{sysctl: {{net.ipv4.ip_forward: 0}}}}\n")
    ]
    assert [code for code in found if code in {"TS501", "TS510"}] == ["TS501"]


def test_two_spellings_of_a_parameter_are_told_with_both_places_and_values() -> None:
    text = (
        "host: {name: a}\nkernel:\n  sysctl:\n    net.ipv4.conf.eth0/7.rp_filter: 1\n"
        "    net/ipv4/conf/eth0.7/rp_filter: 2\n"
    )
    (finding,) = lint(parse_stack(text.encode(), Path("f"), PRESETS), None)
    assert (finding.code, finding.severity, finding.line) == ("TS503", "error", 5)
    assert "in line 4" in finding.message
    assert "the value 1" in finding.message


def test_an_interface_of_a_router_that_belongs_to_no_zone_is_told() -> None:
    def zones(policy: str = "drop", more: str = "", firewall: str = "") -> str:
        inner = f"a: {{interfaces: [eth0, 'wl*'], services: [ssh]}}{more}"
        return f"firewall: {{default_policy: {policy}, zones: {{{inner}}}{firewall}}}\n"

    host = "host: {name: a}\n"
    routes = "tailscale: {advertise: {routes: [192.168.1.0/24]}}\n"
    forward = ", forward: [{from: a, to: a, allow: all}]"
    here = Facts(interfaces=("lo", "eth0", "eth1", "wlan0", "tailscale0", "docker0", "br-1", "veth9", "sit0"))
    told = [("TS217", "firewall.zones")]
    assert said(host + routes + zones(), here) == told
    assert said(host + zones(firewall=forward), here) == told
    loaded = parse_stack((host + routes + zones("reject")).encode(), Path("f"), PRESETS)
    (finding,) = lint(loaded, here)
    assert (finding.severity, finding.line) == ("info", 3)
    assert "eth1" in finding.message
    assert "rejected" in finding.message
    # Nothing to tell: no facts, no forwarding, no firewall, nothing dropped, or all of it in a zone.
    assert said(host + routes + zones()) == []
    assert said(host + zones(), here) == []
    assert said(host + routes, here) == []
    assert said(host + routes + zones(firewall=", enabled: false"), here) == []
    assert said(host + routes + zones("accept"), here) == [("TS212", "firewall.default_policy")]
    assert said(host + routes + zones(more=", b: {interfaces: [eth1]}"), here) == []


BRIDGED = Facts(
    interfaces=("lo", "br-guest", "guest0", "guest1", "eth1", "eth1.7", "vrf-red", "eth2", "macvlan0"),
    ports=(("guest0", "br-guest"), ("guest1", "br-guest")),
    vrf_members=(("eth2", "vrf-red"),),
)


def spoken(text: str, facts: Facts) -> list[tuple[str, str, str, str]]:
    loaded = parse_stack(text.encode(), Path("f"), PRESETS)
    return [(each.code, each.path, each.message, each.hint) for each in lint(loaded, facts)]


@pytest.mark.parametrize(
    ("interfaces", "fix"),
    [
        ("[guest0]", "write br-guest instead"),
        ("['guest*']", "write br-guest instead"),
        ("[eth2]", "add vrf-red beside it"),
        ("[br-guest]", ""),
        ("[guest0, br-guest]", ""),
        ("[eth2, vrf-red]", ""),
        ("[eth1, eth1.7, macvlan0]", ""),  # a VLAN, or the lower of a macvlan, is nobody's port
        ("['eth*']", ""),  # eth1 of them is no member
        ("['veth*']", ""),
    ],
)
def test_a_zone_of_a_bridge_port_matches_nothing_and_is_told_with_the_master(
    interfaces: str, fix: str
) -> None:
    text = f"host: {{name: a}}\nfirewall: {{zones: {{g: {{interfaces: {interfaces}, tcp: [9001]}}}}}}\n"
    found = [each for each in spoken(text, BRIDGED) if each[0] == "TS218"]
    assert [(path, hint) for _, path, _, hint in found] == (
        [("firewall.zones.g.interfaces[0]", fix)] if fix else []
    )
    assert not [each for each in spoken(text, Facts(interfaces=BRIDGED.interfaces)) if each[0] == "TS218"]


def test_an_uplink_that_is_a_bridge_port_is_told() -> None:
    facts = Facts(interfaces=("br0", "eth0"), ports=(("eth0", "br0"),))
    ((code, path, _, hint),) = spoken("host: {name: a, uplink: eth0}\n", facts)
    assert (code, path, hint) == ("TS218", "host.uplink", "write br0")


def test_the_master_is_named_as_the_one_in_no_zone_and_never_its_port() -> None:
    text = (
        "host: {name: a}\ntailscale: {advertise: {routes: [192.168.1.0/24]}}\n"
        "firewall: {zones: {a: {interfaces: [eth1, eth1.7, eth2, vrf-red, macvlan0], services: [ssh]}}}\n"
    )
    ((_, _, message, _),) = [each for each in spoken(text, BRIDGED) if each[0] == "TS217"]
    assert message.startswith("br-guest (guest0, guest1 in it) belongs to no zone")
    engine = Facts(interfaces=("docker0", "veth1"), ports=(("veth1", "docker0"),))
    assert [each for each in spoken(text, engine) if each[0] == "TS217"] == []


@pytest.mark.parametrize("netfilter", ["off", "nodivert", "on"])
@pytest.mark.parametrize(
    ("firewall", "masquerades"),
    [
        ("", False),
        ("firewall: {zones: {a: {interfaces: [eth0], services: [ssh]}}}\n", True),
        ("firewall: {enabled: false, zones: {a: {interfaces: [eth0], services: [ssh]}}}\n", False),
    ],
)
def test_it_is_told_when_nobody_hides_the_tailnets_addresses(
    netfilter: str, firewall: str, masquerades: bool
) -> None:
    """Held against what the firewall renders: it masquerades just where nothing is told."""
    from tsstack.parts.firewall.host import PART

    text = (
        "host: {name: a, uplink: eth0}\n"
        f"tailscale: {{netfilter: {netfilter}, advertise: {{exit_node: true}}}}\n" + firewall
    )
    tree = PART.desired(parse_stack(text.encode(), Path("f"), PRESETS).stack, Facts())
    assert any(" masquerade" in line for line in tree.values()) is (masquerades and netfilter != "on")
    told = ("TS410", "tailscale.netfilter") in said(text)
    assert told is (netfilter != "on" and not masquerades)


def test_an_exit_node_without_snat_and_without_netfilter_is_told_beside_a_firewall_too() -> None:
    text = (
        "host: {name: a, uplink: eth0}\n"
        "tailscale: {netfilter: off, advertise: {exit_node: true, snat: false}}\n"
        "firewall: {zones: {a: {interfaces: [eth0], services: [ssh]}}}\n"
    )
    assert ("TS410", "tailscale.netfilter") in said(text)


@pytest.mark.parametrize(
    ("limit", "hint"),
    [
        ("{egress: 100gbit}", "write latency: 333ms or less"),
        ("{egress: 10gbit, latency: 10s}", "write latency: 3425ms or less"),
        ("{egress: 100bit}", "write 1kbit or more"),
        ("{egress: 1bit}", "write 1kbit or more"),
        ("{ingress: 99999999gbit}", "write a lower rate"),
        ("{egress: 1mbit, burst: 40mb}", "write burst: 33447kb or less"),
        ("{egress: 10mbit}", ""),
        ("{egress: 512bit}", ""),
        ("{egress: 40gbit, ingress: 1gbit, latency: 500ms}", ""),
    ],
)
def test_a_limit_that_the_kernel_cannot_hold_is_refused_with_what_it_can(limit: str, hint: str) -> None:
    found = spoken(f"host: {{name: a}}\nbandwidth: {{eth0: {limit}}}\n", Facts())
    refused = [each for each in found if each[0] == "TS508"]
    assert [each[3].startswith(hint) for each in refused] == ([True] if hint else []), refused
    if hint:
        assert refused[0][1].startswith("bandwidth.eth0.")
