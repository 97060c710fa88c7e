"""Which peer is meant, and how it is reached without the tailnet."""

from __future__ import annotations

from typing import Any

import pytest

from tsstack.bench import peers
from tsstack.bench.figures import Way
from tsstack.errors import UsageError


def a_peer(name: str, last: int, **other: Any) -> dict[str, Any]:
    return {
        "HostName": name,
        "DNSName": f"{name}.tail.test.",
        "TailscaleIPs": [f"fd7a:115c:a1e0::{last}", f"100.64.0.{last}"],
        "Online": True,
        "Relay": "hs",
        **other,
    }


def a_status(*raw: dict[str, Any]) -> dict[str, Any]:
    own = {"DNSName": "here.tail.test.", "TailscaleIPs": ["100.64.0.1"]}
    return {"Self": own, "Peer": {f"nodekey:{number}": each for number, each in enumerate(raw)}}


STATUS = a_status(
    a_peer("exit-b", 2, ExitNode=True, CurAddr="10.77.3.2:41641"),
    a_peer("nas", 3, Online=False),
    a_peer("laptop", 4, HostName="Anna's Laptop"),
    a_peer("laptop-1", 5, HostName="Anna's Laptop"),
    {"HostName": "no address"},
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", "exit-b"),
        ("nas", "nas"),
        ("NAS", "nas"),
        ("nas.tail.test", "nas"),
        ("nas.tail.test.", "nas"),
        ("100.64.0.3", "nas"),
        ("fd7a:115c:a1e0::3", "nas"),
        ("laptop", "laptop"),
    ],
)
def test_a_peer_has_many_names(wanted: str, found: str) -> None:
    assert peers.choose(STATUS, wanted).name == found


def test_a_wrong_name_lists_the_peers() -> None:
    with pytest.raises(UsageError, match="no peer 'exit-c'") as refused:
        peers.choose(STATUS, "exit-c")
    assert refused.value.hint == "peers: exit-b, laptop, laptop-1, nas (offline)"


def test_without_an_exit_node_a_name_is_needed() -> None:
    with pytest.raises(UsageError, match="say which peer"):
        peers.choose(a_status(a_peer("nas", 3)), "")
    with pytest.raises(UsageError, match="say which peer") as refused:
        peers.choose(a_status(), "")
    assert "no other node" in refused.value.hint


def test_a_host_name_of_two_is_refused() -> None:
    with pytest.raises(UsageError, match="2 peers") as refused:
        peers.choose(STATUS, "anna's laptop")
    assert refused.value.hint == "take one of laptop, laptop-1"


def test_this_host_is_no_peer() -> None:
    for wanted in ("here.tail.test", "100.64.0.1"):
        with pytest.raises(UsageError, match="this host itself"):
            peers.choose(STATUS, wanted)


def test_a_name_cannot_act_on_the_terminal() -> None:
    hostile = a_status({"HostName": "\033[2Jgone", "TailscaleIPs": ["100.64.0.9"]})
    assert peers.choose(hostile, "100.64.0.9").name == "?[2Jgone"


def test_the_address_is_ipv4_where_there_is_one() -> None:
    assert peers.choose(STATUS, "nas").address == "100.64.0.3"
    only6 = a_status(a_peer("six", 6, TailscaleIPs=["fd7a:115c:a1e0::6"]))
    assert peers.choose(only6, "six").address == "fd7a:115c:a1e0::6"


@pytest.mark.parametrize(
    ("answer", "via", "endpoint", "relay"),
    [
        ({"Endpoint": "10.77.3.2:41641"}, "direct", "10.77.3.2:41641", ""),
        ({"DERPRegionID": 999, "DERPRegionCode": "hs"}, "relay", "", "hs"),
        ({"DERPRegionID": 7}, "relay", "", "7"),
        ({"PeerRelay": "198.51.100.7:4000:vni:1"}, "peer-relay", "198.51.100.7:4000:vni:1", ""),
        ({}, "unknown", "", ""),
    ],
)
def test_the_way_of_a_ping(answer: dict[str, Any], via: str, endpoint: str, relay: str) -> None:
    way = peers.way_of({**answer, "LatencySeconds": 0.01})
    assert (way.via, way.endpoint, way.relay, way.disco_s) == (via, endpoint, relay, 0.01)
    assert way.relayed == (via in {"relay", "peer-relay"})


NETWORKS = (("eth0", "10.77.2.2/24"), ("eth1", "192.168.15.1/24"), ("tailscale0", "100.64.0.1/32"))
OWN = ("100.64.0.1",)


def test_where_a_peer_may_be_past_the_tailnet() -> None:
    addresses = ["192.168.15.9:41641", "172.17.0.1:41641", "[fe80::1]:41641", "127.0.0.1:1", "nonsense"]
    peer = peers.choose(a_status(a_peer("nas", 3, Addrs=addresses)), "nas")
    direct = Way("direct", "10.77.3.2:41641")
    assert peers.underlay_addresses(direct, peer, NETWORKS, OWN) == ("10.77.3.2", "192.168.15.9")
    # Through a relay the endpoint is not the peer's, and a foreign private network is somebody else's.
    relayed = Way("peer-relay", "198.51.100.7:4000")
    assert peers.underlay_addresses(relayed, peer, NETWORKS, OWN) == ("192.168.15.9",)


def test_no_tailnet_address_is_past_the_tailnet() -> None:
    peer = peers.choose(a_status(a_peer("nas", 3)), "nas")
    for endpoint in ("100.64.0.3:41641", "100.99.0.1:41641", "[fd7a:115c:a1e0::77]:41641"):
        assert peers.underlay_addresses(Way("direct", endpoint), peer, NETWORKS, OWN) == ()


@pytest.mark.parametrize(
    ("address", "source", "default", "interface"),
    [
        ("10.77.3.2", "10.77.2.2", "eth0", ""),
        ("10.77.3.2", "100.64.0.1", "eth0", "eth0"),
        ("192.168.15.9", "100.64.0.1", "eth0", "eth1"),
        ("10.77.3.2", "100.64.0.1", "", None),
        ("10.77.3.2", "", "eth0", "eth0"),
        ("100.64.0.1", "100.64.0.1", "eth0", "eth0"),
    ],
)
def test_what_would_go_into_the_tunnel_is_bound_to_another_interface(
    address: str, source: str, default: str, interface: str | None
) -> None:
    assert peers.binding(address, source, NETWORKS, OWN, default) == interface
