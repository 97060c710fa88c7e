"""The whole thing on a real tailnet: one file makes the host, and a second node sees it over WireGuard."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsstack.errors import CommandFailed
from tsstack.lab.lab import Lab
from tsstack.lab.machine import Machine

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kernelcore.yaml"
FILE = "/etc/tsstack/tsstack.yaml"


@pytest.fixture(scope="module")
def host(own_lab: Lab) -> Iterator[Machine]:
    """kernelcore, made by the example; every test leaves it so."""
    node = own_lab.node("kernelcore")
    node.write(FILE, EXAMPLE.read_text())
    switch(node)
    own_lab.publish_services(EXAMPLE)
    root = node.run(["tsstack", "certificates", "root"]).stdout
    for name in ("laptop", "exit-b"):
        own_lab.node(name).write("/etc/tsstack/root.pem", root)
    yield node


def switch(node: Machine, *words: str) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(node.run(["tsstack", "--json", "switch", *words]).stdout)
    return done


def fetch(node: Machine, url: str, *words: str) -> tuple[str, str]:
    """The status and the body that a new connection gets."""
    done = node.run(
        [
            "curl",
            "-sS",
            "--max-time",
            "8",
            "--cacert",
            "/etc/tsstack/root.pem",
            "-w",
            "\n%{http_code}",
            *words,
            url,
        ]
    )
    body, _, status = done.stdout.rpartition("\n")
    return status, body


@pytest.fixture
def laptop(own_lab: Lab, host: Machine) -> Machine:
    return own_lab.node("laptop")


def test_each_vhost_answers_by_its_name(laptop: Machine) -> None:
    for name, backend in (("ollama", "ollama"), ("llama", "llamacpp"), ("wiki", "wiki")):
        status, body = fetch(laptop, f"https://{name}.kernelcore.tail.test/")
        assert status == "200", body
        assert json.loads(body)["backend"] == backend


def test_an_unknown_name_gets_no_vhost(laptop: Machine, host: Machine) -> None:
    address = host.tailnet_addresses()[0]
    with pytest.raises(CommandFailed):
        fetch(
            laptop,
            "https://nobody.kernelcore.tail.test/",
            "--resolve",
            f"nobody.kernelcore.tail.test:443:{address}",
        )


def test_pitfall_22_whois_decides_and_a_forged_identity_never_arrives(own_lab: Lab, laptop: Machine) -> None:
    forged = ["-H", "X-Tailscale-User: root@example.com", "-H", "Tailscale-User-Login: root@example.com"]
    status, body = fetch(laptop, "https://wiki.kernelcore.tail.test/", *forged)
    assert status == "200"
    headers = {name.lower(): value for name, value in json.loads(body)["headers"].items()}
    assert headers["x-tailscale-user"].startswith("laptop")
    assert "root@example.com" not in body
    stranger = own_lab.node("exit-b")
    assert fetch(stranger, "https://wiki.kernelcore.tail.test/")[0] == "403"
    assert fetch(stranger, "https://ollama.kernelcore.tail.test/")[0] == "200"


def test_the_subnet_behind_the_host_is_reached(laptop: Machine) -> None:
    status, body = fetch(laptop, "http://192.168.15.9/")
    assert (status, json.loads(body)["node"]) == ("200", "lan")


def test_the_internet_is_reached_through_the_exit_node(laptop: Machine) -> None:
    own = fetch(laptop, "http://203.0.113.1/")[1].strip()
    laptop.run(["tailscale", "set", "--exit-node=kernelcore"])
    try:
        seen = fetch(laptop, "http://203.0.113.1/")[1].strip()
        seen6 = fetch(laptop, "http://[2001:db8:77::1]/")[1].strip()
    finally:
        laptop.run(["tailscale", "set", "--exit-node="])
    assert (own, seen) == ("10.77.2.2", "10.77.1.2")
    assert seen6 == "fd77:0:0:1::2"


def test_a_port_that_no_zone_opens_is_closed(laptop: Machine, host: Machine) -> None:
    server = host.popen(["python3", "-m", "http.server", "9000", "--bind", "::"])
    try:
        host.run(
            [
                "sh",
                "-c",
                "for i in $(seq 100); do curl -so /dev/null [::1]:9000 && exit; sleep 0.1; done; exit 1",
            ]
        )
        for address in host.tailnet_addresses():
            place = f"[{address}]" if ":" in address else address
            with pytest.raises(CommandFailed, match="28"):  # curl: timed out, as the packet is dropped
                laptop.run(["curl", "-sS", "--max-time", "2", f"http://{place}:9000/"])
    finally:
        server.kill()
        server.communicate()


def test_one_changed_service_touches_only_the_proxy_and_rollback_brings_it_back(
    laptop: Machine, host: Machine
) -> None:
    table = host.run(["nft", "-a", "list", "table", "inet", "tsstack"]).stdout
    before = host.run(["nft", "-s", "list", "table", "inet", "tsstack"]).stdout
    prefs = host.api.prefs()
    host.write(FILE, EXAMPLE.read_text().replace("upstream: 11434", "upstream: 8080"))
    assert list(switch(host)["parts"]) == ["proxy"]
    assert json.loads(fetch(laptop, "https://ollama.kernelcore.tail.test/")[1])["backend"] == "llamacpp"
    assert host.run(["nft", "-s", "list", "table", "inet", "tsstack"]).stdout == before
    handles = [line.rpartition("# handle")[2] for line in table.splitlines() if "# handle" in line]
    after = host.run(["nft", "-a", "list", "table", "inet", "tsstack"]).stdout
    assert [line.rpartition("# handle")[2] for line in after.splitlines() if "# handle" in line] == handles
    assert host.api.prefs() == prefs
    host.run(["tsstack", "rollback"])
    assert json.loads(fetch(laptop, "https://ollama.kernelcore.tail.test/")[1])["backend"] == "ollama"
    host.write(FILE, EXAMPLE.read_text())
    assert switch(host)["changed"] is False


def test_drift_is_seen_and_mended(host: Machine) -> None:
    host.run(["tailscale", "set", "--accept-routes=true"])
    host.run(["nft", "add", "rule", "inet", "tsstack", "input", "accept"])
    host.run(["sysctl", "-qw", "net.ipv4.tcp_mtu_probing=0"])
    plan = json.loads(host.run(["tsstack", "--json", "dry-activate"]).stdout)["parts"]
    assert set(plan) == {"tailscale", "firewall", "kernel"}
    assert switch(host)["changed"] is True
    assert json.loads(host.run(["tsstack", "--json", "dry-activate"]).stdout)["parts"] == {}


def test_a_failure_in_the_last_part_brings_all_of_them_back(host: Machine) -> None:
    """The proxy cannot bind a port that another program holds: prefs, table and sysctls return too."""
    table = host.run(["nft", "-s", "list", "table", "inet", "tsstack"]).stdout
    prefs = host.api.prefs()
    holder = host.popen(["python3", "-m", "http.server", "5433", "--bind", "::"])
    try:
        host.run(
            [
                "sh",
                "-c",
                "for i in $(seq 100); do curl -so /dev/null [::1]:5433 && exit; sleep 0.1; done; exit 1",
            ]
        )
        text = EXAMPLE.read_text().replace("protocol: tcp}", "protocol: tcp, port: 5433}")
        text = text.replace("exit_node: true", "exit_node: false").replace("tcp: [80, 443]", "tcp: [80]")
        host.write(FILE, text)
        failed = host.run(["tsstack", "--json", "switch"], check=False)
    finally:
        holder.kill()
        holder.communicate()
    assert failed.returncode in {4, 5}, failed.stdout
    assert "5433" in failed.stdout
    assert host.run(["nft", "-s", "list", "table", "inet", "tsstack"]).stdout == table
    assert host.api.prefs() == prefs
    host.write(FILE, EXAMPLE.read_text())
    assert switch(host)["changed"] is False


def test_the_auth_key_is_in_no_file_of_ours(own_lab: Lab, host: Machine) -> None:
    key = host.run(
        ["sops", "decrypt", "--extract", '["authkey"]', "/etc/tsstack/secrets.yaml"]
    ).stdout.strip()
    assert len(key) > 20
    for folder in ("/var/lib/tsstack", "/run/tsstack", "/var/log"):
        for path in host.path(folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert key.encode() not in path.read_bytes(), path


def test_a_nothing_to_do_switch_writes_nothing(host: Machine) -> None:
    switch(host)
    state = host.path("/var/lib/tsstack")

    def stamps() -> dict[str, int]:
        return {str(p): p.lstat().st_mtime_ns for p in state.rglob("*") if p.name != "lock"}

    before, pid = stamps(), host.run(["cat", "/run/nginx.pid"]).stdout
    workers = host.run(["sh", "-c", "cat /proc/$(cat /run/nginx.pid)/task/*/children"]).stdout
    assert switch(host)["changed"] is False
    assert stamps() == before
    assert host.run(["cat", "/run/nginx.pid"]).stdout == pid
    assert host.run(["sh", "-c", "cat /proc/$(cat /run/nginx.pid)/task/*/children"]).stdout == workers


@pytest.fixture(scope="module")
def fresh_lab() -> Iterator[Lab]:
    """A lab whose host has never joined."""
    with Lab.up(name=f"k{secrets.token_hex(3)}") as lab:
        yield lab


@pytest.mark.parametrize("kind", ["expired", "garbage"])
def test_a_bad_auth_key_ends_with_the_servers_words_and_the_host_as_it_was(fresh_lab: Lab, kind: str) -> None:
    node = fresh_lab.node("kernelcore")
    key = "hskey-auth-abcdefghijkl-" + "x" * 64
    if kind == "expired":
        key = fresh_lab.auth_key()
        headscale = fresh_lab.node("hs")
        listed = json.loads(
            headscale.run(
                ["headscale", "-c", "/etc/headscale/config.yaml", "preauthkeys", "list", "-o", "json"]
            ).stdout
        )
        for each in listed:
            headscale.run(
                [
                    "headscale",
                    "-c",
                    "/etc/headscale/config.yaml",
                    "preauthkeys",
                    "expire",
                    "-i",
                    str(each["id"]),
                ]
            )
    node.write("/etc/tsstack/key", key, mode=0o600)
    node.write(FILE, EXAMPLE.read_text().replace("{secret: authkey}", "{file: /etc/tsstack/key}"))
    before = node.run(["nft", "list", "ruleset"]).stdout
    sysctl = node.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.tcp_mtu_probing"]).stdout
    failed = node.run(["tsstack", "--json", "switch"], check=False)
    error = json.loads(failed.stdout)["error"]
    assert (failed.returncode, error["kind"]) == (5, "ApplyFailed"), error
    assert key not in failed.stdout + failed.stderr
    assert "key" in error["message"].lower() or "expired" in error["message"].lower()
    assert node.run(["nft", "list", "ruleset"]).stdout == before
    assert node.run(["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.tcp_mtu_probing"]).stdout == sysctl
    assert node.api.status(peers=False)["BackendState"] == "NeedsLogin"
    assert not node.path("/etc/nginx/conf.d/tsstack.conf").is_symlink()
