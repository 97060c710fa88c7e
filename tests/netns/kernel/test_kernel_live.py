"""The kernel part against the real kernel, in a network namespace."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.model.facts import Facts, Paths
from tsstack.model.stack import Stack
from tsstack.parts.kernel import links
from tsstack.parts.kernel.host import PART

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("network")]


def shell(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def sysctl(name: str) -> str:
    return " ".join(Path("/proc/sys", *name.split(".")).read_text().split())


class Host:
    def __init__(self, path: Path) -> None:
        (path / "state").mkdir()
        self.path, self.count = path, 0
        self.lines: list[str] = []
        self.facts = Facts(
            interfaces=("lo", "v0", "v1"), default_interface="v0", paths=Paths(state=path / "state")
        )

    def stage(self, text: str) -> tuple[Path, dict[str, str]]:
        stack = Stack.model_validate(YAML(typ="safe").load(f"host: {{name: h}}\n{text}"))
        tree = dict(PART.desired(stack, self.facts))
        self.count += 1
        generation = self.path / str(self.count)
        generation.mkdir()
        for name, content in tree.items():
            (generation / name).parent.mkdir(exist_ok=True)
            (generation / name).write_text(content)
        return generation, tree

    def switch(self, text: str) -> None:
        generation, _ = self.stage(text)
        PART.check(generation, self.facts)
        PART.activate(generation, self.facts, self.lines.append)
        PART.verify(generation, self.facts)

    def left(self, text: str) -> list[str]:
        _, tree = self.stage(text)
        return [str(change) for change in PART.changes(tree, PART.observe(tree, self.facts))]


@pytest.fixture
def host(tmp_path: Path, network: None) -> Host:
    return Host(tmp_path)


def everything() -> dict[str, str]:
    """All parameters of this namespace that can be read, but for counters."""
    found = {}
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        if path.is_file() and not path.name.endswith(("_count", "stable_secret")):
            try:
                found[str(path)] = path.read_text()
            except OSError:
                continue
    return found


@pytest.mark.parametrize("profile", ["throughput", "router", "low-latency"])
def test_a_profile_works_where_the_kernel_shows_only_part_of_it(host, profile):
    was = everything()
    host.switch(f"kernel: {{profile: {profile}}}")
    assert host.left(f"kernel: {{profile: {profile}}}") == []
    host.switch("")
    assert everything() == was


def test_throughput_sets_the_kernels_own_values(host):
    host.switch("kernel: {profile: throughput}")
    assert sysctl("net.ipv4.tcp_congestion_control") == "bbr"
    assert sysctl("net.ipv4.tcp_rmem").split()[2] == "67108864"


def test_a_router_forwards_and_its_undoing_leaves_no_trace(host):
    Path("/proc/sys/net/ipv4/conf/all/accept_redirects").write_text("0")
    Path("/proc/sys/net/ipv4/conf/v1/forwarding").write_text("1")
    was = everything()
    text = "tailscale: {advertise: {routes: [192.168.15.0/24]}}"
    _, tree = host.stage(text)
    snapshot = json.loads(json.dumps(PART.observe(tree, host.facts)))
    host.switch(text)
    assert sysctl("net.ipv4.ip_forward") == sysctl("net.ipv6.conf.all.forwarding") == "1"
    assert sysctl("net.ipv6.conf.v0.accept_ra") == "2"
    assert host.left(text) == []
    PART.restore(snapshot, host.facts)
    assert everything() == was
    host.switch(text)
    host.switch("")
    assert everything() == was


def test_forwarding_keeps_the_ipv6_default_route_that_came_by_advertisement(host):
    # `proto ra` marks a route as one that the kernel learnt; switching forwarding on purges those.
    shell("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "v0", "proto", "ra")
    host.switch("tailscale: {advertise: {exit_node: true}}")
    assert "default via fe80::1" in shell("ip", "-6", "route")


def test_pitfall_09_strict_rp_filter_is_loosened_for_every_interface(host):
    Path("/proc/sys/net/ipv4/conf/v0/rp_filter").write_text("1")
    shell("ip", "addr", "add", "198.51.100.1/24", "dev", "v0")
    host.switch("tailscale: {exit_node: {use: a}}")
    assert max(int(sysctl("net.ipv4.conf.all.rp_filter")), int(sysctl("net.ipv4.conf.v0.rp_filter"))) == 2


def test_a_parameter_of_the_whole_machine_is_a_warning_in_a_namespace(host):
    text = "kernel: {sysctl: {net.netfilter.nf_conntrack_max: 524288}}"
    host.switch(text)
    generation, _ = host.stage(text)
    (line,) = PART.warnings(generation, host.facts)
    assert "machine outside" in line
    assert "net.netfilter.nf_conntrack_max = 524288" in line
    assert host.left(text) == []


def test_a_value_that_the_kernel_refuses_is_told_before_and_restore_brings_all_back(host):
    was = everything()
    text = "kernel: {sysctl: {net.ipv4.tcp_mtu_probing: 1, net.ipv4.tcp_syn_retries: 9999}}"
    generation, tree = host.stage(text)
    with pytest.raises(
        CheckFailed, match=r"^kernel\.sysctl\.net\.ipv4\.tcp_syn_retries: '9999': the kernel refuses"
    ):
        PART.check(generation, host.facts)
    assert everything() == was
    snapshot = PART.observe(tree, host.facts)
    place = (
        r"^kernel\.sysctl\.net\.ipv4\.tcp_syn_retries: net\.ipv4\.tcp_syn_retries = 9999: the kernel refuses"
    )
    with pytest.raises(ApplyFailed, match=place):
        PART.activate(generation, host.facts, host.lines.append)
    PART.restore(snapshot, host.facts)
    assert everything() == was


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.ipv4.tcp_syn_retires", "no parameter"),
        ("net.ipv4.tcp_available_congestion_control", "cannot be written"),
        ("net.ipv4.route.flush", "cannot be read"),
    ],
)
def test_a_parameter_that_cannot_be_managed_is_refused_before_anything_changes(host, name, message):
    was = everything()
    with pytest.raises(CheckFailed, match=message):
        host.switch(f"kernel: {{sysctl: {{{name}: x}}}}")
    assert everything() == was


@pytest.fixture
def far(network: None):
    """A socket in a second namespace behind v1, at 192.0.2.2."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        own = Path("/proc/thread-self/ns/net").readlink()
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
            time.sleep(0.01)
        shell("ip", "link", "set", "v1", "netns", str(holder.pid))
        enter = ["nsenter", "-t", str(holder.pid), "-n"]
        shell(*enter, "ip", "addr", "add", "192.0.2.2/24", "dev", "v1")
        shell(*enter, "ip", "link", "set", "v1", "up")
        yield enter
    finally:
        holder.terminate()
        holder.wait()


