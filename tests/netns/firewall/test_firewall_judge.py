"""What we think that a table does with a flow, against what the kernel does: cutting flows depends on it."""

from __future__ import annotations

import itertools

import pytest
from firewall_world import WIRES, World

from tsstack.parts.firewall.desired import FILE
from tsstack.parts.firewall.judge import Flow, read_ruleset

pytestmark = pytest.mark.netns

FILE_TEXT = """
host: {name: kernelcore, uplink: eth0}
tailscale: {advertise: {routes: [172.17.0.0/16], exit_node: true}}
firewall:
  default_policy: POLICY
  zones:
    dmz: {interfaces: ["eth*"], tcp: [80, "8000-8100"], udp: [443]}
    internal: {interfaces: [tailscale0], services: [ssh]}
    admin: {sources: [100.64.0.10/32, "fd7a:115c:a1e0::10/128"], allow: all}
    isolated: {interfaces: [br-guest]}
    nas: {sources: [192.168.15.9/32], tcp: [80], ping: false}
    lan: {interfaces: [lan0], udp: [8000]}
  forward:
    - {from: internal, to: lan, tcp: [80], udp: [8000]}
    - {from: lan, to: nas, allow: all}
    - {from: nas, to: isolated, tcp: [22, 80]}
"""
SOURCES = {
    "wan": ["192.0.2.2", "2001:db8:1::2"],
    "tail": ["100.64.0.7", "100.64.0.10", "fd7a:115c:a1e0::10"],
    "guest": ["10.66.0.2"],
    "lan": ["192.168.15.9", "192.168.15.2", "fd00:15::2"],
    "bare": ["172.18.0.2"],
}
TARGETS = {
    "wan": "192.0.2.2",
    "tail": "100.64.0.7",
    "guest": "10.66.0.2",
    "lan": "192.168.15.9",
    "dock": "172.17.0.2",
}


@pytest.mark.parametrize("policy", ["drop", "accept"])
def test_the_judge_agrees_with_the_kernel(world: World, policy: str) -> None:
    """Whether it reads the file that was loaded or the kernel's listing of it."""
    yaml = FILE_TEXT.replace("POLICY", policy)
    world.load(yaml)
    listed = world.at_host("nft", "-s", "list", "table", "inet", "tsstack")
    rulesets = [read_ruleset(listed), read_ruleset((world.stage(yaml) / FILE).read_text())]
    wrong = []
    for peer, sources in SOURCES.items():
        device, ours, _ = WIRES[peer]
        for source, (protocol, port) in itertools.product(sources, [("tcp", 80), ("udp", 8000), ("tcp", 22)]):
            own = next(a.split("/")[0] for a in ours if (":" in a) == (":" in source))
            tailnet = "fd7a:115c:a1e0::1" if ":" in source else "100.64.0.1"
            targets = {own: "", tailnet: ""}
            if ":" not in source:
                targets |= {TARGETS[other]: WIRES[other][0] for other in TARGETS if other != peer}
            for target, outgoing in targets.items():
                flow = Flow(protocol, source, target, device, outgoing, port, port)
                send = world.tcp if protocol == "tcp" else world.udp
                seen = "accept" if send(peer, target, port, source) == "answer" else "refuse"
                judged = [ruleset.judge(flow) for ruleset in rulesets]
                wrong += [(flow, each, seen) for each in judged if each.verdict != seen]
    assert wrong == []


def test_the_judge_names_the_key_path(world: World) -> None:
    ruleset = read_ruleset((world.stage(FILE_TEXT.replace("POLICY", "drop")) / FILE).read_text())
    flow = Flow("tcp", "192.0.2.2", "192.0.2.1", "eth0", port=80)
    assert ruleset.judge(flow).path == "firewall.zones.dmz"
    assert ruleset.judge(Flow("tcp", "100.64.0.10", "192.0.2.1", "eth0", port=80)).path.startswith(
        "always: tailnet"
    )
    assert ruleset.judge(Flow("icmp", "192.168.15.9", "192.168.15.1", "lan0")).verdict == "refuse"
    assert (
        ruleset.judge(Flow("icmp", "192.168.15.2", "192.168.15.1", "lan0")).path == "firewall.zones.lan.ping"
    )
    misdirected = "always: tailnet address on another interface"
    assert ruleset.judge(Flow("tcp", "192.0.2.2", "100.64.0.1", "eth0", port=80)).path == misdirected
    assert ruleset.judge(Flow("icmpv6", "fd00:15::2", "fd7a:115c:a1e0::1", "lan0")).path == misdirected
    assert ruleset.judge(Flow("tcp", "172.18.0.2", "10.66.0.2", "bare0", "br-guest", 80)).path == (
        "firewall.zones.isolated"
    )
