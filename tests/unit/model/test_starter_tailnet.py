"""Switching the starter file changes nothing of tailscaled's prefs, whatever they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack import assets
from tsstack.model.facts import Facts
from tsstack.model.lint import lint
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.starter import starter_file
from tsstack.parts.tailscale import desired as wants
from tsstack.system.inventory import Found, Interface, read_prefs

PRESETS = load_presets(assets.folder("zones"))
PEERS = [{"id": "n2", "name": "exit-a", "online": True}, {"id": "n3", "name": "exit-b", "online": False}]
NAMES = {"n2": "exit-a", "n3": "exit-b"}
# ipn/prefs.go: what a node has that was never told anything.
FRESH: dict[str, Any] = {
    "ControlURL": "https://hs.example.com", "WantRunning": True, "Hostname": "", "CorpDNS": True,
    "RouteAll": False, "RunSSH": False, "ShieldsUp": False, "NetfilterMode": 2, "AdvertiseRoutes": None,
    "NoSNAT": False, "AdvertiseTags": None, "ExitNodeID": "", "ExitNodeIP": "",
    "ExitNodeAllowLANAccess": False,
}  # fmt: skip
OFFERS = ["0.0.0.0/0", "::/0", "10.9.0.0/24", "192.168.15.0/24", "fd00::/64", "fd7a:115c:a1e0:b1a::/64"]
TAGS = ["tag:server", "tag:a-b", "tag:"]
EXITS = ["0.0.0.0/0", "::/0"]


def changed(prefs: dict[str, Any]) -> list[str]:
    """What a switch to the starter file of a host with these prefs would change of tailscaled."""
    found = Found(
        hostname="kernelcore.example.com",
        interfaces=(Interface("eth0"), Interface("eth1"), Interface("tailscale0")),
        default_interface="eth0",
        tailscale_running=True,
        magic_dns_suffix="tail.test",
        login_server=prefs["ControlURL"],
        exit_node=NAMES.get(prefs["ExitNodeID"], ""),
        prefs=read_prefs(prefs),
    )
    loaded = parse_stack(starter_file(found).encode(), Path("/etc/tsstack/tsstack.yaml"), PRESETS)
    assert [str(finding) for finding in lint(loaded, None) if finding.severity == "error"] == []
    tree = wants.desired(loaded.stack, Facts())
    if not tree:
        return []
    enrolment = json.loads(tree[wants.ENROLMENT_FILE])
    assert wants.same_control(enrolment["login_server"], prefs["ControlURL"])
    snapshot: Any = {
        "prefs": prefs, "exit_nodes": PEERS, "needs_login": False, "enrolled": True, "services": {},
        "own_name": prefs["Hostname"] or "kernelcore",
    }  # fmt: skip
    return [str(change) for change in wants.changes(tree, snapshot)]


PREFS = st.fixed_dictionaries(
    {
        **{name: st.booleans() for name in ("CorpDNS", "RouteAll", "RunSSH", "ShieldsUp", "NoSNAT")},
        "ExitNodeAllowLANAccess": st.booleans(),
        "WantRunning": st.just(True),
        "ControlURL": st.sampled_from(
            ["", "https://controlplane.tailscale.com", "https://hs.example.com", "http://10.0.0.1:8080/", "x"]
        ),
        "Hostname": st.sampled_from(["", "foo", "Foo-1", "no", "0x1", "kernelcore", "a_b"]),
        "NetfilterMode": st.sampled_from([0, 1, 2, 7]),
        "OperatorUser": st.sampled_from(["", "alice", "nobody", "no", "CORP\\alice", "a.b"]),
        "AdvertiseRoutes": st.none() | st.lists(st.sampled_from(OFFERS), unique=True),
        "AdvertiseTags": st.none() | st.lists(st.sampled_from(TAGS), unique=True),
        "ExitNodeID": st.sampled_from(["", "n2", "n3", "gone"]),
        "ExitNodeIP": st.sampled_from(["", "", "100.64.0.9"]),
    },
    optional={"AutoExitNode": st.just("any")},
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(prefs=PREFS)
def test_switching_the_starter_file_changes_no_pref(prefs: dict[str, Any]) -> None:
    assert changed(prefs) == []


@pytest.mark.parametrize(
    "prefs",
    [
        {},
        {"Hostname": "foo"},
        {"CorpDNS": False},
        {"RouteAll": True},
        {"RunSSH": True},
        {"ShieldsUp": True},
        {"NetfilterMode": 1},
        {"NetfilterMode": 0},
        {"OperatorUser": "nobody"},
        {"AdvertiseRoutes": ["10.9.0.0/24"]},
        {"AdvertiseRoutes": EXITS},
        {"AdvertiseRoutes": ["10.9.0.0/24", *EXITS], "NoSNAT": True},
        {"NoSNAT": True},
        {"AdvertiseTags": ["tag:server"], "ControlURL": ""},
        {"ExitNodeID": "n3"},
        {"ExitNodeID": "n3", "ExitNodeAllowLANAccess": True, "AdvertiseRoutes": ["10.9.0.0/24"]},
        {"ExitNodeAllowLANAccess": True},
    ],
)
def test_every_pref_that_the_file_has_a_key_for_is_written_and_stays(prefs: dict[str, Any]) -> None:
    found = Found(
        "kernelcore", tailscale_running=True, exit_node=NAMES.get(prefs.get("ExitNodeID", ""), ""),
        login_server=prefs.get("ControlURL", "https://hs.example.com"), prefs=read_prefs(FRESH | prefs),
    )  # fmt: skip
    assert "\ntailscale:\n" in starter_file(found)
    assert changed(FRESH | prefs) == []


@pytest.mark.parametrize(
    ("prefs", "said"),
    [
        ({"ExitNodeID": "gone"}, "exit node whose name is not known"),
        ({"ExitNodeIP": "100.64.0.9"}, "exit node whose name is not known"),
        ({"ExitNodeID": "n2", "AutoExitNode": "any"}, "tailscaled chooses by itself"),
        ({"OperatorUser": "CORP\\alice"}, "operator CORP-alice"),
        ({"AdvertiseRoutes": ["fd7a:115c:a1e0:b1a::/64"]}, "routes fd7a"),
        ({"AdvertiseRoutes": ["0.0.0.0/0"]}, "one address family"),
        ({"Hostname": "a_b"}, "host name a_b"),
    ],
)
def test_what_the_file_has_no_words_for_leaves_tailscaled_alone_and_is_said(
    prefs: dict[str, Any], said: str
) -> None:
    found = Found(
        "kernelcore", interfaces=(Interface("eth0"), Interface("eth1")), default_interface="eth0",
        tailscale_running=True, login_server="https://hs.example.com", prefs=read_prefs(FRESH | prefs),
        exit_node=NAMES.get(prefs.get("ExitNodeID", ""), ""),
    )  # fmt: skip
    text = starter_file(found)
    stack = parse_stack(text.encode(), Path("f"), PRESETS).stack
    assert stack.tailscale is None
    assert said in text
    # Without the section nothing says that the subnets are offered; what was forwarded still is.
    forwards = {(rule.from_zone, rule.to_zone) for rule in stack.firewall.forward}
    assert (("internal", "lan") in forwards) is ("AdvertiseRoutes" in prefs)
