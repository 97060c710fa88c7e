"""Which change of tailscaled's prefs cuts a way in: over the tailnet, and beside it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.tailscale.desired import desired
from tsstack.parts.tailscale.ways_in import Arrival, WaysIn

EXIT = {"id": "n1", "name": "exit-a", "online": True}
LIVE = {
    "WantRunning": True,
    "Hostname": "one",
    "CorpDNS": True,
    "NetfilterMode": 2,
    "AdvertiseRoutes": ["192.168.15.0/24"],
    "AdvertiseTags": ["tag:server"],
}
LAN = "192.168.15.7"


def tree(**section: Any) -> dict[str, str]:
    default = {"advertise": {"routes": ["192.168.15.0/24"]}, "tags": ["tag:server"]}
    told = {"host": {"name": "one", "tailnet": "tail.test"}, "tailscale": {**default, **section}}
    return dict(desired(Stack.model_validate(told), Facts()))


def snapshot(prefs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"prefs": {**LIVE, **(prefs or {})}, "exit_nodes": [EXIT], "needs_login": False, **more}


def node(client: str = "100.64.0.9", server: str = "", **more: Any) -> Arrival:
    at = ipaddress.ip_address(server) if server else None
    return Arrival(ipaddress.ip_address(client), "tailscale0", server=at, **more)


def beside(client: str, **more: Any) -> Arrival:
    return Arrival(ipaddress.ip_address(client), "eth0", **more)


def said(
    arrival: Arrival, prefs: dict[str, Any] | None = None, *, routes: tuple[str, ...] = (), **section: Any
) -> str:
    """`cut` or `may be` with the key, or nothing."""
    reason = WaysIn(tree(**section), snapshot(prefs), routes).judge(arrival)
    if reason is None:
        return ""
    return f"{'cut' if reason.certain else 'may be'} {reason.text.partition(':')[0]}"


def test_nothing_changes_nothing() -> None:
    for arrival in (node(), node("192.168.77.5"), beside(LAN), beside("100.64.0.9"), beside("8.8.8.8")):
        assert said(arrival) == ""


def test_shields_up_cuts_all_that_comes_over_the_tailnet() -> None:
    for client in ("100.64.0.9", "fd7a:115c:a1e0::9", "192.168.77.5"):
        assert said(node(client), shields_up=True) == "cut tailscale.shields_up"
    assert said(beside(LAN), shields_up=True) == ""
    assert said(Arrival(ipaddress.ip_address("127.0.0.1"), "lo"), shields_up=True) == ""


def test_the_way_back_to_a_client_behind_another_subnet_router() -> None:
    accepts = {"RouteAll": True}
    assert said(node("192.168.77.5"), accepts) == "cut tailscale.accept_routes"
    assert said(node("100.115.92.5"), accepts) == "cut tailscale.accept_routes", "ChromeOS's, no node"
    assert said(node(), accepts) == ""
    assert said(node("192.168.77.5"), accepts, accept_routes=True) == ""
    assert said(beside("192.168.77.5"), accepts) == ""


def test_routes_of_peers_that_lead_to_the_client() -> None:
    assert WaysIn(tree(accept_routes=True), snapshot()).accepts_routes_anew
    assert not WaysIn(tree(accept_routes=True), snapshot({"RouteAll": True})).accepts_routes_anew
    lan = ("192.168.15.0/24", "fd00::/64")
    assert said(beside(LAN), routes=lan, accept_routes=True) == "cut tailscale.accept_routes"
    assert said(beside("192.168.16.7"), routes=lan, accept_routes=True) == ""
    assert said(node(), routes=lan, accept_routes=True) == ""


def test_what_a_tailscaled_that_is_down_has_kept_comes_into_force_when_it_is_up() -> None:
    """`tailscale down` and `up` again, or joining: prefs that are kept do nothing meanwhile."""
    down = {"WantRunning": False}
    exit_a = {"use": ["exit-a"]}
    assert said(beside("8.8.8.8"), {"ExitNodeID": "n1"}, exit_node=exit_a) == "", "it goes there now as well"
    assert (
        said(beside("8.8.8.8"), {**down, "ExitNodeID": "n1"}, exit_node=exit_a) == "cut tailscale.exit_node"
    )
    routed = {"routes": ("192.168.15.0/24",), "accept_routes": True}
    assert said(beside(LAN), {"RouteAll": True}, **routed) == ""
    assert said(beside(LAN), {**down, "RouteAll": True}, **routed) == "cut tailscale.accept_routes"
    assert said(beside("100.70.0.9")) == ""
    assert said(beside("100.70.0.9"), down) == "cut tailscale.netfilter"
    joins = WaysIn(tree(), snapshot({}, needs_login=True)).judge(beside("100.70.0.9"))
    assert joins is not None
    assert joins.certain
    assert said(beside("100.70.0.9"), down, netfilter="off") == ""


def test_routes_of_peers_that_nobody_knows_before_the_host_has_joined() -> None:
    judge = WaysIn(tree(accept_routes=True), snapshot(needs_login=True))
    far = judge.judge(beside("10.9.0.5", on_link=False))
    assert far is not None
    assert not far.certain
    assert judge.judge(beside("10.9.0.5", on_link=True)) is None
    assert judge.judge(beside("8.8.8.8", on_link=False)) is None


def test_a_withdrawn_route_by_which_this_host_is_reached() -> None:
    inside = node(server="192.168.15.1")
    assert said(inside, advertise={}) == "cut tailscale.advertise.routes"
    assert said(inside, advertise={"routes": ["192.168.0.0/16"]}) == ""
    assert said(node(server="192.168.16.1"), advertise={}) == "", "it never was reached by that"
    assert said(node(server="100.64.0.3"), advertise={}) == ""
    assert said(node(), advertise={}) == ""
    assert said(beside(LAN, server=ipaddress.ip_address("192.168.15.1")), advertise={}) == ""
    through_exit = {"AdvertiseRoutes": ["0.0.0.0/0", "::/0"]}
    assert said(node(server="203.0.113.1"), through_exit, advertise={}) == "cut tailscale.advertise.routes"


def test_tailscale_ssh_switched_off_and_on() -> None:
    runs = {"RunSSH": True}
    mine, openssh = node(by_tailscaled=True, in_use=True), node(in_use=True)
    assert said(mine, runs) == "cut tailscale.ssh"
    assert said(openssh, runs) == ""
    assert said(openssh, ssh=True) == "cut tailscale.ssh"
    assert said(mine, ssh=True) == ""
    assert said(node(), ssh=True) == "may be tailscale.ssh", "an admin: the tailnet's policy decides"
    assert said(node(in_use=True, port=2222), ssh=True) == ""
    assert said(node(in_use=True, server="192.168.15.1"), ssh=True) == ""
    assert said(beside(LAN, in_use=True), ssh=True) == ""


def test_tailscaleds_own_rules() -> None:
    off = {"NetfilterMode": 0}
    assert said(beside("100.70.0.9"), off) == "cut tailscale.netfilter"
    assert said(beside("100.115.92.5"), off) == ""
    assert said(beside(LAN), off) == ""
    assert said(beside("100.70.0.9"), off, netfilter="nodivert") == ""
    assert said(node(), netfilter="off") == "may be tailscale.netfilter"
    assert said(beside(LAN), netfilter="off") == ""


def test_who_it_is_on_the_tailnet() -> None:
    assert said(node(in_use=True), {"Hostname": "other"}) == "may be host.name"
    assert said(node(), {"Hostname": "other"}) == ""
    assert said(node(), tags=["tag:other"]) == "may be tailscale.tags"


@pytest.mark.parametrize(
    ("client", "on_link", "lan", "cut"),
    [
        (LAN, True, False, True),
        (LAN, True, True, False),
        ("203.0.113.9", True, True, False),
        ("10.9.0.5", False, True, True),
        ("8.8.8.8", False, True, True),
        ("10.9.0.5", None, True, False),
        ("8.8.8.8", None, True, True),
        ("fe80::9", True, True, False),
    ],
)
def test_an_exit_node_takes_the_answers_but_for_the_hosts_own_networks(
    client: str, on_link: bool | None, lan: bool, cut: bool
) -> None:
    use = {"use": "exit-a", "allow_lan_access": lan}
    assert said(beside(client, on_link=on_link), exit_node=use) == ("cut tailscale.exit_node" if cut else "")
    assert said(node(), exit_node=use) == ""


def test_lan_access_that_is_taken_away() -> None:
    live = {"ExitNodeID": "n1", "ExitNodeAllowLANAccess": True}
    assert said(beside(LAN, on_link=True), live, exit_node={"use": "exit-a"}) == "cut tailscale.exit_node"
    far = beside("8.8.8.8", on_link=False)
    assert said(far, live, exit_node={"use": "exit-a"}) == "", "lost as it was before"
    gone = {"use": "exit-b", "otherwise": "direct"}
    assert said(far, exit_node=gone) == "", "no candidate: nothing is set now"
    spared = {"use": "exit-a", "allow_lan_access": True}
    assert said(far, {"ExitNodeID": "n1"}, exit_node=spared) == ""


@pytest.mark.parametrize(
    ("originals", "live", "arrival", "key"),
    [
        ({"ShieldsUp": True}, {}, node(), "tailscale.shields_up"),
        ({"ExitNodeID": "n1"}, {}, beside("8.8.8.8"), "tailscale.exit_node"),
        ({"ExitNodeIP": "100.64.0.5"}, {}, beside("8.8.8.8"), "tailscale.exit_node"),
        ({"AdvertiseRoutes": None}, {}, node(server="192.168.15.1"), "tailscale.advertise.routes"),
        ({"RouteAll": False}, {"RouteAll": True}, node("192.168.77.5"), "tailscale.accept_routes"),
        ({"RunSSH": False}, {"RunSSH": True}, node(by_tailscaled=True), "tailscale.ssh"),
        ({"ExitNodeID": ""}, {"ExitNodeID": "n1"}, beside("8.8.8.8"), ""),
        ({"ShieldsUp": False}, {}, node(), ""),
    ],
)
def test_a_section_that_goes_brings_the_earlier_settings_back(
    originals: dict[str, Any], live: dict[str, Any], arrival: Arrival, key: str
) -> None:
    reason = WaysIn({}, snapshot(live, originals=originals, enrolled=True)).judge(arrival)
    if not key:
        assert reason is None
        return
    assert reason is not None
    assert reason.certain
    assert reason.text.startswith(f"{key} is again what it was before tsstack")
    assert WaysIn({}, snapshot(live, originals=originals, enrolled=False)).judge(arrival) is None
