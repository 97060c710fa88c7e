"""The doctor on a host of a real tailnet: all is well after a switch, then one thing after the other not."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack.lab.headscale import CONFIG
from tsstack.lab.lab import Lab
from tsstack.lab.machine import Machine
from tsstack.parts.proxy import authority
from tsstack.parts.proxy.plan import read_plan

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "kernelcore.yaml"
FILE = "/etc/tsstack/tsstack.yaml"
STATE = "/var/lib/tsstack"
WIKI = "wiki.kernelcore.tail.test"
_TSSTACK = (sys.executable, "-c", "from tsstack.cli.main import main; main()")
_ENV = {"PYTHONPATH": str(ROOT)}


def tsstack(node: Machine, *words: str, check: bool = True) -> str:
    return node.run([*_TSSTACK, *words], env=_ENV, check=check).stdout


def examine(node: Machine, *words: str) -> dict[str, Any]:
    """What the doctor says, and that its exit code says the same."""
    done = node.run([*_TSSTACK, "doctor", "--json", *words], env=_ENV, check=False)
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == said["status"]
    return said


def bad(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["code"]: each for each in said["findings"] if each["level"] != "ok"}


def until(node: Machine, code: str, *, there: bool, timeout_s: float = 20.0) -> dict[str, dict[str, Any]]:
    """The findings as soon as `code` is among them, or no longer: news of the tailnet take a moment."""
    deadline_s = time.monotonic() + timeout_s
    while ((found := bad(examine(node))).get(code) is not None) is not there:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def host(own_lab: Lab) -> Iterator[Machine]:
    """kernelcore as the example makes it, with its monitor; every test leaves it so."""
    node = own_lab.node("kernelcore")
    node.write(FILE, EXAMPLE.read_text())
    tsstack(node, "switch")
    own_lab.publish_services(EXAMPLE)
    monitor = node.popen([*_TSSTACK, "monitor"], env=_ENV)
    try:
        until(node, "TS741", there=False)
        until(node, "TS841", there=False)
        yield node
    finally:
        monitor.kill()
        monitor.communicate()


@pytest.fixture
def mend(host: Machine) -> Iterator[Callable[..., None]]:
    """Takes commands that undo what a test did; afterwards all is well again."""
    undoing: list[tuple[str, ...]] = []
    yield lambda *words: undoing.append(words)
    for words in reversed(undoing):
        host.run(list(words), env=_ENV)
    # tailscaled repeats what it once saw (TS703) until it looks again; the tailnet's paths take a moment.
    deadline_s = time.monotonic() + 20.0
    while not (left := set(bad(examine(host)))) <= {"TS703"}:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.3)


def test_after_a_switch_all_is_well_and_what_is_not_proven_is_said(host: Machine) -> None:
    said = examine(host, "--from", "laptop")
    assert bad(said) == {}
    assert said["status"] == 0
    areas = dict.fromkeys(each["area"] for each in said["findings"])
    assert list(areas) == [
        "file", "rights", "engines", "machine", "generation", "monitor", "tailnet", "forwarding", "firewall",
        "names", "certificates", "services", "arrival", "peer",
    ]  # fmt: skip
    told = {each["code"]: each["evidence"] for each in said["findings"]}
    assert "4 names" in told["TS841"]  # three vhosts, and the host itself for the database
    assert "both ways" in told["TS874"]
    assert "tcp/443" in told["TS876"]
    (unproven,) = said["unproven"]
    assert "on laptop: curl -I https://" in unproven


def test_the_doctor_agrees_with_ts_status(host: Machine, mend: Callable[..., None]) -> None:
    host.run(["nft", "delete", "table", "inet", "tsstack"])
    mend(*_TSSTACK, "switch")
    status = json.loads(
        host.run(
            [sys.executable, "-c", "from tsstack.cli.ts_status import main; main()", "--json"],
            env=_ENV,
            check=False,
        ).stdout
    )
    said = {each["code"]: each for each in status["warnings"]}
    found = bad(examine(host))
    assert {code: each["message"] for code, each in said.items()} == {
        code: each["evidence"] for code, each in found.items() if code.startswith("TS7")
    }
    assert "TS731" in found


def test_a_flushed_table_is_told_once(host: Machine, mend: Callable[..., None]) -> None:
    host.run(["nft", "flush", "table", "inet", "tsstack"])
    mend(*_TSSTACK, "switch")
    found = bad(examine(host))
    assert "TS732" in found
    assert "TS831" not in found


def test_a_tailscaled_that_is_gone(host: Machine) -> None:
    host.stop_daemon()
    try:
        found = bad(examine(host))
        assert found["TS701"]["level"] == "error"
        assert not {"TS833", "TS841", "TS872", "TS873"} & found.keys()  # one cause, told once
        assert found["TS701"]["fix"] == "systemctl start tailscaled"
    finally:
        host.start_daemon()
        host.await_tailnet()
    until(host, "TS841", there=False)
    tsstack(host, "switch")
    until(host, "TS872", there=False)
    assert bad(examine(host)) == {}


def test_an_expired_key_and_the_fix_as_it_is_printed(own_lab: Lab, host: Machine) -> None:
    """`tailscale up --force-reauth` is refused beside other prefs, and Headscale renews none with a key."""
    server = own_lab.node("hs")
    headscale = f"{server.programs['headscale']} -c {CONFIG}"
    addresses = host.tailnet_addresses()
    server.run(["sh", "-c", f"{headscale} nodes expire -i {host.api.status()['Self']['ID']}"])
    found = until(host, "TS706", there=True)
    # Where it uses no exit node the uplink still carries what leaves.
    assert {code for code in found if not code.startswith("TS75")} == {"TS706"}
    command = found["TS706"]["fix"].removeprefix("headscale ")
    server.run(["sh", "-c", f"{headscale} {command}"])
    until(host, "TS706", there=False)
    host.await_tailnet()
    assert host.tailnet_addresses() == addresses
    until(host, "TS841", there=False)


def _status(node: Machine) -> dict[str, dict[str, Any]]:
    """What ts-status remarks, by its code."""
    code = "from tsstack.cli import ts_status; ts_status.run(['--json'])"
    told = json.loads(node.run([sys.executable, "-c", code], env=_ENV).stdout)
    return {each["code"]: each for each in told["warnings"]}


@pytest.mark.parametrize(
    ("pid_of", "code", "words"),
    [
        ("import json; print(json.load(open('/run/tsstack/identity.state'))['pid'])", "TS720",
         "does not answer: services with `allow` refuse everybody"),
        ("print(open('/run/nginx.pid').read())", "TS725", "its master is dead, "),
    ],
)  # fmt: skip
def test_a_dead_process_of_the_proxy_is_one_fact(host: Machine, pid_of: str, code: str, words: str) -> None:
    """Told once, and alike by ts-status; the fix that both give brings it back."""
    pid = int(host.run([sys.executable, "-c", pid_of]).stdout)
    os.kill(pid, signal.SIGKILL)
    found = until(host, code, there=True)
    assert list(found) == [code]
    remark = _status(host)[code]
    assert words in found[code]["evidence"]
    assert found[code]["evidence"] == remark["message"]
    assert (found[code]["level"], remark["level"]) == ("error", "critical")
    command, *rest = found[code]["fix"].partition("    # ")[0].split()
    assert command == "tsstack"
    tsstack(host, *rest)
    assert bad(examine(host)) == {}
    assert not {"TS720", "TS725"} & _status(host).keys()


def test_a_port_that_a_reload_left_out_is_mended_by_the_reload_that_is_told(host: Machine) -> None:
    link = host.path("/etc/nginx/modules-enabled/90-tsstack.conf")
    target = link.readlink()
    link.unlink()
    host.run(["nginx", "-s", "reload"])
    until(host, "TS872", there=True)
    link.symlink_to(target)
    found = bad(examine(host))
    assert set(found) == {"TS872"}
    assert "proxy.services.db" in found["TS872"]["evidence"]
    command, _, look = found["TS872"]["fix"].partition("; ")
    assert (command, look) == ("nginx -s reload", "nginx-test")
    host.run(command.split())
    until(host, "TS872", there=False)


def test_an_nginx_that_is_frozen_does_not_answer(host: Machine) -> None:
    plan = read_plan(host.path(f"{STATE}/current"))
    assert plan is not None
    master = int(host.path("/run/nginx.pid").read_text())
    pids = [master, *map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        found = bad(examine(host))
        assert list(found) == ["TS725"]
        assert "does not answer" in found["TS725"]["evidence"]
        assert found["TS725"]["fix"].startswith("systemctl restart nginx")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(host, "TS725", there=False)


def test_pitfall_04_a_foreign_drop_is_named_and_shown_for_a_peer(
    host: Machine, mend: Callable[..., None]
) -> None:
    rules = (
        "table ip strict { chain guard { type filter hook input priority 50; policy drop; "
        'ct state established accept; iifname "lo" accept; }; }'
    )
    host.run(["nft", "-f", "-"], stdin=rules)
    mend("nft", "delete", "table", "ip", "strict")
    found = bad(examine(host, "--from", "laptop"))
    assert "strict" in found["TS876"]["evidence"]
    host.run(["sh", "-c", found["TS876"]["fix"]])
    assert "TS876" not in bad(examine(host, "--from", "laptop"))
    host.run(["sh", "-c", found["TS864"]["fix"]])
    assert not {"TS864", "TS876"} & bad(examine(host, "--from", "laptop")).keys()


@pytest.mark.parametrize("how", ["dnat to 192.168.15.9:7777", "redirect to :9999"])
def test_a_port_that_another_table_takes_away(host: Machine, mend: Callable[..., None], how: str) -> None:
    """As a published port of a container does: what the rules accept then is not what the file serves."""
    hook = "type nat hook prerouting priority -100"
    host.run(["nft", "-f", "-"], stdin=f"table ip nat2 {{ chain pre {{ {hook}; tcp dport 443 {how}; }}; }}")
    mend("nft", "delete", "table", "ip", "nat2")
    told = [
        each for each in examine(host)["findings"] if each["code"] == "TS864" and each["level"] == "error"
    ]
    assert ["tcp/443 on tailscale0" in each["evidence"] for each in told] == [True], "and no peer was named"
    found = bad(examine(host, "--from", "laptop"))
    assert "tcp/443 from 100." in found["TS876"]["evidence"]
    assert "nat2 pre" in found["TS876"]["evidence"]
    assert found["TS876"]["fix"] == "nft -a list chain ip nat2 pre"
    rules = "ct status dnat accept; icmp type redirect accept; tcp dport 443 accept"
    hook = "type filter hook input priority -10"
    host.run(
        ["nft", "-f", "-"], stdin=f"flush table ip nat2; table ip nat2 {{ chain in {{ {hook}; {rules}; }}; }}"
    )
    assert "TS876" not in bad(examine(host, "--from", "laptop"))


def test_a_rule_of_others_on_the_way_to_the_advertised_network(
    host: Machine, mend: Callable[..., None]
) -> None:
    device = host.run(["ip", "-o", "route", "get", "192.168.15.9"]).stdout.split(" dev ")[1].split()[0]
    rule = f'oifname "{device}" drop'
    hook = "type filter hook forward priority 10"
    host.run(["nft", "-f", "-"], stdin=f"table inet r {{ chain i {{ {hook}; {rule}; }}; }}")
    mend("nft", "delete", "table", "inet", "r")
    told = bad(examine(host))["TS864"]
    assert (told["level"], told["fix"]) == ("warning", "nft -a list chain inet r i")
    assert f"may drop what goes through this host, which was not tried: `{rule}`" in told["evidence"]


def test_forwarding_that_was_switched_off(host: Machine, mend: Callable[..., None]) -> None:
    host.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"])
    mend(*_TSSTACK, "switch")
    found = bad(examine(host))
    assert "192.168.15.0/24" in found["TS861"]["evidence"]
    assert not {"TS755", "TS831"} & found.keys(), "one cause, told once"
    host.run([*_TSSTACK, *found["TS861"]["fix"].partition("    # ")[0].split()[1:]], env=_ENV)
    assert not {"TS831", "TS861"} & bad(examine(host)).keys()


@pytest.mark.parametrize("interface", ["eth1", "tailscale0", "eth0"])
def test_forwarding_that_is_off_on_one_interface(
    host: Machine, mend: Callable[..., None], interface: str
) -> None:
    """The LAN's, the tailnet's, and the uplink's, which the exit node needs."""
    name = f"net.ipv4.conf.{interface}.forwarding"
    mend("sysctl", "-qw", f"{name}=1")
    host.run(["sysctl", "-qw", f"{name}=0"])
    found = [each for each in examine(host, "--quick")["findings"] if each["code"] == "TS861"]
    assert [each["level"] for each in found] == ["error"]
    assert found[0]["evidence"].startswith(f"IPv4 forwarding is off on {interface} alone")
    host.run(found[0]["fix"].split())
    assert "TS861" not in bad(examine(host, "--quick"))


