"""The lab is a tailnet that works: names, paths, an exit node, a subnet behind kernelcore."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tsstack.errors import UsageError
from tsstack.lab.lab import Lab
from tsstack.lab.topology import HEADSCALE_URL
from tsstack.system import command

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kernelcore.yaml"


def eventually(check: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def seen_address(lab: Lab, node: str, url: str = "http://203.0.113.1/") -> str:
    """The address that the world sees `node` come from; empty when nothing comes back."""
    return lab.node(node).run(["curl", "-gsS", "-m", "2", url], check=False).stdout.strip()


def test_nodes_have_joined_and_kernelcore_waits(lab: Lab) -> None:
    status = {node.name: node for node in lab.status().nodes}
    assert status["laptop"].state == status["exit-b"].state == "Running"
    assert status["laptop"].tailnet == ("100.64.0.1", "fd7a:115c:a1e0::1")
    assert status["exit-b"].tailnet == ("100.64.0.2", "fd7a:115c:a1e0::2")
    assert (status["kernelcore"].state, status["kernelcore"].running) == ("NeedsLogin", True)
    assert status["hs"].running


def test_up_twice_is_the_same_lab(lab: Lab) -> None:
    lines: list[str] = []
    again = Lab.up(name=lab.name, report=lines.append)
    assert lines == [f"the lab {lab.name!r} is up"]
    assert again.node("laptop").pid == lab.node("laptop").pid


def test_names_resolve_and_packets_travel_directly(lab: Lab) -> None:
    laptop = lab.node("laptop")
    assert "100.64.0.2" in laptop.run(["getent", "ahostsv4", "exit-b.tail.test"]).stdout
    answer = laptop.api.ping("100.64.0.2", "disco", timeout_s=5)
    assert eventually(lambda: bool(laptop.api.ping("100.64.0.2", "disco", timeout_s=5).get("Endpoint")))
    assert answer["NodeName"] == "exit-b"


def test_internet_answers_with_the_address_it_sees_over_both_families(lab: Lab) -> None:
    assert seen_address(lab, "laptop") == "10.77.2.2"
    assert seen_address(lab, "laptop", "http://[2001:db8:77::1]/") == "fd77:0:0:2::2"
    assert seen_address(lab, "laptop", "http://world.test/") in {"10.77.2.2", "fd77:0:0:2::2"}


def test_laptop_reaches_the_world_through_exit_b(lab: Lab) -> None:
    laptop = lab.node("laptop")
    exit_b = next(peer for peer in laptop.api.status()["Peer"].values() if peer["HostName"] == "exit-b")
    assert exit_b["ExitNodeOption"]
    try:
        laptop.api.patch_prefs({"ExitNodeID": exit_b["ID"]})
        assert eventually(lambda: seen_address(lab, "laptop") == "10.77.3.2")
        assert seen_address(lab, "laptop", "http://[2001:db8:77::1]/") == "fd77:0:0:3::2"
        status = {node.name: node for node in lab.status().nodes}
        assert status["laptop"].exit_node == "exit-b"
        peer = next(p for p in laptop.api.status()["Peer"].values() if p["HostName"] == "exit-b")
        assert peer["RxBytes"] > 0
    finally:
        laptop.api.patch_prefs({"ExitNodeID": ""})
    assert eventually(lambda: seen_address(lab, "laptop") == "10.77.2.2")


def test_kernelcore_enrols_with_the_sealed_key_and_its_subnet_is_approved(own_lab: Lab) -> None:
    kernelcore, laptop = own_lab.node("kernelcore"), own_lab.node("laptop")
    sealed = kernelcore.path("/etc/tsstack/secrets.yaml").read_text()
    assert "ENC[" in sealed
    opened = kernelcore.run(["sops", "decrypt", "--output-type", "json", "/etc/tsstack/secrets.yaml"])
    key = json.loads(opened.stdout)["authkey"]
    assert key not in sealed
    assert [str(a) for a in own_lab.addresses("kernelcore")] == ["100.64.0.3", "fd7a:115c:a1e0::3"]

    names = own_lab.publish_services(EXAMPLE)
    assert "ollama.kernelcore.tail.test" in names
    kernelcore.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    prefs = kernelcore.api.prefs()
    prefs |= {"WantRunning": True, "LoggedOut": False, "ControlURL": HEADSCALE_URL}
    prefs |= {"Hostname": "kernelcore", "AdvertiseRoutes": ["192.168.15.0/24", "0.0.0.0/0", "::/0"]}
    kernelcore.api.start(key, prefs)
    kernelcore.api.login_interactive()
    assert eventually(lambda: kernelcore.tailnet_addresses() != (), within_s=20)
    # Foretold before, true now.
    assert kernelcore.tailnet_addresses() == ("100.64.0.3", "fd7a:115c:a1e0::3")
    assert eventually(
        lambda: (
            "100.64.0.3"
            in laptop.run(["getent", "ahostsv4", "ollama.kernelcore.tail.test"], check=False).stdout
        )
    )

    def reaches_lan() -> bool:
        said = laptop.run(["curl", "-sS", "-m", "2", "http://192.168.15.9:8000/"], check=False).stdout
        return bool(said) and json.loads(said)["backend"] == "wiki-lan"

    assert eventually(reaches_lan, within_s=20)


def test_backends_name_themselves(lab: Lab) -> None:
    kernelcore = lab.node("kernelcore")
    for name, port in (("ollama", 11434), ("llamacpp", 8080), ("wiki", 8000)):
        said = json.loads(kernelcore.run(["curl", "-sS", f"http://127.0.0.1:{port}/x?y=1"]).stdout)
        assert (said["backend"], said["node"], said["path"]) == (name, "kernelcore", "/x?y=1")
    posted = kernelcore.run(["curl", "-sS", "-d", "a" * 100_000, "http://127.0.0.1:8000/"], timeout_s=10)
    assert json.loads(posted.stdout)["method"] == "POST"
    with_db = kernelcore.popen(["python3", "-c", _TALK_TO_DB])
    assert with_db.communicate(timeout=10)[0] == b"db at kernelcore: 127.0.0.1\nhello"


_TALK_TO_DB = """
import socket, sys
with socket.create_connection(("127.0.0.1", 5432), timeout=5) as db:
    said = db.recv(100)
    db.sendall(b"hello")
    sys.stdout.buffer.write(said + db.recv(100))
