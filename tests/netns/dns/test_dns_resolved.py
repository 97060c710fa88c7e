"""Split DNS with a real systemd-resolved, and DNS servers that note who asked them what."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from systemd_root import SystemdHost, systemd_host  # noqa: F401

pytestmark = pytest.mark.netns

# A DNS server: notes every question in the file $2 and answers 203.0.113.$3 to each for an address.
SERVER = """
import socket, sys
address, log, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((address, 53))
    open(log, "w").close()
    while True:
        query, asker = server.recvfrom(4096)
        place, labels = 12, []
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode())
            place += 1 + query[place]
        question = query[12 : place + 5]
        with open(log, "a") as out: out.write(".".join(labels) + "\\n")
        is_a = question[-4:-2] == b"\\0\\1"
        head = query[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if is_a else b"\\0\\0") + b"\\0\\0\\0\\0"
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x0a\\0\\4" + bytes([203, 0, 113, last]) if is_a else b""
        server.sendto(head + question + answer, asker)
"""

# One verb of the part, run on the host. Prints what it says as JSON.
DRIVER = """
import json, pathlib, subprocess, sys
from ruamel.yaml import YAML
from tsstack.errors import TsstackError
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.dns.host import PART, discover_resolved, doctor
verb, text = sys.argv[1], "host: {name: h, tailnet: tail.test}\\n" + sys.argv[2]
facts = Facts(resolved=discover_resolved(Facts().paths))
tree = dict(PART.desired(Stack.model_validate(YAML(typ="safe").load(text)), facts))
generation = pathlib.Path("/run/generation")
for name in list(generation.glob("*/*")): name.unlink()
for name, content in tree.items():
    (generation / name).parent.mkdir(parents=True, exist_ok=True)
    (generation / name).write_text(content)
said = []
saved = pathlib.Path("/run/snapshot.json")
try:
    if verb in {"switch", "cleared"}:
        PART.check(generation, facts)
        saved.write_text(json.dumps(PART.observe(tree, facts)))
        PART.activate(generation, facts, said.append)
        if verb == "cleared":
            subprocess.run(["resolvectl", "revert", "tailscale0"], check=True)
        PART.verify(generation, facts)
    elif verb == "changes":
        said = [str(change) for change in PART.changes(tree, PART.observe(tree, facts))]
    elif verb == "restore":
        PART.restore(json.loads(saved.read_text()), facts)
    elif verb == "warnings":
        said = [*PART.warnings(generation, facts)]
    elif verb == "doctor":
        said = [facts.resolved, *doctor(facts.paths)]
    print(json.dumps({"said": said}))
except TsstackError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""

CORP = "dns: {split: {corp.test: 192.0.2.53}}"


def part(host: SystemdHost, verb: str, text: str = "") -> dict:
    done = host.python(DRIVER, verb, text)
    return json.loads(done.stdout)


def serve(host: SystemdHost, link: str, net: str, last: int) -> str:
    """A server at `net`.53 behind `link`; gives the name of the file with what it was asked."""
    log = f"/run/asked-{link}"
    host.run("ip", "netns", "add", link)
    host.run("ip", "link", "add", link, "type", "veth", "peer", "name", "far", "netns", link)
    host.run("ip", "addr", "add", f"{net}.1/24", "dev", link)
    host.run("ip", "link", "set", link, "up")
    host.run("ip", "-n", link, "addr", "add", f"{net}.53/24", "dev", "far")
    host.run("ip", "-n", link, "link", "set", "far", "up")
    host.path("/run/server.py").write_text(SERVER)
    unit = ["systemd-run", "-q", "--unit", f"asked-{link}", "ip", "netns", "exec", link]
    host.run(*unit, sys.executable, "/run/server.py", f"{net}.53", log, str(last))
    until = time.monotonic() + 10
    while not host.path(log).exists():
        assert time.monotonic() < until, host.run("journalctl", "-u", f"asked-{link}", check=False).stdout
        time.sleep(0.05)
    return log


def asked(host: SystemdHost, log: str) -> set[str]:
    return set(host.path(log).read_text().split())


@pytest.fixture
def host(systemd_host: SystemdHost) -> SystemdHost:  # noqa: F811
    """Behind `up0` the usual server (.7), behind `corp0` the company's (.9)."""
    # IPv6 addresses would come up a second later and change what resolvectl prints.
    systemd_host.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    serve(systemd_host, "up0", "198.51.100", 7)
    serve(systemd_host, "corp0", "192.0.2", 9)
    systemd_host.run("resolvectl", "dns", "up0", "198.51.100.53")
    systemd_host.run("resolvectl", "domain", "up0", "~.")
    return systemd_host


def address(host: SystemdHost, name: str) -> str:
    return host.run("getent", "ahostsv4", name).stdout.split()[0]