def test_pitfall_09_a_strict_reverse_path_filter(host: Machine, mend: Callable[..., None]) -> None:
    own = "net.ipv4.conf.eth0.rp_filter"
    before = host.run(["sysctl", "-n", own]).stdout.strip()
    mend("sysctl", "-qw", f"{own}={before}")
    mend(*_TSSTACK, "switch")
    host.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", f"{own}=1"])
    found = bad(examine(host))
    assert "strict on eth0" in found["TS862"]["evidence"]
    host.run(found["TS862"]["fix"].split())
    assert "TS862" not in bad(examine(host))


def test_an_expired_certificate(host: Machine, mend: Callable[..., None]) -> None:
    plan = read_plan(host.path(f"{STATE}/current"))
    assert plan is not None
    (certificate,) = plan.certificates
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=200)
    old, _, _ = authority.issue(host.path(f"{STATE}/tls"), plan.tailnet, certificate.names, then)
    host.path(certificate.certificate).write_bytes(old)
    host.run(["nginx", "-s", "reload"])
    mend(*_TSSTACK, "certificates", "renew", "--force")
    found = until(host, "TS873", there=True)
    assert found["TS723"]["level"] == "error"
    assert "expired" in found["TS873"]["evidence"]
    assert found["TS873"]["fix"] == "tsstack certificates renew"


