"""Prefs of a real tailscaled: one patch of what differs, drift seen, everything put back exactly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tailscale_bed import CONTROL, Bed, Node, eventually, stack_of

from tsstack.errors import ApplyFailed, CheckFailed, RollbackFailed
from tsstack.model.facts import Facts, Paths
from tsstack.parts.tailscale.desired import KEY_PATHS
from tsstack.parts.tailscale.host import PART, TailscalePart
from tsstack.system.localapi import LocalApiError

pytestmark = pytest.mark.lab

ROUTES = ["172.17.0.0/16", "192.168.15.0/24"]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(scope="module")
def node(bed: Bed) -> Node:
    """One node that has joined as a router that may approve its own 192.168.15.0/24 and exit."""
    node = bed.node()
    node.switch(stack_of("router", auth_key=node.key_file(bed.key(tags="tag:exit"))))
    return node


def test_an_activation_with_nothing_to_do_sends_nothing_that_changes(node: Node) -> None:
    stack = stack_of("router", advertise={"routes": ROUTES, "exit_node": True})
    tree, _ = node.switch(stack)
    facts, requests = node.tapped()
    generation = node.folder / "generations" / str(node.generations)
    assert PART.changes(tree, PART.observe(tree, facts)) == ()
    node.inside(lambda: PART.activate(generation, facts, node.reports.append))
    PART.verify(generation, facts)
    assert requests
    assert {line.split()[0] for line in requests} == {"GET"}


def test_a_name_that_a_pref_gave_a_moment_ago_is_not_the_machine_s(node: Node) -> None:
    """Status still tells what the server heard last: taken for the machine's, the pref was not set again."""
    node.switch(stack_of("router"))
    node.api.patch_prefs({"Hostname": ""})
    node.switch(stack_of("router"))
    assert node.api.prefs()["Hostname"] == "router"


def test_what_differs_goes_in_one_patch(node: Node) -> None:
    node.switch(stack_of("router"))
    stack = stack_of(
        "router", ssh=True, shields_up=True, accept_routes=True, operator="nobody", netfilter="on"
    )
    _, generation = node.stage(stack)
    facts, requests = node.tapped()
    node.inside(lambda: PART.activate(generation, facts, node.reports.append))
    assert [line for line in requests if not line.startswith("GET")] == ["PATCH /localapi/v0/prefs"]
    prefs = node.api.prefs()
    assert (prefs["RunSSH"], prefs["ShieldsUp"], prefs["RouteAll"]) == (True, True, True)
    assert prefs["OperatorUser"] == "nobody"
    assert node.reports[-1] == (
        "setting tailscale.accept_routes, tailscale.operator, tailscale.shields_up, tailscale.ssh"
    )


def test_drift_by_hand_is_seen_by_the_keys_of_the_file(node: Node) -> None:
    tree, _ = node.switch(stack_of("router", advertise={"routes": ROUTES, "exit_node": True}))
    node.tailscale(
        "set",
        "--ssh",
        "--advertise-routes=10.1.0.0/16",
        "--advertise-exit-node=false",
        "--snat-subnet-routes=false",
    )
    lines = [str(line) for line in PART.changes(tree, PART.observe(tree, node.facts))]
    assert lines == [
        "~ tailscale.advertise.routes: 10.1.0.0/16 -> 172.17.0.0/16, 192.168.15.0/24",
        "~ tailscale.advertise.exit_node: false -> true",
        "~ tailscale.advertise.snat: false -> true",
        "~ tailscale.ssh: true -> false",
    ]
    node.switch(stack_of("router", advertise={"routes": ROUTES, "exit_node": True}))
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_a_setting_that_the_file_does_not_know_is_no_drift(node: Node) -> None:
    tree, _ = node.switch(stack_of("router"))
    node.tailscale("set", "--report-posture=true")
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_restore_brings_every_pref_back_to_the_byte(node: Node) -> None:
    node.switch(stack_of("router"))
    node.tailscale("set", "--report-posture=true", "--operator=daemon", "--advertise-routes=10.9.0.0/16")
    raw = json.dumps(node.api.prefs())
    tree, before = node.switch(
        stack_of(
            "other",
            ssh=True,
            accept_dns=False,
            netfilter="nodivert",
            advertise={"routes": ROUTES, "snat": False},
        )
    )
    assert json.dumps(node.api.prefs()) != raw
    PART.restore(before, node.facts)
    assert json.dumps(node.api.prefs()) == raw
    assert PART.observe(tree, node.facts) == before
    PART.restore(before, node.facts)
    assert json.dumps(node.api.prefs()) == raw


