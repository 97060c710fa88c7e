"""The starter file, and the look at the host that it is made from."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack import assets
from tsstack.model.facts import Facts
from tsstack.model.lint import lint
from tsstack.model.loader import LoadedStack, load_presets, parse_stack
from tsstack.model.starter import starter_file
from tsstack.system.inventory import Found, Interface, Listener, TailscalePrefs, discover

EVERYWHERE = "0.0.0.0"  # noqa: S104
PRESETS = load_presets(assets.folder("zones"))


def load(text: str) -> LoadedStack:
    return parse_stack(text.encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)


SERVER = Found(
    hostname="kernelcore.example.com",
    interfaces=(
        Interface("lo", ("127.0.0.1/8",)),
        Interface("eth0", ("203.0.113.5/24",)),
        Interface("eth1", ("192.168.15.2/24",)),
        Interface("docker0", ("172.17.0.1/16",)),
        Interface("tailscale0", ("100.64.0.2/32",)),
    ),
    default_interface="eth0",
    listeners=(
        Listener("tcp", "192.168.15.2", 2222, "sshd"),
        Listener("tcp", "127.0.0.1", 11434, "ollama"),
        Listener("tcp", "127.0.0.1", 5432, "postgres"),
        Listener("tcp", "127.0.0.1", 8000, "My App\n"),
        Listener("tcp", EVERYWHERE, 9100, "node\nfirewall: {}"),
        Listener("udp", EVERYWHERE, 41641, "tailscaled"),
    ),
    tailscale_running=True,
    magic_dns_suffix="tail.test",
    login_server="https://hs.example.com",
    prefs=TailscalePrefs(
        accept_dns=False, ssh=True, tags=("tag:server",), routes=("192.168.15.0/24", "0.0.0.0/0", "::/0")
    ),
    nginx_version="1.22.1",
    programs=("sops", "age"),
)


def test_a_server_keeps_what_it_is() -> None:
    stack = load(starter_file(SERVER)).stack
    assert (stack.host.name, stack.host.tailnet, stack.host.uplink) == ("kernelcore", "tail.test", "eth0")
    assert stack.tailscale.login_server == "https://hs.example.com"
    assert (stack.tailscale.accept_dns, stack.tailscale.ssh) == (False, True)
    assert [str(route) for route in stack.tailscale.advertise.routes] == ["192.168.15.0/24"]
    assert stack.tailscale.advertise.exit_node
    assert stack.proxy is None


def test_ssh_stays_open_where_it_listens_and_from_the_tailnet_and_nothing_else_is() -> None:
    zones = load(starter_file(SERVER)).stack.firewall.zones
    opened = {
        interface: [str(port) for port in zone.tcp]
        for zone in zones.values()
        for interface in zone.interfaces
    }
    assert opened == {"tailscale0": ["2222"], "eth0": [], "eth1": ["2222"]}
    assert all(not zone.udp and not zone.services and zone.allow is None for zone in zones.values())


def test_ssh_that_listens_everywhere_stays_open_everywhere() -> None:
    found = Found("a", SERVER.interfaces, "eth0", (Listener("tcp", "::", 22),))
    zones = load(starter_file(found)).stack.firewall.zones
    assert {name: [str(port) for port in zone.tcp] for name, zone in zones.items()} == {
        "internal": ["22"],
        "dmz": ["22"],
        "lan": ["22"],
    }
    assert [finding for finding in lint(load(starter_file(found)), None) if finding.severity != "info"] == []


def test_loopback_services_become_suggestions_that_load_when_taken_in() -> None:
    text = starter_file(SERVER)
    for line in (
        "ollama: {upstream: 11434}",
        "postgresql: {upstream: 5432, protocol: tcp}",
        "my-app: {upstream: 8000}",
    ):
        assert f"#     {line}\n" in text
    lines = text.splitlines()
    start = lines.index("# proxy:")
    while lines[start].startswith("#"):
        lines[start] = lines[start].removeprefix("# ")
        start += 1
    services = load("\n".join(lines)).stack.proxy.services
    assert set(services) == {"ollama", "postgresql", "my-app"}


def test_an_exit_node_in_use_stays_in_use() -> None:
    found = Found("a", tailscale_running=True, exit_node="exit-a")
    assert load(starter_file(found)).stack.tailscale.exit_node.use == ("exit-a",)


def test_a_bare_host_gives_a_file_without_errors() -> None:
    loaded = load(starter_file(Found("")))
    assert loaded.stack.host.name == "myhost"
    assert [finding for finding in lint(loaded, None) if finding.severity == "error"] == []


words = st.text(max_size=12) | st.sampled_from(
    ["eth0", "no", "1e5", "null", "a\nhost: {}", "-", "a: b", "@x", "0x1f"]
)


@settings(max_examples=200, deadline=None)
@given(
    name=words,
    interfaces=st.lists(
        st.builds(Interface, words, st.lists(words, max_size=2).map(tuple)),
        max_size=4,
        unique_by=lambda i: i.name,
    ),
    default=words,
    listeners=st.lists(
        st.builds(
            Listener,
            st.sampled_from(["tcp", "udp"]),
            words | st.sampled_from(["127.0.0.1", EVERYWHERE, "::1"]),
            st.integers(1, 65535),
            words | st.just("sshd"),
        ),
        max_size=4,
    ),
    suffix=words,
    prefs=st.builds(
        TailscalePrefs,
        tags=st.lists(words, max_size=2).map(tuple),
        routes=st.lists(words, max_size=2).map(tuple),
    ),
    exit_node=words,
)
def test_whatever_a_host_is_called_the_file_has_no_errors(  # noqa: PLR0917
    name: str,
    interfaces: list[Interface],
    default: str,
    listeners: list[Listener],
    suffix: str,
    prefs: TailscalePrefs,
    exit_node: str,
) -> None:
    found = Found(
        name,
        tuple(interfaces),
        default,
        tuple(listeners),
        tailscale_running=True,
        magic_dns_suffix=suffix,
        login_server=name,
        prefs=prefs,
        exit_node=exit_node,
    )
    loaded = load(starter_file(found))
    assert [finding for finding in lint(loaded, None) if finding.severity == "error"] == []
    assert set(loaded.document.sections) <= {"host", "tailscale", "firewall"}


def test_this_host_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = discover(Path("/nonexistent/tailscaled.sock"))
    assert found.hostname == socket.gethostname().split(".")[0]
    loopback = next(each for each in found.interfaces if each.name == "lo")
    assert "127.0.0.1/8" in loopback.addresses
    (mine,) = [each for each in found.listeners if each.port == port]
    assert (mine.protocol, mine.address) == ("tcp", "127.0.0.1")
    assert mine.program == Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert not found.tailscale_running
    load(starter_file(found))


@pytest.mark.parametrize("prefs", [{}, {"CorpDNS": False, "AdvertiseRoutes": None}])
def test_tailscaleds_answers_may_lack_keys(prefs: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    from tsstack.system import localapi

    monkeypatch.setattr(
        localapi.LocalApi, "status", lambda self, **_: {"BackendState": "Running", "Peer": None}
    )
    monkeypatch.setattr(localapi.LocalApi, "prefs", lambda self: prefs)
    found = discover()
    assert found.tailscale_running
    assert found.prefs.accept_dns is bool(prefs.get("CorpDNS", True))


def test_what_is_said_of_the_tailnets_zone_is_what_stands_in_it() -> None:
    def said(found: Found) -> tuple[str, list[str]]:
        text = starter_file(found)
        (line,) = [line for line in text.splitlines() if "# The tailnet:" in line]
        return line, [str(port) for port in load(text).stack.firewall.zones["internal"].tcp]

    with_ssh, ports = said(SERVER)
    assert "SSH (tcp 2222)" in with_ssh
    assert ports == ["2222"]
    without, ports = said(Found("a"))
    assert "nothing yet: no SSH server listens" in without
    assert ports == []
    tailscale_ssh, _ = said(Found("a", prefs=TailscalePrefs(ssh=True)))
    assert "Tailscale SSH is on" in tailscale_ssh


def test_the_comment_names_all_that_the_preset_would_open() -> None:
    assert {key: PRESETS["internal"].get(key) for key in ("tcp", "udp", "services", "allow")} == {
        "tcp": (80, 443),
        "udp": (443,),
        "services": ("ssh",),
        "allow": None,
    }
    assert "(tcp 80 and 443, udp 443) and ssh" in starter_file(SERVER)


def test_the_master_goes_into_the_zone_and_not_its_ports() -> None:
    found = Found(
        "a",
        (
            Interface("br-guest", ("192.168.7.1/24",)),
            Interface("guest0", (), master="br-guest"),
            Interface("bond0", ("192.168.8.1/24",)),
            Interface("eth2", (), master="bond0"),
            Interface("docker0", ("172.17.0.1/16",)),
            Interface("veth12ab", (), master="docker0"),
            Interface("br-lan", ("203.0.113.5/24",)),
            Interface("eth0", (), master="br-lan"),
        ),
        "br-lan",
    )
    text = starter_file(found)
    zones = load(text).stack.firewall.zones
    assert zones["lan"].interfaces == ("br-guest", "bond0")
    assert zones["dmz"].interfaces == ("br-lan",)
    assert "guest0 is a port of br-guest" in text
    assert "left alone: docker0, veth12ab" in text
    ports = tuple((each.name, each.master) for each in found.interfaces if each.master)
    facts = Facts(interfaces=tuple(each.name for each in found.interfaces), ports=ports)
    assert {finding.code for finding in lint(load(text), facts)} & {"TS217", "TS218"} == set()
