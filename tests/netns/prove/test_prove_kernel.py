"""The kernel against the model: equal for what is rendered, and every broken table is found out."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from prove_bed import FACTS, Limits, prove, render, stack_of

from tsstack.errors import CheckFailed
from tsstack.prove.agent import DELIVERED, LEFT, REFUSED
from tsstack.prove.expected import Packet
from tsstack.prove.frames import build_frame
from tsstack.prove.plan import QUICK, plan_packets
from tsstack.prove.proof import FILE as PLACE
from tsstack.prove.proof import SPOOFED, THIS_HOST, prove_generation, send_packets
from tsstack.prove.terrain import LOCAL
from tsstack.prove.world import Parcel, Terrain, World

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[3]
FILE = """
tailscale: {advertise: {routes: [192.168.15.0/24, "fd00:15::/64"], exit_node: true}}
firewall:
  default_policy: drop
  zones:
    dmz: {interfaces: [eth0, "veth*"], tcp: [80, 443, "8000-8100"], udp: [443]}
    lab: {interfaces: ["veth1*"], services: [dns], ping: false}
    internal: {interfaces: [tailscale0], services: [ssh]}
    admin: {sources: [100.64.0.10/32, "fd7a:115c:a1e0::10/128", 10.0.0.0/8], allow: all}
    office: {sources: [10.1.0.0/16, "fd00:1::/32"], tcp: [25]}
    isolated: {interfaces: [br-guest]}
  forward:
    - {from: lab, to: dmz, services: [https], udp: ["5000-5010"]}
    - {from: office, to: dmz, allow: all, masquerade: true}
    - {from: dmz, to: office, tcp: [25]}
