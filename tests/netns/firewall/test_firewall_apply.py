"""Loading, watching and bringing back: against the real kernel, beside other owners' tables."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from firewall_stack import stack_of
from firewall_world import World, run, within

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.parts.firewall import fingerprint
from tsstack.parts.firewall.desired import FILE
from tsstack.parts.firewall.host import PART
from tsstack.system.conntrack import list_connections

pytestmark = pytest.mark.netns

ZONES = """
firewall:
  log: true
  zones:
    dmz: {interfaces: [eth0, "veth*", "br-*"], tcp: [80, "8000-8100"], udp: [443]}
    admin: {sources: [100.64.0.10/32, 10.0.0.0/8, 10.1.0.0/16, "fd00::/8"], allow: all}
    home: {sources: [10.1.2.0/24], interfaces: [lan0], services: [dns]}
  forward:
    - {from: home, to: dmz, tcp: [443], masquerade: true}
"""
OTHERS = """
table ip filter {
	chain ts-input {
		iifname "lo" ip saddr 100.64.0.1 counter packets 0 bytes 0 accept
		iifname != "tailscale0" ip saddr 100.64.0.0/10 counter packets 0 bytes 0 drop
		iifname "tailscale0" counter packets 0 bytes 0 accept
	}
	chain INPUT {
		type filter hook input priority filter; policy accept;
		counter packets 0 bytes 0 jump ts-input
	}
	chain ts-forward {
		iifname "tailscale0" counter packets 0 bytes 0 meta mark set meta mark & 0xff00ffff | 0x00040000
		meta mark & 0x00ff0000 == 0x00040000 counter packets 0 bytes 0 accept
	}
}
table ip docker-bridges {
	map published {
		type inet_service : ipv4_addr . inet_service
		elements = { 8080 : 172.17.0.2 . 80 }
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname "docker0" ct state new counter packets 0 bytes 0 drop
	}
}
table inet distro {
	chain in {
		type filter hook input priority 10; policy drop;
		tcp dport 22 accept
		iifname "lo" accept
	}
	chain out {
		type filter hook output priority 10; policy accept;
	}
	chain passing {
		type filter hook forward priority 10; policy accept;
		counter reject
	}
}
"""


@pytest.fixture(autouse=True)
def empty(world: World) -> Iterator[None]:
    world.at_host("nft", "flush", "ruleset")
    yield
    world.at_host("nft", "flush", "ruleset")


def listing(world: World) -> str:
    return world.at_host("nft", "-s", "list", "ruleset")


def observe(world: World, yaml: str = ZONES) -> dict:
    tree = PART.desired(stack_of(yaml), world.facts)
    return within(world.host, lambda: PART.observe(tree, world.facts))


def changes(world: World, yaml: str = ZONES) -> list[str]:
    return [str(change) for change in PART.changes(PART.desired(stack_of(yaml), world.facts), observe(world))]


def test_pitfall_01_and_11_other_owners_tables_stay_byte_for_byte(world: World) -> None:
    world.at_host("nft", "-f", "-", stdin=OTHERS)
    others = listing(world)
    before = observe(world)
    world.load(ZONES)
    world.load(ZONES.replace("80,", "81,"))
    assert listing(world).startswith(world.at_host("nft", "-s", "list", "table", "ip", "filter"))
    within(world.host, lambda: PART.restore(before, world.facts))
    assert listing(world) == others
    world.load(ZONES)
    world.load("firewall: {enabled: false}")
    assert listing(world) == others


def test_pitfall_04_a_foreign_drop_is_named(world: World) -> None:
    world.at_host("nft", "-f", "-", stdin=OTHERS)
    generation = world.stage(ZONES)
    said = within(world.host, lambda: PART.warnings(generation, world.facts))
    assert len(said) == 2
    assert "inet distro, chain in (input: policy drop)" in said[0]
    assert "inet distro, chain passing (forward: a rule that rejects all)" in said[1]


def test_what_was_there_comes_back_byte_for_byte(world: World) -> None:
    world.load(ZONES)
    before, snapshot = listing(world), observe(world)
    world.load("firewall: {zones: {lan: {interfaces: [lan0], allow: all}}}")
    assert listing(world) != before
    within(world.host, lambda: PART.restore(snapshot, world.facts))
    assert listing(world) == before
    assert changes(world) == [], "and it counts as what the file says"
    within(world.host, lambda: PART.restore(snapshot, world.facts))
    assert listing(world) == before


def test_what_someone_else_made_of_our_table_comes_back_too(world: World) -> None:
    world.load(ZONES)
    world.at_host("nft", 'add rule inet tsstack input tcp dport 23 counter accept comment "by hand"')
    world.at_host("nft", "add element inet tsstack open.dmz.tcp { 9000-9009 }")
    before, snapshot = listing(world), observe(world)
    world.load(ZONES)
    assert listing(world) != before
    within(world.host, lambda: PART.restore(snapshot, world.facts))
    assert listing(world) == before
    assert len(changes(world)) == 1, "it is drift as it was before"


def test_no_table_comes_back_as_no_table(world: World) -> None:
    snapshot = observe(world)
    world.load(ZONES)
    within(world.host, lambda: PART.restore(snapshot, world.facts))
    assert listing(world) == ""
    assert changes(world)[0] == "+ table inet tsstack: loaded"


def test_a_loaded_table_is_no_change_and_drift_is_one(world: World) -> None:
    assert changes(world)[0] == "+ table inet tsstack: loaded"
    world.load(ZONES)
    assert changes(world) == []
    assert changes(world, ZONES.replace("443", "444")) == [
        "~ firewall.zones.dmz udp: 443 -> 444",
        "~ firewall.forward[0] tcp: 443 -> 444",
    ]
    for meddling in (
        "add rule inet tsstack input tcp dport 23 accept",
        "add element inet tsstack open.dmz.tcp { 23 }",
        "delete element inet tsstack open.dmz.tcp { 80 }; add element inet tsstack open.dmz.tcp { 81 }",
        "delete element inet tsstack open.dmz.udp { 443 }; add element inet tsstack open.dmz.udp { 444 }",
        "flush chain inet tsstack input",
        "add table inet tsstack { flags dormant; }",
        "delete table inet tsstack",
        "flush ruleset",
    ):
        world.load(ZONES)
        world.at_host("nft", meddling)
        assert "table inet tsstack" in changes(world)[0], meddling
        generation = world.stage(ZONES)
        with pytest.raises(ApplyFailed):
            within(world.host, lambda at=generation: PART.verify(at, world.facts))


def test_a_table_that_is_switched_off_is_loaded_anew_and_in_force_again(world: World) -> None:
    world.load(ZONES)
    closed = world.tcp("wan", "192.0.2.1", 23)
    before = listing(world)
    world.at_host("nft", "add table inet tsstack { flags dormant; }")
    off, snapshot = listing(world), observe(world)
    assert world.tcp("wan", "192.0.2.1", 23) != closed, "nothing is closed"
    world.load(ZONES)
    assert listing(world) == before
    assert world.tcp("wan", "192.0.2.1", 23) == closed
    within(world.host, lambda: PART.restore(snapshot, world.facts))
    assert listing(world) == off, "an undone switch leaves what was there"


def test_packets_are_no_drift(world: World) -> None:
    world.load(ZONES)
    world.tcp("wan", "192.0.2.1", 80)
    world.tcp("wan", "192.0.2.1", 23)
    assert changes(world) == []


def test_counters_and_the_rest_of_the_host_survive_a_refused_file(world: World) -> None:
    world.load(ZONES)
    world.tcp("wan", "192.0.2.1", 80)
    before = world.at_host("nft", "list", "ruleset")
    generation = world.stage(ZONES)
    path = generation / FILE
    path.write_text(path.read_text().replace("tcp dport @open.dmz.tcp", "tcp dport @nowhere"))
    with pytest.raises(CheckFailed, match=r"firewall\.zones\.dmz"):
        within(world.host, lambda: PART.check(generation, world.facts))
    with pytest.raises(ApplyFailed):
        within(world.host, lambda: PART.activate(generation, world.facts, print))
    assert world.at_host("nft", "list", "ruleset") == before


def test_pitfall_03_a_check_changes_nothing(world: World) -> None:
    world.load(ZONES)
    before = world.at_host("nft", "list", "ruleset")
    generation = world.stage(ZONES.replace("443", "444"))
    within(world.host, lambda: PART.check(generation, world.facts))
    assert world.at_host("nft", "list", "ruleset") == before


def test_pitfall_10_an_established_flow_survives_replacement(world: World) -> None:
    world.load(ZONES)
    with world.listen(world.host, "192.0.2.1", 80) as server:
        link = within(world.space("wan"), lambda: socket.create_connection(("192.0.2.1", 80), timeout=2))
        mine, _ = server.accept()
        with link, mine:
            for port in (81, 82, 83):
                generation = world.stage(ZONES.replace("443", str(port)))
                within(world.host, lambda at=generation: PART.activate(at, world.facts, lambda line: None))
                link.sendall(b"still here")
                mine.settimeout(2)
                assert mine.recv(64) == b"still here"


def conversation(world: World, peer: str, where: str, address: str, port: int) -> tuple[socket.socket, ...]:
    with world.listen(where, address, port) as server:
        link = within(world.space(peer), lambda: socket.create_connection((address, port), timeout=2))
        mine, _ = server.accept()
    link.settimeout(1)
    mine.settimeout(0.5)
    return link, mine


def talks(link: socket.socket, mine: socket.socket) -> bool:
    try:
        link.sendall(b"?")
        return mine.recv(8) != b""
    except OSError:
        return False


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_pitfall_10_closing_a_port_cuts_its_connections_and_only_those(world: World, family: int) -> None:
    rules = """
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80, 443]}
    lan: {interfaces: [lan0], tcp: [443]}
    guests: {interfaces: [br-guest]}
  forward:
    - {from: lan, to: guests, tcp: [7000, 7001]}