def test_a_domain_and_no_other_is_asked_at_its_server(host):
    assert address(host, "a.corp.test") == "203.0.113.7"
    host.run("resolvectl", "flush-caches")
    assert "error" not in part(host, "switch", CORP)
    assert address(host, "wiki.corp.test") == "203.0.113.9"
    assert address(host, "example.org") == "203.0.113.7"
    assert asked(host, "/run/asked-corp0") == {"wiki.corp.test"}
    assert "wiki.corp.test" not in asked(host, "/run/asked-up0")


def test_what_is_so_already_changes_nothing(host):
    part(host, "switch", CORP)
    assert part(host, "changes", CORP) == {"said": []}
    assert part(host, "switch", CORP) == {"said": []}


def test_rollback_restores_resolvectl_exactly(host):
    was = host.run("resolvectl", "status").stdout
    assert "error" not in part(host, "switch", CORP)
    assert host.run("resolvectl", "status").stdout != was
    assert part(host, "restore", CORP) == {"said": []}
    assert host.run("resolvectl", "status").stdout == was
    assert "error" not in part(host, "switch", CORP)
    assert "error" not in part(host, "switch", "")
    assert host.run("resolvectl", "status").stdout == was


def test_rollback_brings_an_earlier_split_back(host):
    part(host, "switch", CORP)
    assert address(host, "x.corp.test") == "203.0.113.9"  # resolvectl also prints which server it used
    was = host.run("resolvectl", "status").stdout
    wider = "dns: {split: {corp.test: 192.0.2.53, lab.test: 192.0.2.53}}"
    assert "error" not in part(host, "switch", wider)
    assert address(host, "x.lab.test") == "203.0.113.9"
    part(host, "restore")
    assert address(host, "y.corp.test") == "203.0.113.9"
    assert host.run("resolvectl", "status").stdout == was


def test_the_split_outlives_a_restart_of_resolved(host):
    part(host, "switch", CORP)
    host.run("systemctl", "restart", "systemd-resolved")
    assert part(host, "changes", CORP) == {"said": []}
    assert address(host, "wiki.corp.test") == "203.0.113.9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dns: {split: {a.test: 192.0.2.53, b.test: 192.0.2.54}}", "would ask both for both"),
        ("dns: {split: {a.test: [192.0.2.53, 198.51.100.53]}}", "several links: corp0, up0"),
        ("dns: {split: {a.test: 198.51.100.99}}", "up0 already has DNS settings that are not ours"),
        ("dns: {split: {a.test: 10.9.9.9}}", "no route to the DNS server 10.9.9.9"),
        ("dns: {split: {a.test: 127.0.0.1}}", "on this host itself"),
    ],
)
def test_what_resolved_cannot_split_is_refused_and_nothing_changes(host, text, message):
    was = host.run("resolvectl", "status").stdout
    said = part(host, "switch", text)
    assert said["error"] == "CheckFailed"
    assert message in said["message"]
    assert said["hint"] or "no route" in message
    assert host.run("resolvectl", "status").stdout == was


def test_the_tailnets_domain_goes_to_tailscale0_where_tailscaled_does_not_see_to_it(host):
    host.run("ip", "tuntap", "add", "tailscale0", "mode", "tun")
    text = "tailscale: {accept_dns: false}\ndns: {split: {tail.test: 100.100.100.100}}"
    assert "error" not in part(host, "switch", text)
    assert "~tail.test" in host.run("resolvectl", "domain", "tailscale0").stdout
    assert "100.100.100.100" in host.run("resolvectl", "dns", "tailscale0").stdout


def test_what_tailscaled_clears_a_moment_later_is_set_again(host):
    """It writes its own DNS settings, which are empty here, whenever its routes change."""
    host.run("ip", "link", "add", "tailscale0", "type", "veth", "peer", "name", "wire")
    host.run("ip", "link", "set", "tailscale0", "up")
    seen = "until resolvectl domain tailscale0 | grep -q tail.test; do sleep 0.02; done"
    clear = "resolvectl dns tailscale0 ''; resolvectl domain tailscale0 ''; touch /run/cleared"
    host.run("systemd-run", "-q", "sh", "-c", f"{seen}; sleep 0.1; {clear}")
    text = "tailscale: {accept_dns: false}\ndns: {split: {tail.test: 100.100.100.100}}"
    assert "error" not in part(host, "switch", text)
    assert host.path("/run/cleared").exists()
    assert "~tail.test" in host.run("resolvectl", "domain", "tailscale0").stdout
    assert part(host, "changes", text) == {"said": []}


def test_what_tailscaled_clears_after_the_activation_is_set_again_before_it_is_verified(host):
    """On a slow machine tailscaled took longer than the activation waits, and the switch was undone."""
    host.run("ip", "tuntap", "add", "tailscale0", "mode", "tun")
    text = "tailscale: {accept_dns: false}\ndns: {split: {tail.test: 100.100.100.100}}"
    assert "error" not in part(host, "cleared", text)
    assert "~tail.test" in host.run("resolvectl", "domain", "tailscale0").stdout
    assert part(host, "changes", text) == {"said": []}


