"""Which networks this host's routes say are behind an interface."""

from __future__ import annotations

import ipaddress

import pytest

from tsstack.switch import routes

# proc(5): interface, destination, gateway, flags, .., mask; addresses as the kernel has them in memory.
ROUTES4 = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0101A8C0 0003 0 0 1024 00000000 0 0 0
eth0 0001A8C0 00000000 0001 0 0 1024 00FFFFFF 0 0 0
eth0 01010101 0101A8C0 0007 0 0 1024 FFFFFFFF 0 0 0
eth0 0101A8C0 00000000 0005 0 0 1024 FFFFFFFF 0 0 0
eth0 3501A8C0 00000000 0005 0 0 1024 FFFFFFFF 0 0 0
eth1 0101A8C0 00000000 0005 0 0 1024 FFFFFFFF 0 0 0
eth0 0000090A FE01A8C0 0003 0 0 0 0000FFFF 0 0 0
"""
ROUTE6 = "{0} {1:02x} 00000000000000000000000000000000 00 {2} 00000400 00000001 00000000 {3:08x} eth0\n"
ANYBODY, ROUTER = "0" * 32, "fe80" + "0" * 27 + "1"
DNS, HOST = "2001486048600000" + "0" * 12 + "8888", "20010db8" + "0" * 23 + "5"
ROUTES6 = "".join(
    (
        ROUTE6.format("20010db8" + "0" * 24, 64, ANYBODY, 0x1),
        ROUTE6.format(DNS, 128, ROUTER, 0x3),
        ROUTE6.format(HOST, 128, ANYBODY, 0x1),
        ROUTE6.format(ROUTER, 128, ANYBODY, 0x1),
        ROUTE6.format(ANYBODY, 0, ROUTER, 0x3),
    )
)


def test_a_single_host_by_a_router_is_no_network_behind_the_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemd-networkd leads so to the DNS servers that DHCP names, and a cloud to its own services.

    The router itself is nobody either, where a VPS is on no network but with it.
    """
    tables = {"/proc/net/route": ROUTES4, "/proc/net/ipv6_route": ROUTES6}
    monkeypatch.setattr(routes, "_rows", lambda path: [line.split() for line in tables[path].splitlines()])
    monkeypatch.setattr(routes, "_networks_of_addresses", lambda: iter(()))
    found = routes.networks_behind()
    assert (ipaddress.ip_network("192.168.1.1/32"), "eth0") not in found
    assert [str(network) for network, _ in found] == [
        "0.0.0.0/0", "192.168.1.0/24", "192.168.1.53/32", "192.168.1.1/32", "10.9.0.0/16", "2001:db8::/64",
        "2001:db8::5/128", "::/0",
    ]  # fmt: skip
    dns = ipaddress.ip_network("1.1.1.1/32")
    assert routes.networks_beside("tailscale0", (dns,)) == {dns: "eth0"}