def test_a_key_that_others_may_read(host: Machine, mend: Callable[..., None]) -> None:
    plan = read_plan(host.path(f"{STATE}/current"))
    assert plan is not None
    key = plan.certificates[0].key
    host.run(["chmod", "0644", key])
    mend("chmod", "0600", key)
    assert bad(examine(host))["TS851"]["fix"] == f"chmod go= {key}"


def test_a_name_that_leads_elsewhere(own_lab: Lab, host: Machine) -> None:
    own_lab.publish({WIKI: ["100.64.0.99"]})
    try:
        found = until(host, "TS842", there=True)
        assert "100.64.0.99" in found["TS842"]["evidence"]
        assert host.tailnet_addresses()[0] in found["TS842"]["fix"]
    finally:
        own_lab.publish_services(EXAMPLE)
    until(host, "TS842", there=False)


def test_a_full_disk(host: Machine, mend: Callable[..., None]) -> None:
    mend("rm", "-rf", "/tmp/state")
    # Lazily: the identity daemon reads its file there whenever nginx asks it.
    mend("sh", "-c", f"! mountpoint -q {STATE} || umount -l {STATE}")
    # What is there, and 4 MiB and some files more.
    kib, files = f"du -sk --apparent-size {STATE} | cut -f1", f"find {STATE} | wc -l"
    room = f"size=$(($({kib}) + 4096))k,nr_inodes=$(($({files}) + 500))"
    small = f"mount -t tmpfs -o {room} none {STATE}"
    host.run(["sh", "-c", f"cp -a {STATE} /tmp/state && {small} && cp -a /tmp/state/. {STATE}/"])
    found = bad(examine(host))
    assert found["TS821"]["level"] == "error"
    assert found["TS821"]["about"] == STATE
    assert "TS822" in found


