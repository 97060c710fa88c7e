"""Which kernel parameters would cut a way in, which might, and which are harmless."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tsstack.switch.kernel_ways import CONCERNED, Change, Ground, Path

LAN = ipaddress.ip_address("192.0.2.1")
OTHER = ipaddress.ip_address("198.51.100.1")
GIVEN = ipaddress.ip_address("2001:db8::211:22ff:fe33:4455")
OTHERWISE = ipaddress.ip_address("2001:db8::15")
LIVE = {
    "net.ipv4.conf.all.arp_ignore": "0",
    "net.ipv4.conf.eth0.arp_ignore": "0",
    "net.ipv6.conf.eth0.accept_ra": "1",
    "net.ipv6.conf.eth0.accept_ra_defrtr": "1",
    "net.ipv6.conf.eth0.accept_ra_pinfo": "1",
    "net.ipv6.conf.eth0.autoconf": "1",
    "net.ipv6.conf.eth0.accept_ra_min_lft": "0",
    "net.ipv6.conf.eth0.accept_ra_rt_info_min_plen": "0",
    "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen": "64",
    "net.ipv6.conf.eth0.accept_ra_from_local": "1",
    "net.ipv6.conf.eth0.ra_honor_pio_pflag": "0",
    "net.ipv6.conf.eth0.addr_gen_mode": "0",
    "net.ipv4.tcp_l3mdev_accept": "1",
    "net.ipv4.udp_l3mdev_accept": "1",
    "net.ipv6.conf.eth0.forwarding": "0",
    "net.ipv6.conf.eth0.hop_limit": "64",
    "net.ipv4.ip_default_ttl": "64",
    "net.netfilter.nf_conntrack_max": "65536",
    "net.netfilter.nf_conntrack_count": "40",
    "net.ipv4.neigh.default.gc_thresh3": "1024",
    "net.ipv6.neigh.default.gc_thresh3": "1024",
    "net.ipv4.neigh.eth0.mcast_solicit": "3",
    "net.ipv4.neigh.eth0.app_solicit": "0",
    "net.ipv4.tcp_min_snd_mss": "48",
    "net.netfilter.nf_conntrack_tcp_loose": "0",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_sent": "120",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_recv": "60",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "432000",
}
GROUND = Ground(
    read=LIVE.get,
    resolves=lambda name: name.startswith("eth"),
    holders={LAN: "eth0", OTHER: "eth1", GIVEN: "eth0"},
    passing=frozenset({GIVEN, OTHERWISE}),
    underlays=(),
    in_vrf=frozenset({"red", "eth7"}),
)
V4 = Path("eth0", 4, gateway=False, server=LAN)
FAR4 = Path("eth0", 4, gateway=True, server=LAN)
V6 = Path("eth0", 6, gateway=False)
FAR6 = Path("eth0", 6, gateway=True, learnt=True)
ADDRESS6 = Path("eth0", 6, gateway=False, server=GIVEN)
VRF = Path("eth7", 4, gateway=False)
TAILNET = Path("tailscale0", 4, gateway=False)


def judge(
    path: Path,
    values: Mapping[str, str | int],
    ground: Ground = GROUND,
    limits: Mapping[str, int] | None = None,
) -> str:
    """`cut`, `may be` or nothing; every reason names the parameter that the change sets."""
    cuts = list(Change(ground, {k: str(v) for k, v in values.items()}, limits or {}).judge(path))
    for cut in cuts:
        assert cut.why
        assert cut.name in values or cut.name.startswith("bandwidth.")
    return "cut" if any(cut.certain for cut in cuts) else "may be" if cuts else ""


@pytest.mark.parametrize(
    ("path", "name", "value", "said"),
    [
        (V4, "net.ipv4.conf.all.arp_ignore", 8, "cut"),
        (V4, "net.ipv4.conf.eth0.arp_ignore", 8, "cut"),
        (FAR4, "net.ipv4.conf.eth0.arp_ignore", 8, "cut"),
        (V4, "net.ipv4.conf.eth1.arp_ignore", 8, ""),
        (V6, "net.ipv4.conf.all.arp_ignore", 8, ""),
        (TAILNET, "net.ipv4.conf.all.arp_ignore", 8, ""),
        *((V4, "net.ipv4.conf.all.arp_ignore", mode, "") for mode in range(8)),
        (V4._replace(server=OTHER), "net.ipv4.conf.all.arp_ignore", 1, "may be"),
        (V4._replace(server=OTHER), "net.ipv4.conf.all.arp_ignore", 2, "may be"),
        (V4._replace(server=OTHER), "net.ipv4.conf.all.arp_ignore", 3, ""),
        (V4, "net.ipv4.conf.all.rp_filter", 1, ""),
        (V4._replace(server=OTHER), "net.ipv4.conf.all.rp_filter", 1, "may be"),
        (V4._replace(server=OTHER), "net.ipv4.conf.eth1.rp_filter", 1, "may be"),
        (V4._replace(server=OTHER), "net.ipv4.conf.eth0.rp_filter", 1, ""),
        (V4._replace(server=OTHER), "net.ipv4.conf.all.rp_filter", 2, ""),
        (V4, "net.ipv4.neigh.eth0.mcast_solicit", 0, "cut"),
        (V4, "net.ipv4.neigh.eth1.mcast_solicit", 0, ""),
        (V4, "net.ipv4.neigh.eth0.mcast_solicit", 1, ""),
        (V6, "net.ipv4.neigh.eth0.mcast_solicit", 0, ""),
        (TAILNET, "net.ipv4.neigh.eth0.mcast_solicit", 0, ""),
        (V4, "net.ipv4.tcp_min_snd_mss", 65535, "cut"),
        (V6, "net.ipv4.tcp_min_snd_mss", 65535, "cut"),
        (V4, "net.ipv4.tcp_min_snd_mss", 1000, "may be"),
        (V4, "net.ipv4.tcp_min_snd_mss", 500, ""),
        (V4, "net.netfilter.nf_conntrack_tcp_timeout_syn_recv", 0, "cut"),
        (V4, "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", 0, "cut"),
        (V4, "net.netfilter.nf_conntrack_tcp_timeout_established", 0, "cut"),
        (V4, "net.netfilter.nf_conntrack_tcp_timeout_syn_recv", 4, "may be"),
        (V4, "net.netfilter.nf_conntrack_tcp_timeout_syn_recv", 30, ""),
        (V6, "net.ipv6.conf.all.disable_ipv6", 1, "cut"),
        (V6, "net.ipv6.conf.eth0.disable_ipv6", 1, "cut"),
        (V6, "net.ipv6.conf.eth1.disable_ipv6", 1, ""),
        (V6, "net.ipv6.conf.default.disable_ipv6", 1, ""),
        (V4, "net.ipv6.conf.all.disable_ipv6", 1, ""),
        (FAR6, "net.ipv6.conf.eth0.accept_ra", 0, "cut"),
        (FAR6, "net.ipv6.conf.eth0.accept_ra", 2, ""),
        (FAR6, "net.ipv6.conf.all.accept_ra", 0, ""),
        (FAR6._replace(learnt=False), "net.ipv6.conf.eth0.accept_ra", 0, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra", 0, "cut"),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra_pinfo", 0, "cut"),
        (ADDRESS6, "net.ipv6.conf.eth0.autoconf", 0, "cut"),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra_defrtr", 0, ""),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_defrtr", 0, "cut"),
        (FAR6, "net.ipv6.conf.eth0.autoconf", 0, ""),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_min_lft", 65535, "cut"),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_min_lft", 9000, "may be"),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_min_lft", 0, ""),
        (FAR6, "net.ipv6.conf.all.accept_ra_min_lft", 65535, ""),
        (FAR6._replace(learnt=False), "net.ipv6.conf.eth0.accept_ra_min_lft", 65535, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra_min_lft", 65535, "may be"),
        (V6, "net.ipv6.conf.eth0.accept_ra_min_lft", 65535, ""),
        (FAR4, "net.ipv6.conf.eth0.accept_ra_min_lft", 65535, ""),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen", 48, "may be"),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen", 128, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen", 0, ""),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_rt_info_min_plen", 64, "may be"),
        (FAR6, "net.ipv6.conf.eth0.accept_ra_from_local", 0, "may be"),
        (ADDRESS6, "net.ipv6.conf.eth0.accept_ra_from_local", 0, "may be"),
        (ADDRESS6, "net.ipv6.conf.eth0.ra_honor_pio_pflag", 1, "may be"),
        (FAR6, "net.ipv6.conf.eth0.ra_honor_pio_pflag", 1, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.addr_gen_mode", 3, "cut"),
        (ADDRESS6, "net.ipv6.conf.all.addr_gen_mode", 3, "cut"),
        (ADDRESS6, "net.ipv6.conf.eth0.addr_gen_mode", 1, ""),
        (ADDRESS6, "net.ipv6.conf.default.addr_gen_mode", 3, ""),
        (ADDRESS6._replace(server=OTHERWISE), "net.ipv6.conf.eth0.addr_gen_mode", 3, "may be"),
        (FAR6, "net.ipv6.conf.eth0.addr_gen_mode", 3, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.max_addresses", 1, ""),
        (ADDRESS6, "net.ipv6.conf.eth0.use_tempaddr", 2, ""),
        (VRF, "net.ipv4.tcp_l3mdev_accept", 0, "may be"),
        (VRF._replace(version=6), "net.ipv4.tcp_l3mdev_accept", 0, "may be"),
        (VRF, "net.ipv4.udp_l3mdev_accept", 0, ""),
        (VRF._replace(protocol="udp"), "net.ipv4.udp_l3mdev_accept", 0, "may be"),
        (V4, "net.ipv4.tcp_l3mdev_accept", 0, ""),
        (FAR6, "net.ipv6.conf.all.forwarding", 1, "cut"),
        (FAR6, "net.ipv6.conf.eth0.forwarding", 1, "cut"),
        (V6, "net.ipv6.conf.all.forwarding", 1, ""),
        (FAR4, "net.ipv4.ip_default_ttl", 1, "cut"),
        (FAR4, "net.ipv4.ip_default_ttl", 5, "may be"),
        (FAR4, "net.ipv4.ip_default_ttl", 128, ""),
        (V4, "net.ipv4.ip_default_ttl", 1, ""),
        (FAR6, "net.ipv6.conf.eth0.hop_limit", 1, "cut"),
        (FAR6, "net.ipv4.ip_default_ttl", 1, ""),
        (V4, "net.netfilter.nf_conntrack_max", 1, "cut"),
        (V4, "net.netfilter.nf_conntrack_max", 40, "cut"),
        (V4, "net.netfilter.nf_conntrack_max", 41, "may be"),
        (V4, "net.nf_conntrack_max", 40, "cut"),
        (V4, "net.netfilter.nf_conntrack_max", 0, ""),
        (V4, "net.netfilter.nf_conntrack_max", 4096, ""),
        (V4, "net.ipv4.neigh.default.gc_thresh3", 0, "cut"),
        (V4, "net.ipv4.neigh.default.gc_thresh3", 4, "may be"),
        (V4, "net.ipv6.neigh.default.gc_thresh3", 0, ""),
        (V6, "net.ipv6.neigh.default.gc_thresh3", 0, "cut"),
        (V4, "net.ipv4.icmp_echo_ignore_all", 1, ""),
        (V4, "net.ipv4.ip_forward", 0, ""),
        (V4, "net.ipv4.ip_local_port_range", "1 2", ""),
    ],
)
def test_what_a_parameter_does_to_a_way_in(path: Path, name: str, value: str | int, said: str) -> None:
    assert judge(path, {name: value}) == said
    if said:
        assert name.rpartition(".")[2] in CONCERNED, "or nobody would ask"


@pytest.mark.parametrize(
    ("most", "said"), [(1023, "cut"), (65_536, "cut"), (200_000, "cut"), (200_001, "may be"), (250_000, "")]
)
def test_no_fewer_connections_than_are_open_now(most: int, said: str) -> None:
    live = {
        **LIVE,
        "net.netfilter.nf_conntrack_max": "262144",
        "net.netfilter.nf_conntrack_count": "200000",
    }
    assert judge(V4, {"net.netfilter.nf_conntrack_max": most}, replace(GROUND, read=live.get)) == said


def test_forwarding_together_with_accept_ra_2_cuts_nothing() -> None:
    both = {"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.eth0.accept_ra": 2}
    assert judge(FAR6, both) == ""


def test_an_interfaces_own_value_goes_before_that_of_all() -> None:
    spared = {"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.eth0.disable_ipv6": 0}
    assert judge(V6, spared) == ""
    assert judge(V6._replace(interface="eth1"), spared) == "cut"


def test_dots_in_an_interfaces_name() -> None:
    assert judge(Path("eth0.100", 4, gateway=False), {"net.ipv4.conf.eth0/100.arp_ignore": 8}) == "cut"


def test_what_is_so_already_is_nobodys_loss() -> None:
    live = {**LIVE, "net.ipv4.conf.eth0.arp_ignore": "8"}
    assert judge(V4, {"net.ipv4.conf.all.arp_ignore": 8}, replace(GROUND, read=live.get)) == ""


def test_the_tailnet_is_cut_when_all_is_cut_that_carries_it() -> None:
    """WireGuard goes by the uplink: without IPv4 it still has IPv6, where there is a default route."""
    one = replace(GROUND, underlays=(FAR4._replace(server=None),))
    two = replace(one, underlays=(*one.underlays, FAR6._replace(learnt=False)))
    arp = {"net.ipv4.conf.all.arp_ignore": 8}
    assert judge(TAILNET, arp, one) == "cut"
    assert judge(TAILNET, arp, two) == "may be"
    assert judge(TAILNET, {**arp, "net.ipv6.conf.all.disable_ipv6": 1}, two) == "cut"
    assert judge(TAILNET._replace(version=6), {"net.ipv6.conf.tailscale0.disable_ipv6": 1}, two) == "cut"


def test_a_limit_at_which_nobody_logs_in() -> None:
    assert [judge(V4, {}, limits={"eth0": bps}) for bps in (100, 5_000, 10_000)] == ["cut", "may be", ""]
    assert judge(V4, {}, limits={"eth1": 100}) == ""


def test_who_is_taken_up_half_way_may_be_forgotten() -> None:
    short = {"net.netfilter.nf_conntrack_tcp_timeout_syn_recv": 0}
    assert judge(V4, {**short, "net.netfilter.nf_conntrack_tcp_loose": 1}) == ""


def test_a_limit_on_what_an_interface_is_made_of() -> None:
    made_of = {"br0": ("p0", "p1"), "bond0": ("p2",), "eth0": ("bond0",), "loop": ("loop",)}
    ground = replace(GROUND, below=lambda name: made_of.get(name, ()))
    for above, limited, said in (
        ("br0", "p0", "may be"),
        ("bond0", "p2", "cut"),
        ("eth0", "p2", "cut"),
        ("p0", "br0", ""),
        ("loop", "p0", ""),
    ):
        path = Path(above, 4, gateway=False)
        assert judge(path, {}, ground, {limited: 200}) == said, (above, limited)