"""


@pytest.mark.parametrize("policy", ["drop", "reject", "accept"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_kernel_does_what_the_file_says(tmp_path: Path, policy: str, seed: int) -> None:
    stack = stack_of(FILE.replace("default_policy: drop", f"default_policy: {policy}"))
    proof = prove(tmp_path, stack, render(stack), seed)
    assert [(str(row.packet), row.expected, row.seen) for row in proof.mismatches] == []
    assert proof.checks > 2000
    asked = {(row.packet.source.version, row.packet.protocol, row.passing) for row in proof.rows}
    assert len(asked) == 2 * 4 * 2, "both families, four kinds of protocol, to this host and through it"
    assert {"accept", "drop"} <= {row.seen for row in proof.rows}
    sources = {row.source for row in proof.rows if row.target == THIS_HOST}
    assert sources == {"dmz", "lab", "internal", "admin", "office", "isolated", "(no zone)", SPOOFED}


def test_the_example_of_the_repository(tmp_path: Path) -> None:
    stack = stack_of((ROOT / "examples" / "kernelcore.yaml").read_text())
    proof = prove(tmp_path, stack, render(stack))
    assert proof.checks > 1000
    assert proof.mismatches == ()


def swap(first: str, second: str) -> Callable[[str], str]:
    def swapped(text: str) -> str:
        assert first in text
        assert second in text
        return text.replace(first, "\0").replace(second, first).replace("\0", second)

    return swapped


def change(pattern: str, by: str) -> Callable[[str], str]:
    def changed(text: str) -> str:
        after, count = re.subn(pattern, by, text, count=1, flags=re.MULTILINE)
        assert count == 1, f"{pattern} is not in the table"
        return after

    return changed


def drop_line(pattern: str) -> Callable[[str], str]:
    return change(rf"^.*{pattern}.*\n", "")


MUTANTS: dict[str, Callable[[str], str]] = {
    "the spoof check of IPv4 is gone": drop_line("ip saddr 100.64.0.0/10"),
    "the spoof check of IPv6 is gone": drop_line("ip6 saddr fd7a:115c:a1e0::/48"),
    "the tailnet's address answers anywhere": drop_line("ip daddr 100.64.0.0/10"),
    "the tailnet's IPv6 address answers anywhere": drop_line("ip6 daddr fd7a:115c:a1e0::/48"),
    "tailscaled's port is gone": drop_line("udp dport 41641"),
    "tailscaled's port is another": change("udp dport 41641", "udp dport 41642"),
    "tailscaled's port is a range": change("udp dport 41641", "udp dport 41641-41642"),
    "tailscaled's port is TCP's": change("udp dport 41641", "tcp dport 41641"),
    "DHCP replies are gone": drop_line("udp sport 67 udp dport 68"),
    "DHCP replies from any port": change("udp sport 67 udp dport 68", "udp dport 68"),
    "ICMP errors are gone": drop_line('comment "always: ICMP errors"'),
    "ICMPv6 errors are gone": drop_line('comment "always: ICMPv6 errors"'),
    "an ICMPv6 error is gone": change("packet-too-big, ", ""),
    "an ICMP error too many": change("time-exceeded, parameter-problem", "time-exceeded, timestamp-request"),
    "neighbour discovery is gone": drop_line('comment "always: neighbour discovery"'),
    "neighbours from beyond the link": change(r"(nd-router-solicit \}) ip6 hoplimit 255", r"\1"),
    "routers from beyond the link": change("nd-router-advert ip6 saddr fe80::/10", "nd-router-advert"),
    "router advertisements are gone": drop_line('comment "always: router advertisements"'),
    "listeners are gone": drop_line('comment "always: multicast listeners"'),
    "one port is wider": change(r"\b443 comment", "443-444 comment"),
    "one port is another": change(r"\b80 comment", "81 comment"),
    "a range is shorter": change(r"\b8000-8100 comment", "8000-8099 comment"),
    "a range begins later": change(r"\b8000-8100 comment", "8001-8100 comment"),
    "a service is gone": change(r"\b22 comment", "2222 comment"),
    "a forwarded range is wider": change(r"\b5000-5010 comment", "5000-5011 comment"),
    "a forwarded port is another": change(
        r'\b443 comment "firewall.forward', '442 comment "firewall.forward'
    ),
    "TCP ports open UDP": change("tcp dport @open.dmz.tcp", "udp dport @open.dmz.tcp"),
    "two zones are swapped by interface": swap(
        "@members.isolated.interfaces goto zone", "@members.dmz.interfaces goto zone"
    ),
    "an interface's zone is another": change(r"(@members.dmz.interfaces goto) zone.dmz", r"\1 zone.internal"),
    "a wildcard is longer": change(r'"veth\*"', '"veth0*"'),
    "a wildcard is a name": change(r'"veth1\*"', '"veth1"'),
    "a source's zone is another": change(r"(ip6 saddr @members.office.ip6 goto) zone.office", r"\1 zone.dmz"),
    "a source network is narrower": change("fd00:1::/32$", "fd00:1::/33"),
    "a source network is wider": change("fd00:1::/32$", "fd00::/31"),
    "an address is another": change(r"100\.64\.0\.10$", "100.64.0.11"),
    "a tailnet address counts behind any interface": lambda text: text.replace(
        'oifname "tailscale0" ip', "ip"
    ),
    "the advertised route is another": change(r"192\.168\.15\.0/24", "192.168.14.0/24"),
    "the advertised route is gone": drop_line("ip6 daddr @routes.ip6"),
    "the advertised route is open to all": lambda text: text.replace(
        'iifname "tailscale0" ip daddr @routes', "ip daddr @routes"
    ),
    "the exit node is closed": drop_line('comment "tailscale.advertise.exit_node"'),
    "the exit node leaves anywhere": change('iifname "tailscale0" oifname "eth0"', 'iifname "tailscale0"'),
    "the input's end accepts": change(
        r"(chain input \{(?:.*\n)*?.*)drop( comment \"firewall.default_policy\")", r"\1accept\2"
    ),
    "a zone's refusal accepts": change(r"(chain refuse.lab \{(?:.*\n)*?.*)drop", r"\1accept"),
    "a zone's refusal rejects": change(r"(chain refuse.lab \{(?:.*\n)*?.*)drop", r"\1reject"),
    "forwarding from a zone is open": change(r"(chain from.isolated \{\n)", r"\1\t\taccept\n"),
    "what no zone claims is not forwarded": change('accept comment "always: from no zone"', "drop"),
    "nothing is hidden": drop_line(r"goto hidden\.sources"),
    "one more zone is hidden": change(r"iif != 0 goto hidden.sources", "iif != 0 masquerade"),
    "what goes elsewhere is hidden": change(
        r"oifname @members\.dmz\.interfaces goto hide\.office\.dmz",
        "oifname @members.isolated.interfaces goto hide.office.dmz",
    ),
    "another zone is hidden": change(
        r"ip saddr @members\.office\.ip4 goto hide", "ip saddr @members.admin.ip4 goto hide"
    ),
    "the hidden get an address that nobody has": change(
        r"(chain hide\.office\.dmz \{\n\s*)masquerade", r"\1meta nfproto ipv4 snat ip to 203.0.113.9"
    ),
    "a table without a chain": change(r"type filter hook forward priority filter; policy accept;", ""),
}


UNHIDDEN = """
tailscale: {netfilter: nodivert, advertise: {exit_node: true, snat: SNAT}}
firewall:
  zones:
    dmz: {interfaces: [eth0], tcp: [80]}
    internal: {interfaces: [tailscale0], services: [ssh]}
