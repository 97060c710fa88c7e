"""Forwarding that the kernel has switched off on a host that has to forward. Pure, and light."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from tsstack.status.shape import Status

SWITCHES = ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding"))
"""(IP version, the parameter that lets packets of it through)."""


def forwards_for(tailnet: Mapping[str, Any]) -> str:
    """What this host offers, in words; empty where that is nothing."""
    reasons = [str(offer["route"]) for offer in tailnet["offers"]]
    reasons += ["the exit node"] if tailnet["offers_exit"] else []
    return " and ".join(reasons)


def families_of(tailnet: Mapping[str, Any]) -> frozenset[int]:
    """Of what is offered; both of an exit node, and where nothing is and the live generation wants it."""
    offers = tailnet["offers"]
    if tailnet["offers_exit"] or not offers:
        return frozenset({4, 6})
    return frozenset(6 if ":" in str(offer["route"]) else 4 for offer in offers)


def off_words(name: str, reason: str) -> str:
    """What is said of a switch that is off."""
    return f"{name} is 0, and this host has to forward for {reason}"


def ipv4_networks(tailnet: Mapping[str, Any]) -> list[str]:
    """What this host offers of IPv4, the exit node as its default route."""
    routes = [str(offer["route"]) for offer in tailnet["offers"] if ":" not in str(offer["route"])]
    return [*routes, "0.0.0.0/0"] if tailnet["offers_exit"] else routes


def own_switch(interface: str) -> str:
    """The parameter that lets IPv4 packets through which come in by an interface, as sysctl(8) takes it."""
    return f"net.ipv4.conf.{interface.replace('.', '/')}.forwarding"


def alone_off(interfaces: Sequence[str], reason: str) -> tuple[str, str]:
    """What is said of interfaces that alone forward no IPv4, and the command that mends it."""
    switches = " ".join(f"{own_switch(each)}=1" for each in interfaces)
    said = f"IPv4 forwarding is off on {', '.join(interfaces)} alone, and is needed for {reason}"
    return said, f"sysctl -w {switches}"


def switched_off(status: Status) -> Iterator[tuple[str, str]]:
    """(parameter, the sentence of the drift that tells it) where the live generation has switched it on."""
    families = families_of(status["tailnet"])
    for family, name in SWITCHES:
        for line in status["generation"]["drift"]:
            if family in families and line == f"{name} is 0, not 1":
                yield name, line