"""
    ours, lan, guest = ("192.0.2.1", "2001:db8:1::1")[family], ("192.168.15.1", "fd00:15::1")[family], None
    guest = ("10.66.0.2", "fd00:66::2")[family]
    world.load(rules)
    closed = conversation(world, "wan", world.host, ours, 443)
    kept = conversation(world, "wan", world.host, ours, 80)
    other = conversation(world, "lan", world.host, lan, 443)
    through = conversation(world, "lan", world.space("guest"), guest, 7000)
    through_kept = conversation(world, "lan", world.space("guest"), guest, 7001)
    out = conversation(world, "host", world.space("wan"), ("192.0.2.2", "2001:db8:1::2")[family], 443)
    every = (closed, kept, other, through, through_kept, out)
    assert all(talks(*pair) for pair in every)
    generation = world.stage(rules.replace("[80, 443]", "[80]").replace("[7000, 7001]", "[7001]"))
    said: list[str] = []
    within(world.host, lambda: PART.activate(generation, world.facts, said.append))
    assert any("2 connections are no longer allowed and cut" in line for line in said), said
    assert [talks(*pair) for pair in every] == [False, True, True, False, True, True]
    with pytest.raises(OSError):
        closed[1].send(b"the host's end is closed too")
        closed[1].send(b"")
        closed[1].recv(1)
    for pair in every:
        for end in pair:
            end.close()


def test_pitfall_10_what_was_not_answered_yet_is_cut_too(world: World) -> None:
    """Its first answer would make it an established connection, which no rule is asked about."""
    rules = """
