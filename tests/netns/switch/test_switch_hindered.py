"""What may not keep the dead man from undoing: a disk that takes no word of his, a package that is gone."""

from __future__ import annotations

import errno
import json
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_host import PrivateHost

import tsstack

pytestmark = pytest.mark.netns

FILE, STATE, RUN = "/etc/tsstack/tsstack.yaml", "/var/lib/tsstack", "/run/tsstack"
FIRST = """
host: {name: one, tailnet: tail.test}
proxy:
  tls: off
  names: path
  listen: [127.0.0.1]
  http_port: 8088
  services: {web: {upstream: 8000}}
firewall:
  zones: {dmz: {interfaces: [eth0], tcp: [8088]}}
"""
SECOND = (
    FIRST.replace("web:", "shop:").replace("[8088]", "[8088, 9000]")
    + """
kernel: {sysctl: {net.ipv4.conf.all.rp_filter: 2}}
bandwidth: {eth0: {egress: 50mbit, ingress: 40mbit}}
"""
)
# All that Python may load later than at its start: ours, that of others, its own.
CODE = [str(Path(tsstack.__file__).parent), *map(sysconfig.get_path, ("purelib", "stdlib"))]
WAIT_S = 12
"""A slow machine still has to be done with the switch, and with what is put in his way."""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    """The first file is live; the folders of notes are small disks of their own."""
    private = PrivateHost()
    for folder, size in ((RUN, "1m"), (STATE, "8m")):
        private.run("mkdir", "-p", folder)
        private.run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size},nr_inodes=400", "tmpfs", folder)
    private.run("ip", "link", "add", "eth0", "type", "veth", "peer", "near0")
    private.write(FILE, FIRST)
    private.tsstack("switch", "--no-prove")
    private.write(FILE, SECOND)
    yield private
    private.close()


def picture(host: PrivateHost) -> dict[str, str]:
    """All that the second file changes, as the machine itself says it."""
    looks = {
        "rules": "nft -s list table inet tsstack",
        "links": f"readlink {STATE}/current {STATE}/boot",
        "served": "curl -s -o /dev/null -w %{http_code} -H Host:one.tail.test http://127.0.0.1:8088/web/",
        "sysctl": "sysctl net.ipv4.conf.all.rp_filter",
        "queues": "tc qdisc show dev eth0",
        "ifb": "ip -br link show type ifb",
    }
    return {name: host.run("sh", "-c", look, check=False).stdout for name, look in looks.items()}


def fill(folder: Path, what: str) -> None:
    """Take what is left of a small disk: its room, or its names."""
    for number in range(100_000):
        try:
            with (folder / f"full-{number}").open("wb", buffering=0) as file:
                while what == "room":
                    file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
            if what == "names" or not (folder / f"full-{number}").stat().st_size:
                return
    raise AssertionError(f"{folder} is never full")


def make_room(folder: Path) -> None:
    for path in folder.glob("full-*"):
        path.unlink()


def await_over(host: PrivateHost, within_s: float) -> None:
    until_s = time.monotonic() + within_s
    while host.path(f"{STATE}/pending.json").exists():
        log = host.path(f"{RUN}/deadman.log")
        assert time.monotonic() < until_s, log.read_text() if log.exists() else "he says nothing"
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["room", "names"])
def test_where_the_run_folder_is_full_he_undoes_all_the_same(host: PrivateHost, what: str) -> None:
    before = picture(host)
    host.tsstack("switch", "--no-prove", "--confirm", f"{WAIT_S}s")
    changed = picture(host)
    assert [name for name in before if before[name] == changed[name]] == []
    fill(host.path(RUN), what)
    await_over(host, WAIT_S + 30)
    assert picture(host) == before
    make_room(host.path(RUN))
    assert "was not confirmed in time" in json.loads(host.path(f"{STATE}/undone").read_text())["words"]
    host.write(FILE, FIRST)
    host.tsstack("switch", "--no-prove")  # what could not be noted is found out
    host.tsstack("switch", "--no-prove")
    assert picture(host) == before


def test_a_rollback_of_it_needs_no_room_either(host: PrivateHost) -> None:
    before = picture(host)
    host.tsstack("switch", "--no-prove", "--confirm", "300s")
    fill(host.path(RUN), "room")
    host.tsstack("rollback")
    assert picture(host) == before


def test_where_the_run_folder_is_full_nothing_is_changed(host: PrivateHost) -> None:
    """He could not say that he stands."""
    before = picture(host)
    fill(host.path(RUN), "room")
    refused = host.tsstack("switch", "--no-prove", "--confirm", "300s", check=False)
    assert refused.returncode == 4
    assert "No space left" in refused.stderr
    assert picture(host) == before
    assert not host.path(f"{STATE}/pending.json").exists()
    assert not [*host.path(RUN).glob("deadman-*.ready")]


def test_where_the_state_folder_is_full_he_gets_as_far_as_he_can(host: PrivateHost) -> None:
    """The rest follows as soon as there is room."""
    before = picture(host)
    host.tsstack("switch", "--no-prove", "--confirm", f"{WAIT_S}s")
    fill(host.path(STATE), "names")
    fill(host.path(STATE), "room")
    until_s = time.monotonic() + WAIT_S + 30
    reached = {"rules", "sysctl", "queues", "ifb"}
    while {name for name in before if picture(host)[name] == before[name]} < reached:
        assert time.monotonic() < until_s
        time.sleep(0.1)
    make_room(host.path(STATE))
    await_over(host, 70)
    assert picture(host) == before


def test_where_the_package_is_gone_at_the_deadline_he_undoes_all_the_same(host: PrivateHost) -> None:
    before = picture(host)
    host.tsstack("switch", "--no-prove", "--confirm", f"{WAIT_S}s")
    assert picture(host)["rules"] != before["rules"]
    for folder in CODE:  # in this host's own view of the disk alone
        host.run("mount", "-t", "tmpfs", "tmpfs", folder)
    gone = host.tsstack("--help", check=False)
    assert gone.returncode != 0
    await_over(host, WAIT_S + 30)
    assert picture(host) == before
    for folder in CODE:
        host.run("umount", folder)
    assert "generation 2 was undone" in host.tsstack("confirm", check=False).stderr


def test_a_package_that_is_back_before_the_deadline_confirms(host: PrivateHost) -> None:
    host.tsstack("switch", "--no-prove", "--confirm", "300s")
    changed = picture(host)
    for folder in CODE:
        host.run("mount", "-t", "tmpfs", "tmpfs", folder)
    time.sleep(1)
    for folder in CODE:
        host.run("umount", folder)
    host.tsstack("confirm")
    assert not [*host.path(RUN).glob("deadman-*.ready")]
    assert picture(host)["rules"] == changed["rules"]
