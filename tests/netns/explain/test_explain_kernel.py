"""What `explain` says of a packet is what the kernel does, what the file says, and what would change it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from explain_bed import EXAMPLE, Limits, ask, ask_packet, files, load, prove, render
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tsstack.explain.packet import Explanation
from tsstack.prove.expected import SYN, Packet

pytestmark = pytest.mark.netns

# A nightly run sets it to some hundreds.
EXAMPLES = int(os.environ.get("TSSTACK_EXPLAIN_EXAMPLES", "5"))
PER_FILE = 4
LISTED = re.compile(r"firewall\.zones\.([\w-]+)\.(tcp|udp|services|sources|interfaces)\[(\d+)\]")
LAN = """
host: {name: a, uplink: eth0}
tailscale: {advertise: {routes: [192.168.15.0/24], exit_node: true}}
firewall:
  services: {app: [tcp/8000-8010, udp/9]}
  zones:
    dmz: {interfaces: [eth0], tcp: [80, 443, 8000-8010], udp: []}
    lan: {interfaces: [eth1, "veth*"], sources: [10.0.0.0/8], services: [ssh, app], udp: [53], ping: false}
    vault: {interfaces: [eth2], preset: isolated}
    box: {sources: [10.1.2.3/32, "fd00:15::/64"], allow: all}
    tail: {interfaces: [tailscale0], tcp: [22]}
  forward:
    - {from: lan, to: dmz, services: [https]}
    - {from: lan, to: dmz, tcp: [25]}
    - {from: box, to: vault, allow: all}
"""


def data_of(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(load(text).document.plain()))
    return data


def without(text: str, path: str) -> str:
    """The file without the entry that was named, its preset's included."""
    stack, data = load(text).stack, data_of(text)
    assert stack.firewall is not None
    zones = data["firewall"]["zones"]
    if listed := LISTED.fullmatch(path):
        zone, key, at = listed[1], listed[2], int(listed[3])
        values = [str(each) for each in getattr(stack.firewall.zones[zone], key)]
        del values[at]
        zones[zone][key] = [int(each) if each.isdigit() else each for each in values]
        return json.dumps(data)
    if path == "firewall.default_policy":
        data["firewall"]["default_policy"] = "drop"
        return json.dumps(data)
    if ping := re.fullmatch(r"firewall\.zones\.([\w-]+)\.ping", path):
        zones[ping[1]]["ping"] = False
        return json.dumps(data)
    if allow := re.fullmatch(r"firewall\.zones\.([\w-]+)\.allow", path):
        zones[allow[1]].pop("allow", None)
        # What the preset `admin` allows is gone with the preset alone.
        if stack.firewall.zones[allow[1]].preset == "admin":
            zones[allow[1]]["preset"] = "dmz"
        return json.dumps(data)
    *above, last = load(text).document.split(path)
    holder = data
    for step in above:
        holder = holder[step]
    if isinstance(holder, dict):
        holder.pop(last)
    else:
        del holder[int(last)]
    return json.dumps(data)


def with_fix(text: str, explained: Explanation) -> str:
    """The file with what the answer says to write."""
    fix = explained.answer.fix
    assert fix is not None
    data = data_of(text)
    *above, last = load(text).document.split(fix.path)
    holder = data
    for step in above:
        holder = holder[step]
    if fix.append:
        holder.setdefault(last, []).append(fix.value)
    else:
        holder[last] = fix.value
    return json.dumps(data)


def require_that_the_line_decides(text: str, explained: Explanation, packet: Packet) -> None:
    """Of what passes the named entry is what lets it; of what does not, the fix is one."""
    answer = explained.answer
    if answer.verdict == "accepted":
        removed = 0
        # Several entries may open one port: each is named once those before it are gone.
        while answer.verdict == "accepted" and answer.path:
            text = without(text, answer.path)
            answer = ask_packet(text, packet).answer
            removed += 1
            assert removed < 12, answer
        assert answer.verdict != "accepted" or not answer.path
    elif answer.fix is not None:
        mended = ask_packet(with_fix(text, explained), packet).answer
        assert mended.verdict == "accepted", (answer, mended)
    else:
        assert answer.hint or not answer.path, answer