firewall:
  zones: {lan: {interfaces: [lan0]}, guests: {interfaces: [br-guest]}}
  forward: [{from: lan, to: guests, udp: [7000]}]
"""
    world.load(rules)

    def udp(address: str, port: int = 0) -> socket.socket:
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((address, port))
        end.settimeout(0.5)
        return end

    lan = "192.168.15.2"
    near, far = (
        within(world.space("lan"), lambda: udp(lan)),
        within(world.space("guest"), lambda: udp("10.66.0.2", 7000)),
    )
    with near, far:
        near.sendto(b"asked", ("10.66.0.2", 7000))
        assert far.recvfrom(9) == (b"asked", near.getsockname())
        said: list[str] = []
        generation = world.stage(rules.replace("7000", "7001"))
        within(world.host, lambda: PART.activate(generation, world.facts, said.append))
        assert any("1 connection is no longer allowed and cut" in line for line in said), said
        far.sendto(b"late", near.getsockname())
        near.sendto(b"again", ("10.66.0.2", 7000))
        for end in (near, far):
            with pytest.raises(TimeoutError):
                end.recvfrom(9)


def test_pitfall_10_the_first_table_cuts_what_it_does_not_let_in(world: World) -> None:
    """Another program's rules have made the kernel track connections before."""
    hook = "type filter hook input priority 50; ct state new accept"
    table = f"table inet strange {{\n chain input {{\n {hook}\n }}\n}}\n"
    world.at_host("nft", "-f", "-", stdin=table)
    pairs = [conversation(world, "wan", world.host, "192.0.2.1", port) for port in (23, 80)]
    try:
        said: list[str] = []
        generation = world.stage(ZONES)
        within(world.host, lambda: PART.activate(generation, world.facts, said.append))
        assert [talks(*pair) for pair in pairs] == [False, True]
        assert any("1 connection is no longer allowed and cut" in line for line in said), said
    finally:
        world.at_host("nft", "delete table inet strange")
        for pair in pairs:
            for end in pair:
                end.close()