def test_restore_says_so_when_somebody_logged_the_host_out(bed: Bed) -> None:
    node = bed.node()
    _, before = node.switch(stack_of("gone", auth_key=node.key_file(bed.key())))
    tree, _ = node.stage(stack_of("gone"))
    joined = PART.observe(tree, node.facts)
    node.api.logout()
    with pytest.raises(RollbackFailed, match="logged out now"):
        PART.restore(joined, node.facts)
    PART.restore(before, node.facts)


def test_tailscaled_down_by_hand_is_drift_and_comes_up_again(node: Node) -> None:
    tree, _ = node.switch(stack_of("router"))
    node.tailscale("down")
    assert [str(line) for line in PART.changes(tree, PART.observe(tree, node.facts))] == [
        "~ tailscale: down -> up"
    ]
    node.switch(stack_of("router"))
    assert node.api.status(peers=False)["BackendState"] == "Running"


def test_a_new_hostname_renames_the_node_on_the_tailnet(bed: Bed, node: Node) -> None:
    node.switch(stack_of("renamed"))
    eventually(lambda: node.api.status(peers=False)["Self"]["DNSName"] == "renamed.tail.test.")
    node.switch(stack_of("router"))
    eventually(lambda: node.api.status(peers=False)["Self"]["DNSName"] == "router.tail.test.")


def test_a_name_that_is_taken_is_told(bed: Bed, node: Node) -> None:
    twin = bed.node()
    twin.switch(stack_of("router", auth_key=twin.key_file(bed.key())))
    (warning,) = PART.warnings(twin.folder / "generations/1", twin.facts)
    assert "host.name: the tailnet calls this host router-" in warning


def reconnect(node: Node) -> None:
    """Headscale tells a node of an approval with its next full map, which a new connection brings."""
    node.api.patch_prefs({"WantRunning": False})
    assert eventually(lambda: node.api.status(peers=False)["BackendState"] == "Stopped")
    node.api.patch_prefs({"WantRunning": True})


def test_routes_that_wait_for_an_admin_are_told_with_the_command_that_approves_them(
    bed: Bed, node: Node
) -> None:
    node.switch(stack_of("router", advertise={"routes": ROUTES, "exit_node": True}))
    generation = node.folder / "generations" / str(node.generations)
    # The policy approves the exit node and the other subnet by itself.
    reconnect(node)
    expected = "tailscale.advertise: 172.17.0.0/16: "
    assert eventually(lambda: PART.warnings(generation, node.facts)[0].startswith(expected), within_s=20)
    (warning,) = PART.warnings(generation, node.facts)
    command = warning.rpartition("approve by `")[2].rstrip("`").split()
    assert command[0] == "headscale"
    bed.headscale(*command[1:])
    reconnect(node)
    assert eventually(lambda: PART.warnings(generation, node.facts) == ())


def test_check_gives_the_daemons_words_and_the_key_of_the_file(node: Node) -> None:
    _, generation = node.stage(stack_of("router"))
    file = generation / "tailscale/prefs.json"
    wanted = json.loads(file.read_text())
    wanted["prefs"]["AdvertiseRoutes"] = ["192.168.15.7/24"]
    file.write_text(json.dumps(wanted))
    raw = node.api.prefs()
    with pytest.raises(
        CheckFailed, match=r"tailscale\.advertise\.routes: tailscaled refuses: .*192\.168\.15\.0/24"
    ):
        PART.check(generation, node.facts)
    assert node.api.prefs() == raw


