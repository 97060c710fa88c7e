"""What the file wants of tailscaled, and how differences are told. Pure."""

from __future__ import annotations

import fcntl
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.tailscale.advice import remarks
from tsstack.parts.tailscale.desired import (
    changes,
    choose_exit_node,
    desired,
    differing,
    is_hosted,
    same_control,
)
from tsstack.parts.tailscale.host import _own_name
from tsstack.parts.tailscale.ways_in import Arrival, WaysIn
from tsstack.parts.tailscale.withdrawn import stands_direct, withdrawn_routes

HEADSCALE = "http://10.77.0.1:8080"


def stack(extra: dict[str, Any] | None = None, **tailscale: Any) -> Stack:
    return Stack.model_validate(
        {"host": {"name": "kernelcore", "tailnet": "tail.test"}, "tailscale": tailscale, **(extra or {})}
    )


def wanted(extra: dict[str, Any] | None = None, **tailscale: Any) -> dict[str, Any]:
    return json.loads(desired(stack(extra, **tailscale), Facts())["tailscale/prefs.json"])


def enrolment(extra: dict[str, Any] | None = None, **tailscale: Any) -> dict[str, Any]:
    return json.loads(desired(stack(extra, **tailscale), Facts())["tailscale/enrolment.json"])


def test_without_a_section_there_is_nothing_to_make() -> None:
    assert desired(Stack.model_validate({"host": {"name": "x"}}), Facts()) == {}


def test_the_files_are_the_same_whatever_is_known_of_the_machine() -> None:
    file = stack(advertise={"routes": ["192.168.15.0/24", "10.0.0.0/8"], "exit_node": True})
    assert desired(file, Facts()) == desired(file, Facts(interfaces=("eth0",), systemd=True))


def test_routes_and_the_exit_offer_share_one_pref() -> None:
    prefs = wanted(advertise={"routes": ["192.168.15.0/24"], "exit_node": True, "snat": False})["prefs"]
    assert sorted(prefs["AdvertiseRoutes"]) == ["0.0.0.0/0", "192.168.15.0/24", "::/0"]
    assert prefs["NoSNAT"] is True
    assert wanted()["prefs"]["AdvertiseRoutes"] == []


@pytest.mark.parametrize(("word", "number"), [("off", 0), ("nodivert", 1), ("on", 2)])
def test_netfilter_is_a_number_for_the_daemon(word: str, number: int) -> None:
    assert wanted(netfilter=word)["prefs"]["NetfilterMode"] == number


def test_tags_are_requested_only_where_the_server_allows_it_beside_a_key() -> None:
    assert wanted(tags=["tag:server"])["prefs"]["AdvertiseTags"] == ["tag:server"]
    assert "AdvertiseTags" not in wanted(tags=["tag:server"], login_server=HEADSCALE)["prefs"]
    assert enrolment(tags=["tag:server"], login_server=HEADSCALE)["tags"] == ["tag:server"]


def test_a_generation_holds_where_the_key_is_not_the_key() -> None:
    secrets = {"secrets": {"file": "/etc/tsstack/secrets.yaml"}}
    assert enrolment(secrets, auth_key={"secret": "authkey"})["auth_key"] == {
        "secrets_file": "/etc/tsstack/secrets.yaml",
        "key": "authkey",
    }
    assert enrolment(auth_key={"file": "/run/keys/ts"})["auth_key"] == {"file": "/run/keys/ts"}
    assert enrolment()["auth_key"] is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("", "https://controlplane.tailscale.com", True),
        ("https://login.tailscale.com", "https://controlplane.tailscale.com/", True),
        (HEADSCALE, HEADSCALE + "/", True),
        (HEADSCALE, "", False),
        (HEADSCALE, "https://10.77.0.1:8080", False),
    ],
)
def test_control_servers_are_compared_as_tailscaled_means_them(left: str, right: str, same: bool) -> None:
    assert same_control(left, right) is same
    assert same_control(right, left) is same


def test_headscale_is_every_server_that_is_not_tailscales_own() -> None:
    assert is_hosted("")
    assert not is_hosted("https://hs.example.com")


