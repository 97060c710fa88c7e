"""The files that are switched to. All are written here, so that a run needs nothing but the checkout."""

from __future__ import annotations

from ipaddress import IPv4Address

# The zones of examples/kernelcore.yaml; benchmarks/foomuuri.conf says the same in foomuuri's words.
_FIREWALL = """
firewall:
  default_policy: drop
  log: true
  services: {ollama: [tcp/11434]}
  zones:
    dmz: {interfaces: [eth0], tcp: [80, 443], udp: [443]}
    internal: {interfaces: [tailscale0], services: [ssh, postgresql]}
    admin: {sources: [100.64.0.10/32], allow: all}
    isolated: {interfaces: [br-guest]}
  forward:
    - {from: internal, to: dmz, services: [https]}
"""

_REST = """
host: {name: kernelcore, tailnet: tail.test, uplink: eth0}
kernel: {sysctl: {net.ipv4.tcp_mtu_probing: 1, net.ipv4.tcp_slow_start_after_idle: 0}}
proxy:
  names: subdomain
  tls: local-ca
  listen: all
  services:
"""

_SERVICES = """\
    ollama: {upstream: 11434, rate_limit: 20r/s, max_body_size: 500M}
    llamacpp: {upstream: "http://127.0.0.1:8080", subdomain: llama, rate_limit: 10r/s}
    wiki: {upstream: [8000, "192.168.15.9:8000 backup"]}
    db: {upstream: 5432, protocol: tcp, port: 15432}
"""


def host_file() -> str:
    """Zones, kernel parameters and vhosts as in the example, without a tailnet."""
    return _FIREWALL + _REST + _SERVICES


def with_port_opened(text: str) -> str:
    """The same with one port more in one zone: a change of the firewall alone."""
    return _replace(text, "tcp: [80, 443], udp", "tcp: [80, 443, 8443], udp")


def with_rate_changed(text: str) -> str:
    """The same with another rate limit for one vhost: a change of the proxy alone."""
    return _replace(text, "rate_limit: 20r/s", "rate_limit: 5r/s")


def many_services(count: int) -> str:
    """The same host with `count` vhosts, each with a rate limit and its own upstream."""
    lines = (
        f"    s{number}: {{upstream: {20000 + number}, rate_limit: 20r/s, max_body_size: 10M}}\n"
        for number in range(count)
    )
    return _FIREWALL + _REST + "".join(lines)


def many_addresses(count: int, *, last: str) -> str:
    """A zone with `count` source addresses, no two adjacent; `last` is one more, to make a difference."""
    first = int(IPv4Address("10.0.0.1"))
    sources = ", ".join(str(IPv4Address(first + 2 * number)) for number in range(count - 1))
    return (
        "host: {name: kernelcore, uplink: eth0}\n"
        "firewall:\n  zones:\n    dmz: {interfaces: [eth0], tcp: [80]}\n"
        f"    many: {{sources: [{sources}, {last}], tcp: [22]}}\n"
    )


def _replace(text: str, before: str, after: str) -> str:
    assert before in text, before
    return text.replace(before, after)
