"""Which rules of others send a packet elsewhere, by their text."""

from __future__ import annotations

import pytest

from tsstack.explain.packet import sends_elsewhere


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport 443 dnat to 192.0.2.4:80",
        "counter packets 1 bytes 2 dnat ip to 192.0.2.4",
        "dnat ip addr . port to tcp dport map { 1 : 192.0.2.1 . 2 }",
        "tcp dport 443 redirect to :9999",
        "tcp dport 443 redirect",
        "tcp dport 443 redirect random",
        'tcp dport 443 redirect comment "to the proxy"',
        "tcp dport 443 tproxy to :3",
        'xt match "tcp" counter packets 1 bytes 2 xt target "DNAT"',
    ],
)
def test_a_rule_that_sends_a_packet_elsewhere(rule: str) -> None:
    assert sends_elsewhere(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "ct status dnat accept",
        "icmp type redirect accept",
        "icmp type redirect",
        'tcp dport 443 accept comment "was a redirect to 8443"',
        "masquerade",
    ],
)
def test_a_rule_that_does_not(rule: str) -> None:
    assert not sends_elsewhere(rule)