def test_a_disk_that_turned_read_only(host: Machine, mend: Callable[..., None]) -> None:
    host.run(["sh", "-c", f"mount --bind {STATE} {STATE} && mount -o remount,bind,ro {STATE}"])
    mend("umount", "-l", STATE)
    assert bad(examine(host))["TS823"]["level"] == "error"


def test_a_program_on_our_port_while_nginx_is_gone(host: Machine) -> None:
    address = host.tailnet_addresses()[0]
    host.run(["nginx", "-s", "quit"])
    taken = "import socket,time; s=socket.create_server((%r, 5432)); print('up', flush=True); time.sleep(99)"
    deadline_s = time.monotonic() + 10
    while host.path("/run/nginx.pid").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    holder = host.popen([sys.executable, "-c", taken % address])
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        found = bad(examine(host))
        assert "python" in found["TS865"]["evidence"]
        assert "proxy.services.db" in found["TS865"]["evidence"]
        assert "nothing is served" in found["TS725"]["evidence"]
        assert not {"TS831", "TS866", "TS872", "TS873"} & found.keys()  # one cause, told once
    finally:
        holder.kill()
        holder.communicate()
    tsstack(host, "switch")
    until(host, "TS725", there=False)
    assert bad(examine(host)) == {}


def test_a_file_with_a_fault_beside_a_host_that_is_well(host: Machine) -> None:
    host.write(FILE, EXAMPLE.read_text().replace("tcp: [80, 443]", "tpc: [80, 443]"))
    try:
        found = bad(examine(host))
        (fault,) = [each for each in found.values() if each["area"] == "file"]
        assert fault["level"] == "error"
        assert fault["evidence"].startswith(f"{FILE}:")
        host.write(FILE, EXAMPLE.read_text() + "\n# later\n")
        assert list(bad(examine(host))) == ["TS802"]
    finally:
        host.write(FILE, EXAMPLE.read_text())