def test_with_accept_dns_tailscale0_is_left_to_tailscaled_and_a_missing_route_is_said(host):
    host.run("ip", "tuntap", "add", "tailscale0", "mode", "tun")
    text = "tailscale: {}\ndns: {split: {tail.test: 100.100.100.100}}"
    was = host.run("resolvectl", "status").stdout
    assert part(host, "switch", text) == {"said": []}
    assert host.run("resolvectl", "status").stdout == was
    (line,) = part(host, "warnings", text)["said"]
    assert "not routed to 100.100.100.100 by tailscaled" in line
    host.run("resolvectl", "dns", "tailscale0", "100.100.100.100")
    host.run("resolvectl", "domain", "tailscale0", "tail.test")
    assert part(host, "warnings", text) == {"said": []}


def test_settings_that_somebody_changed_since_are_left_to_them(host):
    part(host, "switch", CORP)
    host.run("resolvectl", "domain", "corp0", "~elsewhere.test")
    assert "error" not in part(host, "switch", "")
    assert "~elsewhere.test" in host.run("resolvectl", "domain", "corp0").stdout


def test_a_way_back_forgets_a_link_that_was_cleared_so_that_no_unit_sets_it_again(host):
    part(host, "switch", CORP)
    host.run("resolvectl", "revert", "corp0")
    told = part(host, "changes", "")["said"]
    assert told == ["~ DNS of corp0: kept, though not as it was set -> left as it is"]
    assert "error" not in part(host, "switch", "")
    assert json.loads(host.path("/var/lib/tsstack/dns-links.json").read_text()) == {}
    assert part(host, "changes", "")["said"] == []


def test_pitfall_24_doctor_sees_resolv_conf_taken_over(host):
    assert part(host, "doctor") == {"said": [True]}
    resolv = host.path("/etc/resolv.conf")
    resolv.unlink()
    resolv.write_text("# generated by tailscale\nnameserver 100.100.100.100\n")
    running, line = part(host, "doctor")["said"]
    assert running
    assert "written by tailscaled" in line


def test_a_stopped_resolved_is_seen_although_its_files_remain(host):
    host.run("systemctl", "stop", "systemd-resolved")
    assert part(host, "doctor")["said"][0] is False
    assert part(host, "switch", CORP) == {"said": []}
    (line,) = part(host, "warnings", CORP)["said"]
    assert "systemd-resolved does not run" in line


def test_a_namespace_that_shares_run_does_not_take_the_machines_resolved_for_its_own(host):
    words = ["ip", "netns", "exec", "corp0", sys.executable, "-B", "-", "doctor", ""]
    assert json.loads(host.run(*words, stdin=DRIVER).stdout)["said"][0] is False


@pytest.mark.parametrize("hidden", [False, True], ids=["", "with hidepid and no stub listener"])
@pytest.mark.parametrize(("net", "found"), [("", True), ("corp0", False)])
def test_resolved_is_found_without_root_too(host, net, found, hidden):
    if hidden:
        host.run("mount", "-o", "remount,hidepid=invisible", "/proc")
        host.run("mkdir", "-p", "/etc/systemd/resolved.conf.d")
        host.run("tee", "/etc/systemd/resolved.conf.d/x.conf", stdin="[Resolve]\nDNSStubListener=no\n")
        host.run("systemctl", "restart", "systemd-resolved")
    enter = ["ip", "netns", "exec", net] if net else []
    script = (
        "import os; from tsstack.parts.dns.host import discover_resolved\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); print(discover_resolved(None))"
    )
    assert host.run(*enter, sys.executable, "-B", "-", stdin=script).stdout.strip() == str(found)


def test_settings_lost_by_a_reboot_or_a_lost_record_are_no_obstacle(host):
    part(host, "switch", CORP)
    host.run("resolvectl", "revert", "corp0")
    assert part(host, "changes", CORP)["said"] == ["+ DNS of corp0: ~corp.test at 192.0.2.53"]
    assert "error" not in part(host, "switch", CORP)
    host.path("/var/lib/tsstack/dns-links.json").unlink()
    assert "error" not in part(host, "switch", CORP)
    assert address(host, "wiki.corp.test") == "203.0.113.9"


def test_the_host_leaves_nothing_behind(host):
    place, pid = host._place, host.pid
    host.stop()
    assert not place.exists()
    assert not host._cgroup.exists()
    assert str(place) not in subprocess.run(["mount"], check=True, capture_output=True, text=True).stdout
    with pytest.raises(ProcessLookupError):
        import os

        os.kill(pid, 0)