RECEIVER = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as arrived:
    arrived.bind(("0.0.0.0", 9999)); arrived.settimeout(5); arrived.recv(2048)
    time.sleep(0.5); arrived.settimeout(0.2)
    arrived.setblocking(False)
    while True:
        try: arrived.recv(2048)
        except BlockingIOError: break
    arrived.settimeout(0.2)
    count, until = 0, time.monotonic() + 1.5
    while time.monotonic() < until:
        try: count += len(arrived.recv(2048)) + 42
        except TimeoutError: pass
print(count * 8 / 1.5 / 1e6)
"""

SENDER = """
import socket, sys, time
until = time.monotonic() + 3
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    while time.monotonic() < until:
        try: sender.sendto(b"x" * 1200, (sys.argv[1], 9999))
        except OSError: pass
        time.sleep(0.0001)
"""


def measured_mbit(receive: list[str], send: list[str], destination: str) -> float:
    receiver = subprocess.Popen([*receive, "python3", "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    sender = subprocess.Popen([*send, "python3", "-c", SENDER, destination])
    seen, _ = receiver.communicate(timeout=20)
    sender.wait(timeout=20)
    return float(seen)


def test_egress_is_held_to_the_limit_and_free_after_it(host, far):
    host.switch("bandwidth: {v0: {egress: 4mbit}}")
    assert host.left("bandwidth: {v0: {egress: 4mbit}}") == []
    assert 3.2 < measured_mbit(far, [], "192.0.2.2") < 4.4
    host.switch("")
    assert "tbf" not in shell("tc", "qdisc")
    assert measured_mbit(far, [], "192.0.2.2") > 8


def test_ingress_is_held_to_the_limit_and_leaves_no_device_behind(host, far):
    before = shell("tc", "qdisc"), shell("ip", "-br", "link")
    host.switch("bandwidth: {v0: {ingress: 4mbit}}")
    assert host.left("bandwidth: {v0: {ingress: 4mbit}}") == []
    assert 3.2 < measured_mbit([], far, "192.0.2.1") < 4.4
    host.switch("")
    assert (shell("tc", "qdisc"), shell("ip", "-br", "link")) == before


def test_a_changed_limit_is_replaced_and_restore_brings_the_old_one_back(host):
    host.switch("bandwidth: {v0: {egress: 10mbit, ingress: 5mbit, burst: 32kbit, latency: 400ms}}")
    was = shell("tc", "qdisc")
    text = "bandwidth: {v0: {egress: 20mbit}, v1: {egress: 1gbit, ingress: 1gbit}}"
    _, tree = host.stage(text)
    snapshot = json.loads(json.dumps(PART.observe(tree, host.facts)))
    host.switch(text)
    assert "rate 20Mbit" in shell("tc", "qdisc", "show", "dev", "v0")
    PART.restore(snapshot, host.facts)
    assert sorted(shell("tc", "qdisc").splitlines()) == sorted(was.splitlines())
    assert host.left("bandwidth: {v0: {egress: 10mbit, ingress: 5mbit, burst: 32kbit, latency: 400ms}}") == []
    host.switch("")
    assert "7553" not in shell("tc", "qdisc")


def test_somebody_elses_queue_is_left_alone(host):
    shell("tc", "qdisc", "add", "dev", "v0", "root", "handle", "1:", "htb")
    with pytest.raises(CheckFailed, match=r"bandwidth\.v0\.egress: .*not ours: htb 1:"):
        host.switch("bandwidth: {v0: {egress: 4mbit}}")
    shell("tc", "qdisc", "add", "dev", "v1", "clsact")
    with pytest.raises(CheckFailed, match=r"bandwidth\.v1\.ingress: .*not ours: clsact"):
        host.switch("bandwidth: {v1: {ingress: 4mbit}}")
    shell("tc", "qdisc", "del", "dev", "v1", "clsact")
    assert "htb 1:" in shell("tc", "qdisc")
    assert "7553" not in shell("tc", "qdisc")


def test_undoing_an_egress_limit_leaves_somebody_elses_ingress_filter(host):
    shell("tc", "qdisc", "add", "dev", "v0", "ingress")
    _, tree = host.stage("bandwidth: {v0: {egress: 4mbit}}")
    snapshot = PART.observe(tree, host.facts)
    host.switch("bandwidth: {v0: {egress: 4mbit}}")
    PART.restore(snapshot, host.facts)
    assert "ingress" in shell("tc", "qdisc", "show", "dev", "v0")
    host.switch("bandwidth: {v0: {egress: 4mbit}}")
    host.switch("")
    assert "ingress" in shell("tc", "qdisc", "show", "dev", "v0")


def test_a_foreign_queue_that_came_after_the_check_is_not_replaced(host):
    generation, _ = host.stage("bandwidth: {v0: {egress: 4mbit}}")
    PART.check(generation, host.facts)
    shell("tc", "qdisc", "add", "dev", "v0", "root", "handle", "1:", "htb")
    with pytest.raises(ApplyFailed, match="not ours: htb 1:"):
        PART.activate(generation, host.facts, host.lines.append)
    assert "htb 1:" in shell("tc", "qdisc", "show", "dev", "v0")


@pytest.mark.parametrize("died_after", ["link add", "qdisc replace", "qdisc add"])
def test_an_ingress_limit_left_half_made_by_a_kill_is_completed_or_removed(host, died_after):
    device = links.ingress_device("v0")
    text = "bandwidth: {v0: {ingress: 4mbit}}"
    host.switch(text)  # leaves the record that a killed activation leaves as well
    shell("tc", "filter", "del", "dev", "v0", "parent", "ffff:")
    if died_after != "qdisc add":
        shell("tc", "qdisc", "del", "dev", "v0", "ingress")
    if died_after == "link add":
        shell("tc", "qdisc", "del", "dev", device, "root")
    host.switch(text)
    assert "mirred" in shell("tc", "filter", "show", "dev", "v0", "parent", "ffff:")
    host.switch("")
    assert device not in shell("ip", "-br", "link")
    assert "ingress" not in shell("tc", "qdisc", "show", "dev", "v0")


def test_a_vanished_interface_is_named(host):
    with pytest.raises(CheckFailed, match=r"bandwidth\.eth7: there is no interface eth7"):
        host.switch("bandwidth: {eth7: {egress: 4mbit}}")


def test_tailscale0_may_come_later_in_the_same_switch_but_must_be_there_when_it_is_limited(host):
    generation, _ = host.stage("bandwidth: {tailscale0: {egress: 4mbit}}")
    PART.check(generation, host.facts)
    with pytest.raises(ApplyFailed, match="tailscale0"):
        PART.activate(generation, host.facts, host.lines.append)
    shell("ip", "tuntap", "add", "tailscale0", "mode", "tun")
    host.switch("bandwidth: {tailscale0: {egress: 4mbit, ingress: 4mbit}}")
    assert host.left("bandwidth: {tailscale0: {egress: 4mbit, ingress: 4mbit}}") == []


def test_an_interface_that_vanished_after_its_limit_does_not_stop_the_next_switch(host):
    host.switch("bandwidth: {v0: {egress: 4mbit, ingress: 4mbit}}")
    shell("ip", "link", "del", "v0")
    host.switch("")
    assert links.ingress_device("v0") not in shell("ip", "-br", "link")


def test_an_undoing_takes_the_device_of_an_interface_that_vanished_meanwhile(host):
    snapshot = PART.observe(host.stage("bandwidth: {v0: {ingress: 4mbit}}")[1], host.facts)
    host.switch("bandwidth: {v0: {ingress: 4mbit}}")
    shell("ip", "link", "del", "v0")
    PART.restore(snapshot, host.facts)
    assert "tsin-" not in shell("ip", "-br", "link")


def test_a_device_that_no_record_knows_and_whose_interface_is_gone_is_drift(host):
    device = links.ingress_device("v9")
    assert not PART.stands_alone(host.facts)
    shell("ip", "link", "add", device, "type", "ifb")
    assert PART.stands_alone(host.facts)
    assert host.left("") == [f"- {device}: left over"]
    host.switch("")
    assert device not in shell("ip", "-br", "link")
    assert host.left("") == []


def test_an_interface_that_was_renamed_is_not_shut_by_the_end_of_its_device(host):
    """What it redirects to a device that is gone the kernel drops."""
    host.switch("bandwidth: {v0: {ingress: 4mbit}}")
    for words in (["down"], ["name", "lan0"], ["up"]):
        shell("ip", "link", "set", "lan0" if words == ["up"] else "v0", *words)
    host.switch("")
    assert "tsin-" not in shell("ip", "-br", "link")
    assert "ingress" not in shell("tc", "qdisc", "show", "dev", "lan0")


def test_a_burst_below_one_packet_is_refused_with_what_to_write(host):
    shell("ip", "link", "set", "v0", "mtu", "9000")
    with pytest.raises(CheckFailed, match=r"bandwidth\.v0\.burst: 4000 bytes .*MTU 9000") as caught:
        host.switch("bandwidth: {v0: {egress: 4mbit, burst: 32kbit}}")
    assert "burst: 9kb" in caught.value.hint
    host.switch("bandwidth: {v0: {egress: 4mbit}}")
    assert host.left("bandwidth: {v0: {egress: 4mbit}}") == []


def test_udp_gro_is_switched_on_for_a_router_and_off_again(host):
    was = links.observe_features("v0")
    assert was["rx-udp-gro-forwarding"] == "off"
    host.switch("tailscale: {advertise: {exit_node: true}}")
    assert links.observe_features("v0")["rx-udp-gro-forwarding"] == "on"
    assert host.left("tailscale: {advertise: {exit_node: true}}") == []
    host.switch("")
    assert links.observe_features("v0") == was


def test_a_device_without_udp_gro_is_a_remark_unless_the_file_insists(host):
    host.facts = Facts(default_interface="gone0", paths=host.facts.paths)
    host.switch("tailscale: {advertise: {exit_node: true}}")
    assert any("no UDP GRO" in line for line in host.lines)
    with pytest.raises(CheckFailed, match=r"kernel\.udp_gro: gone0"):
        host.switch("kernel: {udp_gro: true}")


@pytest.mark.parametrize("redirects", ["0", "1", "2"])
def test_what_follows_forwarding_keeps_the_users_value_however_forwarding_is_switched(host, redirects):
    """Found by a random walk: forwarding went back after the user's value was written, and took it along."""
    own = (
        "kernel: {sysctl: {net.ipv4.conf.all.accept_redirects: "
        + redirects
        + ", net.ipv4.conf.v0.forwarding: 0, net.ipv6.conf.v0.forwarding: 0}}"
    )
    router = "tailscale: {advertise: {exit_node: true}}"
    before = everything()
    for text in (own, router, own, f"{own}\n{router}", router, f"{own}\n{router}", own):
        host.switch(text)
        if "kernel" in text:
            assert sysctl("net.ipv4.conf.all.accept_redirects") == redirects
            assert sysctl("net.ipv4.conf.v0.forwarding") == "0"
            assert sysctl("net.ipv6.conf.v0.forwarding") == "0"
        assert sysctl("net.ipv4.ip_forward") == str(int(router in text))
        assert host.left(text) == []
    host.switch("")
    assert everything() == before
