"""The LocalAPI client against a real tailscaled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from tailscale_bed import Bed, Node, eventually, stack_of

from tsstack.system.localapi import LocalApiError, LocalApiTimeout

pytestmark = pytest.mark.lab

NOBODY = 65534


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(scope="module")
def pair(bed: Bed) -> tuple[Node, Node]:
    nodes = (bed.node(), bed.node())
    for node, name in zip(nodes, ("left", "right"), strict=True):
        node.switch(stack_of(name, auth_key=node.key_file(bed.key())))
    eventually(lambda: nodes[0].api.status()["Peer"])
    return nodes


def test_whois_names_the_owner_and_knows_strangers(pair: tuple[Node, Node]) -> None:
    left, right = pair
    address = right.api.status(peers=False)["TailscaleIPs"][0]
    for spelling in (address, f"{address}:4711"):
        answer = left.api.whois(spelling)
        assert answer is not None
        assert answer["Node"]["ComputedName"] == "right"
        assert answer["UserProfile"]["LoginName"] == "lab"
    assert left.api.whois("192.0.2.1:1") is None


@pytest.mark.parametrize("kind", ["disco", "TSMP", "ICMP"])
def test_ping_measures_a_peer(pair: tuple[Node, Node], kind: str) -> None:
    left, right = pair
    address = right.api.status(peers=False)["TailscaleIPs"][0]

    def answered() -> dict[str, object] | None:
        try:
            return left.api.ping(address, kind, timeout_s=1)
        except LocalApiTimeout:  # the first probe may be lost while the two still look for each other
            return None

    answer = eventually(answered)
    assert answer is not None
    assert 0 < answer["LatencySeconds"] < 5
    assert answer["NodeName"] == "right"


def test_ping_gives_up_in_time(pair: tuple[Node, Node]) -> None:
    left, right = pair
    address = right.api.status(peers=False)["TailscaleIPs"][0]
    right.api.patch_prefs({"WantRunning": False})
    start = time.monotonic()
    with pytest.raises(LocalApiError):
        left.api.ping(address, "TSMP", timeout_s=0.3)
    assert time.monotonic() - start < 1
    right.api.patch_prefs({"WantRunning": True})


def test_wait_for_is_woken_by_an_event(pair: tuple[Node, Node]) -> None:
    left, _ = pair
    eventually(lambda: left.api.status(peers=False)["BackendState"] == "Running")
    assert left.api.wait_for(lambda message: message.get("State") == 6, timeout_s=1)["State"] == 6
    start = time.monotonic()
    with pytest.raises(LocalApiTimeout, match=r"within 0\.3 s"):
        left.api.wait_for(lambda message: False, timeout_s=0.3)
    assert 0.25 < time.monotonic() - start < 1


def test_another_user_may_read_and_is_told_who_may_write(pair: tuple[Node, Node]) -> None:
    api = pair[0].api
    os.seteuid(NOBODY)  # the daemon asks for the effective user of who connects: SO_PEERCRED, unix(7)
    try:
        assert api.status(peers=False)["BackendState"] == "Running"
        with pytest.raises(LocalApiError) as failure:
            api.patch_prefs({"ShieldsUp": True})
    finally:
        os.seteuid(0)
    assert failure.value.status == 403
    assert failure.value.message == "tailscaled refused prefs: prefs write access denied"
    assert failure.value.hint == "run as root, or as the user named in tailscale.operator"


def test_headscale_has_no_certificates_and_the_daemon_says_so(pair: tuple[Node, Node]) -> None:
    with pytest.raises(LocalApiError, match="tailscaled refused cert/left"):
        pair[0].api.cert_pair("left.tail.test", timeout_s=10)


def test_udp_gro_is_judged_by_the_daemon(pair: tuple[Node, Node]) -> None:
    assert isinstance(pair[0].api.udp_gro_warning(), str)
