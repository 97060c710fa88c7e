"""Packets to the host: what each zone opens, v4 and v6, against the real kernel."""

from __future__ import annotations

import pytest
from firewall_world import World

pytestmark = pytest.mark.netns

FILE = """
firewall:
  log: true
  services: {ollama: [tcp/11434]}
  zones:
    dmz: {interfaces: [eth0], tcp: [80, 443, "8000-8100"], udp: [443]}
    internal: {interfaces: [tailscale0], services: [ssh, postgresql, ollama]}
    admin: {sources: [100.64.0.10/32, "fd7a:115c:a1e0::10/128"], allow: all}
    isolated: {interfaces: [br-guest]}
    mute: {interfaces: [lan0], tcp: [22], ping: false}
    office: {sources: [192.0.2.66/32, "2001:db8:1::66/128"], tcp: [9999]}
"""

# peer, source, host address, what passes, what does not
CASES = [
    (
        "wan",
        ("192.0.2.2", "2001:db8:1::2"),
        {"tcp": (80, 443, 8000, 8050, 8100), "udp": (443,)},
        (22, 8101, 7999),
    ),
    ("tail", ("100.64.0.7", "fd7a:115c:a1e0::7"), {"tcp": (22, 5432, 11434), "udp": (443,)}, (8080, 8000)),
    ("tail", ("100.64.0.10", "fd7a:115c:a1e0::10"), {"tcp": (1, 22, 65535), "udp": (1, 5000)}, ()),
    ("guest", ("10.66.0.2", "fd00:66::2"), {}, (22, 53, 80, 443)),
    ("lan", ("192.168.15.2", "fd00:15::2"), {"tcp": (22,)}, (80, 23)),
    ("wan", ("192.0.2.66", "2001:db8:1::66"), {"tcp": (9999,)}, (80, 443)),
    ("dock", ("172.17.0.2", "fd00:17::2"), {}, (22, 80)),
]
OURS = {"wan": ("192.0.2.1", "2001:db8:1::1"), "tail": ("100.64.0.1", "fd7a:115c:a1e0::1")}
OURS |= {"guest": ("10.66.0.1", "fd00:66::1"), "lan": ("192.168.15.1", "fd00:15::1")}
OURS |= {"dock": ("172.17.0.1", "fd00:17::1")}


@pytest.fixture(scope="module", autouse=True)
def loaded(world: World) -> None:
    world.load(FILE)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][0])
def test_a_zone_opens_what_it_lists_and_nothing_else(world: World, case: tuple, family: int) -> None:
    peer, sources, opened, closed = case
    source, to = sources[family], OURS[peer][family]
    for port in opened.get("tcp", ()):
        assert world.tcp(peer, to, port, source) == "answer", f"tcp/{port}"
    for port in opened.get("udp", ()):
        assert world.udp(peer, to, port, source) == "answer", f"udp/{port}"
    for port in closed:
        assert world.tcp(peer, to, port, source) == "silence", f"tcp/{port}"
        assert world.udp(peer, to, port, source) == "silence", f"udp/{port}"


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_ping_is_answered_where_the_zone_says_so(world: World, family: int) -> None:
    answers = {peer: world.ping(peer, OURS[peer][family]) for peer in OURS}
    assert answers == {
        "wan": "answer",
        "tail": "answer",
        "guest": "silence",
        "lan": "silence",
        "dock": "silence",
    }


@pytest.mark.parametrize("peer", sorted(OURS))
def test_pitfall_04_what_tailscaled_needs_passes_from_everywhere(world: World, peer: str) -> None:
    for to in OURS[peer]:
        assert world.udp(peer, to, 41641) == "answer"


def test_replies_of_dhcp_servers_pass(world: World) -> None:
    assert world.udp("guest", "10.66.0.1", 68, source_port=67) == "answer"
    assert world.udp("guest", "10.66.0.1", 68, source_port=66) == "silence"


def test_the_host_itself_reaches_out_and_gets_its_answers(world: World) -> None:
    import socket

    from firewall_world import within

    server = world.listen(world.space("wan"), "192.0.2.2", 4444)
    with server:
        within(world.host, lambda: socket.create_connection(("192.0.2.2", 4444), timeout=2).close())


@pytest.mark.parametrize("to", ["192.0.2.1", "100.64.0.1"])
def test_pitfall_08_a_tailnet_source_from_the_lan_is_dropped(world: World, to: str) -> None:
    before = world.counter("spoofed")
    run_route(world, "100.64.0.99/32", "eth0")
    assert world.tcp("wan", to, 22, "100.64.0.99") == "silence"
    assert world.udp("wan", to, 41641, "100.64.0.99") == "silence", "not even tailscaled's own port"
    assert world.counter("spoofed") > before


def test_pitfall_08_v6_too(world: World) -> None:
    before = world.counter("spoofed")
    run_route(world, "fd7a:115c:a1e0::99/128", "eth0")
    assert world.tcp("wan", "2001:db8:1::1", 80, "fd7a:115c:a1e0::99") == "silence"
    assert world.counter("spoofed") > before


