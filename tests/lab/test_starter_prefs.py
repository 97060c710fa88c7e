"""The starter file of a host that was set up by hand: switching it changes nothing of tailscaled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tailscale_bed import Bed, Node, eventually, stack_of

from tsstack import assets
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.starter import starter_file
from tsstack.parts.tailscale.host import PART
from tsstack.system.inventory import discover

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(scope="module")
def client(bed: Bed) -> Node:
    exit_node = bed.node()
    exit_node.switch(
        stack_of(
            "exit-b", auth_key=exit_node.key_file(bed.key(tags="tag:exit")), advertise={"exit_node": True}
        )
    )
    node = bed.node()
    node.switch(stack_of("client-1", auth_key=node.key_file(bed.key())))
    eventually(lambda: [p for p in node.api.status()["Peer"].values() if p["ExitNodeOption"]])
    return node


def differing(node: Node) -> tuple[str, list[str]]:
    """The starter file of this node, and what a switch to it would change."""
    text = starter_file(discover(node.socket))
    stack = parse_stack(text.encode(), Path("f"), load_presets(assets.folder("zones"))).stack
    tree, _ = node.stage(stack)
    return text, [str(each) for each in PART.changes(tree, PART.observe(tree, node.facts))]


@pytest.mark.parametrize(
    "settings",
    [
        ["--netfilter-mode=nodivert", "--snat-subnet-routes=false", "--exit-node=exit-b",
         "--exit-node-allow-lan-access", "--operator=nobody", "--hostname=foo",
         "--advertise-routes=10.9.0.0/24"],
        ["--netfilter-mode=off", "--snat-subnet-routes=true", "--exit-node=", "--operator=",
         "--advertise-exit-node", "--accept-dns=false", "--accept-routes", "--ssh", "--shields-up"],
        ["--auto-update=false", "--advertise-exit-node=false", "--advertise-routes="],
    ],
)  # fmt: skip
def test_switching_the_starter_file_changes_no_pref(client: Node, settings: list[str]) -> None:
    client.tailscale("set", *settings)
    before: dict[str, Any] = client.api.prefs()
    text, changes = differing(client)
    assert "\ntailscale:\n" in text
    assert changes == []
    stack = parse_stack(text.encode(), Path("f"), load_presets(assets.folder("zones"))).stack
    client.switch(stack)
    assert client.api.prefs() == before


def test_a_node_that_has_its_name_from_nobody_keeps_it(client: Node) -> None:
    """The machine has another name, which the node would take when tailscaled starts the next time."""
    client.tailscale("set", "--hostname=")
    text, changes = differing(client)
    assert "name: client-1" in text
    assert changes == ["~ host.name: none -> client-1"]
    client.switch(parse_stack(text.encode(), Path("f"), load_presets(assets.folder("zones"))).stack)
    assert client.api.prefs()["Hostname"] == "client-1"
