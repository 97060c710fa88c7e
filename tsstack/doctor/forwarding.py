"""Forwarding for the tailnet: switched on, not undone by the reverse-path filter, and quick. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tsstack.doctor.finding import Finding, listed
from tsstack.status.forwarding import alone_off, off_words

_STRICT = 1


@dataclass(frozen=True, slots=True)
class ForwardingFacts:
    """What the kernel says. Values are those of ip-sysctl; None where there is no such parameter."""

    reason: str = ""
    """Why this host has to forward; empty: it has not."""
    uses_exit: str = ""
    """The exit node that this host itself uses."""
    families: frozenset[int] = frozenset({4, 6})
    """Of what it forwards."""
    ipv4: int | None = None
    ipv6: int | None = None
    learning: tuple[str, ...] = ()
    """Interfaces whose IPv6 routes come from router advertisements, and go when forwarding goes on."""
    shut: tuple[str, ...] = ()
    """Interfaces on which IPv4 forwarding alone is off."""
    rp_filter: Mapping[str, int] = field(default_factory=dict)
    """What counts on each interface: the larger of `all` and its own."""
    gro_warning: str = ""
    gro_fixed: bool = False
    """Whether the uplink's driver leaves no choice."""
    uplink: str = ""


def check_forwarding(facts: ForwardingFacts) -> Iterator[Finding]:
    """Nothing of it matters on a host that neither routes nor uses an exit node."""
    if not facts.reason and not facts.uses_exit:
        yield Finding("TS861", "ok", "forwarding", "not needed: this host routes for nobody")
        return
    bad = [*_switched(facts), *_filtered(facts), *_slow(facts)]
    yield from bad
    if not bad:
        words = f"on, for {facts.reason}" if facts.reason else f"not needed; {facts.uses_exit} is the way out"
        yield Finding("TS861", "ok", "forwarding", words)
        if facts.gro_warning:
            yield Finding("TS863", "ok", "UDP GRO", f"{facts.uplink} has none to switch on")


def _switched(facts: ForwardingFacts) -> Iterator[Finding]:
    if not facts.reason:
        return
    for family, name, value in (
        (4, "net.ipv4.ip_forward", facts.ipv4),
        (6, "net.ipv6.conf.all.forwarding", facts.ipv6),
    ):
        if value == 0 and family in facts.families:
            words = off_words(name, facts.reason)
            first = "".join(map(_keeping, facts.learning)) if family == 6 else ""
            if first:
                words += f"; with that alone {listed(facts.learning)} would lose its IPv6 default route"
            yield Finding("TS861", "error", "forwarding", words, f"sysctl -w {first}{name}=1")
    if facts.ipv4 and facts.shut and 4 in facts.families:
        words, fix = alone_off(facts.shut, facts.reason)
        yield Finding("TS861", "error", "forwarding", words, fix)


def _keeping(interface: str) -> str:
    """ip-sysctl: a host that forwards heeds router advertisements with 2 alone; the switch purges them."""
    return f"net.ipv6.conf.{interface.replace('.', '/')}.accept_ra=2 "


def _filtered(facts: ForwardingFacts) -> Iterator[Finding]:
    strict = [name for name, value in facts.rp_filter.items() if value == _STRICT]
    if strict:
        words = (
            f"the reverse-path filter is strict on {listed(strict)}: answers that come by another way than "
            "the kernel would send them are dropped, as those of exit nodes do"
        )
        yield Finding("TS862", "warning", "rp_filter", words, "sysctl -w net.ipv4.conf.all.rp_filter=2")


def _slow(facts: ForwardingFacts) -> Iterator[Finding]:
    if facts.reason and facts.gro_warning and not facts.gro_fixed:
        uplink = facts.uplink or "UPLINK"
        fix = f"ethtool -K {uplink} rx-udp-gro-forwarding on rx-gro-list off"
        yield Finding("TS863", "warning", "UDP GRO", facts.gro_warning, fix)