def test_a_peer_that_is_cut_off(own_lab: Lab, host: Machine) -> None:
    own_lab.fault("cut", "laptop")
    try:
        found = bad(examine(host, "--quick", "--from", "laptop"))
        assert found["TS874"]["level"] == "error"
        assert "no answer" in found["TS874"]["evidence"]
        assert "laptop" in bad(examine(host, "--quick", "--from", "leptop"))["TS874"]["evidence"]
    finally:
        own_lab.heal()


def test_who_is_not_root_learns_what_was_not_asked(host: Machine) -> None:
    done = host.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *_TSSTACK, "doctor", "--json"], env=_ENV, check=False
    )
    found = bad(json.loads(done.stdout))
    assert "TS804" in found
    assert not any(each["level"] == "error" for each in found.values()), found


def test_the_screen_of_a_host_that_is_well_fits_a_terminal(host: Machine) -> None:
    lines = tsstack(host, "doctor", "--from", "laptop").splitlines()
    assert len(lines) <= 24
    assert lines[-1].startswith("all is well, ")


def test_quick_leaves_out_what_asks_the_network(host: Machine) -> None:
    said = examine(host, "--quick")
    assert {"names", "the clock", "new connections"} <= set(said["left_out"])
    assert not {"TS841", "TS825", "TS872"} & {each["code"] for each in said["findings"]}
    assert said["duration_s"] < 10
