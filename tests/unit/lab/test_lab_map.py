"""The lab's data: its map, Headscale's files, the faults' ruleset, the record, the small DNS server."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from tsstack.errors import UsageError
from tsstack.lab import headscale, topology
from tsstack.lab.faults import ruleset
from tsstack.lab.record import ActiveFault, Folder, Record, new_token
from tsstack.lab.servers import dns_answer, plain_address
from tsstack.system import command


def test_every_link_name_fits_the_kernel_and_every_address_is_its_own() -> None:
    plan = topology.build(topology.MAX_CLIENTS)
    links = [node.world_link for node in plan.behind_world]
    # IFNAMSIZ is 16 with the closing zero (linux/if.h).
    assert max(map(len, links)) <= 15
    addresses = [a for node in plan.nodes.values() for a in (node.address, node.address6)]
    assert len(set(addresses)) == len(addresses)
    gateways = [node.gateway for node in plan.behind_world]
    assert len(set(gateways)) == len(gateways)


@pytest.mark.parametrize("clients", [-1, topology.MAX_CLIENTS + 1])
def test_silly_numbers_of_clients_are_refused(clients: int) -> None:
    with pytest.raises(UsageError, match="0 to 50"):
        topology.build(clients)


@pytest.mark.parametrize("name", list(topology.build().nodes))
def test_a_node_survives_its_way_to_the_holder(name: str) -> None:
    node = topology.build().node(name)
    assert topology.Node.from_json(node.as_json()) == node


def test_policy_approves_what_servers_and_users_advertise() -> None:
    policy = json.loads(headscale.policy(topology.build(1)))
    assert "tag:server" in policy["autoApprovers"]["exitNode"]
    assert "client-1@" in policy["autoApprovers"]["routes"]["192.168.0.0/16"]


def test_records_replace_a_name_and_keep_the_others() -> None:
    text = headscale.merge_records("[]", {"a.tail.test": ["100.64.0.1"], "b.tail.test": ["100.64.0.2"]})
    text = headscale.merge_records(text, {"a.tail.test": [ip_address("100.64.0.9"), "fd7a::9"]})
    assert json.loads(text) == [
        {"name": "b.tail.test", "type": "A", "value": "100.64.0.2"},
        {"name": "a.tail.test", "type": "A", "value": "100.64.0.9"},
        {"name": "a.tail.test", "type": "AAAA", "value": "fd7a::9"},
    ]


def test_next_addresses_follow_the_highest() -> None:
    taken = [ip_address(text) for text in ("100.64.0.2", "fd7a:115c:a1e0::2", "100.64.0.1")]
    assert [str(a) for a in headscale.next_addresses(taken)] == ["100.64.0.3", "fd7a:115c:a1e0::3"]
    assert [str(a) for a in headscale.next_addresses([])] == ["100.64.0.1", "fd7a:115c:a1e0::1"]


@pytest.mark.parametrize(
    "active",
    [
        (),
        (ActiveFault("cut", "laptop"),),
        (ActiveFault("uplink", "exit-b"), ActiveFault("loss", "laptop", 30)),
        (ActiveFault("loss", "laptop", 100), ActiveFault("delay", "laptop", 80)),
    ],
)
def test_nft_takes_the_faults(active: tuple[ActiveFault, ...]) -> None:
    words = ["unshare", "--user", "--map-root-user", "--net", "--", "nft", "-f", "-"]
    assert command.run(words, stdin=ruleset(active) * 2).returncode == 0


def test_record_survives_the_disk(tmp_path: Path) -> None:
    folder = Folder("x", tmp_path)
    assert folder.read() is None
    record = Record(new_token(), 2, pids={"hs": 7}, faults=(ActiveFault("loss", "hs", 30),))
    folder.write(record)
    assert folder.read() == record
    assert folder.update(phase="up").phase == "up"
    assert folder.read() != record
    folder.remove()
    assert folder.read() is None
    with pytest.raises(UsageError, match="no lab"):
        folder.update(phase="up")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "UP", "x" * 40])
def test_a_lab_cannot_be_named_out_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a lab's name"):
        Folder(name, tmp_path)


def query(name: str, kind: int, *, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = b"\x12\x34" + flags.to_bytes(2) + b"\0\1" + b"\0" * 6
    return head + labels + b"\0" + kind.to_bytes(2) + b"\0\1"


def test_dns_knows_one_name() -> None:
    addresses = ("203.0.113.1", "2001:db8:77::1")
    found = dns_answer(query("World.Test", 1), "world.test", addresses)
    assert found[:2] == b"\x12\x34" and found[3] & 0xF == 0
    assert found.endswith(bytes([0, 4, 203, 0, 113, 1]))
    assert dns_answer(query("world.test", 28), "world.test", addresses).endswith(
        b"\0\x10" + ip_address("2001:db8:77::1").packed
    )
    # The name is there, but has no MX: an empty answer, no error (RFC 2308 section 2.2).
    other = dns_answer(query("world.test", 15), "world.test", addresses)
    assert (other[3] & 0xF, other[6:8]) == (0, b"\0\0")
    assert dns_answer(query("example.org", 1), "world.test", addresses)[3] & 0xF == 3


@pytest.mark.parametrize("cut", range(0, 28))
def test_dns_answers_nothing_to_a_cut_query(cut: int) -> None:
    assert dns_answer(query("world.test", 1)[:cut], "world.test", ("203.0.113.1", "::1")) == b""


def test_dns_does_not_answer_answers() -> None:
    assert dns_answer(query("world.test", 1, flags=0x8180), "world.test", ("203.0.113.1", "::1")) == b""


def test_mapped_addresses_are_shown_as_ipv4() -> None:
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_address("fd77::1") == "fd77::1"