"""


@pytest.mark.parametrize("snat", [True, False])
def test_the_tailnet_is_hidden_where_tailscaled_does_not(tmp_path: Path, snat: bool) -> None:
    """Proven by the source address with which a packet leaves."""
    stack = stack_of(UNHIDDEN.replace("SNAT", str(snat).lower()))
    proof = prove(tmp_path, stack, render(stack))
    assert proof.mismatches == ()
    from_tailnet = {
        row.seen
        for row in proof.rows
        if row.packet.interface == "tailscale0" and row.packet.outgoing == "eth0" and row.expected.accepted
    }
    assert from_tailnet == {"accept, hidden" if snat else "accept"}
    other = stack_of(UNHIDDEN.replace("SNAT", str(not snat).lower()))
    wrong = prove(tmp_path, stack, render(other)).mismatches
    assert {row.path for row in wrong} == {"tailscale.advertise.snat" if snat else "firewall.forward"}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_table_is_found_out(tmp_path: Path, name: str) -> None:
    stack = stack_of(FILE)
    text = render(stack)
    broken = MUTANTS[name](text)
    assert broken != text
    proof = prove(tmp_path, stack, broken)
    assert proof.mismatches, name


def test_what_nft_refuses_cannot_be_proven(tmp_path: Path) -> None:
    stack = stack_of(FILE)
    with pytest.raises(CheckFailed, match="nft refuses the table"):
        prove(tmp_path, stack, render(stack).replace("goto", "gogo"))


@pytest.mark.parametrize("rule", ["meta l4proto 17 drop", "meta l4proto 17 reject", "ip6 daddr ::/0 drop"])
def test_a_rule_that_drops_what_this_host_sends_is_a_difference_and_no_broken_world(
    tmp_path: Path, rule: str
) -> None:
    """The kernel tells the sender so: EPERM, which ended the world."""
    stack = stack_of((ROOT / "examples" / "kernelcore.yaml").read_text())
    chain = f"\tchain output {{\n\t\ttype filter hook output priority filter;\n\t\t{rule}\n\t}}\n}}\n"
    text = render(stack)
    proof = prove(tmp_path, stack, text[: text.rindex("}")] + chain, limits=Limits(200, 200))
    own = [row for row in proof.mismatches if row.packet.interface == "lo"]
    assert {(row.seen, row.path) for row in own} == {("drop", "firewall")}
    udp = [row for row in own if row.packet.protocol == "udp" or row.packet.source.version == 6]
    assert udp == own
    assert str(own[0].packet).split()[0] in {"udp/60999", "tcp/7"}


def test_published_ports_may_be_asked_alone(tmp_path: Path) -> None:
    """As of a difference that was kept: some to this host's own ports, some through it."""
    stack = stack_of(FILE)
    table = tmp_path / PLACE
    table.parent.mkdir()
    table.write_text(render(stack))
    every = [each for each in plan_packets(stack, FACTS, 1, QUICK).packets if each.asked_port]
    asked = [*[each for each in every if each.outgoing][::40], *[each for each in every if not each.outgoing]]
    assert asked[0].outgoing
    assert not asked[-1].outgoing
    proof = send_packets(stack, FACTS, tmp_path, asked)
    assert {row.seen for row in proof.rows if not row.packet.outgoing} == {"accept", "drop"}
    assert [str(row.packet) for row in proof.mismatches] == []