def can_be_asked(packet: Packet) -> bool:
    """Whether it is the first packet of a connection, as people ask about it."""
    to = packet.destination
    plain = packet.protocol != "other" and packet.flags == SYN and packet.interface != "lo"
    special = packet.flow or packet.asked_port or packet.marked or packet.fragmented
    return plain and not special and not packet.silent and not (to and to.is_link_local)


def some_rows(text: str, folder: Path, seed: int, count: int) -> list[Any]:
    """Packets that were proven: of every verdict and key path some, by chance."""
    stack = load(text).stack
    proof = prove(folder, stack, render(stack), seed, Limits(arriving=200, passing=200))
    assert proof.mismatches == ()
    rows = [row for row in proof.rows if can_be_asked(row.packet)]
    Random(seed).shuffle(rows)  # noqa: S311  it is there to be repeated
    kinds: dict[tuple[str, str], Any] = {}
    for row in rows:
        kinds.setdefault((row.seen, row.expected.path), row)
    chosen = list(kinds.values())
    return (chosen + rows)[: max(count, 1)]


def test_the_example_says_of_every_kind_of_packet_what_the_kernel_and_the_model_say(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for row in some_rows(text, tmp_path, 7, 16):
        explained = ask_packet(text, row.packet)
        assert (explained.answer.action, explained.agrees) == (row.seen.partition(",")[0], True), row.packet
        require_that_the_line_decides(text, explained, row.packet)


@settings(
    max_examples=EXAMPLES,
    derandomize="TSSTACK_EXPLAIN_EXAMPLES" not in os.environ,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # each packet costs a world: shrinking would take minutes
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(text=files(), seed=st.integers(1, 1000))
def test_random_files_and_packets(tmp_path: Path, text: str, seed: int) -> None:
    note(text)
    for row in some_rows(text, tmp_path, seed, PER_FILE):
        note(str(row.packet))
        explained = ask_packet(text, row.packet)
        assert (explained.answer.action, explained.agrees) == (row.seen.partition(",")[0], True)
        require_that_the_line_decides(text, explained, row.packet)


@pytest.mark.parametrize(
    ("words", "verdict", "path"),
    [
        (("dmz", "tcp/8005"), "accepted", "firewall.zones.dmz.tcp[2]"),
        (("dmz", "udp/443"), "dropped", "firewall.zones.dmz"),
        (("dmz", "ping"), "accepted", "firewall.zones.dmz.ping"),
        (("lan", "ping"), "dropped", "firewall.zones.lan.ping"),
        (("lan", "tcp/8005"), "accepted", "firewall.zones.lan.services[1]"),
        (("vault", "ssh"), "dropped", "firewall.zones.vault"),
        (("box", "tcp/1"), "accepted", "firewall.zones.box.allow"),
        (("tail", "ssh"), "accepted", "firewall.zones.tail.tcp[0]"),
        (("203.0.113.9", "ssh", "eth7"), "dropped", "firewall.default_policy"),
        (("100.64.0.9", "ssh", "eth0"), "dropped", ""),
        (("dmz", "icmp/destination-unreachable"), "accepted", ""),
        (("dmz", "icmpv6/nd-neighbor-solicit"), "accepted", ""),
        (("dmz", "icmp/13"), "dropped", "firewall.zones.dmz"),
        (("fd00:15::9", "icmpv6"), "accepted", "firewall.zones.box.ping"),
        (("tail", "udp/41641"), "accepted", ""),
        (("lan", "https", "", "dmz"), "accepted", "firewall.forward[0].services[0]"),
        (("lan", "tcp/25", "", "dmz"), "accepted", "firewall.forward[1].tcp[0]"),
        (("lan", "tcp/26", "", "dmz"), "dropped", "firewall.forward[0]"),
        (("dmz", "ssh", "", "lan"), "dropped", "firewall.forward"),
        (("lan", "udp/9", "", "lan"), "accepted", "firewall.zones.lan.interfaces[0]"),
        (("box", "icmp", "", "vault"), "accepted", "firewall.forward[2].allow"),
        (("tail", "tcp/9", "", "192.168.15.7"), "accepted", "tailscale.advertise.routes[0]"),
        (("tail", "tcp/9", "", "203.0.113.7"), "accepted", "tailscale.advertise.exit_node"),
        (("vault", "tcp/9", "", "vault"), "dropped", "firewall.zones.vault"),
    ],
)
def test_the_deciding_line(words: tuple[str, ...], verdict: str, path: str) -> None:
    explained = ask(LAN, *words)
    assert (explained.answer.verdict, explained.answer.path) == (verdict, path), explained.answer
    assert explained.agrees
    if explained.place is not None and not explained.place.preset:
        line = LAN.splitlines()[explained.place.line - 1]
        assert explained.place.text == line.strip()
        assert not line[explained.place.column - 1].isspace()


def test_the_decisions_come_in_the_order_of_the_kernel() -> None:
    explained = ask(LAN, "lan", "tcp/26", "", "dmz")
    chains = [(each.chain, each.verdict) for each, _ in explained.decisions]
    assert chains == [
        ("prerouting", "accept"),
        ("forward", "goto zone.lan"),
        ("zone.lan", "goto from.lan"),
        ("from.lan", "goto pair.lan.dmz"),
        ("pair.lan.dmz", "goto refuse.lan"),
        ("refuse.lan", "drop"),
    ]


def test_zones_that_are_asked_in_groups_are_told_like_few() -> None:
    zones = [f"  z{n}: {{interfaces: [lan{n}], tcp: [{1000 + n}]}}" for n in range(20)]
    pairs = [f"  - {{from: z19, to: z{n}, tcp: [25]}}" for n in range(18)]
    text = "\n".join(
        ["host: {name: a}", "firewall:", " zones:", *zones, " forward:", *pairs, "  - {from: z0, to: z19}"]
    ).replace("to: z19}", "to: z19, allow: all, masquerade: true}")
    told = ask(text, "z19", "tcp/25", "", "z17")
    assert (told.answer.verdict, told.answer.path) == ("accepted", "firewall.forward[17].tcp[0]")
    assert [(each.verdict, each.words, each.path) for each, _ in told.decisions][1:4] == [
        ("goto zone.z19", "comes from zone z19: lan19", "firewall.zones.z19.interfaces[0]"),
        ("goto from.z19", "is on its way through this host", "firewall.forward"),
        ("goto pair.z19.z17", "goes to zone z17: is it listed?", "firewall.zones.z17.interfaces[0]"),
    ]
    inside = ask(text, "z19", "tcp/7", "lan19", "z19")
    assert "stays within zone z19" in [each.words for each, _ in inside.decisions]
    assert {each.chain for each, _ in told.decisions if "own address" in each.words} == {
        "hidden.sources",
        "postrouting",
    }


def test_a_wildcard_is_asked_by_an_interface_of_its_kind() -> None:
    explained = ask(LAN, "lan", "ssh", "veth9")
    entry = next(each for each, _ in explained.decisions if each.verdict == "goto zone.lan")
    assert entry.path == "firewall.zones.lan.interfaces[1]"


def test_reject_is_told_from_drop() -> None:
    text = LAN.replace("firewall:\n", "firewall:\n  default_policy: reject\n", 1)
    for service in ("tcp/9999", "udp/9999"):
        explained = ask(text, "dmz", service)
        assert (explained.answer.verdict, explained.answer.action) == ("rejected", "reject")


def test_ipv6_is_asked_of_those_who_have_it() -> None:
    explained = ask(LAN, "dmz", "tcp/80", version=6)
    assert explained.question.packet.source.version == 6
    assert explained.answer.verdict == "accepted"


def test_a_key_of_a_preset_is_shown_in_the_preset() -> None:
    explained = ask(EXAMPLE.read_text(), "internal", "tcp/80")
    assert explained.answer.path == "firewall.zones.internal.tcp[0]"
    assert explained.place is not None
    assert (explained.place.preset, explained.place.file) == ("internal", "zones/internal.yaml")
    assert "tcp: [80, 443]" in explained.place.text


def test_thousands_of_elements_and_long_rules_are_read() -> None:
    ports = list(range(1000, 9000, 2))
    text = json.dumps(
        {"host": {"name": "a"}, "firewall": {"zones": {"w": {"interfaces": ["e0"], "tcp": ports}}}}
    )
    text = text.replace('"host":', "host:", 1)
    explained = ask(text, "w", "tcp/8998")
    assert explained.answer.path == f"firewall.zones.w.tcp[{len(ports) - 1}]"
    assert ask(text, "w", "tcp/8999").answer.verdict == "dropped"
