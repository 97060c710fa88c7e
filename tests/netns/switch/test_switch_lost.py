"""The files of the live generation are gone: the host goes on, and a boot leaves it closed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from private_host import PrivateHost

pytestmark = pytest.mark.netns

FILE = "/etc/tsstack/tsstack.yaml"
STATE = "/var/lib/tsstack"
PROXY = (
    "host: {{name: one, tailnet: tail.test}}\n"
    "proxy: {{tls: off, listen: [127.0.0.1], http_port: 8088, services: {{{name}: {{upstream: 8000}}}}}}\n"
)
URL, HOST_ONE = "http://127.0.0.1:8088/", "Host: one.one.tail.test"
ZONES = "host: {{name: one}}\nfirewall: {{zones: {{lan: {{interfaces: [eth0], tcp: {ports}}}}}}}\n"


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    """Generation 3 is live; generation N opens port 8000 + N."""
    private = PrivateHost()
    private.run("ip", "link", "add", "eth0", "type", "veth", "peer", "near0")
    for number in (1, 2, 3):
        private.write(FILE, ZONES.format(ports=[22, 8000 + number]))
        private.tsstack("switch", "--no-prove")
    yield private
    private.close()


def table(host: PrivateHost) -> str:
    return host.run("nft", "list", "table", "inet", "tsstack", check=False).stdout


def forget(host: PrivateHost) -> None:
    """As a reboot does."""
    host.run("nft", "flush", "ruleset")
    host.run("rm", "-rf", "/run/tsstack")


def lose(host: PrivateHost, number: int) -> None:
    shutil.rmtree(host.path(f"{STATE}/generations/{number}"))


def test_the_hint_about_a_damaged_live_generation_is_no_dead_end(host: PrivateHost) -> None:
    host.path(f"{STATE}/generations/3/manifest.json").write_text("")
    said = host.tsstack("generations", check=False)
    assert said.returncode == 4
    assert "`tsstack rollback --to 2`" in said.stderr
    host.run("mv", f"{STATE}/generations/3", "/var/lib/away")
    assert "generation 3 is missing, and it is live" in host.tsstack("generations").stderr
    assert "generation 3 is missing" in host.tsstack("dry-activate").stderr
    host.tsstack("check")
    assert "generation 3 is missing, and it was live" in host.tsstack("rollback", "--to", "2").stderr
    assert "8002" in table(host)
    assert "warning" not in host.tsstack("generations").stderr


@pytest.mark.parametrize(("verb", "port"), [(("switch",), "8003"), (("rollback",), "8002")])
def test_one_that_is_gone_keeps_nobody_from_going_on(
    host: PrivateHost, verb: tuple[str, ...], port: str
) -> None:
    lose(host, 3)
    done = host.tsstack(*verb)
    assert "generation 3 is missing, and it was live" in done.stderr
    assert port in table(host)
    assert host.path(f"{STATE}/current").readlink() == host.path(f"{STATE}/boot").readlink()
    assert host.path(f"{STATE}/current/manifest.json").exists()


def test_a_boot_without_it_comes_up_closed_as_the_one_before(host: PrivateHost) -> None:
    lose(host, 3)
    forget(host)
    early = host.tsstack("recover", "--early", check=False)
    assert early.returncode == 6
    assert "generation 3 is missing; the firewall of generation 2 stands instead" in early.stderr
    assert "8002" in table(host)
    boot = host.tsstack("recover", "--boot", check=False)
    assert boot.returncode == 6
    assert "generation 2 came up in its place" in boot.stderr
    assert "8002" in table(host)
    host.tsstack("recover", "--boot")  # by Restart=on-failure
    found = json.loads(host.tsstack("doctor", "--quick", "--json", check=False).stdout)
    assert "TS836" in {each["code"] for each in found["findings"] if each["level"] == "error"}
    host.tsstack("switch")
    assert "8003" in table(host)
    forget(host)
    host.tsstack("recover", "--early")
    assert "8003" in table(host)


def test_a_damaged_one_that_asks_for_no_firewall_comes_up_itself(host: PrivateHost) -> None:
    """And one that a newer tsstack made is not even damaged."""
    host.write(FILE, "host: {name: one}\n")
    host.tsstack("switch", "--no-prove")
    manifest = host.path(f"{STATE}/generations/4/manifest.json")
    known = json.loads(manifest.read_bytes())
    manifest.write_text("")
    forget(host)
    early = host.tsstack("recover", "--early")
    assert "generation 4 has no firewall" in early.stdout + early.stderr
    boot = host.tsstack("recover", "--boot", check=False)
    assert boot.returncode == 6
    assert "4 is damaged" in boot.stderr
    assert host.path(f"{STATE}/current").readlink().name == "4"
    assert not table(host)
    manifest.write_text(json.dumps({**known, "operator": "ann"}))
    assert "warning" not in host.tsstack("generations").stderr
    forget(host)
    host.tsstack("recover", "--boot")


def test_a_table_that_cannot_be_loaded_leaves_no_open_host(host: PrivateHost) -> None:
    """An older one that cannot be loaded either is passed over."""
    for number, damage in ((3, "of another nft\n"), (2, "")):
        host.path(f"{STATE}/generations/{number}/nftables/tsstack.nft").write_text(damage)
    forget(host)
    early = host.tsstack("recover", "--early", check=False)
    assert early.returncode == 6
    assert "the firewall of generation 1 stands instead" in early.stderr
    assert "8001" in table(host)


def test_an_nginx_whose_files_are_gone_goes_on_with_other_ones(host: PrivateHost) -> None:
    """Its undoing cannot be whole, since the configuration of then is gone; it bars no way on."""
    for name in ("one", "two"):
        host.write(FILE, PROXY.format(name=name))
        host.tsstack("switch", "--no-prove")
    host.write(FILE, PROXY.format(name="three"))
    host.tsstack("switch", "--no-prove", "--confirm", "100s")
    lose(host, 5)
    undone = host.tsstack("rollback", check=False)
    assert undone.returncode == 6
    assert "generation 5, which was live before, is missing" in undone.stderr
    host.tsstack("rollback", "--to", "4")
    assert host.path(f"{STATE}/current").readlink().name == "4"
    said = host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", HOST_ONE, URL)
    assert said.stdout == "502"
    lose(host, 4)
    host.write(FILE, "host: {name: one}\n")
    host.tsstack("switch")
    assert host.run("curl", "-s", URL, check=False).returncode == 7