def test_what_goes_to_a_group_is_no_connection_that_could_be_cut(world: World) -> None:
    """Its answers come from other addresses. At the first table such noise would hide what was cut."""
    hook = "type filter hook prerouting priority 50; ct state new accept"
    world.at_host("nft", "-f", "-", stdin=f"table inet strange {{\n chain early {{\n {hook}\n }}\n}}\n")

    def shout() -> None:
        for address in ("224.0.0.251", "255.255.255.255", "192.0.2.255"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"p0")
                end.sendto(b"?", (address, 5353))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
            end.sendto(b"?", ("ff02::fb", 5353, 0, socket.if_nametoindex("p0")))

    within(world.space("wan"), shout)
    known = {each.original.destination for each in within(world.host, list_connections)}
    assert known & {"224.0.0.251", "255.255.255.255", "192.0.2.255", "ff02::fb"}, known
    said: list[str] = []
    generation = world.stage(ZONES)
    within(world.host, lambda: PART.activate(generation, world.facts, said.append))
    assert said == ["firewall: the table is loaded"]


def test_pitfall_10_a_link_local_connection_is_judged_by_its_own_link(world: World) -> None:
    """The route to a link-local address tells no link, and both zones have such connections."""
    rules = """
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [9001, 22]}
    lan: {interfaces: [lan0], tcp: [9001, 22]}
"""
    world.load(rules)
    pairs = {}
    for peer, device in (("wan", "eth0"), ("lan", "lan0")):
        listed = world.at_host("ip", "-o", "-6", "addr", "show", "dev", device, "scope", "link")
        address = listed.split("inet6 ")[1].split("/")[0]

        def connect(at: str = address) -> socket.socket:
            return socket.create_connection((f"{at}%p0", 9001), timeout=2)

        with world.listen(world.host, "::", 9001) as server:
            link = within(world.space(peer), connect)
            mine, _ = server.accept()
        link.settimeout(1)
        mine.settimeout(0.5)
        pairs[device] = (link, mine)
    assert all(talks(*pair) for pair in pairs.values())
    generation = world.stage(rules.replace("[eth0], tcp: [9001, 22]", "[eth0], tcp: [22]"))
    within(world.host, lambda: PART.activate(generation, world.facts, lambda line: None))
    assert {device: talks(*pair) for device, pair in pairs.items()} == {"eth0": False, "lan0": True}
    for pair in pairs.values():
        for end in pair:
            end.close()


def test_what_may_come_back_from_the_other_side_is_said(world: World) -> None:
    """A service that speaks by itself begins a connection of this host's own, which no rule can tell."""
    rules = """
firewall:
  zones:
    dmz: {interfaces: [eth0], udp: [9002, 53]}
    lan: {interfaces: [lan0]}
    guests: {interfaces: [br-guest]}
  forward:
    - {from: lan, to: guests, udp: [7000]}
    - {from: guests, to: lan, allow: all}
"""
    world.load(rules)

    def ask(address: str, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"?", (address, port))

    def serve() -> socket.socket:
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind(("192.0.2.1", 9002))
        return end

    with within(world.host, serve):
        within(world.space("wan"), lambda: ask("192.0.2.1", 9002))
        within(world.space("lan"), lambda: ask("10.66.0.2", 7000))
        said: list[str] = []
        closed = rules.replace("[9002, 53]", "[53]").replace("[7000]", "[7001]")
        generation = world.stage(closed)
        within(world.host, lambda: PART.activate(generation, world.facts, said.append))
    (told,) = [line for line in said if "they come back if" in line]
    assert "all of them" in told
    assert any("2 connections are no longer allowed" in line for line in said), said