def test_no_firewall_needs_no_proof(tmp_path: Path) -> None:
    assert prove_generation(stack_of("host: {name: a}"), FACTS, tmp_path).checks == 0


def test_this_host_keeps_its_own_network(tmp_path: Path) -> None:
    before = socket.if_nameindex()
    stack = stack_of(FILE)
    prove(tmp_path, stack, render(stack), limits=Limits(200, 200))
    assert socket.if_nameindex() == before


def test_the_world_sees_what_becomes_of_a_packet(tmp_path: Path) -> None:
    """The instrument itself, with a table by hand: each flag for what it stands for."""
    import ipaddress

    table = tmp_path / "by-hand.nft"
    table.write_text(
        "table inet byhand {\n chain i {\n type filter hook input priority 0; policy drop;\n"
        " tcp dport 1 accept\n udp dport 1 accept\n icmp type echo-request accept\n"
        " icmpv6 type echo-request accept\n meta l4proto 6 tcp dport 2 reject with tcp reset\n"
        " udp dport 2 reject with icmpx port-unreachable\n }\n"
        " chain f {\n type filter hook forward priority 0; policy drop;\n tcp dport 1 accept\n"
        " udp dport 1 accept\n udp dport 2 reject with icmpx host-unreachable\n }\n}\n"
    )
    four, six = ipaddress.ip_address("198.18.0.1"), ipaddress.ip_address("2001:db8::1")
    far = ipaddress.ip_address("203.0.113.9")
    packets = [
        (Packet(source, "a0", kind, port, to, "b0" if to else ""), want)  # type: ignore[arg-type]
        for source, kind, port, to, want in (
            *((source, kind, 1, None, DELIVERED) for source in (four, six) for kind in ("tcp", "udp")),
            *((source, "icmp", 0, None, DELIVERED) for source in (four, six)),
            *((source, kind, 2, None, REFUSED) for source in (four, six) for kind in ("tcp", "udp")),
            *((source, kind, 3, None, 0) for source in (four, six) for kind in ("tcp", "udp")),
            (four, "tcp", 1, far, LEFT),
            (four, "udp", 1, far, LEFT),
            (four, "icmp", 0, far, 0),
            (four, "udp", 2, far, REFUSED),
            (four, "tcp", 3, far, 0),
        )
    ]
    wrong: list[str] = []
    for _ in range(3):  # a busy machine may lose one, as in a proof
        with World(Terrain(("a0", "b0"), LOCAL, ((far, "b0"),)), table) as world:
            frames = [
                build_frame(each, each.destination or LOCAL[each.source.version == 6], number)
                for number, (each, _) in enumerate(packets, 7)
            ]
            world.post(
                7,
                [
                    Parcel(frame, "a0", each.outgoing)
                    for frame, (each, _) in zip(frames, packets, strict=True)
                ],
            )
            seen = world.collect(len(packets))
        wrong = [
            f"{packet}: {flags} and not {want}"
            for (packet, want), flags in zip(packets, seen, strict=True)
            # A closed port answers with a refusal of its own, after the packet was delivered.
            if flags & ~(REFUSED if want == DELIVERED else 0) != want
        ]
        if not wrong:
            break
    assert wrong == []