def test_offering_and_using_an_exit_node_at_once_is_refused_by_the_daemon(bed: Bed, node: Node) -> None:
    other = bed.node()
    other.switch(stack_of("user", auth_key=other.key_file(bed.key())))
    node.switch(stack_of("router", advertise={"exit_node": True}))
    stack = stack_of("user", advertise={"exit_node": True}, exit_node={"use": ["router"]})
    _, generation = other.stage(stack)
    eventually(lambda: [p for p in other.api.status()["Peer"].values() if p["ExitNodeOption"]])
    with pytest.raises(CheckFailed, match=r"tailscale\.exit_node: tailscaled refuses: Cannot advertise"):
        PART.check(generation, other.facts)


def test_a_pref_that_does_not_stay_fails_verification(node: Node) -> None:
    node.switch(stack_of("router"))
    generation = node.folder / "generations" / str(node.generations)
    node.tailscale("set", "--shields-up")
    with pytest.raises(ApplyFailed, match=r"did not keep tailscale\.shields_up"):
        PART.verify(generation, node.facts)
    node.switch(stack_of("router"))


def test_a_node_that_control_does_not_see_fails_verification(bed: Bed) -> None:
    node = bed.node()
    node.switch(stack_of("cut", auth_key=node.key_file(bed.key())))
    node.api.patch_prefs({"WantRunning": False})
    with pytest.raises(ApplyFailed, match="tailscaled is in state Stopped"):
        type(PART)(online_timeout_s=0.5).verify(node.folder / "generations/1", node.facts)


def service_stack(names: str) -> object:
    services = {"ollama": {"upstream": 11434}, "db": {"upstream": 5432, "protocol": "tcp"}}
    return stack_of("router", extra={"proxy": {"names": names, "tls": "off", "services": services}})


def test_services_join_the_serve_config_of_others_and_leave_it_again(node: Node) -> None:
    node.switch(stack_of("router"))
    foreign = {"TCP": {"8443": {"TCPForward": "127.0.0.1:8443"}}}
    node.api.set_serve_config({**foreign, "Services": {"svc:mine": foreign}}, node.api.serve_config()[1])
    tree, before = node.switch(service_stack("service"))
    config, _ = node.api.serve_config()
    assert config["TCP"] == foreign["TCP"]
    assert sorted(config["Services"]) == ["svc:db", "svc:mine", "svc:ollama"]
    assert config["Services"]["svc:db"] == {"TCP": {"5432": {"TCPForward": "127.0.0.1:5432"}}}
    assert sorted(node.api.prefs()["AdvertiseServices"]) == ["svc:db", "svc:ollama"]
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()

    plain, _ = node.stage(service_stack("subdomain"))
    lines = [str(line) for line in PART.changes(plain, PART.observe(plain, node.facts))]
    assert [line.partition(":")[0] for line in lines] == [
        "- proxy.services.db (Tailscale Service)", "- proxy.services.ollama (Tailscale Service)",
    ]  # fmt: skip
    node.switch(service_stack("subdomain"))
    assert node.api.serve_config()[0] == {**foreign, "Services": {"svc:mine": foreign}}
    assert PART.changes(plain, PART.observe(plain, node.facts)) == ()
    PART.restore(before, node.facts)
    node.api.set_serve_config({}, node.api.serve_config()[1])


def test_a_switch_to_services_is_undone_whole(node: Node) -> None:
    node.switch(stack_of("router"))
    raw = json.dumps([node.api.prefs(), node.api.serve_config()])
    _, before = node.switch(service_stack("service"))
    assert json.dumps([node.api.prefs(), node.api.serve_config()]) != raw
    PART.restore(before, node.facts)
    assert json.dumps([node.api.prefs(), node.api.serve_config()]) == raw


def test_two_writers_of_the_serve_config_do_not_overwrite_each_other(node: Node) -> None:
    _, etag = node.api.serve_config()
    node.api.set_serve_config({"TCP": {"1": {"TCPForward": "127.0.0.1:1"}}}, etag)
    with pytest.raises(LocalApiError) as failure:
        node.api.set_serve_config({}, etag)
    assert failure.value.status == 412
    node.api.set_serve_config({}, node.api.serve_config()[1])


IMPATIENT = replace(PART, away_after_s=0.0)


