"""Activation against a folder in the place of /proc/sys, where every write can be seen."""

from __future__ import annotations

import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.model.facts import Facts, Paths
from tsstack.model.stack import Stack
from tsstack.parts.kernel.host import KernelPart
from tsstack.parts.kernel.sysctl import Refused, Sysctls

LIVE = {
    "net/core/rmem_max": "212992\n",
    "net/core/wmem_max": "212992\n",
    "net/core/netdev_max_backlog": "1000\n",
    "net/core/default_qdisc": "pfifo_fast\n",
    "net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "net/ipv4/tcp_wmem": "4096\t16384\t4194304\n",
    "net/ipv4/tcp_mtu_probing": "0\n",
    "net/ipv4/tcp_slow_start_after_idle": "1\n",
    "net/ipv4/tcp_congestion_control": "cubic\n",
}


class Host:
    """One machine made of files: `/proc/sys` in `proc`, generations in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.proc = path / "proc"
        for name, value in LIVE.items():
            self.put(name, value)
        (path / "state").mkdir()
        self.facts = Facts(default_interface="eth0", paths=Paths(state=path / "state"))
        self.part = KernelPart(Sysctls(self.proc))
        self.lines: list[str] = []
        self.count = 0

    def put(self, name: str, value: str) -> None:
        (self.proc / name).parent.mkdir(parents=True, exist_ok=True)
        (self.proc / name).write_text(value)

    def get(self, name: str) -> str:
        return " ".join((self.proc / name).read_text().split())

    def all(self) -> dict[str, str]:
        return {name: self.get(name) for name in LIVE}

    def stage(self, text: str) -> tuple[Path, dict[str, str]]:
        stack = Stack.model_validate(YAML(typ="safe").load(f"host: {{name: h}}\n{text}"))
        tree = dict(self.part.desired(stack, self.facts))
        self.count += 1
        generation = self.path / f"generation-{self.count}"
        generation.mkdir()
        for name, content in tree.items():
            (generation / name).parent.mkdir(exist_ok=True)
            (generation / name).write_text(content)
        return generation, tree

    def switch(self, text: str) -> None:
        generation, _ = self.stage(text)
        self.part.check(generation, self.facts)
        self.part.activate(generation, self.facts, self.lines.append)

    def stamps(self) -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for folder in (self.proc, self.path / "state")
            for path in folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_is_so_already_is_not_written(host):
    own = "kernel: {sysctl: {net.ipv4.tcp_rmem: 4096 131072 6291456, net.core.rmem_max: 0x34000}}"
    generation, tree = host.stage(own)
    assert host.part.changes(tree, host.part.observe(tree, host.facts)) == ()
    before = host.stamps()
    host.part.activate(generation, host.facts, host.lines.append)
    assert host.stamps() == before


def test_a_second_switch_writes_nothing(host):
    host.switch("kernel: {profile: throughput}")
    before = host.stamps()
    host.switch("kernel: {profile: throughput}")
    assert host.stamps() == before


def test_the_snapshot_holds_keys_that_are_new_in_the_tree(host):
    _, tree = host.stage("kernel: {sysctl: {net.core.rmem_max: 5000000}}")
    snapshot = host.part.observe(tree, host.facts)
    (change,) = host.part.changes(tree, snapshot)
    assert str(change) == "~ net.core.rmem_max: 212992 -> 5000000"
    assert json.loads(json.dumps(snapshot)) == snapshot


def test_restore_brings_every_value_and_the_record_back(host):
    was = host.all()
    generation, tree = host.stage("kernel: {profile: throughput}")
    snapshot = host.part.observe(tree, host.facts)
    host.part.activate(generation, host.facts, host.lines.append)
    assert host.all() != was
    host.part.restore(json.loads(json.dumps(snapshot)), host.facts)
    assert host.all() == was
    empty, nothing = host.stage("")
    assert host.part.changes(nothing, host.part.observe(nothing, host.facts)) == ()
    host.part.activate(empty, host.facts, host.lines.append)
    assert host.all() == was


def test_a_key_that_leaves_the_file_gets_its_value_from_before_tsstack(host):
    host.switch("kernel: {sysctl: {net.core.rmem_max: 1000000, net.core.wmem_max: 1000000}}")
    host.switch("kernel: {sysctl: {net.core.rmem_max: 2000000, net.core.wmem_max: 1000000}}")
    host.switch("kernel: {sysctl: {net.core.wmem_max: 1000000}}")
    assert host.get("net/core/rmem_max") == "212992"
    assert host.get("net/core/wmem_max") == "1000000"
    host.switch("")
    assert host.get("net/core/wmem_max") == "212992"


def test_a_kill_between_record_and_write_loses_no_original(host, monkeypatch):
    generation, _ = host.stage("kernel: {sysctl: {net.core.rmem_max: 1, net.core.wmem_max: 1}}")
    real = Sysctls.write

    def die(self: Sysctls, name: str, value: str) -> None:
        if name == "net.core.wmem_max":
            raise KeyboardInterrupt
        real(self, name, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Sysctls, "write", die)
        host.part.activate(generation, host.facts, host.lines.append)
    assert host.get("net/core/rmem_max") == "1"
    host.switch("")
    assert host.get("net/core/rmem_max") == "212992"


def test_forwarding_undone_brings_back_what_the_kernel_changed_beside_it(host):
    host.put("net/ipv4/ip_forward", "0")
    host.put("net/ipv4/conf/all/accept_redirects", "0")
    host.put("net/ipv4/conf/all/rp_filter", "1")
    host.put("net/ipv4/conf/docker0/forwarding", "1")
    host.put("net/ipv6/conf/all/forwarding", "0")
    host.put("net/ipv6/conf/eth0/accept_ra", "1")
    text = "kernel: {udp_gro: false}\ntailscale: {advertise: {exit_node: true}}"
    host.switch(text)
    assert host.get("net/ipv6/conf/eth0/accept_ra") == "2"
    before = host.stamps()
    host.switch(text)
    assert host.stamps() == before

    def forward_off(self: Sysctls, name: str, value: str, real=Sysctls.write) -> None:
        real(self, name, value)
        if name == "net.ipv4.ip_forward":  # as inet_forward_change() does
            host.put("net/ipv4/conf/all/accept_redirects", "1")
            host.put("net/ipv4/conf/docker0/forwarding", value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sysctls, "write", forward_off)
        host.switch("")
    assert host.get("net/ipv4/ip_forward") == "0"
    assert host.get("net/ipv4/conf/all/accept_redirects") == "0"
    assert host.get("net/ipv4/conf/docker0/forwarding") == "1"
    assert host.get("net/ipv4/conf/all/rp_filter") == "1"
    assert host.get("net/ipv6/conf/eth0/accept_ra") == "1"


def test_an_unknown_parameter_names_the_nearest_one_and_its_place(host):
    with pytest.raises(CheckFailed, match=r"kernel\.sysctl\.net\.core\.rmem_mx: .*no parameter") as caught:
        host.switch("kernel: {sysctl: {net.core.rmem_mx: 1}}")
    assert caught.value.hint == "did you mean net.core.rmem_max?"


def test_a_profile_value_that_the_kernel_lacks_is_no_failure(host):
    (host.proc / "net/ipv4/tcp_mtu_probing").unlink()
    host.switch("kernel: {profile: throughput}")
    assert host.get("net/core/rmem_max") == "67108864"


def test_a_profile_value_that_the_kernel_refuses_is_reported_once_and_not_tried_again(host, monkeypatch):
    real = Sysctls.write
    tried = []

    def refuse(self: Sysctls, name: str, value: str) -> None:
        if value == "fq":
            tried.append(name)
            raise Refused(f"{name} = {value}: no such queue")
        real(self, name, value)

    monkeypatch.setattr(Sysctls, "write", refuse)
    host.switch("kernel: {profile: throughput}")
    assert any("no such queue" in line for line in host.lines)
    generation, tree = host.stage("kernel: {profile: throughput}")
    assert host.part.changes(tree, host.part.observe(tree, host.facts)) == ()
    assert any("refused fq" in line for line in host.part.warnings(generation, host.facts))
    host.part.verify(generation, host.facts)
    host.switch("kernel: {profile: throughput}")
    assert tried == ["net.core.default_qdisc"]


@pytest.mark.parametrize(
    ("number", "refused"), [(errno.EINVAL, True), (errno.EIO, False), (errno.ENOSPC, False)]
)
def test_only_the_kernels_own_refusal_of_a_profile_value_is_let_pass(host, monkeypatch, number, refused):
    """A switch that goes on after any other fault leaves a host that is not as the file says."""
    real = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if data == b"fq\n":
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", fail)
    with nullcontext() if refused else pytest.raises(ApplyFailed, match=os.strerror(number)):
        host.switch("kernel: {profile: throughput}")


def test_verify_sees_a_value_that_somebody_changed(host):
    host.switch("kernel: {sysctl: {net.core.rmem_max: 1000000}}")
    generation, _ = host.stage("kernel: {sysctl: {net.core.rmem_max: 1000000}}")
    host.part.verify(generation, host.facts)
    host.put("net/core/rmem_max", "7")
    with pytest.raises(ApplyFailed, match=r"net\.core\.rmem_max is 7 and not 1000000"):
        host.part.verify(generation, host.facts)


@pytest.mark.parametrize("name", ["net.core.x/../y", "net..x", "net.//.x", "net/core/../../x"])
def test_a_name_never_leads_out_of_proc_sys(host, name):
    with pytest.raises(CheckFailed, match="no kernel parameter"):
        Sysctls(host.proc).path(name)


def test_a_record_of_another_boot_is_not_brought_back(host):
    host.switch("kernel: {sysctl: {net.core.rmem_max: 1000000}}")
    record = host.path / "state" / "kernel-before.json"
    record.write_text(record.read_text().replace('"scope": "', '"scope": "another '))
    host.put("net/core/rmem_max", "300000")
    host.switch("")
    assert host.get("net/core/rmem_max") == "300000"


def test_a_restore_after_a_reboot_notes_the_new_boots_originals_and_not_the_old_ones(host, monkeypatch):
    host.switch("kernel: {sysctl: {net.core.rmem_max: 1000000}}")
    text = "kernel: {sysctl: {net.core.rmem_max: 2000000, net.core.wmem_max: 2000000}}"
    generation, tree = host.stage(text)
    snapshot = json.loads(json.dumps(host.part.observe(tree, host.facts)))
    host.part.activate(generation, host.facts, host.lines.append)
    # The next boot's kernel is another one, with other values of its own.
    monkeypatch.setattr("tsstack.parts.kernel.record.scope", lambda: "another boot")
    host.put("net/core/rmem_max", "300000")
    for _ in range(2):
        host.part.restore(snapshot, host.facts)
        assert host.get("net/core/rmem_max") == "1000000"
        noted = json.loads((host.path / "state" / "kernel-before.json").read_text())
        assert (noted["scope"], noted["sysctl"]) == ("another boot", {"net.core.rmem_max": "300000"})
    host.switch("")
    assert host.get("net/core/rmem_max") == "300000"


def test_a_damaged_record_is_said_and_not_overwritten(host):
    record = host.path / "state" / "kernel-before.json"
    record.write_text("{")
    with pytest.raises(CheckFailed, match="kernel-before"):
        host.switch("kernel: {sysctl: {net.core.rmem_max: 1000000}}")
    assert record.read_text() == "{"
    assert host.get("net/core/rmem_max") == "212992"
