"""From NixOS options to an applied host: the guide's snippets, evaluated by Nix, on a real tailnet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack.errors import CommandFailed
from tsstack.lab.lab import Lab
from tsstack.lab.machine import Machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nix"))

from guide import CHANGES, LEFT_OPEN, TOGETHER, together
from nix_engine import Case, answers

pytestmark = pytest.mark.lab

FILE = "/etc/tsstack/tsstack.yaml"
# Forced on the guide: the lab's tailnet has a name of its own, and its Headscale gives tags with the key.
FORCED_BY_THE_LAB = {
    "kernelcore.network.proxy.nginx-tailscale.tailnetDomain": '"tail.test"',
    "kernelcore.network.proxy.tailscale-services.tailnetDomain": '"tail.test"',
    "kernelcore.network.vpn.tailscale.tags": "[ ]",
}
# Beside the guide.
OF_THE_LAB = """
  kernelcore.network.vpn.tailscale.loginServer = "http://10.77.0.1:8080";
  kernelcore.network.proxy.nginx-tailscale = { tls = "local-ca"; allowedUsers = [ "laptop@" ]; };
  kernelcore.network.tuning.sysctl."net.ipv4.tcp_slow_start_after_idle" = 0;
  kernelcore.network.bandwidth.tailscale0 = { egress = "100mbit"; burst = "256kbit"; latency = "400ms"; };
"""

AS_SOPS_NIX_DOES = """
umask 077 && mkdir -p /run/secrets
export SOPS_AGE_KEY_FILE=/etc/tsstack/age.key
sops decrypt --extract '["authkey"]' /etc/tsstack/secrets.yaml > /run/secrets/tailscale-authkey
"""


def evaluated(folder: Path, names: tuple[str, ...] = TOGETHER, beside: str = "") -> dict[str, Any]:
    forced = {change.option: change.value for change in CHANGES} | FORCED_BY_THE_LAB
    lines = "".join(f"{option} = lib.mkForce {value}; " for option, value in forced.items())
    module = together(names, LEFT_OPEN + lines + OF_THE_LAB + beside)
    return answers("stand-in", [Case("guide", module)], folder)["guide"]


@pytest.fixture(scope="module")
def host(own_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """kernelcore, made by the snippets; every test leaves it so."""
    answer = evaluated(tmp_path_factory.mktemp("guide"))
    assert not answer["thrown"]
    assert answer["refused"] == []
    node = own_lab.node("kernelcore")
    node.write(FILE, answer["text"])
    node.run(["sh", "-c", AS_SOPS_NIX_DOES])
    node.run(["tsstack", "switch"])
    local = tmp_path_factory.mktemp("file") / "tsstack.yaml"
    local.write_text(answer["text"])
    own_lab.publish_services(local)
    root = node.run(["tsstack", "certificates", "root"]).stdout
    for name in ("laptop", "exit-b"):
        own_lab.node(name).write("/etc/tsstack/root.pem", root)
    yield node


def fetch(node: Machine, url: str) -> str:
    ask = ["curl", "-sS", "--max-time", "8", "--cacert", "/etc/tsstack/root.pem", "-o", "/dev/null"]
    return node.run([*ask, "-w", "%{http_code}", url]).stdout


def test_the_proxied_services_answer_by_their_names(own_lab: Lab, host: Machine) -> None:
    laptop = own_lab.node("laptop")
    for name in ("ollama", "llama"):
        assert fetch(laptop, f"https://{name}.kernelcore.tail.test/") == "200"


def test_a_service_with_auth_lets_in_whom_the_option_names_and_nobody_else(
    own_lab: Lab, host: Machine
) -> None:
    url = "https://myservice.kernelcore.tail.test/"
    assert fetch(own_lab.node("laptop"), url) == "200"
    assert fetch(own_lab.node("exit-b"), url) == "403"


def test_a_second_switch_has_nothing_to_do(host: Machine) -> None:
    done = json.loads(host.run(["tsstack", "--json", "switch"]).stdout)
    assert done["changed"] is False


def test_a_packet_is_traced_to_the_option_s_key(host: Machine) -> None:
    said = host.run(["tsstack", "explain", "100.64.0.99", "tcp/8096"], check=False)
    assert "drop" in said.stdout
    opened = host.run(["tsstack", "explain", "100.64.0.99", "tcp/5432"], check=False)
    assert "firewall.zones.internal.services" in opened.stdout


def test_what_no_zone_opens_is_closed_to_the_tailnet(own_lab: Lab, host: Machine) -> None:
    address = host.tailnet_addresses()[0]
    with pytest.raises(CommandFailed):
        own_lab.node("laptop").run(["curl", "-s", "--max-time", "3", f"http://{address}:9180/"])


def test_kernel_and_bandwidth_are_as_the_options_say(host: Machine) -> None:
    assert host.run(["cat", "/proc/sys/net/ipv4/tcp_slow_start_after_idle"]).stdout.strip() == "0"
    assert "rate 100Mbit" in host.run(["tc", "qdisc", "show", "dev", "tailscale0"]).stdout


def test_the_smaller_monitor_is_a_host_too(host: Machine, tmp_path: Path) -> None:
    """The guide's alternative, which gives other values to what two of its snippets set."""
    before = host.run(["cat", FILE]).stdout
    names = ("low-resource", *(name for name in TOGETHER if name not in {"complete-stack", "failover"}))
    answer = evaluated(tmp_path, names, "kernelcore.network.monitoring.tailscale.enable = true;")
    assert answer["refused"] == []
    monitor = json.loads(answer["text"])["monitor"]
    assert (monitor["interval"], monitor["failover"]) == ("60s", False)
    host.write(FILE, answer["text"])
    host.run(["tsstack", "switch"])
    assert json.loads(host.run(["tsstack", "--json", "switch"]).stdout)["changed"] is False
    host.write(FILE, before)
    host.run(["tsstack", "switch"])