A, B = {"id": "1", "name": "exit-a", "online": True}, {"id": "2", "name": "exit-b", "online": True}
DEAD_A = {**A, "online": False}


@pytest.mark.parametrize(
    ("use", "peers", "current", "more", "expected"),
    [
        (["exit-a", "exit-b"], [A, B], "", {}, "1"),
        (["exit-a", "exit-b"], [A, B], "2", {}, "2"),  # the monitor moved it
        (["exit-a", "exit-b"], [A, B], "2", {"movable": False}, "1"),
        (["exit-a", "exit-b"], [DEAD_A, B], "", {}, "2"),
        (["exit-a"], [DEAD_A, B], "", {}, "1"),  # blocked rather than leaking
        (["exit-a"], [DEAD_A, B], "", {"otherwise": "direct"}, None),
        (["EXIT-B"], [A, B], "9", {}, "2"),
        (["other"], [A, B], "1", {}, None),
        (["exit-a"], [], "", {}, None),
        (["exit-a", "exit-b"], [DEAD_A, B], "2", {"movable": False, "otherwise": "direct"}, "1"),
    ],
)
def test_the_choice_of_an_exit_node(
    use: list[str], peers: list[dict[str, Any]], current: str, more: dict[str, Any], expected: str | None
) -> None:
    rule = {"use": use, "otherwise": "block", "movable": True, **more}
    assert choose_exit_node(rule, peers, current) == expected


def live(file: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"ExitNodeID": "", "ExitNodeIP": "", **file["prefs"], **other}


def test_order_and_null_are_no_difference() -> None:
    file = wanted(advertise={"routes": ["192.168.15.0/24", "10.0.0.0/8"]})
    assert differing(file, live(file, AdvertiseRoutes=["192.168.15.0/24", "10.0.0.0/8"]), []) == {}
    empty = wanted()
    assert (
        differing(empty, live(empty, AdvertiseRoutes=None, AdvertiseTags=None, OperatorUser=None), []) == {}
    )


def test_without_exit_node_in_the_file_none_stays_however_it_was_named() -> None:
    file = wanted()
    assert differing(file, live(file, ExitNodeID="1"), [A]) == {"ExitNodeID": ""}
    assert differing(file, live(file, ExitNodeIP="100.64.0.9"), [A]) == {"ExitNodeIP": ""}


def test_an_exit_node_that_tailscaled_picks_itself_is_settled_even_if_it_is_the_right_one() -> None:
    file = wanted(exit_node={"use": "exit-a"})
    assert differing(file, live(file, ExitNodeID="1", AutoExitNode="any"), [A]) == {"ExitNodeID": "1"}


def snapshot(file: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"needs_login": False, "prefs": live(file), "exit_nodes": [A, B], "services": {}, **other}


def test_changes_speak_the_files_language() -> None:
    tree = desired(
        stack(
            ssh=True,
            operator="alice",
            netfilter="off",
            advertise={"routes": ["10.0.0.0/8"], "snat": False},
            exit_node={"use": "exit-b", "allow_lan_access": True},
        ),
        Facts(),
    )
    assert [str(line) for line in changes(tree, snapshot(wanted()))] == [
        "~ tailscale.advertise.routes: none -> 10.0.0.0/8",
        "~ tailscale.exit_node.allow_lan_access: false -> true",
        "~ tailscale.netfilter: on -> off",
        "~ tailscale.advertise.snat: true -> false",
        "~ tailscale.operator: none -> alice",
        "~ tailscale.ssh: false -> true",
        "~ tailscale.exit_node.use: none -> exit-b",
    ]
    assert changes({}, {}) == ()


def test_every_managed_pref_has_a_key_of_the_file() -> None:
    from tsstack.parts.tailscale.desired import KEY_PATHS

    services = {"proxy": {"names": "service", "services": {"a": {"upstream": 1}}}}
    assert set(wanted(services, exit_node={"use": "x"})["prefs"]) | {"ExitNodeID"} == set(KEY_PATHS)


