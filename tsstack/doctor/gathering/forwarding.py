"""Reads what decides whether packets are passed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.doctor.forwarding import ForwardingFacts
from tsstack.errors import CheckFailed
from tsstack.parts.kernel.links import observe_features
from tsstack.parts.kernel.plan import supports_udp_gro
from tsstack.parts.kernel.sysctl import Sysctls
from tsstack.status.forwarding import families_of, forwards_for
from tsstack.system.localapi import LocalApi, LocalApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tsstack.doctor.needs import Needs
    from tsstack.model.facts import Facts

_TAILNET = "tailscale0"
_LEARNT = 0x00010000 | 0x00040000  # linux/ipv6_route.h: RTF_DEFAULT, RTF_ADDRCONF
_NO_INTERFACES = ("all", "default", "lo")


def look_at_forwarding(live: Needs, facts: Facts, status: Mapping[str, Any]) -> ForwardingFacts:
    """What tailscaled offers decides, whoever told it so, or else what the live generation needs.

    `status` is a `status.shape.Status`.
    """
    tailnet = status["tailnet"]
    reason = forwards_for(tailnet) or ("the live generation" if live.forwarding else "")
    uses_exit = str(status["exit"]["using"])
    if not reason and not uses_exit:
        return ForwardingFacts()
    sysctls = Sysctls()
    ipv4 = sysctls.interfaces_with("ipv4", "forwarding")
    everywhere = _number(sysctls, "net.ipv4.conf.all.rp_filter") or 0
    return ForwardingFacts(
        reason=reason,
        uses_exit=uses_exit,
        families=families_of(tailnet),
        ipv4=_number(sysctls, "net.ipv4.ip_forward"),
        ipv6=_number(sysctls, "net.ipv6.conf.all.forwarding"),
        learning=tuple(
            name
            for name in sorted({*_advertised(), facts.default_interface} - {""})
            if _number(sysctls, f"net.ipv6.conf.{name.replace('.', '/')}.accept_ra") == 1
        ),
        # Of what is offered the status tells it.
        shut=()
        if forwards_for(tailnet)
        else tuple(
            _interface(name)
            for name in ipv4
            if _interface(name) in {_TAILNET, facts.default_interface} and _number(sysctls, name) == 0
        ),
        # ip-sysctl: the larger of `all` and the interface's own counts.
        rp_filter={
            _interface(name): max(everywhere, _number(sysctls, name) or 0)
            for name in sysctls.interfaces_with("ipv4", "rp_filter")
            if _interface(name) not in _NO_INTERFACES
        },
        gro_warning=_gro_warning(facts) if reason else "",
        gro_fixed=_gro_fixed(facts.default_interface),
        uplink=facts.default_interface,
    )


def _advertised() -> set[str]:
    """Interfaces with routes that go when forwarding goes on (net/ipv6/route.c: rt6_purge_dflt_routers)."""
    try:
        lines = Path("/proc/thread-self/net/ipv6_route").read_text("ascii").splitlines()
    except OSError:
        return set()  # no IPv6
    fields = [line.split() for line in lines]
    return {each[9] for each in fields if int(each[8], 16) & _LEARNT and each[9] not in _NO_INTERFACES}


def _number(sysctls: Sysctls, name: str) -> int | None:
    value = sysctls.read(name)
    return int(value) if value is not None and value.isdigit() else None


def _interface(name: str) -> str:
    return name.split(".")[3].replace("/", ".")


def _gro_warning(facts: Facts) -> str:
    try:
        words = LocalApi(facts.paths.tailscale_socket, timeout_s=3.0).udp_gro_warning().split()
    except LocalApiError:
        return ""  # TS701 tells of a daemon that does not answer
    return " ".join(words)


def _gro_fixed(uplink: str) -> bool:
    try:
        return not uplink or not supports_udp_gro(observe_features(uplink))
    except CheckFailed:
        return True