"""


def test_a_node_is_a_host_of_its_own(lab: Lab) -> None:
    kernelcore = lab.node("kernelcore")
    assert kernelcore.run(["hostname"]).stdout == "kernelcore\n"
    links = set(kernelcore.run(["ls", "/sys/class/net"]).stdout.split())
    assert {"eth0", "eth1", "br-guest", "lo"} <= links
    # What decides whether systemd runs here (sd_booted(3)).
    assert kernelcore.run(["test", "-e", "/run/systemd/system"], check=False).returncode == 1
    assert kernelcore.run(["ls", "-A", "/var/log"]).stdout == "nginx\n"
    kernelcore.write("/etc/tsstack/only-here", "x")
    assert lab.node("laptop").run(["ls", "/etc/tsstack"], check=False).returncode != 0
    # A parameter that the kernel lets nobody set in a namespace takes the value, and keeps it to itself.
    name = "net.netfilter.nf_conntrack_max"
    before = command.run(["sysctl", "-n", name]).stdout
    kernelcore.run(["sysctl", "-qw", f"{name}=524288"])
    assert kernelcore.run(["sysctl", "-n", name]).stdout == "524288\n"
    assert command.run(["sysctl", "-n", name]).stdout == before


def test_running_finds_engines_and_passes_streams_and_code(lab: Lab) -> None:
    laptop = lab.node("laptop")
    done = laptop.run(["sh", "-c", "cat; echo oops >&2; exit 7"], stdin="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "oops\n")
    for program in ("tailscale", "sops", "age", "tsstack"):
        assert laptop.run(["which", program]).stdout.startswith("/")
    with pytest.raises(UsageError, match="no node 'nobody'") as refused:
        lab.node("nobody")
    assert "kernelcore" in refused.value.hint


def test_command_line_executes_shows_and_lists(lab: Lab) -> None:
    from click.testing import CliRunner

    from tsstack.cli.lab import lab as group

    tsstack = lab.node("laptop").environment["PATH"].split(":")[0] + "/tsstack"
    done = command.run(
        [tsstack, "lab", "exec", "--name", lab.name, "laptop", "--", "sh", "-c", "cat; hostname; exit 3"],
        stdin="through ",
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "through laptop\n")
    shown = CliRunner().invoke(group, ["status", "--name", lab.name, "--json"])
    status = json.loads(shown.stdout)
    assert status["up"] and {node["name"] for node in status["nodes"]} == set(lab.topology.nodes)
    table = CliRunner().invoke(group, ["status", "--name", lab.name]).stdout
    assert re.search(r"laptop +10\.77\.2\.2 +tailscaled runs +Running", table)
    listed = CliRunner().invoke(group, ["faults"]).stdout
    for name in ("cut", "uplink", "loss", "delay", "kill", "heal"):
        assert re.search(rf"^{name} ", listed, re.M)