def test_services_hand_the_clients_address_to_nginx_and_tcp_straight_to_the_upstream() -> None:
    proxy = {
        "names": "service",
        "services": {
            "ollama": {"upstream": 11434, "subdomain": "chat"},
            "off": {"upstream": 1, "enabled": False},
            "db": {"upstream": ["10.0.0.2:5432 backup", 5433], "protocol": "tcp", "port": 5432},
        },
    }
    file = wanted({"proxy": proxy})
    assert file["services"] == {
        "svc:chat": {
            "TCP": {
                "80": {"TCPForward": "127.0.0.1:80", "ProxyProtocol": 2},
                "443": {"TCPForward": "127.0.0.1:443", "ProxyProtocol": 2},
            }
        },
        "svc:db": {"TCP": {"5432": {"TCPForward": "127.0.0.1:5433"}}},
    }
    assert file["prefs"]["AdvertiseServices"] == ["svc:chat", "svc:db"]
    assert wanted({"proxy": {**proxy, "names": "path"}})["services"] == {}


def status(**own: Any) -> dict[str, Any]:
    return {"Self": {"ID": "7", "DNSName": "kernelcore.tail.test.", **own}}


def test_remarks_on_the_hosted_server_send_to_its_console() -> None:
    more = {"tags": ["tag:server"], "advertise": {"routes": ["10.0.0.0/8"], "exit_node": True}}
    lines = remarks(wanted(**more), enrolment(**more), status(DNSName="kernelcore-1.x.", AllowedIPs=["::/0"]))
    assert [line.partition(":")[0] for line in lines] == [
        "host.name",
        "tailscale.tags",
        "tailscale.advertise",
    ]
    assert all("login.tailscale.com" in line for line in lines[1:])
    assert "the exit node and 10.0.0.0/8" in lines[2]


def test_nothing_to_remark_is_silence() -> None:
    more = {"advertise": {"routes": ["10.0.0.0/8"]}}
    assert remarks(wanted(**more), enrolment(**more), status(PrimaryRoutes=["10.0.0.0/8"])) == ()


def test_an_exit_node_that_is_offline_is_remarked_on() -> None:
    more = {"exit_node": {"use": "exit-a"}}
    (line,) = remarks(wanted(**more), enrolment(**more), {**status(), "ExitNodeStatus": {"Online": False}})
    assert "offline" in line


@pytest.mark.parametrize(
    ("tailscale", "client", "words"),
    [
        ({"shields_up": True}, "100.64.0.9", "tailscale.shields_up"),
        ({"shields_up": True}, "fd7a:115c:a1e0::9", "tailscale.shields_up"),
        ({"shields_up": True}, "192.168.1.9", ""),
        ({"exit_node": {"use": "exit-a"}}, "192.168.1.9", "allow_lan_access: true"),
        ({"exit_node": {"use": "exit-a"}}, "100.64.0.9", ""),
        ({"exit_node": {"use": "exit-a", "allow_lan_access": True}}, "192.168.1.9", ""),
        (
            {"exit_node": {"use": "exit-a", "allow_lan_access": True}},
            "8.8.8.8",
            "leave through the exit node",
        ),
        ({"ssh": True}, "192.168.1.9", ""),
    ],
)
def test_a_change_that_cuts_the_session_it_is_made_from_is_told(
    tailscale: dict[str, Any], client: str, words: str
) -> None:
    tree = desired(stack(**tailscale), Facts())
    address = ipaddress.ip_address(client)
    arrival = Arrival(address, "eth0" if client in {"192.168.1.9", "8.8.8.8"} else "tailscale0")
    said = WaysIn(tree, snapshot(wanted())).judge(arrival)
    if not words or said is None:
        assert (said, words) == (None, "")
    else:
        assert words in said.text
        assert said.certain
    settled = Arrival(ipaddress.ip_address("100.64.0.9"), "tailscale0")
    assert WaysIn(tree, snapshot(wanted(**tailscale))).judge(settled) is None
    assert WaysIn({}, {}).judge(arrival) is None