def test_pitfall_10_what_a_rule_by_hand_let_in_is_cut_with_the_rule(world: World) -> None:
    world.load(ZONES)
    world.at_host("nft", "insert rule inet tsstack input ip ttl > 1 tcp dport 23 counter accept")
    pair = conversation(world, "wan", world.host, "192.0.2.1", 23)
    kept = conversation(world, "wan", world.host, "192.0.2.1", 80)
    generation = world.stage(ZONES)
    within(world.host, lambda: PART.activate(generation, world.facts, lambda line: None))
    assert [talks(*pair), talks(*kept)] == [False, True]
    for end in (*pair, *kept):
        end.close()


def test_pitfall_02_no_packet_slips_through_while_the_table_is_replaced(world: World) -> None:
    """A flood to a closed port and one to an open one, while the table is replaced over and over."""
    world.load(ZONES)
    generations = [world.stage(ZONES), world.stage(ZONES.replace("443", "444"))]
    stop = threading.Event()
    sent = {"closed": 0, "open": 0}

    def receiver(port: int) -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, 33, 1 << 29)  # SO_RCVBUFFORCE
        server.bind(("192.0.2.1", port))
        return server

    def flood() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            time.sleep(0.0002)
            # A source port of its own each time: every packet is new to conntrack.
            for kind, port in (("closed", 9999), ("open", 41641)):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                    out.sendto(b"%d" % number, ("192.0.2.1", port))
                sent[kind] += 1

    closed = within(world.host, lambda: receiver(9999))
    opened = within(world.host, lambda: receiver(41641))
    thread = threading.Thread(target=lambda: within(world.space("wan"), flood))
    with closed, opened:
        thread.start()
        try:
            for number in range(40):
                within(
                    world.host,
                    lambda at=generations[number % 2]: PART.activate(at, world.facts, lambda line: None),
                )
        finally:
            stop.set()
            thread.join()
        time.sleep(0.1)
        assert sent["closed"] > 1000
        assert drain(closed) == 0, "leaked"
        assert drain(opened) == sent["open"], "lost"


def drain(server: socket.socket) -> int:
    server.setblocking(False)
    count = 0
    try:
        while True:
            server.recv(64)
            count += 1
    except BlockingIOError:
        return count


def test_the_rules_reach_the_kernel_log_group_with_their_prefix_syntax(world: World) -> None:
    world.load(ZONES)
    text = listing(world)
    assert 'log prefix "tsstack dmz drop: "' in text
    assert 'log prefix "tsstack no zone drop: "' in text


def test_a_user_without_root_can_check(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    import os
    import sys

    generation = world.stage(ZONES)
    for folder in (generation, *generation.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from tsstack.model.facts import Facts;"
        "from tsstack.parts.firewall.host import PART; PART.check(Path(sys.argv[1]), Facts())"
    )
    run(
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        sys.executable,
        "-c",
        code,
        str(generation),
    )
    path = generation / FILE
    path.write_text(path.read_text().replace("policy drop", "policy perhaps"))
    with pytest.raises(AssertionError, match="CheckFailed"):
        run(
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            sys.executable,
            "-c",
            code,
            str(generation),
        )
    assert os.geteuid() == 0


def test_the_fingerprint_holds_while_the_kernel_rearranges_its_sets(world: World) -> None:
    for count in range(3, 60):
        names = ", ".join(f"wan{number}" for number in range(count))
        generation = world.stage(f"firewall: {{zones: {{dmz: {{interfaces: [{names}], tcp: [1, 2, 3]}}}}}}")
        within(world.host, lambda at=generation: PART.activate(at, world.facts, lambda line: None))
        time.sleep(0.005)  # the kernel's worker makes the new set's table larger
        within(world.host, lambda at=generation: PART.verify(at, world.facts))


def test_a_fingerprint_is_read_anew_when_and_only_when_the_ruleset_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = fingerprint._digest
    monkeypatch.setattr(fingerprint, "_digest", lambda link, table: reads.append(table) or read(link, table))

    def mark(namespace: str = world.host) -> str | None:
        return within(namespace, lambda: fingerprint.fingerprint("tsstack"))

    world.load(ZONES)
    first = mark()
    reads.clear()
    assert (mark(), reads) == (first, [])
    seen = {first}
    for meddling in ("add", "delete"):
        world.at_host("nft", f"{meddling} element inet tsstack open.dmz.tcp {{ 23 }}")
        seen.add(mark())
    assert len(reads) == 2
    assert len(seen - {None}) >= 2
    assert mark(world.space("wan")) is None, "another namespace has a ruleset of its own"
    assert mark() in seen