def leave(node: Node, part: TailscalePart = PART) -> list[str]:
    """Activate a generation that does not speak of tailscale; returns the changes that were announced."""
    nothing = node.folder / "generations/nothing"
    nothing.mkdir(parents=True, exist_ok=True)
    lines = [str(line) for line in part.changes({}, part.observe({}, node.facts))]
    node.inside(lambda: part.activate(nothing, node.facts, node.reports.append))
    part.verify(nothing, node.facts)
    return lines


def noted(node: Node) -> Path:
    return node.facts.paths.state / "tailscale/before.json"


def test_a_file_without_tailscale_takes_all_settings_back_and_stays_on_the_tailnet(bed: Bed) -> None:
    node = bed.node()
    defaults = {name: value for name, value in node.api.prefs().items() if name != "Config"}
    auth_key = node.key_file(bed.key(tags="tag:exit"))
    node.switch(stack_of("left", auth_key=auth_key))
    node.switch(stack_of("left", ssh=True, netfilter="off", advertise={"routes": ROUTES, "exit_node": True}))
    assert noted(node).stat().st_mode & 0o777 == 0o600
    assert leave(node) == [
        "- tailscale.advertise.routes: 172.17.0.0/16, 192.168.15.0/24",
        "- tailscale.advertise.exit_node: true",
        "- host.name: left",
        "~ tailscale.netfilter: off -> on",
        "- tailscale.ssh: true",
    ]
    prefs = node.api.prefs()
    assert {name for name in KEY_PATHS if prefs.get(name) != defaults.get(name)} == {"WantRunning"}
    assert prefs["WantRunning"]
    assert node.api.status(peers=False)["BackendState"] == "Running"
    assert not noted(node).exists()
    assert leave(node) == []


def test_what_was_set_by_hand_before_the_first_switch_comes_back_in_one_patch(bed: Bed) -> None:
    node = bed.node()
    # Joined by hand: tsstack never was here.
    node.tailscale("up", f"--login-server=http://{CONTROL}:8080", f"--auth-key={bed.key(tags='tag:exit')}")
    node.tailscale("set", "--ssh", "--advertise-routes=10.9.0.0/16", "--hostname=byhand", "--operator=daemon")
    raw = json.dumps(node.api.prefs())
    node.switch(stack_of("mine", advertise={"routes": ROUTES}))
    node.switch(stack_of("mine", shields_up=True, advertise={"exit_node": True}))
    nothing = node.folder / "generations/nothing"
    nothing.mkdir()
    facts, requests = node.tapped()
    before = PART.observe({}, node.facts)
    node.inside(lambda: PART.activate(nothing, facts, node.reports.append))
    assert [line for line in requests if not line.startswith("GET")] == ["PATCH /localapi/v0/prefs"]
    assert json.dumps(node.api.prefs()) == raw
    # Undoing that brings back what tsstack had made, and what it takes to leave again.
    PART.restore(before, node.facts)
    assert PART.observe({}, node.facts) == before
    assert node.api.prefs()["ShieldsUp"]
    leave(node)
    assert json.dumps(node.api.prefs()) == raw


def test_a_tailscaled_that_is_gone_keeps_no_file_without_it_from_being_live(bed: Bed) -> None:
    """It was stopped or removed first. A note would later take away what somebody has set by hand."""
    node = bed.node()
    tree, _ = node.switch(stack_of("gone", ssh=True, auth_key=node.key_file(bed.key())))
    node.stop()
    away = IMPATIENT.observe({}, node.facts)
    with pytest.raises(CheckFailed, match="does not answer"):
        PART.observe(tree, node.facts)
    assert leave(node, IMPATIENT) == ["- tailscale: a note of what it was before tsstack"]
    assert "look at them" in PART.warnings(node.folder / "generations/nothing", node.facts)[0]
    assert not noted(node).exists()
    assert leave(node, IMPATIENT) == []
    PART.restore(away, node.facts)
    assert noted(node).exists(), "undone, it is as it was"
    leave(node, IMPATIENT)
    node.start()
    eventually(lambda: node.api.status(peers=False)["BackendState"] == "Running")
    assert leave(node, IMPATIENT) == []
    assert node.api.prefs()["RunSSH"], "that was told"


