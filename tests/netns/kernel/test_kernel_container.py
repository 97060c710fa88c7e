"""The kernel part where /proc/sys is read-only but for the network, as in a system container."""

from __future__ import annotations

import json

import pytest
from systemd_root import SystemdHost, systemd_host  # noqa: F401

pytestmark = pytest.mark.netns

DRIVER = """
import json, pathlib, sys
from ruamel.yaml import YAML
from tsstack.errors import TsstackError
from tsstack.model.facts import Facts
from tsstack.model.stack import Stack
from tsstack.parts.kernel.host import PART
stack = Stack.model_validate(YAML(typ="safe").load("host: {name: h}\\n" + sys.argv[1]))
generation, said = pathlib.Path("/run/generation"), []
for name, content in PART.desired(stack, Facts()).items():
    (generation / name).parent.mkdir(parents=True, exist_ok=True)
    (generation / name).write_text(content)
try:
    PART.check(generation, Facts())
    PART.activate(generation, Facts(), said.append)
    PART.verify(generation, Facts())
    print(json.dumps({"said": said}))
except TsstackError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message}))
"""


def switch(host: SystemdHost, text: str) -> dict:
    return json.loads(host.python(DRIVER, text).stdout)


def test_a_read_only_parameter_is_refused_unless_it_is_so_already(systemd_host):  # noqa: F811
    now = int(systemd_host.run("sysctl", "-n", "vm.swappiness").stdout)
    refused = switch(systemd_host, f"kernel: {{sysctl: {{vm.swappiness: {now + 1}}}}}")
    assert refused["error"] == "CheckFailed"
    assert "kernel.sysctl.vm.swappiness" in refused["message"]
    assert switch(systemd_host, f"kernel: {{sysctl: {{vm.swappiness: {now}}}}}") == {"said": []}
    assert int(systemd_host.run("sysctl", "-n", "vm.swappiness").stdout) == now


def test_its_own_network_is_set_all_the_same(systemd_host):  # noqa: F811
    assert "error" not in switch(systemd_host, "kernel: {profile: throughput}")
    found = systemd_host.run("sysctl", "-n", "net.ipv4.tcp_congestion_control").stdout
    assert found.strip() == "bbr"
