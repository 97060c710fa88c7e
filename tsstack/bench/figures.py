"""What a benchmark finds, as frozen values. Pure.

Times are seconds, rates bits a second, sizes bytes. A figure that was not measured is None, and a note of the
report says why. `as_json` gives plain values; that is what `--json` prints and what is kept of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from tsstack.monitor.quality import Jitter

Via = Literal["direct", "relay", "peer-relay", "unknown"]
Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of one stretch of time."""

    method: str
    """`icmp`: our own echoes through the tailnet; `TSMP` or `disco`: tailscaled's pings."""
    sent: int
    lost: int
    least_s: float | None
    p50_s: float | None
    p95_s: float | None
    jitter_s: float | None
    """RFC 3550, section 6.4.1."""

    @property
    def loss(self) -> float:
        """Share of the probes without an answer, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0


def latency(rtts_s: Sequence[float | None], method: str) -> Latency:
    """The figures of round trips in the order of their sending; None is a probe that got no answer."""
    answers = [each for each in rtts_s if each is not None]
    jitter = Jitter()
    for each in answers:
        jitter.add(each)
    ordered = sorted(answers)
    return Latency(
        method=method,
        sent=len(rtts_s),
        lost=len(rtts_s) - len(answers),
        least_s=ordered[0] if ordered else None,
        p50_s=_quantile(ordered, 0.5),
        p95_s=_quantile(ordered, 0.95),
        jitter_s=jitter.jitter_s if len(answers) > 1 else None,
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile: a value that was really seen."""
    if not ordered:
        return None
    return ordered[max(1, ceil(share * len(ordered))) - 1]


@dataclass(frozen=True, slots=True)
class Way:
    """How packets get to the peer, as tailscaled tells it (ipnstate.PingResult)."""

    via: Via
    endpoint: str = ""
    """`IP:PORT` of the peer or of the peer relay; empty through a DERP relay."""
    relay: str = ""
    """Code of the DERP region that carries the packets; empty when none does."""
    disco_s: float | None = None
    tsmp_s: float | None = None
    icmp_s: float | None = None

    @property
    def relayed(self) -> bool:
        return self.via in {"relay", "peer-relay"}


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one transfer over TCP reached, by the receiver's count."""

    direction: Direction
    """`up`: from this host to the peer."""
    engine: Literal["iperf3", "own"]
    bits_s: float
    moved_bytes: int
    span_s: float
    retransmits: int | None = None
    """The sender's; None where nobody tells."""


@dataclass(frozen=True, slots=True)
class Load:
    """One transfer, and what it did to the latency."""

    throughput: Throughput
    latency: Latency | None
    """Round trips while it ran."""
    added_s: float | None
    """By how much the median round trip grew; None without a median before or meanwhile."""
    grade: str
    """`A+` to `F`, see `grades`; empty without `added_s`."""


@dataclass(frozen=True, slots=True)
class Mtu:
    """The largest packet that came through with the DF bit set, IP header included."""

    found_bytes: int | None
    interface_bytes: int
    """The interface's own; 0 when it is not known."""
    why: str = ""
    """Why nothing was found."""
    certain: bool = True
    """False where so much gets lost that `found_bytes` may be too small."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The same peer without the tailnet."""

    address: str
    interface: str
    """The interface that the probes were bound to; empty: as the routes say, which is not the tunnel."""
    latency: Latency
    mtu: Mtu | None = None
    loads: tuple[Throughput, ...] = ()


@dataclass(frozen=True, slots=True)
class Relays:
    """DERP, as tailscaled and `tailscale netcheck` tell it."""

    home: str
    peer_home: str
    home_s: float | None = None
    udp: bool | None = None
    """Whether UDP gets out at all; without it everything is relayed."""
    varies: bool | None = None
    """Whether the NAT maps by destination ("hard"), which stands in the way of direct paths."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of this host bears on throughput."""

    kernel: str
    troubles: tuple[str, ...]
    """Known trouble of this kernel, in words, each with its source."""
    offloads: dict[str, dict[str, bool]]
    """Interface -> feature -> whether it is on. A feature that the kernel does not know is absent."""
    udp_gro_warning: str = ""
    """tailscaled's own words; empty when it is content."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    at: str
    """When it began, UTC, RFC 3339."""
    peer: str
    address: str
    way: Way
    idle: Latency
    loads: tuple[Load, ...]
    underlay: Underlay | None
    mtu: Mtu | None
    relays: Relays
    host: Host
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""

    def as_json(self) -> dict[str, Any]:
        """Plain values: dicts, lists, text, numbers, None."""
        return asdict(self)

    @property
    def ratio(self) -> float | None:
        """How many times the underlay's round trip the tailnet takes; None without both."""
        below = self.underlay.latency.p50_s if self.underlay else None
        return self.idle.p50_s / below if self.idle.p50_s is not None and below else None