def test_a_tailscaled_that_restarts_is_not_gone(bed: Bed) -> None:
    """Its package is upgraded just then: what the file took away must not stay behind a done switch."""
    node = bed.node()
    node.switch(stack_of("again", ssh=True, auth_key=node.key_file(bed.key())))
    node.stop()
    back = threading.Timer(2.0, node.start)
    back.start()
    assert any("ssh" in line for line in leave(node))
    back.join()
    assert not node.api.prefs()["RunSSH"]


def test_one_that_came_back_in_the_midst_is_again_what_the_live_file_says(bed: Bed) -> None:
    """Nobody saw its settings before; and who came in by its SSH must still come in when it is undone."""
    node = bed.node()
    node.switch(stack_of("midst", ssh=True, auth_key=node.key_file(bed.key())))
    node.facts.paths.current.symlink_to(node.folder / "generations" / str(node.generations))
    node.stop()
    away = IMPATIENT.observe({}, node.facts)
    node.start()
    eventually(lambda: node.api.status(peers=False)["BackendState"] == "Running")
    leave(node)
    assert not node.api.prefs()["RunSSH"]
    PART.restore(away, node.facts)
    assert node.api.prefs()["RunSSH"]
    assert noted(node).exists()


def test_to_undo_that_needs_no_network_and_takes_no_exit_node_away(bed: Bed) -> None:
    """Nobody may be known yet who offers one; to be refused would keep the host from its past."""
    node = bed.node()
    node.switch(stack_of("bare", ssh=True, auth_key=node.key_file(bed.key())))
    _, generation = node.stage(
        stack_of("bare", ssh=True, exit_node={"use": ["nobody"], "otherwise": "direct"})
    )
    node.facts.paths.current.symlink_to(generation)
    node.api.patch_prefs({"ExitNodeID": "nSTABLE", "RunSSH": False})
    PART.restore({"away": True, "originals": {"RunSSH": False}}, node.facts)
    prefs = node.api.prefs()
    assert (prefs["ExitNodeID"], prefs["RunSSH"]) == ("nSTABLE", True)
    node.stop()
    PART.restore({"away": True, "originals": {"RunSSH": False}}, node.facts)


def test_what_was_noted_of_a_node_that_left_the_tailnet_is_forgotten(bed: Bed) -> None:
    """Else it would take away some day what somebody has set by hand, maybe for another node."""
    node = bed.node()
    node.switch(stack_of("left", ssh=True, auth_key=node.key_file(bed.key())))
    node.tailscale("logout")
    assert leave(node) == ["- tailscale: a note of what it was before tsstack"]
    assert not noted(node).exists()
    assert leave(node) == []


def test_the_undoing_of_a_forgotten_note_leaves_a_node_that_joined_meanwhile(bed: Bed) -> None:
    node = bed.node()
    node.switch(stack_of("late", ssh=True, auth_key=node.key_file(bed.key())))
    node.tailscale("logout")
    before = PART.observe({}, node.facts)
    leave(node)
    node.tailscale("up", f"--login-server=http://{CONTROL}:8080", f"--auth-key={bed.key()}")
    PART.restore(before, node.facts)
    assert node.api.status(peers=False)["BackendState"] == "Running"
    assert noted(node).exists()


def test_an_undone_first_switch_leaves_no_note_of_what_was_before(bed: Bed) -> None:
    node = bed.node()
    _, before = node.switch(stack_of("undone", auth_key=node.key_file(bed.key())))
    assert noted(node).exists()
    PART.restore(before, node.facts)
    assert not noted(node).exists()
    assert PART.observe({}, node.facts) == {}


@pytest.mark.parametrize("name", ["services.json", "before.json"])
@pytest.mark.parametrize("text", ["[torn", "7"])
def test_a_damaged_note_is_an_error_that_says_what_to_do(tmp_path: Path, name: str, text: str) -> None:
    facts = Facts(paths=Paths(state=tmp_path, tailscale_socket=tmp_path / "none"))
    (tmp_path / "tailscale").mkdir()
    (tmp_path / "tailscale" / name).write_text(text)
    with pytest.raises(CheckFailed, match=f"{name} cannot be read") as failure:
        PART.observe({}, facts)
    assert "move it away" in failure.value.hint