def test_pitfall_08_a_spoofed_admin_is_no_admin_even_in_the_range_tailscaled_spares(world: World) -> None:
    world.load(FILE.replace("100.64.0.10/32", "100.64.0.0/10"))
    run_route(world, "100.115.92.5/32", "eth0")
    try:
        assert world.tcp("wan", "192.0.2.1", 80, "100.115.92.5") == "answer", "its interface's zone decides"
        assert world.tcp("wan", "192.0.2.1", 22, "100.115.92.5") == "silence", "not the admin zone's sources"
    finally:
        world.load(FILE)


def run_route(world: World, prefix: str, device: str) -> None:
    words = ["-6"] if ":" in prefix else []
    world.at_host("ip", *words, "route", "replace", prefix, "dev", device)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize(
    "opened",
    [
        "zones: {dmz: {interfaces: [eth0], tcp: [443], udp: [443]}}",
        "zones: {dmz: {interfaces: [eth0], allow: all}}",
        "zones: {neighbour: {sources: [192.0.2.0/24, '2001:db8:1::/64'], allow: all}}",
        "default_policy: accept",
        "{default_policy: reject, zones: {dmz: {interfaces: [eth0], allow: all}}}",
    ],
)
def test_a_neighbour_does_not_reach_the_tailnet_address(world: World, opened: str, family: int) -> None:
    """Linux takes a packet for any address of the host by any interface (the weak host model)."""
    world.load(f"firewall: {opened}" if opened.startswith("{") else f"firewall: {{{opened}}}")
    ours, theirs = OURS["tail"][family], ("192.0.2.2", "2001:db8:1::2")[family]
    try:
        assert world.tcp("wan", OURS["wan"][family], 443, theirs) == "answer", "it is open as such"
        with world.listen(world.host, ours, 443):
            before = world.counter("misdirected")
            assert world.tcp("wan", ours, 443, theirs) == "silence"
            assert world.counter("misdirected") > before
        assert world.udp("wan", ours, 443, theirs) == "silence"
        assert world.ping("wan", ours, theirs) == "silence"
        assert world.udp("wan", ours, 41641, theirs) == "answer", "tailscaled authenticates on its own"
        assert world.ping("wan", OURS["wan"][family], theirs) == "answer"
    finally:
        world.load(FILE)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_host_and_the_tailnet_reach_the_tailnet_address(world: World, family: int) -> None:
    import socket

    from firewall_world import within

    ours = OURS["tail"][family]
    with world.listen(world.host, ours, 22):
        within(world.host, lambda: socket.create_connection((ours, 22), timeout=2).close())
        assert world.tcp("tail", ours, 22, ("100.64.0.7", "fd7a:115c:a1e0::7")[family]) == "answer"


def test_the_host_gets_its_answers_at_the_tailnet_address_on_any_wire(world: World) -> None:
    import socket

    from firewall_world import within

    for ours, to in (("100.64.0.1", "192.0.2.2"), ("fd7a:115c:a1e0::1", "2001:db8:1::2")):
        with world.listen(world.space("wan"), to, 4445):
            within(
                world.host,
                lambda to=to, ours=ours: socket.create_connection(
                    (to, 4445), timeout=2, source_address=(ours, 0)
                ).close(),
            )


def test_the_range_that_tailscaled_spares_is_no_tailnet_address(world: World) -> None:
    world.at_host("ip", "addr", "add", "100.115.92.77/32", "dev", "eth0")
    try:
        assert world.tcp("wan", "100.115.92.77", 80) == "answer"
    finally:
        world.at_host("ip", "addr", "del", "100.115.92.77/32", "dev", "eth0")


def test_dhcp_replies_reach_an_uplink_that_has_a_providers_shared_address(world: World) -> None:
    world.at_host("ip", "addr", "add", "100.72.1.2/32", "dev", "eth0")
    try:
        assert world.udp("wan", "100.72.1.2", 68, source_port=67) == "answer"
        assert world.tcp("wan", "100.72.1.2", 80) == "silence"
    finally:
        world.at_host("ip", "addr", "del", "100.72.1.2/32", "dev", "eth0")


def test_pitfall_05_neighbour_discovery_works_under_the_drop_policy(world: World) -> None:
    for namespace in (world.host, world.space("guest")):
        from firewall_world import run, within

        within(namespace, lambda: run("ip", "-6", "neigh", "flush", "all"))
    assert world.udp("guest", "fd00:66::1", 41641) == "answer", "the peer found the host"
    world.at_host("ip", "-6", "neigh", "flush", "all")
    world.at_host("ping", "-6", "-c1", "-W2", "fd00:66::2")


def test_counters_tell_how_much_each_zone_took_and_refused(world: World) -> None:
    accepted, refused = world.counter("dmz.tcp"), world.counter("dmz.refused")
    world.tcp("wan", "192.0.2.1", 80)
    assert world.counter("dmz.tcp") == accepted + 1
    world.udp("wan", "192.0.2.1", 22)
    assert world.counter("dmz.refused") == refused + 1
    assert world.counter("dmz.tcp") == accepted + 1
