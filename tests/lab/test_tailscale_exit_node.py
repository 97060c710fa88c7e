"""Exit nodes by name, on a real tailnet: which one is taken, and what happens when there is none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from tailscale_bed import Bed, Node, eventually, sh, stack_of

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.parts.tailscale.host import PART
from tsstack.status.gather import Sources, gather

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(scope="module")
def exits(bed: Bed) -> dict[str, str]:
    """Two exit nodes: stable id by name."""
    ids = {}
    for name in ("exit-a", "exit-b"):
        node = bed.node()
        node.switch(
            stack_of(name, auth_key=node.key_file(bed.key(tags="tag:exit")), advertise={"exit_node": True})
        )
        ids[name] = node.api.status(peers=False)["Self"]["ID"]
    return ids


@pytest.fixture(scope="module")
def client(bed: Bed, exits: dict[str, str]) -> Node:
    node = bed.node()
    node.switch(stack_of("client", auth_key=node.key_file(bed.key())))
    eventually(lambda: len([p for p in node.api.status()["Peer"].values() if p["ExitNodeOption"]]) == 2)
    return node


def use(*names: str, **more: object) -> object:
    extra = more.pop("extra", {})
    return stack_of("client", exit_node={"use": list(names), **more}, extra=extra)


def chosen(node: Node) -> str:
    return str(node.api.prefs()["ExitNodeID"])


def test_the_first_candidate_that_exists_is_taken_and_its_name_is_shown(
    client: Node, exits: dict[str, str]
) -> None:
    client.switch(stack_of("client"))
    stack = use("nobody", "Exit-B", "exit-a", allow_lan_access=True)
    tree, _ = client.stage(stack)
    assert [str(line) for line in PART.changes(tree, PART.observe(tree, client.facts))] == [
        "~ tailscale.exit_node.allow_lan_access: false -> true",
        "~ tailscale.exit_node.use: none -> exit-b",
    ]
    client.switch(stack)
    assert chosen(client) == exits["exit-b"]
    assert client.api.status()["ExitNodeStatus"]["ID"] == exits["exit-b"]
    assert PART.changes(tree, PART.observe(tree, client.facts)) == ()
    client.switch(stack_of("client"))
    assert chosen(client) == ""


def test_where_the_monitor_moved_it_is_no_drift_unless_failover_is_off(
    client: Node, exits: dict[str, str]
) -> None:
    tree, _ = client.switch(use("exit-a", "exit-b"))
    client.api.patch_prefs({"ExitNodeID": exits["exit-b"]})
    assert PART.changes(tree, PART.observe(tree, client.facts)) == ()
    fixed, _ = client.stage(use("exit-a", "exit-b", extra={"monitor": {"failover": False}}))
    assert [str(line) for line in PART.changes(fixed, PART.observe(fixed, client.facts))] == [
        "~ tailscale.exit_node.use: exit-b -> exit-a"
    ]


def test_pitfall_26_an_exit_node_that_tailscaled_picks_itself_is_replaced_by_a_named_one(
    client: Node, exits: dict[str, str]
) -> None:
    client.switch(stack_of("client"))
    client.tailscale("set", "--exit-node=auto:any")
    raw = json.dumps(
        {name: value for name, value in client.api.prefs().items() if name != "InternalExitNodePrior"}
    )
    _, before = client.switch(use("exit-a"))
    prefs = client.api.prefs()
    assert (prefs["ExitNodeID"], prefs.get("AutoExitNode", "")) == (exits["exit-a"], "")
    PART.restore(before, client.facts)
    now = {name: value for name, value in client.api.prefs().items() if name != "InternalExitNodePrior"}
    assert json.dumps(now) == raw
    # The daemon may have moved by itself meanwhile: its freedom to do so is what comes back.
    before["prefs"]["ExitNodeID"] = exits["exit-b"]
    PART.restore(before, client.facts)
    assert client.api.prefs()["AutoExitNode"] == "any"
    client.switch(stack_of("client"))
    assert chosen(client) == ""


def test_pitfall_30_without_any_candidate_block_is_refused_before_anything_changes(client: Node) -> None:
    client.switch(stack_of("client"))
    raw = client.api.prefs()
    _, generation = client.stage(use("exit-z"))
    with pytest.raises(CheckFailed, match=r"none of exit-z offers an exit.*exit-a, exit-b") as failure:
        PART.check(generation, client.facts)
    assert "otherwise: direct" in failure.value.hint
    with pytest.raises(ApplyFailed, match="none of exit-z offers an exit"):
        PART.activate(generation, client.facts, client.reports.append)
    assert client.api.prefs() == raw


def test_without_any_candidate_direct_stays_on_the_uplink_and_says_so(client: Node) -> None:
    client.switch(use("exit-a"))
    tree, _ = client.switch(use("exit-z", otherwise="direct"))
    assert chosen(client) == ""
    assert PART.changes(tree, PART.observe(tree, client.facts)) == ()
    generation = client.folder / "generations" / str(client.generations)
    (warning,) = PART.warnings(generation, client.facts)
    assert "leaves by its uplink" in warning


def test_restore_brings_the_earlier_exit_node_back(client: Node, exits: dict[str, str]) -> None:
    client.switch(use("exit-a"))
    _, before = client.switch(use("exit-b", extra={"monitor": {"failover": False}}))
    assert chosen(client) == exits["exit-b"]
    PART.restore(before, client.facts)
    assert chosen(client) == exits["exit-a"]


def past(node: Node) -> list[tuple[int, str, int | None]]:
    """What ts-status tells of packets that go past the exit node, of a tailscaled that runs for a while."""
    longer_ago = time.time() - 60
    os.utime(node.socket, (longer_ago, longer_ago))
    places = Sources(
        state=str(node.folder), run=str(node.folder), tailscaled=str(node.socket), monitor="/none"
    )
    told = node.inside(lambda: gather(places))
    found = [(each["version"], each["interface"], each["rule"]) for each in told["exit"]["bypassed"]]
    remarks = [each["level"] for each in told["warnings"] if each["code"] == "TS718"]
    assert remarks == (["critical"] if found else [])
    return found


def restart(node: Node) -> None:
    node.stop()
    node.start()
    eventually(lambda: node.api.status(peers=False)["BackendState"] == "Running")


@pytest.mark.parametrize("allow_lan_access", [False, True])
def test_what_goes_past_the_exit_node_is_told_until_tailscaled_is_restarted(
    client: Node, allow_lan_access: bool
) -> None:
    sh("ip", "-n", client.namespace, "-6", "address", "replace", "fd77::9/64", "dev", "eth0", "nodad")
    sh("ip", "-n", client.namespace, "-6", "route", "replace", "default", "via", "fd77::1")
    client.switch(use("exit-a", allow_lan_access=allow_lan_access))
    eventually(lambda: past(client) == [])
    for version in (4, 6):
        sh("ip", "-n", client.namespace, f"-{version}", "route", "flush", "table", "52")
    assert past(client) == [(4, "eth0", None), (6, "eth0", None)]
    restart(client)
    eventually(lambda: past(client) == [])
    for state in ("down", "up"):
        sh("ip", "-n", client.namespace, "link", "set", "tailscale0", state)
    assert past(client) == [(4, "eth0", None), (6, "eth0", None)]
    restart(client)
    eventually(lambda: past(client) == [])


def test_a_rule_before_those_of_tailscaled_is_named(client: Node) -> None:
    client.switch(use("exit-a"))
    eventually(lambda: past(client) == [])
    sh("ip", "-n", client.namespace, "rule", "add", "pref", "5200", "lookup", "main")
    assert past(client) == [(4, "eth0", 5200)]
    sh("ip", "-n", client.namespace, "rule", "del", "pref", "5200")
    assert past(client) == []
    client.switch(stack_of("client"))
    sh("ip", "-n", client.namespace, "rule", "add", "pref", "5200", "lookup", "main")
    assert past(client) == []  # no exit node is in use
    sh("ip", "-n", client.namespace, "rule", "del", "pref", "5200")