def test_a_route_that_the_monitor_keeps_back_is_no_drift_and_any_other_missing_one_is() -> None:
    file = wanted(advertise={"routes": ["192.168.15.0/24", "10.0.0.0/8"]})
    now = live(file, AdvertiseRoutes=["10.0.0.0/8"])
    assert differing(file, now, [], ["192.168.15.0/24"]) == {}
    assert differing(file, now, []) == {"AdvertiseRoutes": ["10.0.0.0/8", "192.168.15.0/24"]}
    gone = live(file, AdvertiseRoutes=[])
    assert differing(file, gone, [], ["192.168.15.0/24"]) == {"AdvertiseRoutes": ["10.0.0.0/8"]}


def test_routes_are_kept_back_only_while_a_monitor_runs(tmp_path: Path) -> None:
    folder = tmp_path / "monitor"
    folder.mkdir()
    assert withdrawn_routes(tmp_path) == ()
    (folder / "state.json").write_text(
        json.dumps({"standby": {"off": [["route", "10.0.0.0/8"], ["upstream", "wiki"]]}})
    )
    lock = folder / "lock"
    lock.touch()
    assert withdrawn_routes(tmp_path) == ()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert withdrawn_routes(tmp_path) == ("10.0.0.0/8",)
        (folder / "state.json").write_text("{")
        assert withdrawn_routes(tmp_path) == ()


def test_where_the_monitor_stands_on_the_uplink_no_exit_node_is_set_again() -> None:
    exit_node = {"use": ["exit-a"], "otherwise": "direct"}
    file = wanted({"monitor": {"failover": True}}, exit_node=exit_node)
    assert differing(file, live(file, ExitNodeID=""), [A], direct=True) == {}
    assert differing(file, live(file, ExitNodeID=""), [A]) == {"ExitNodeID": "1"}
    blocking = wanted({"monitor": {"failover": True}}, exit_node={**exit_node, "otherwise": "block"})
    assert differing(blocking, live(blocking, ExitNodeID=""), [A], direct=True) == {"ExitNodeID": "1"}
    settled = wanted({"monitor": {"failover": False}}, exit_node=exit_node)
    assert differing(settled, live(settled, ExitNodeID=""), [A], direct=True) == {"ExitNodeID": "1"}


def test_the_uplink_counts_only_for_the_live_file_and_a_running_monitor(tmp_path: Path) -> None:
    (tmp_path / "monitor").mkdir()
    prefs = tmp_path / "current" / "tailscale" / "prefs.json"
    prefs.parent.mkdir(parents=True)
    prefs.write_text(json.dumps({"exit_node": {"otherwise": "direct"}}))
    state = tmp_path / "monitor" / "state.json"
    state.write_text(json.dumps({"failover": {"at": ""}}))
    assert not stands_direct(tmp_path), "no monitor runs"
    with (tmp_path / "monitor" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert stands_direct(tmp_path)
        for text in ({"failover": {"at": "exit-a"}}, {"failover": None}, {}):
            state.write_text(json.dumps(text))
            assert not stands_direct(tmp_path)
        state.write_text(json.dumps({"failover": {"at": ""}}))
        for live_file in ({"exit_node": None}, {"exit_node": {"otherwise": "block"}}):
            prefs.write_text(json.dumps(live_file))
            assert not stands_direct(tmp_path)


@pytest.mark.parametrize(
    ("machine", "heard", "own"),
    [
        ("kernelcore", "kernelcore", "kernelcore"),
        ("kernelcore.lan", "kernelcore", "kernelcore"),
        ("vm", "kernelcore", ""),  # what a pref has said before, or a tailscaled of another machine
        ("kernelcore", None, ""),
    ],
)
def test_a_node_s_own_name_is_the_machine_s_and_nothing_that_the_server_heard(
    monkeypatch: pytest.MonkeyPatch, machine: str, heard: str | None, own: str
) -> None:
    monkeypatch.setattr("os.uname", type("Uname", (), {"nodename": machine}))
    assert _own_name({"Self": {"HostName": heard}}) == own
